"""Simulate several coordinated classifiers on one processor.

Like a node, each classifier has a RuntimeManager and a Coordinator. It sends its status
periodically and applies the allowance that follows from the statuses of the others. Messages take
time and can be lost. Models can start later or end without a message.

    models = [CollectiveModel(SimulatedModel('a', ...), importance=2.0), ...]
    records = play_together(models, Processor(), duration_ms=8000.0, network=Network(loss=0.1))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.coordination import (
    STATUS_PERIOD_NS,
    Coordinator,
    FrameInterval,
    Status,
)
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.simulation.processor import Job, Processor
from dynamic_ofa_ros.simulation.record import Record
from dynamic_ofa_ros.simulation.run import play
from dynamic_ofa_ros.simulation.runner import SimulatedModel
from dynamic_ofa_ros.simulation.steps import ALWAYS_ONE, Steps

STATUS_PERIOD_MS = STATUS_PERIOD_NS / 1e6
DEVICE = 'simulated'


@dataclass(frozen=True)
class CollectiveModel:
    """A coordinated classifier; importance: weight of its accuracy over time."""

    model: SimulatedModel
    importance: Steps = ALWAYS_ONE


@dataclass(frozen=True)
class Network:
    """The network of statuses; each is lost with probability `loss`, or else takes `delay_ms`."""

    delay_ms: float = 2.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.delay_ms < math.inf:
            raise SimulationError(
                f'delay_ms is {self.delay_ms:g}; it must be finite and not negative'
            )
        if not 0.0 <= self.loss <= 1.0:
            raise SimulationError(f'loss is {self.loss:g}; it must lie in [0, 1]')


def play_together(
    models: Sequence[CollectiveModel],
    processor: Processor,
    jobs: Sequence[Job] = (),
    *,
    duration_ms: float,
    seed: int = 1,
    network: Network | None = None,
    has_alternatives: bool = True,
) -> tuple[Record, ...]:
    """Simulate like `run.play`, with coordination of the models' managers."""
    return play(
        [member.model for member in models],
        processor,
        jobs,
        duration_ms=duration_ms,
        seed=seed,
        exchange=StatusExchange(models, network or Network(), seed),
        has_alternatives=has_alternatives,
    )


class StatusExchange:
    """The timers of all classifiers, and the messages in transit."""

    def __init__(self, models: Sequence[CollectiveModel], network: Network, seed: int = 1) -> None:
        names = [member.model.name for member in models]
        if len(set(names)) < len(names):
            raise SimulationError(f'names must be unique, found {", ".join(names)}')
        self._random = np.random.default_rng([seed, *b'status'])
        self._network = network
        self._members = [
            _Member(member, float(self._random.uniform(0.0, STATUS_PERIOD_MS)))
            for member in models
        ]
        self._under_way: list[tuple[float, int, Status]] = []  # (arrival, receiver, status)

    @property
    def next_ms(self) -> float:
        """Return the time of the next timer or the next arrival of a message."""
        timers_ms = min(member.next_ms for member in self._members)
        return min(timers_ms, self._under_way[0][0]) if self._under_way else timers_ms

    def act(self, now_ms: float, managers: Sequence[RuntimeManager]) -> None:
        """Deliver messages that have arrived, and send statuses that are due."""
        while self._under_way and self._under_way[0][0] <= now_ms:
            _, receiver, status = self._under_way.pop(0)
            self._members[receiver].hear(status, now_ms)
        for index, (member, manager) in enumerate(zip(self._members, managers, strict=True)):
            if member.next_ms <= now_ms:
                status = member.speak(now_ms, manager)
                self._send(now_ms, index, status)

    def _send(self, now_ms: float, sender: int, status: Status) -> None:
        for receiver in range(len(self._members)):
            if receiver != sender and self._random.random() >= self._network.loss:
                self._under_way.append((now_ms + self._network.delay_ms, receiver, status))


class _Member:
    """The coordination of one classifier, as in the node."""

    def __init__(self, member: CollectiveModel, phase_ms: float) -> None:
        self._model, self._importance = member.model, member.importance
        self._interval = FrameInterval()
        self.coordinator = Coordinator()
        self.next_ms = member.model.begin_ms + phase_ms

    def hear(self, status: Status, now_ms: float) -> None:
        """Process the status of a peer."""
        self.coordinator.receive(status, round(now_ms * 1e6))

    def speak(self, now_ms: float, manager: RuntimeManager) -> Status:
        """Return the own status, and set the allowance from it and those of the peers."""
        now_ns = round(now_ms * 1e6)
        status = manager.status(
            self._model.name,
            dict.fromkeys(manager.table.platforms, DEVICE),
            self._importance.at(now_ms),
            self._interval.update(now_ns, self._images(now_ms)),
        )
        manager.set_allowance(self.coordinator.decide(status, now_ns))
        status = self.coordinator.told(status, now_ns)
        self.next_ms = now_ms + STATUS_PERIOD_MS
        if self.next_ms >= self._model.end_ms:
            self.next_ms = math.inf  # it ends without a message
        return status

    def _images(self, now_ms: float) -> int:
        """Return the number of images so far."""
        timing = self._model.timing
        since_ms = now_ms - self._model.begin_ms - timing.camera_phase_ms
        # Without a period, an image is always available, as from a camera with 1000 Hz.
        return max(0, math.floor(since_ms / (timing.camera_period_ms or 1.0)) + 1)
