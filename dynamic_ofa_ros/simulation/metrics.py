"""Metrics of a simulated run; late, on time, reaction and recovery are defined in `adaptation`.

The oracle is counterfactual: for each frame of the policy, with the same image, start and noise,
it takes the most accurate level that meets the limit. So no policy can be better on these frames.
It does not consider that a faster level would reduce the waiting time of later images. The best
fixed level in hindsight, with its own waiting times, is simulated separately
(`run.run_fixed_levels`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from dynamic_ofa_ros import adaptation
from dynamic_ofa_ros.adaptation import Delay, TimedFrame
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.simulation.record import Record, SimulatedFrame


@dataclass(frozen=True)
class Metrics:
    """The metrics of one run; accuracies are fractions; None if there is nothing to measure.

    violation_ratio: share of late frames.
    oracle_violation_ratio: share of frames that would be late at every level, even without
    waiting.
    on_time_accuracy: mean top-1 over the other frames, with late frames counted as 0.
    oracle_on_time_accuracy: the same for the oracle. best_fixed_on_time_accuracy: the same for the
    best fixed level in hindsight; None if fixed levels were not simulated.
    reaction_frames: frames from a change of the device or limit that makes the current level too
    slow, while another level is fast enough, to the first of three frames on time; mean over all
    changes that made a frame late.
    recovery_frames: frames from the time when that level is fast enough again until an equally
    accurate level runs; mean over all changes with a recovery.
    """

    frames: int
    violations: int
    violation_ratio: float
    oracle_violation_ratio: float
    on_time_accuracy: float | None
    oracle_on_time_accuracy: float | None
    best_fixed_on_time_accuracy: float | None
    mean_accuracy: float
    switches: int
    switches_per_minute: float
    reaction_frames: float | None
    reaction_ms: float | None
    recovery_frames: float | None
    recovery_ms: float | None

    @property
    def excess_violation_ratio(self) -> float:
        """Return the share of late frames that would be on time at another level."""
        return self.violation_ratio - self.oracle_violation_ratio

    def summary(self) -> dict[str, Any]:
        """Return the metrics that `dynamic-ofa simulate --json` prints."""
        return {name: getattr(self, name) for name in SUMMARY}


SUMMARY = (
    'frames',
    'violations',
    'violation_ratio',
    'oracle_violation_ratio',
    'on_time_accuracy',
    'oracle_on_time_accuracy',
    'mean_accuracy',
    'switches',
    'reaction_frames',
)


def measure(record: Record, fixed: Sequence[Record] = ()) -> Metrics:
    """Compute the metrics of a run; raise SimulationError if it has no frames.

    fixed: runs of the same classifier at every fixed level.
    """
    frames = record.frames
    if not frames:
        raise SimulationError(f'{record.name} ends before its first frame; make it longer')
    timed = _timed(record)
    reachable = [frame for frame in frames if frame.could_be_met]
    violations = sum(frame.is_late for frame in timed)
    reactions, recoveries = find_reactions(record), find_recoveries(record)
    last = frames[-1]
    minutes = (last.start_ms + last.latency_ms - frames[0].start_ms) / 60e3
    return Metrics(
        frames=len(frames),
        violations=violations,
        violation_ratio=violations / len(frames),
        oracle_violation_ratio=(len(frames) - len(reachable)) / len(frames),
        on_time_accuracy=_on_time(record),
        oracle_on_time_accuracy=_mean([record.oracle_accuracy(frame) for frame in reachable]),
        best_fixed_on_time_accuracy=max((_on_time(r) or 0.0 for r in fixed), default=None),
        mean_accuracy=fsum(frame.accuracy for frame in timed) / len(timed),
        switches=record.switch_count,
        switches_per_minute=record.switch_count / minutes,
        reaction_frames=_mean([reaction.frames for reaction in reactions]),
        reaction_ms=_mean([reaction.ms for reaction in reactions]),
        recovery_frames=_mean([recovery.frames for recovery in recoveries]),
        recovery_ms=_mean([recovery.ms for recovery in recoveries]),
    )


def find_reactions(record: Record) -> list[Delay]:
    """Return the reaction to each change that made a frame late.

    Changes after which no level meets the limit are ignored. A reaction that had not ended at the
    end of the load or of the run is included with its duration until then.
    """
    frames, timed = record.frames, _timed(record)
    found = []
    for onset, onset_ms in _onsets(record):
        reaction = adaptation.reaction(timed[onset : _relief(frames, onset, onset)], onset_ms)
        if reaction is not None:
            found.append(reaction)
    return found


def find_recoveries(record: Record) -> list[Delay]:
    """Return the recovery from each change.

    The recovery starts when the level that ran before the change would meet the limit again, and
    ends when an equally accurate level runs. If contention returns before that, it starts again
    later; a recovery that never ends is omitted.
    """
    frames, timed = record.frames, _timed(record)
    found = []
    for onset, _ in _onsets(record):
        accuracy = record.accuracy(frames[max(0, onset - 1)])
        relief = _relief(frames, onset, onset)
        while 0 < onset < relief < len(frames):
            end = _relapse(frames, onset, relief)
            recovery = adaptation.recovery(
                timed[relief:end], _changed_ms(record, relief), accuracy
            )
            if recovery is not None and recovery.is_over:
                found.append(recovery)
                break
            relief = _relief(frames, onset, end)
    return found


def _timed(record: Record) -> list[TimedFrame]:
    return [
        TimedFrame(
            frame.start_ms - frame.wait_ms,
            frame.latency_ms,
            frame.limit_ms,
            frame.level,
            record.accuracy(frame),
        )
        for frame in record.frames
    ]


def _onsets(record: Record) -> Iterator[tuple[int, float]]:
    """Yield the first frame after, and the time of, each change that made the level too slow.

    It is an onset even if the policy has already switched for this frame. If a policy moves up too
    far without a change of the device, this is not an onset.
    """
    frames = record.frames
    for index, frame in enumerate(frames):
        before = frames[max(0, index - 1)]
        was_feasible = min(before.level_expected_ms) <= before.limit_ms
        was_too_slow = before.level_expected_ms[before.level - 1] > before.limit_ms
        is_feasible = min(frame.level_expected_ms) <= frame.limit_ms
        is_too_slow = frame.level_expected_ms[before.level - 1] > frame.limit_ms
        if is_feasible and is_too_slow and (index == 0 or not (was_too_slow and was_feasible)):
            yield index, _changed_ms(record, index)


def _relief(frames: Sequence[SimulatedFrame], onset: int, since: int) -> int:
    """Return the first frame at which the level before the onset is fast enough again."""
    found = (i for i in range(since, len(frames)) if _is_fast_enough(frames, onset, i))
    return next(found, len(frames))


def _relapse(frames: Sequence[SimulatedFrame], onset: int, since: int) -> int:
    """Return the first frame at which the level before the onset is too slow again."""
    found = (i for i in range(since, len(frames)) if not _is_fast_enough(frames, onset, i))
    return next(found, len(frames))


def _is_fast_enough(frames: Sequence[SimulatedFrame], onset: int, index: int) -> bool:
    level = frames[max(0, onset - 1)].level
    return frames[index].level_expected_ms[level - 1] <= frames[index].limit_ms


def _changed_ms(record: Record, index: int) -> float:
    """Return the time of the last change before the start of frame `index`.

    If it is unknown or was before the start of the previous frame, return the start of the frame.
    """
    frames, changes_ms = record.frames, record.changes_ms
    start_ms = frames[index].start_ms
    position = bisect_right(changes_ms, start_ms)
    changed_ms = changes_ms[position - 1] if position else start_ms
    return changed_ms if index == 0 or changed_ms > frames[index - 1].start_ms else start_ms


def _on_time(record: Record) -> float | None:
    """Return the on-time accuracy over the frames for which some level could meet the limit."""
    pairs = zip(_timed(record), record.frames, strict=True)
    return adaptation.on_time_accuracy([timed for timed, frame in pairs if frame.could_be_met])


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
