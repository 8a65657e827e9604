"""A processor that several workloads share, in simulated time.

Each workload has a demand, the share of the device that it uses while it runs alone. The processor
determines the speed of each workload (1: as fast as alone), which is constant between two events:

- proportional: all workloads run at the same time. If the sum of their demands exceeds 1, each one
  gets the same fraction of its demand.
- time slicing: workloads run alternately for `slice_ms` each, whatever their demand. A short frame
  may run at once or have to wait for its slice, so its latency is bimodal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.simulation.steps import ALWAYS_ONE, Steps

SHARINGS = ('proportional', 'time_slicing')

_SLOT_EPSILON = 1e-9


@dataclass(frozen=True)
class Processor:
    """A device with one clock.

    sharing: one of SHARINGS. slice_ms: length of a time slice.
    frequency: clock rate relative to that of the profile, in (0, 1]; all speeds are proportional
    to it.
    """

    sharing: str = 'proportional'
    slice_ms: float = 10.0
    frequency: Steps = ALWAYS_ONE

    def __post_init__(self) -> None:
        if self.sharing not in SHARINGS:
            raise SimulationError(
                f'sharing is {self.sharing!r}; it must be one of: {", ".join(SHARINGS)}'
            )
        if not 0.1 <= self.slice_ms < math.inf:
            raise SimulationError(
                f'slice_ms is {self.slice_ms:g}; it must be finite and at least 0.1'
            )
        for value in self.frequency.values:
            if not 0.0 < value <= 1.0:
                raise SimulationError(
                    f'frequency is {value:g}; it must lie in (0, 1] (1: clock of the profile)'
                )

    def speeds(self, time_ms: float, demands: Sequence[float]) -> tuple[float, ...]:
        """Return the speed of each workload from `time_ms` until `next_change_ms`.

        demands: the demand of each workload; 0 if it is idle, and then its speed is 0. The sum of
        speed x demand never exceeds the clock rate.
        """
        clock = self.frequency.at(time_ms)
        if self.sharing == 'proportional':
            speed = clock / max(1.0, sum(demands))
            return tuple(speed if demand > 0.0 else 0.0 for demand in demands)
        waiting = [index for index, demand in enumerate(demands) if demand > 0.0]
        if not waiting:
            return (0.0,) * len(demands)
        turn = waiting[self._slot(time_ms) % len(waiting)]
        return tuple(clock if index == turn else 0.0 for index in range(len(demands)))

    def next_change_ms(self, time_ms: float) -> float:
        """Return the next time when speeds may change without a change of demands."""
        change_ms = self.frequency.next_change_ms(time_ms)
        if self.sharing == 'time_slicing':
            change_ms = min(change_ms, (self._slot(time_ms) + 1) * self.slice_ms)
        return change_ms

    def _slot(self, time_ms: float) -> int:
        # With the tolerance, the end of a slot belongs to the next slot despite rounding.
        return math.floor(time_ms / self.slice_ms + _SLOT_EPSILON)


class Unshared:
    """Devices on which every workload runs as if it were alone."""

    def speeds(self, time_ms: float, demands: Sequence[float]) -> tuple[float, ...]:
        """Return the speed of each workload."""
        return (1.0,) * len(demands)

    def next_change_ms(self, time_ms: float) -> float:
        """Return the next time when speeds may change."""
        return math.inf


@dataclass(frozen=True)
class Job:
    """Another program, whose work is not controlled by a manager.

    It runs from begin_ms to end_ms. If period_ms is set, it works for busy_ms in every period and
    pauses for the rest. demand: share of the device that it uses while it works, in (0, 1].
    """

    name: str
    demand: float
    begin_ms: float = 0.0
    end_ms: float = math.inf
    period_ms: float = 0.0
    busy_ms: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.demand <= 1.0:
            raise SimulationError(
                f'the demand of job {self.name} is {self.demand:g}; it must lie in (0, 1]'
            )
        if not 0.0 <= self.begin_ms < self.end_ms:
            raise SimulationError(
                f'job {self.name} runs from {self.begin_ms:g} to {self.end_ms:g} ms; '
                'it must begin at 0 or later and end after its begin'
            )
        if self.period_ms and not 0.0 < self.busy_ms <= self.period_ms < math.inf:
            raise SimulationError(
                f'job {self.name} works {self.busy_ms:g} of every {self.period_ms:g} ms; '
                'busy_ms must be positive and at most period_ms'
            )

    def demand_at(self, time_ms: float) -> float:
        """Return the demand of the job at a time; 0 if it pauses or does not run."""
        if not self.begin_ms <= time_ms < self.end_ms:
            return 0.0
        if self.period_ms == 0.0:
            return self.demand
        return self.demand if self._phase(time_ms)[1] < self.busy_ms else 0.0

    def next_change_ms(self, time_ms: float) -> float:
        """Return the time of the next change of the demand after `time_ms`; infinite if none."""
        if time_ms < self.begin_ms:
            return self.begin_ms
        if time_ms >= self.end_ms:
            return math.inf
        if self.period_ms == 0.0:
            return self.end_ms
        period, phase_ms = self._phase(time_ms)
        start_ms = self.begin_ms + period * self.period_ms
        next_ms = start_ms + (self.busy_ms if phase_ms < self.busy_ms else self.period_ms)
        return min(self.end_ms, next_ms if next_ms > time_ms else start_ms + self.period_ms)

    def _phase(self, time_ms: float) -> tuple[int, float]:
        """Return the number of the current period, and the time since its start."""
        since_ms = time_ms - self.begin_ms
        period = math.floor(since_ms / self.period_ms + _SLOT_EPSILON)
        phase_ms = max(0.0, since_ms - period * self.period_ms)
        return period, phase_ms + _SLOT_EPSILON


def training_job(begin_ms: float, end_ms: float = math.inf, demand: float = 0.8) -> Job:
    """Return a training job: 120 ms of work per step, 10 ms to load the next batch."""
    return Job('training job', demand, begin_ms, end_ms, period_ms=130.0, busy_ms=120.0)


class Timeline:
    """The demands of all workloads during a simulation, in ascending order of time."""

    def __init__(self) -> None:
        self.times_ms: list[float] = []
        self.demands: list[tuple[float, ...]] = []

    def append(self, time_ms: float, demands: tuple[float, ...]) -> None:
        """Add the demands from `time_ms` on, if they have changed."""
        if self.times_ms and self.times_ms[-1] == time_ms:
            self.demands[-1] = demands
        elif not self.demands or self.demands[-1] != demands:
            self.times_ms.append(time_ms)
            self.demands.append(demands)


def alone_duration_ms(
    processor: Processor,
    timeline: Timeline,
    segment: int,
    workload: int,
    start_ms: float,
    work_ms: float,
    demand: float,
) -> float:
    """Return the duration of work from `start_ms` if all other workloads follow the timeline.

    segment: index in the timeline at `start_ms`. workload: index of the workload that is replaced.
    work_ms: duration of the work alone. demand: demand of the work.
    """
    times_ms, demands = timeline.times_ms, timeline.demands
    now_ms, left_ms = start_ms, work_ms
    while True:
        while segment + 1 < len(times_ms) and times_ms[segment + 1] <= now_ms:
            segment += 1
        others = demands[segment]
        all_demands = (*others[:workload], demand, *others[workload + 1 :])
        speed = processor.speeds(now_ms, all_demands)[workload]
        until_ms = processor.next_change_ms(now_ms)
        if segment + 1 < len(times_ms):
            until_ms = min(until_ms, times_ms[segment + 1])
        if speed > 0.0 and now_ms + left_ms / speed <= until_ms:
            return now_ms + left_ms / speed - start_ms
        left_ms -= speed * (until_ms - now_ms)
        now_ms = until_ms


def first_change_ms(jobs: Iterable[Job], processor: Processor | Unshared, time_ms: float) -> float:
    """Return the time of the next change of a job or the processor after `time_ms`."""
    changes = [job.next_change_ms(time_ms) for job in jobs]
    return min([processor.next_change_ms(time_ms), *changes])
