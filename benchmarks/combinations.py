"""Simulate many fixed combinations of levels at once, to find the best combination.

The simulation is the same as in `run.play`, with the same processor, cameras and noise, but each
combination is a row of an array: all 216 combinations of three models with six levels take the
time that `play` takes for one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.simulation.camera import FrameNoise
from dynamic_ofa_ros.simulation.processor import Processor
from dynamic_ofa_ros.simulation.runner import MIN_WORK_MS, SimulatedModel

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_ROUNDING = 1e-9


def all_combinations(models: Sequence[SimulatedModel]) -> IntArray:
    """Return all combinations of the models' levels (1-based), (N, models)."""
    ladders = [range(1, len(model.platform.levels) + 1) for model in models]
    return np.array(list(itertools.product(*ladders)), dtype=np.int64)


def late_shares(
    models: Sequence[SimulatedModel],
    processor: Processor,
    combinations: IntArray,
    limits_ms: Sequence[float],
    *,
    duration_ms: float,
    from_ms: float = 0.0,
    seed: int = 1,
) -> FloatArray:
    """Return the share of late frames of each model at fixed levels, (N, models).

    combinations: (N, models) levels. limits_ms: limit of each model. Frames that start at or after
    `from_ms` are counted; a model without frames has a share of 0. The other arguments are those
    of `run.play`; the clock must be constant, and cameras must have a period.
    """
    if processor.frequency.values != (1.0,):
        raise SimulationError('combinations can only be simulated with the clock of the profile')
    if any(model.timing.camera_period_ms <= 0.0 for model in models):
        raise SimulationError('combinations can only be simulated with a camera period')
    field = _Field(models, processor, combinations, duration_ms, seed)
    limit_ms = np.array(limits_ms)
    frames = np.zeros(combinations.shape)
    late = np.zeros(combinations.shape)
    while field.is_alive:
        ended, latency_ms = field.advance()
        counted = ended & (field.start_ms >= from_ms)
        frames += counted
        late += counted & (latency_ms > limit_ms)
    return late / np.maximum(frames, 1.0)


class _Field:
    """The state of all combinations; arrays are (N, models), times in ms."""

    def __init__(
        self,
        models: Sequence[SimulatedModel],
        processor: Processor,
        combinations: IntArray,
        duration_ms: float,
        seed: int,
    ) -> None:
        self._processor = processor
        self._work_ms = _by_level([m.platform.latencies_ms for m in models], combinations)
        self._sigma = _by_level([m.platform.noise_sigmas for m in models], combinations)
        self._demand = _by_level([m.platform.demands for m in models], combinations)
        self._period_ms = np.array([model.timing.camera_period_ms for model in models])
        self._phase_ms = np.array([m.begin_ms + m.timing.camera_phase_ms for m in models])
        self._end_ms = np.array([min(duration_ms, model.end_ms) for model in models])
        images = int(duration_ms / self._period_ms.min()) + 2
        noises = [FrameNoise(seed + 1000 * i) for i in range(len(models))]
        self._noise = np.array([[n.of(i) for i in range(images)] for n in noises])
        self._model = np.arange(len(models))
        self._now_ms = np.zeros((len(combinations), 1))
        self._number = np.full(combinations.shape, -1, dtype=np.int64)
        self._next_ms = np.zeros(combinations.shape)
        self._left_ms = np.zeros(combinations.shape)
        self._running = np.zeros(combinations.shape, dtype=bool)
        self.start_ms = np.zeros(combinations.shape)
        begin_ms = np.array([model.begin_ms for model in models])
        self._next_image(
            np.ones(combinations.shape, dtype=bool), np.maximum(begin_ms, self._now_ms)
        )

    @property
    def is_alive(self) -> bool:
        """Return whether any model of any combination runs or waits for an image."""
        return bool((self._running | (self._next_ms < math.inf)).any())

    def advance(self) -> tuple[BoolArray, FloatArray]:
        """Advance each combination to its next event; return finished frames and latencies."""
        starting = ~self._running & (self._next_ms <= self._now_ms)
        noise = self._noise[self._model, np.minimum(self._number, self._noise.shape[1] - 1)]
        self._left_ms = np.where(
            starting, self._work_ms * np.exp(self._sigma * noise), self._left_ms
        )
        self.start_ms = np.where(starting, self._now_ms, self.start_ms)
        self._running |= starting
        speed = self._speeds()
        with np.errstate(divide='ignore', invalid='ignore'):
            ends_ms = np.where(speed > 0.0, self._now_ms + self._left_ms / speed, math.inf)
        ends_ms = np.where(self._running, ends_ms, self._next_ms)
        next_ms = ends_ms.min(axis=1, keepdims=True)
        if self._processor.sharing == 'time_slicing':
            next_ms = np.minimum(next_ms, (self._slot() + 1) * self._processor.slice_ms)
        next_ms = np.where(next_ms < math.inf, next_ms, self._now_ms)  # finished: do not advance
        self._left_ms = np.where(
            self._running, self._left_ms - speed * (next_ms - self._now_ms), self._left_ms
        )
        ended = self._running & ((ends_ms == next_ms) | (self._left_ms <= MIN_WORK_MS))
        self._now_ms = next_ms
        self._running &= ~ended
        self._next_image(ended, next_ms)
        return ended, next_ms - self.start_ms

    def _slot(self) -> FloatArray:
        slot: FloatArray = np.floor(self._now_ms / self._processor.slice_ms + _ROUNDING)
        return slot

    def _speeds(self) -> FloatArray:
        if self._processor.sharing == 'proportional':
            total = (self._running * self._demand).sum(axis=1, keepdims=True)
            speeds: FloatArray = self._running / np.maximum(1.0, total)
            return speeds
        waiting = np.cumsum(self._running, axis=1)
        turn = self._slot() % np.maximum(waiting[:, -1:], 1) + 1
        alone: FloatArray = (self._running & (waiting == turn)).astype(np.float64)
        return alone

    def _next_image(self, free: BoolArray, free_ms: FloatArray) -> None:
        """Determine the next image and its start for free models, like Camera."""
        newest = np.floor((free_ms - self._phase_ms) / self._period_ms + _ROUNDING)
        newest = newest.astype(np.int64)
        is_waiting = newest > self._number
        number = np.where(is_waiting, newest, self._number + 1)
        start_ms = np.where(is_waiting, free_ms, self._phase_ms + number * self._period_ms)
        start_ms = np.where(start_ms < self._end_ms, start_ms, math.inf)
        self._number = np.where(free, number, self._number)
        self._next_ms = np.where(free, start_ms, self._next_ms)


def _by_level(values: Sequence[Sequence[float]], combinations: IntArray) -> FloatArray:
    """Return the values of the levels in the combinations, (N, models)."""
    return np.column_stack([np.array(v)[combinations[:, i] - 1] for i, v in enumerate(values)])
