"""Run the node's RuntimeManager in simulated time, on a trace or on a shared processor.

The inference of a frame at level i that starts at time t takes `latency_i * slowdown(t) *
exp(sigma_i * z)` ms: the median of the profile, the slowdown of the trace, and log-normal noise
with the standard deviation of the profile. z is drawn for each image, so all policies have the
same noise for the same image. The first frame after a switch takes `switch_ms` longer. After the
overhead of the trace, the result is available. Only the newest image is processed; others wait or
are skipped.

The latency is measured in the scope of the constraints:

- inference: inference only.
- node: from the image's arrival at the classifier to the result: wait, inference, overhead.
- end_to_end: from the time of the image to the result, which includes the transport.

The simulation is event-driven. Events are the start and end of frames, changes of jobs, time
slices, and changes of the clock; all speeds are constant between two events. On a trace, the
device is not shared. On a processor, classifiers slow each other down depending on the levels that
their managers choose.

    record = run(make_trace('burst'), load_platform(), 'predictive', Constraints(60.0))
    models = [SimulatedModel('a', platform, constraints=...), SimulatedModel('b', platform, ...)]
    record_a, record_b = play(models, Processor(), duration_ms=10000.0)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform
from dynamic_ofa_ros.simulation.processor import (
    Job,
    Processor,
    Timeline,
    Unshared,
    alone_duration_ms,
    first_change_ms,
)
from dynamic_ofa_ros.simulation.record import Record, SimulatedFrame
from dynamic_ofa_ros.simulation.runner import (
    ConstraintsOverTime,
    Device,
    Runner,
    SimulatedModel,
    Stopwatch,
)
from dynamic_ofa_ros.simulation.traces import Trace


class Exchange(Protocol):
    """Communication between managers at times of its choice."""

    @property
    def next_ms(self) -> float:
        """Return the time of the next communication; infinite if there is none."""

    def act(self, now_ms: float, managers: Sequence[RuntimeManager]) -> None:
        """Communicate; afterwards, `next_ms` must be in the future."""


def run(
    trace: Trace,
    platform: SimulatedPlatform,
    policy: str | PolicySettings = 'reactive',
    constraints: ConstraintsOverTime = None,
    *,
    seed: int = 1,
    timing: Timing | None = None,
    stopwatch: Stopwatch | None = None,
    others: Sequence[Device] = (),
) -> Record:
    """Simulate a classifier on a trace; the result is reproducible.

    policy, constraints: as for SimulatedModel.
    stopwatch: measures the wall-clock time of each decision.
    others: further devices with the same levels, each with its own slowdown. The manager then also
    chooses the device, and the record has the levels of `joined`. Raise SimulationError if an
    argument is invalid.
    """
    model = SimulatedModel(trace.name, platform, policy, constraints, timing or Timing())
    runner = Runner(model, seed, trace.duration_ms, ((platform, trace), *others), stopwatch)
    _play([runner], Unshared())
    traces = [each for _, each in runner.devices]
    steps = [steps for each in traces for steps in (each.slowdown, each.overhead_ms)]
    return runner.record(seed, (time_ms for each in steps for time_ms in each.times_ms))


def run_fixed_levels(
    trace: Trace,
    platform: SimulatedPlatform,
    constraints: ConstraintsOverTime = None,
    *,
    seed: int = 1,
    timing: Timing | None = None,
) -> tuple[Record, ...]:
    """Simulate every fixed level, in order; each run has its own waiting times."""
    return tuple(
        run(
            trace,
            platform,
            PolicySettings('fixed', fixed_level=level.index),
            constraints,
            seed=seed,
            timing=timing,
        )
        for level in platform.levels
    )


def play(
    models: Sequence[SimulatedModel],
    processor: Processor,
    jobs: Sequence[Job] = (),
    *,
    duration_ms: float,
    seed: int = 1,
    exchange: Exchange | None = None,
    has_alternatives: bool = True,
) -> tuple[Record, ...]:
    """Simulate classifiers, each with the node's manager, and other jobs on one processor.

    The simulation ends after the last frame that starts before `duration_ms`. Return one record
    per model; the result is reproducible.

    exchange: communication between the managers, if any.
    has_alternatives: whether the frames of the records contain the latencies of all levels, given
    the actual behaviour of the other models. Without them (empty, NaN), the simulation takes a
    third of the time. Raise SimulationError if an argument is invalid.
    """
    if not models:
        raise SimulationError('there is no model to simulate')
    if not 0.0 < duration_ms < math.inf:
        raise SimulationError(
            f'the duration is {duration_ms:g} ms; it must be finite and positive'
        )
    runners = [
        Runner(model, seed + 1000 * index, min(duration_ms, model.end_ms))
        for index, model in enumerate(models)
    ]
    timeline = _play(runners, processor, jobs, exchange)
    changes_ms = {
        *processor.frequency.times_ms,
        *(time_ms for job in jobs for time_ms in (job.begin_ms, job.end_ms)),
        *(time_ms for model in models for time_ms in (model.begin_ms, model.end_ms)),
    }
    records = tuple(runner.record(seed, changes_ms) for runner in runners)
    if not has_alternatives:
        return records
    return tuple(
        _with_alternatives(record, processor, timeline, index, runners[index])
        for index, record in enumerate(records)
    )


def _play(
    runners: Sequence[Runner],
    processor: Processor | Unshared,
    jobs: Sequence[Job] = (),
    exchange: Exchange | None = None,
) -> Timeline:
    """Process all events; return the demands of all workloads over time."""
    managers = [runner.manager for runner in runners]
    timeline = Timeline()
    now_ms = 0.0
    while True:
        if exchange is not None and exchange.next_ms <= now_ms:
            exchange.act(now_ms, managers)
        for runner in runners:
            runner.start_if_due(now_ms)
        if all(runner.is_over for runner in runners):
            return timeline
        demands = (
            *(runner.demand for runner in runners),
            *(job.demand_at(now_ms) for job in jobs),
        )
        timeline.append(now_ms, demands)
        speeds = processor.speeds(now_ms, demands)[: len(runners)]
        ends_ms = [r.event_ms(now_ms, speed) for r, speed in zip(runners, speeds, strict=True)]
        next_ms = min([first_change_ms(jobs, processor, now_ms), *ends_ms])
        if exchange is not None:
            next_ms = min(next_ms, exchange.next_ms)
        for runner, speed, end_ms in zip(runners, speeds, ends_ms, strict=True):
            runner.proceed(speed * (next_ms - now_ms), is_done=end_ms == next_ms)
        now_ms = next_ms
        for runner in runners:
            runner.finish_if_done(now_ms)


def _with_alternatives(
    record: Record, processor: Processor, timeline: Timeline, workload: int, runner: Runner
) -> Record:
    """Add the latencies of all levels, given the actual behaviour of all other workloads."""
    platform = record.platform

    def inferences_ms(frame: SimulatedFrame, camera_frame: int | None) -> list[float]:
        segment = bisect_right(timeline.times_ms, frame.start_ms) - 1
        works_ms = runner.works_ms(camera_frame, frame.start_ms)
        return [
            alone_duration_ms(
                processor, timeline, segment, workload, frame.start_ms, work_ms, demand
            )
            for work_ms, demand in zip(works_ms, platform.demands, strict=True)
        ]

    frames = []
    for frame in record.frames:
        outside_ms = frame.latency_ms - frame.inference_ms
        expected_ms = inferences_ms(frame, None)
        frames.append(
            replace(
                frame,
                slowdown=expected_ms[frame.level - 1] / platform.latencies_ms[frame.level - 1],
                level_latencies_ms=tuple(
                    ms + outside_ms for ms in inferences_ms(frame, frame.camera_frame)
                ),
                level_expected_ms=tuple(ms + outside_ms - frame.wait_ms for ms in expected_ms),
            )
        )
    return replace(record, frames=tuple(frames))
