"""Play classifiers, each with the node's RuntimeManager, and other jobs on one processor.

Everything happens in simulated time: an event is a frame that starts or ends, a job that comes,
goes, works or pauses, a turn of the time slicing, a change of the clock. In between, every
workload proceeds at a constant speed. How the classifiers slow each other down follows from the
levels that their managers choose, so this is where collective decisions are tried out.

    models = [SimulatedModel('a', platform, constraints=...), SimulatedModel('b', platform, ...)]
    record_a, record_b = play(models, Processor(), duration_ms=10000.0)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.decisions import Decision, Measurement
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicyFactory, PolicySettings
from dynamic_ofa_ros.simulation.contenders import contender
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform
from dynamic_ofa_ros.simulation.processor import (
    Job,
    Processor,
    Timeline,
    alone_duration_ms,
    first_change_ms,
)
from dynamic_ofa_ros.simulation.record import Record, SimulatedFrame
from dynamic_ofa_ros.simulation.run import (
    Camera,
    ConstraintSchedule,
    FrameNoise,
    Timing,
    as_schedule,
    limit_of,
)

MIN_WORK_MS = 1e-9
"""Work that is left because of rounding is done."""


@dataclass(frozen=True)
class SimulatedModel:
    """A classifier on the shared processor.

    policy: a name (not the oracle), or settings of one of the node's policies.
    begin_ms, end_ms: when it is there; its camera starts with it.
    policy_factory: builds another policy than the one named, for instance a collective one.
    """

    name: str
    platform: SimulatedPlatform
    policy: str | PolicySettings = 'reactive'
    constraints: Constraints | ConstraintSchedule | None = None
    timing: Timing = field(default_factory=Timing)
    begin_ms: float = 0.0
    end_ms: float = math.inf
    policy_factory: PolicyFactory | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.begin_ms < self.end_ms:
            raise SimulationError(
                f'model {self.name} is there from {self.begin_ms:g} to {self.end_ms:g} ms; '
                'it must begin at 0 or later, and end after that'
            )


@dataclass(frozen=True)
class FrameEnd:
    """What `on_frame_end` is told: model `index` has finished a frame and its manager decided."""

    time_ms: float
    index: int
    manager: RuntimeManager
    latency_ms: float


OnFrameEnd = Callable[[FrameEnd], None]


class Exchange(Protocol):
    """Something that happens between the managers, at times of its own."""

    @property
    def next_ms(self) -> float:
        """Return when it happens next; infinite when it does not."""

    def act(self, now_ms: float, managers: Sequence[RuntimeManager]) -> None:
        """Do what is due; `next_ms` must then lie in the future."""


def play(
    models: Sequence[SimulatedModel],
    processor: Processor,
    jobs: Sequence[Job] = (),
    *,
    duration_ms: float,
    seed: int = 1,
    on_frame_end: OnFrameEnd | None = None,
    exchange: Exchange | None = None,
    has_alternatives: bool = True,
) -> tuple[Record, ...]:
    """Play from 0 ms until no frame that starts before `duration_ms` runs; a record per model.

    on_frame_end: called after each decision. It may set constraints or policies of any manager.
    exchange: managers that talk to each other are given the word here.
    has_alternatives: whether the record's frames tell what every level would have taken, the
    others' behaviour as it was; without it (empty, NaN) a run takes a third of the time.
    The same arguments give the same records. Raises SimulationError for arguments that make no
    sense.
    """
    if not models:
        raise SimulationError('there is no model to play')
    if not 0.0 < duration_ms < math.inf:
        raise SimulationError(
            f'the duration is {duration_ms:g} ms; it must be finite and positive'
        )
    runners = [_Runner(model, seed + 1000 * i) for i, model in enumerate(models)]
    managers = [runner.manager for runner in runners]
    timeline = Timeline()
    now_ms = 0.0
    while True:
        if exchange is not None and exchange.next_ms <= now_ms:
            exchange.act(now_ms, managers)
        for runner in runners:
            runner.start_if_due(now_ms, duration_ms)
        if all(runner.is_over for runner in runners):
            break
        demands = (
            *(runner.demand for runner in runners),
            *(job.demand_at(now_ms) for job in jobs),
        )
        timeline.append(now_ms, demands)
        speeds = processor.speeds(now_ms, demands)
        ends_ms = [
            r.event_ms(now_ms, s) for r, s in zip(runners, speeds[: len(runners)], strict=True)
        ]
        next_ms = min([first_change_ms(jobs, processor, now_ms), *ends_ms])
        if exchange is not None:
            next_ms = min(next_ms, exchange.next_ms)
        for runner, speed in zip(runners, speeds[: len(runners)], strict=True):
            runner.proceed(speed * (next_ms - now_ms))
        for runner, end_ms in zip(runners, ends_ms, strict=True):
            if runner.is_running and end_ms == next_ms:
                runner.left_ms = 0.0
        now_ms = next_ms
        for index, runner in enumerate(runners):
            if runner.is_running and runner.left_ms <= MIN_WORK_MS:
                latency_ms = runner.finish(now_ms)
                if on_frame_end is not None:
                    on_frame_end(FrameEnd(now_ms, index, runner.manager, latency_ms))
    records = tuple(runner.record(seed) for runner in runners)
    if not has_alternatives:
        return records
    return tuple(
        _with_alternatives(record, processor, timeline, index, runners[index])
        for index, record in enumerate(records)
    )


class _Runner:
    """One classifier: its camera, its manager, and the frame it works on."""

    def __init__(self, model: SimulatedModel, seed: int) -> None:
        self.model = model
        self.noise = FrameNoise(seed)
        who = contender(model.policy)
        self._name = who.name
        self._upcoming = list(as_schedule(model.constraints))
        self.manager = RuntimeManager(
            model.platform.levels,
            model.platform.profile,
            constraints=self._upcoming.pop(0)[1],
            policy=who.settings,
            policy_factory=model.policy_factory or who.create,
        )
        self._camera = Camera(
            replace(model.timing, camera_phase_ms=model.begin_ms + model.timing.camera_phase_ms)
        )
        self._number, self._next_start_ms = self._camera.next_frame(model.begin_ms)
        self._level = self.manager.active_level
        self._start_ms = math.nan
        self._is_first = False
        self.is_running = self.is_over = False
        self.left_ms = 0.0
        self.frames: list[SimulatedFrame] = []
        self.decisions: list[Decision] = []

    @property
    def demand(self) -> float:
        """What the classifier asks of the device now."""
        return self.model.platform.demands[self._level - 1] if self.is_running else 0.0

    def start_if_due(self, now_ms: float, duration_ms: float) -> None:
        if self.is_running or self.is_over:
            return
        if self._next_start_ms >= min(duration_ms, self.model.end_ms):
            self.is_over = True
            return
        if now_ms < self._next_start_ms:
            return
        while self._upcoming and self._upcoming[0][0] <= now_ms:
            self.manager.set_constraints(self._upcoming.pop(0)[1])
        self._note(self.manager.decide(round(now_ms * 1e6)))
        level = self.manager.active_level
        self._is_first = level != self._level
        self._level, self._start_ms, self.is_running = level, now_ms, True
        self._reason = self.manager.state.reason
        self._limit_ms = limit_of(self.manager.constraints)
        platform = self.model.platform
        self.left_ms = platform.latencies_ms[level - 1] * math.exp(
            platform.noise_sigmas[level - 1] * self.noise.of(self._number)
        )
        if self._is_first:
            self.left_ms += self.model.timing.switch_ms

    def event_ms(self, now_ms: float, speed: float) -> float:
        """Return when the present frame ends at this speed, or when the next one starts."""
        if self.is_over:
            return math.inf
        if not self.is_running:
            return self._next_start_ms
        return now_ms + self.left_ms / speed if speed > 0.0 else math.inf

    def proceed(self, work_ms: float) -> None:
        if self.is_running:
            self.left_ms -= work_ms

    def finish(self, now_ms: float) -> float:
        """Take the frame's latency to the manager and return it."""
        latency_ms = now_ms - self._start_ms
        self.is_running = False
        self.frames.append(
            SimulatedFrame(
                camera_frame=self._number,
                start_ms=self._start_ms,
                level=self._level,
                latency_ms=latency_ms,
                limit_ms=self._limit_ms,
                slowdown=math.nan,
                is_first_after_switch=self._is_first,
                level_latencies_ms=(),
                level_expected_ms=(),
                reason=self._reason,
            )
        )
        measurement = Measurement(round(now_ms * 1e6), self._level, latency_ms, latency_ms)
        self._note(self.manager.observe(measurement))
        self._number, self._next_start_ms = self._camera.next_frame(now_ms)
        return latency_ms

    def record(self, seed: int) -> Record:
        return Record(
            self.model.name,
            self._name,
            seed,
            self.model.platform,
            tuple(self.frames),
            tuple(self.decisions),
        )

    def _note(self, decision: Decision | None) -> None:
        if decision is not None:
            self.decisions.append(decision)


def _with_alternatives(
    record: Record, processor: Processor, timeline: Timeline, workload: int, runner: _Runner
) -> Record:
    """Add what every level would have taken, had all others behaved as they did."""
    platform = record.platform
    frames = []
    for frame in record.frames:
        segment = bisect_right(timeline.times_ms, frame.start_ms) - 1
        z = runner.noise.of(frame.camera_frame)

        def durations_ms(z: float, start_ms: float, segment: int) -> tuple[float, ...]:
            return tuple(
                alone_duration_ms(
                    processor,
                    timeline,
                    segment,
                    workload,
                    start_ms,
                    median_ms * math.exp(sigma * z),
                    demand,
                )
                for median_ms, sigma, demand in zip(
                    platform.latencies_ms, platform.noise_sigmas, platform.demands, strict=True
                )
            )

        expected_ms = durations_ms(0.0, frame.start_ms, segment)
        frames.append(
            replace(
                frame,
                slowdown=expected_ms[frame.level - 1] / platform.latencies_ms[frame.level - 1],
                level_latencies_ms=durations_ms(z, frame.start_ms, segment),
                level_expected_ms=expected_ms,
            )
        )
    return replace(record, frames=tuple(frames))
