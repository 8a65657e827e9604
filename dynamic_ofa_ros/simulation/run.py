"""Run the node's RuntimeManager in simulated time: on a trace, or with others on one processor.

A frame at level i that starts at time t needs `latency_i * slowdown(t) * exp(sigma_i * z)` ms of
inference: the profile's median, the trace, and log-normal noise with the profile's sd over mean. z
is drawn per picture of the camera, so every policy meets the same noise in the same picture. The
first frame after a switch costs `switch_ms` more. Then the trace's overhead passes, and the frame
is answered. Only the newest picture is classified: others wait or are skipped.

The latency that counts is that of the constraints' scope:

- inference: inference alone.
- node: from the picture's arrival at the classifier to the answer: wait, inference, overhead.
- end_to_end: from when the picture was made; transport comes on top.

Everything is an event: a frame that starts or ends, a job that comes, goes, works or pauses, a
turn of the time slicing, a change of the clock. In between, every workload proceeds at a constant
speed. On a trace nothing is shared; on a processor, how the classifiers slow each other down
follows from the levels that their managers choose.

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
    """Something that happens between the managers, at times of its own."""

    @property
    def next_ms(self) -> float:
        """Return when it happens next; infinite when it does not."""

    def act(self, now_ms: float, managers: Sequence[RuntimeManager]) -> None:
        """Do what is due; `next_ms` must then lie in the future."""


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
    """Simulate a classifier on a trace from 0 ms to its end; the same arguments, the same record.

    policy, constraints: as of a SimulatedModel.
    stopwatch: takes the time of each decision; changes nothing else.
    others: further devices that have the same levels, each with its own slowdown; the manager then
    chooses the device too, and the record's levels are those of `joined`.
    Raises SimulationError for arguments that make no sense.
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
    """Simulate every level as a fixed one, in order: each has waits of its own making."""
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
    """Play classifiers, each with the node's manager, and other jobs on one processor.

    From 0 ms until no frame that starts before `duration_ms` runs; a record per model.

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
    """Let everything happen, event by event; return what every workload asked for over time."""
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
    """Add what every level would have taken, had all others behaved as they did."""
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
