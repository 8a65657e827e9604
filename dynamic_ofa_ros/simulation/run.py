"""Run the node's RuntimeManager against a trace, in simulated time.

A frame at level i that starts at time t takes `latency_i * slowdown(t) * exp(sigma_i * z)` ms: the
profile's median, the trace, and log-normal noise with the profile's sd over mean. z is drawn per
picture of the camera, so every policy meets the same noise in the same picture, and what each
level would have taken is known exactly. The first frame after a switch costs `switch_ms` more.
Only the newest picture is classified; pictures that arrive during inference wait or are replaced.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.decisions import Decision, Measurement
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.simulation.contenders import Foresight, contender
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform, joined
from dynamic_ofa_ros.simulation.record import Record, SimulatedFrame
from dynamic_ofa_ros.simulation.traces import Trace

DEFAULT_CAMERA_PERIOD_MS = 100.0 / 3.0
DEFAULT_SWITCH_MS = 1.0

MIN_FRAME_MS = 0.01
"""Shorter inference is not simulated: a run must end."""

_NOISE_BLOCK = 1024

ConstraintSchedule = Sequence[tuple[float, Constraints]]
"""(time in ms, constraints from then on), ascending; the first one also before its time."""


@dataclass(frozen=True)
class Timing:
    """How frames come, and what a switch costs.

    camera_period_ms: time between two pictures; 0 is back to back, a picture whenever one is
    wanted. camera_phase_ms: when the first picture comes.
    switch_ms: what the first frame after a switch costs more. The node's measured cost is 0.2 ms
    on a CPU (benchmarks/results/switching.json); 1 ms is careful.
    """

    camera_period_ms: float = DEFAULT_CAMERA_PERIOD_MS
    camera_phase_ms: float = 0.0
    switch_ms: float = DEFAULT_SWITCH_MS

    def __post_init__(self) -> None:
        for name in ('camera_period_ms', 'camera_phase_ms', 'switch_ms'):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise SimulationError(f'{name} is {value:g}; it must be finite and not negative')


class Camera:
    """Says which picture is classified next, and when; a picture is classified once."""

    def __init__(self, timing: Timing) -> None:
        self._period_ms, self._phase_ms = timing.camera_period_ms, timing.camera_phase_ms
        self._last = -1

    def next_frame(self, free_at_ms: float) -> tuple[int, float]:
        """Return the number of the next picture and when its inference starts."""
        if self._period_ms == 0.0:
            self._last += 1
            return self._last, max(free_at_ms, self._phase_ms)
        # The rounding of a time that should fall on a picture must not cost that picture.
        newest = math.floor((free_at_ms - self._phase_ms) / self._period_ms + 1e-9)
        if newest > self._last:
            self._last = newest
            return newest, free_at_ms
        self._last += 1
        return self._last, self._phase_ms + self._last * self._period_ms


class FrameNoise:
    """A standard normal number per picture of the camera, the same for every policy."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng([seed, *b'frames'])
        self._drawn: list[float] = []

    def of(self, camera_frame: int) -> float:
        """Return the number of a picture."""
        while camera_frame >= len(self._drawn):
            self._drawn += self._random.standard_normal(_NOISE_BLOCK).tolist()
        return self._drawn[camera_frame]


@dataclass
class Stopwatch:
    """Wall-clock time of every decision, in us: what a frame pays for the manager."""

    decision_us: list[float] = field(default_factory=list)


