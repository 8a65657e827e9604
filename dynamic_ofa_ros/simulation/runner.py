"""A classifier in simulated time: its camera, its manager and the current frame."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.decisions import Decision, Measurement
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.simulation.camera import Camera, FrameNoise, Timing
from dynamic_ofa_ros.simulation.contenders import Foresight, contender
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform, joined
from dynamic_ofa_ros.simulation.record import Record, SimulatedFrame
from dynamic_ofa_ros.simulation.steps import ALWAYS_ONE
from dynamic_ofa_ros.simulation.traces import Trace

MIN_FRAME_MS = 0.01
"""Minimum duration of inference, to limit the length of a simulation."""

MAX_IMAGES = 1_000_000
"""Maximum number of images, to limit the memory of a simulation."""

MIN_WORK_MS = 1e-9
"""Less remaining work than this is due to rounding and ignored."""

ConstraintsOverTime = Constraints | Sequence[tuple[float, Constraints]] | None
"""Constraints for the whole run, or a schedule of (time in ms, constraints), ascending."""

Device = tuple[SimulatedPlatform, Trace]

_ALONE = Trace('alone', ALWAYS_ONE, 1.0)
"""The trace of a classifier on a shared processor, where only the processor slows it down."""


@dataclass(frozen=True)
class SimulatedModel:
    """A simulated classifier.

    policy: a name of `contender_names()`, or settings of one of the node's policies.
    constraints: for the whole run, or a schedule.
    begin_ms, end_ms: the time during which it runs; its camera starts with it.
    """

    name: str
    platform: SimulatedPlatform
    policy: str | PolicySettings = 'reactive'
    constraints: ConstraintsOverTime = None
    timing: Timing = field(default_factory=Timing)
    begin_ms: float = 0.0
    end_ms: float = math.inf

    def __post_init__(self) -> None:
        if not 0.0 <= self.begin_ms < self.end_ms:
            raise SimulationError(
                f'model {self.name} runs from {self.begin_ms:g} to {self.end_ms:g} ms; '
                'it must begin at 0 or later and end after its begin'
            )


@dataclass
class Stopwatch:
    """The wall-clock time of every decision of the manager, in us."""

    decision_us: list[float] = field(default_factory=list)


class Runner:
    """One classifier: its camera, its manager and the current frame.

    devices: platforms with traces; if given, the device is not shared, and the latencies of all
    levels are known in advance, as required by the oracle.
    """

    def __init__(
        self,
        model: SimulatedModel,
        seed: int,
        end_ms: float,
        devices: Sequence[Device] = (),
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.devices = devices or ((model.platform, _ALONE),)
        self._is_shared = not devices
        self._model, self._end_ms, self._stopwatch = model, end_ms, stopwatch
        self.platform = joined([platform for platform, _ in self.devices])
        self._traces = [trace for platform, trace in self.devices for _ in platform.levels]
        self._check_length()
        self._schedule = _schedule(model.constraints)
        self._noise = FrameNoise(seed)
        self._camera = Camera(model.timing, model.begin_ms)
        self._foresight = Foresight()
        self._see_next(model.begin_ms)
        who = contender(model.policy, None if self._is_shared else self._foresight)
        self._name = who.name
        self._switch_ms = model.timing.switch_ms if who.pays_switches else 0.0
        self.manager = RuntimeManager(
            model.platform.levels,
            [platform.profile for platform, _ in self.devices],
            constraints=self._schedule[0][1],
            policy=who.settings,
            policy_factory=who.create,
        )
        self._obeyed = self._schedule[0][1]
        self._level = self._active_level()
        self._frame: SimulatedFrame | None = None
        self._left_ms = 0.0
        self._frames: list[SimulatedFrame] = []
        self._decisions: list[Decision] = []
        self.is_over = False

    @property
    def demand(self) -> float:
        """Return the current demand of the classifier."""
        return self.platform.demands[self._level - 1] if self._frame else 0.0

    def event_ms(self, now_ms: float, speed: float) -> float:
        """Return the end of the current frame at this speed, or the start of the next one."""
        if self.is_over:
            return math.inf
        if not self._frame:
            return self._image.start_ms
        return now_ms + self._left_ms / speed if speed > 0.0 else math.inf

    def proceed(self, work_ms: float, *, is_done: bool) -> None:
        """Process part of the current frame's work."""
        if self._frame:
            self._left_ms = 0.0 if is_done else self._left_ms - work_ms

    def start_if_due(self, now_ms: float) -> None:
        """Start the next image if it is due; the manager chooses the level first."""
        image = self._image
        if self._frame or self.is_over or now_ms < image.start_ms < self._end_ms:
            return
        if image.start_ms >= self._end_ms:
            self.is_over = True
            return
        constraints = self._constraints_at(now_ms)
        if constraints is not self._obeyed:
            self.manager.set_constraints(constraints)
            self._obeyed = constraints
        self._note(self.manager.decide(round(now_ms * 1e6)))
        before, self._level = self._level, self._active_level()
        index, is_first = self._level - 1, self._level != before
        trace, scope = self._traces[index], constraints.latency_scope
        inference_ms = trace.duration_of_ms(
            now_ms,
            self.works_ms(image.number, now_ms)[index] + (self._switch_ms if is_first else 0.0),
        )
        self._left_ms = inference_ms + trace.overhead_ms.at(now_ms)
        wait_ms = image.wait_ms if scope != 'inference' else 0.0
        self._frame = SimulatedFrame(
            camera_frame=image.number,
            start_ms=now_ms,
            level=self._level,
            latency_ms=inference_ms + wait_ms + self._rest_ms(trace, scope, now_ms),
            limit_ms=_limit_of(constraints),
            slowdown=math.nan if self._is_shared else trace.at(now_ms),
            is_first_after_switch=is_first,
            level_latencies_ms=self._foresight.level_latencies_ms,
            level_expected_ms=self._expected_ms,
            inference_ms=inference_ms,
            wait_ms=wait_ms,
            reason=self.manager.state.reason,
        )

    def finish_if_done(self, now_ms: float) -> None:
        """If the current frame is done, pass its latency to the manager; find the next image."""
        if not self._frame or self._left_ms > MIN_WORK_MS:
            return
        frame, image = self._frame, self._image
        overhead_ms = self._traces[frame.level - 1].overhead_ms.at(frame.start_ms)
        if self._is_shared:
            inference_ms = now_ms - frame.start_ms - overhead_ms
            latency_ms = inference_ms + frame.latency_ms - frame.inference_ms
            frame = replace(frame, inference_ms=inference_ms, latency_ms=latency_ms)
        self._frame = None
        self._frames.append(frame)
        self._see_next(now_ms)
        node_ms = frame.inference_ms + image.start_ms - image.arrival_ms + overhead_ms
        device, level = divmod(frame.level - 1, len(self._model.platform.levels))
        measurement = Measurement(
            round(now_ms * 1e6),
            level + 1,
            frame.inference_ms,
            node_ms,
            node_ms + self._model.timing.transport_ms,
            self.devices[device][0].profile.platform,
            wait_ms=image.wait_ms,
            period_ms=self._model.timing.camera_period_ms or math.nan,
        )
        began_ns = time.perf_counter_ns()
        decision = self.manager.observe(measurement)
        if self._stopwatch is not None:
            self._stopwatch.decision_us.append((time.perf_counter_ns() - began_ns) / 1e3)
        self._note(decision)

    def works_ms(self, camera_frame: int | None, start_ms: float) -> tuple[float, ...]:
        """Return the inference time of every level on an unshared device, without stalls.

        camera_frame: the image whose noise is used; None: no noise.
        """
        z = 0.0 if camera_frame is None else self._noise.of(camera_frame)
        return tuple(
            median_ms * trace.at(start_ms) * math.exp(sigma * z)
            for median_ms, sigma, trace in zip(
                self.platform.latencies_ms, self.platform.noise_sigmas, self._traces, strict=True
            )
        )

    def record(self, seed: int, changes_ms: Iterable[float] = ()) -> Record:
        """Return the record of the run; changes_ms: times of changes other than constraints."""
        return Record(
            self._model.name,
            self._name,
            seed,
            self.platform,
            tuple(self._frames),
            tuple(self._decisions),
            tuple(sorted({*changes_ms, *(time_ms for time_ms, _ in self._schedule)})),
        )

    def _see_next(self, free_ms: float) -> None:
        """Determine the next image and, if the device is not shared, its latencies."""
        self._image = image = self._camera.next_image(free_ms)
        self._expected_ms: tuple[float, ...] = ()
        if self._is_shared:
            return  # its latencies depend on other workloads
        constraints, start_ms = self._constraints_at(image.start_ms), image.start_ms
        scope = constraints.latency_scope
        wait_ms = image.wait_ms if scope != 'inference' else 0.0
        self._foresight.limit_ms = _limit_of(constraints)
        rests_ms = [self._rest_ms(trace, scope, start_ms) for trace in self._traces]
        self._foresight.level_latencies_ms = tuple(
            trace.duration_of_ms(start_ms, work_ms) + wait_ms + rest_ms
            for trace, work_ms, rest_ms in zip(
                self._traces, self.works_ms(image.number, start_ms), rests_ms, strict=True
            )
        )
        self._expected_ms = tuple(
            work_ms + rest_ms
            for work_ms, rest_ms in zip(self.works_ms(None, start_ms), rests_ms, strict=True)
        )

    def _rest_ms(self, trace: Trace, scope: str, start_ms: float) -> float:
        """Return the part of a scope's latency that is neither inference nor wait."""
        if scope == 'inference':
            return 0.0
        transport_ms = self._model.timing.transport_ms if scope == 'end_to_end' else 0.0
        return trace.overhead_ms.at(start_ms) + transport_ms

    def _constraints_at(self, time_ms: float) -> Constraints:
        upcoming = bisect_right(self._schedule, time_ms, key=lambda entry: entry[0])
        return self._schedule[max(0, upcoming - 1)][1]

    def _active_level(self) -> int:
        """Return the active level, numbered as in `joined`."""
        names = [platform.profile.platform for platform, _ in self.devices]
        device = names.index(self.manager.active_platform)
        return device * len(self._model.platform.levels) + self.manager.active_level

    def _check_length(self) -> None:
        fastest_ms = min(
            median_ms * min(trace.slowdown.values)
            for median_ms, trace in zip(self.platform.latencies_ms, self._traces, strict=True)
        )
        if fastest_ms < MIN_FRAME_MS:
            raise SimulationError(
                f'inference would take {fastest_ms:g} ms, which is too short to simulate: check '
                f'the slowdown of {self._model.name} (1: alone on the device)'
            )
        length_ms = self._end_ms - self._model.begin_ms
        count = length_ms / (self._model.timing.camera_period_ms or fastest_ms)
        if count > MAX_IMAGES:
            raise SimulationError(
                f'{self._model.name} would get {count:.3g} images, too many to simulate (at '
                f'most {MAX_IMAGES:g}); shorten the run, or lower the camera rate'
            )

    def _note(self, decision: Decision | None) -> None:
        if decision is not None:
            self._decisions.append(decision)


def _limit_of(constraints: Constraints) -> float:
    """Return the latency limit; infinite if there is none."""
    return constraints.max_latency_ms if constraints.has_latency else math.inf


def _schedule(constraints: ConstraintsOverTime) -> Sequence[tuple[float, Constraints]]:
    """Return the schedule of constraints; raise SimulationError if it is invalid."""
    if constraints is None or isinstance(constraints, Constraints):
        return [(0.0, constraints or Constraints())]
    schedule = list(constraints)
    if not schedule:
        raise SimulationError('a schedule of constraints requires at least one entry')
    times_ms = [time_ms for time_ms, _ in schedule]
    if times_ms != sorted(set(times_ms)) or not all(map(math.isfinite, times_ms)):
        raise SimulationError(f'the times of the constraints must ascend, found {times_ms}')
    return schedule