def run(
    trace: Trace,
    platform: SimulatedPlatform,
    policy: str | PolicySettings = 'reactive',
    constraints: Constraints | ConstraintSchedule | None = None,
    *,
    seed: int = 1,
    timing: Timing | None = None,
    stopwatch: Stopwatch | None = None,
    others: Sequence[tuple[SimulatedPlatform, Trace]] = (),
) -> Record:
    """Simulate a classifier on a trace from 0 ms to its end; the same arguments, the same record.

    policy: a name of `contender_names()`, or settings of one of the node's policies.
    constraints: one for the whole run, or a schedule. Their latency scope must be inference.
    stopwatch: takes the time of each decision; changes nothing else.
    others: further devices that have the same levels, each with its own slowdown; the manager then
    chooses the device too, and the record's levels are those of `joined`.
    Raises SimulationError for arguments that make no sense.
    """
    timing = timing or Timing()
    schedule = as_schedule(constraints)
    devices = _TraceDevices(((platform, trace), *others), FrameNoise(seed))
    camera = Camera(timing)
    number, start_ms = camera.next_frame(0.0)
    foresight = Foresight(devices.latencies_ms(number, start_ms))
    who = contender(policy, foresight)
    switch_ms = timing.switch_ms if who.pays_switches else 0.0
    manager = RuntimeManager(
        platform.levels,
        devices.profiles,
        constraints=schedule[0][1],
        policy=who.settings,
        policy_factory=who.create,
    )
    frames: list[SimulatedFrame] = []
    decisions: list[Decision] = []
    upcoming = list(schedule[1:])
    option_before = _option(manager)
    while start_ms < trace.duration_ms:
        while upcoming and upcoming[0][0] <= start_ms:
            manager.set_constraints(upcoming.pop(0)[1])
        _note(decisions, manager.decide(round(start_ms * 1e6)))
        level, device = manager.active_level, manager.active_platform
        option, latencies_ms = _option(manager), foresight.level_latencies_ms
        is_first = option != option_before
        latency_ms = latencies_ms[option - 1] + (switch_ms if is_first else 0.0)
        expected_ms = devices.latencies_ms(None, start_ms)
        frames.append(
            SimulatedFrame(
                camera_frame=number,
                start_ms=start_ms,
                level=option,
                latency_ms=latency_ms,
                limit_ms=limit_of(manager.constraints),
                slowdown=devices.slowdown(option, start_ms),
                is_first_after_switch=is_first,
                level_latencies_ms=latencies_ms,
                level_expected_ms=expected_ms,
                reason=manager.state.reason,
            )
        )
        option_before = option
        finish_ms = start_ms + latency_ms
        number, start_ms = camera.next_frame(finish_ms)
        foresight.level_latencies_ms = devices.latencies_ms(number, start_ms)
        measurement = Measurement(
            round(finish_ms * 1e6), level, latency_ms, latency_ms, platform=device
        )
        began_ns = time.perf_counter_ns()
        decision = manager.observe(measurement)
        if stopwatch is not None:
            stopwatch.decision_us.append((time.perf_counter_ns() - began_ns) / 1e3)
        _note(decisions, decision)
    return Record(trace.name, who.name, seed, devices.platform, tuple(frames), tuple(decisions))


def as_schedule(constraints: Constraints | ConstraintSchedule | None) -> ConstraintSchedule:
    """Return a checked schedule; raise SimulationError for one that cannot be simulated."""
    if constraints is None or isinstance(constraints, Constraints):
        schedule: ConstraintSchedule = [(0.0, constraints or Constraints())]
    else:
        schedule = list(constraints)
    if not schedule:
        raise SimulationError('a schedule of constraints needs at least one entry')
    times_ms = [time_ms for time_ms, _ in schedule]
    if times_ms != sorted(set(times_ms)) or not all(map(math.isfinite, times_ms)):
        raise SimulationError(f'the times of the constraints must ascend, not be {times_ms}')
    for _, entry in schedule:
        if entry.latency_scope != 'inference':
            raise SimulationError(
                f'latency_scope is {entry.latency_scope!r}; only inference is simulated'
            )
    return schedule


def limit_of(constraints: Constraints) -> float:
    """Return the latency limit, infinite without one."""
    return constraints.max_latency_ms if constraints.has_latency else math.inf


class _TraceDevices:
    """Knows what every level takes, on every device, for a picture that starts at some time."""

    def __init__(
        self, devices: Sequence[tuple[SimulatedPlatform, Trace]], noise: FrameNoise
    ) -> None:
        for platform, trace in devices:
            fastest_ms = min(platform.latencies_ms) * min(trace.slowdown.values)
            if fastest_ms < MIN_FRAME_MS:
                raise SimulationError(
                    f'inference would take {fastest_ms:g} ms, too little to simulate: is the '
                    f'slowdown of trace {trace.name} right? 1 is alone on the device'
                )
        self.platform = joined([platform for platform, _ in devices])
        self.profiles = [platform.profile for platform, _ in devices]
        self._noise = noise
        self._options = [
            (trace, median_ms, sigma)
            for platform, trace in devices
            for median_ms, sigma in zip(platform.latencies_ms, platform.noise_sigmas, strict=True)
        ]

    def slowdown(self, option: int, start_ms: float) -> float:
        """Return how much slower the device of an option is than alone."""
        return self._options[option - 1][0].at(start_ms)

    def latencies_ms(self, camera_frame: int | None, start_ms: float) -> tuple[float, ...]:
        """Return the latency of every option, without the cost of a switch.

        With the noise of a picture, or without noise for None.
        """
        z = 0.0 if camera_frame is None else self._noise.of(camera_frame)
        return tuple(
            median_ms * trace.at(start_ms) * math.exp(sigma * z)
            for trace, median_ms, sigma in self._options
        )


def _option(manager: RuntimeManager) -> int:
    """Return the present level, numbered as in `joined`."""
    table = manager.table
    return table.option(manager.active_level, table.platforms.index(manager.active_platform))


def _note(decisions: list[Decision], decision: Decision | None) -> None:
    if decision is not None:
        decisions.append(decision)
