"""What a simulated run is judged by; late, on time, reaction and recovery are `adaptation`'s.

The oracle is counterfactual: for the very frames that the policy met (same picture, same start,
same noise), it takes the most accurate level that meets the limit. So no policy can beat it there.
What it cannot know is what a faster level would have spared the pictures after it; the best fixed
level in hindsight, with all its waits, must be played (`run.run_fixed_levels`).
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
    """The measures of one run; accuracies are fractions, None where there is nothing to measure.

    violation_ratio: frames that were late, of all.
    oracle_violation_ratio: frames that every level would have violated, taken up at once, of all.
    on_time_accuracy: mean top-1 over the other frames; a late frame counts zero.
    oracle_on_time_accuracy: the same of the oracle; best_fixed_on_time_accuracy: of the best fixed
    level in hindsight, None where none was played.
    reaction_frames: from the onset of a change of the device or of the limit that made the level
    in use too slow, though some level would do, to the first of three frames on time; mean over
    the changes that made a frame late.
    recovery_frames: from when that level would do again until one as accurate ran; mean over the
    changes that were recovered from.
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
        """Return the share of violations that some level would have saved."""
        return self.violation_ratio - self.oracle_violation_ratio

    def summary(self) -> dict[str, Any]:
        """Return the measures that `dynamic-ofa simulate --json` prints."""
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
    """Compute the measures of a run; raise SimulationError when it has no frame.

    fixed: what the same classifier did at every fixed level.
    """
    frames = record.frames
    if not frames:
        raise SimulationError(f'{record.name} is over before its first frame; let it last longer')
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
    """Return how long each change was answered late that made a frame late.

    A change during which no level would meet the limit is none: nothing can answer it. One that
    the load's or the run's end cut short counts with the frames it had.
    """
    frames, timed = record.frames, _timed(record)
    found = []
    for onset, onset_ms in _onsets(record):
        reaction = adaptation.reaction(timed[onset : _relief(frames, onset, onset)], onset_ms)
        if reaction is not None:
            found.append(reaction)
    return found


def find_recoveries(record: Record) -> list[Delay]:
    """Return how late the end of each change was answered.

    It has ended when the level in use before the change would meet the limit again, and is
    answered when a level as accurate runs. When contention returns before that, counting begins
    anew; what is never answered is left out.
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
    """Find changes that made the level in use too slow: the first frame that met them, and when.

    That is an onset even when the policy was quick enough for this very frame. A policy that went
    up too far on a device that did not change has no onset: that is its own mistake.
    """
    frames = record.frames
    for index, frame in enumerate(frames):
        before = frames[max(0, index - 1)]
        could_answer = min(before.level_expected_ms) <= before.limit_ms
        was_too_slow = before.level_expected_ms[before.level - 1] > before.limit_ms
        is_met = min(frame.level_expected_ms) <= frame.limit_ms
        is_too_slow = frame.level_expected_ms[before.level - 1] > frame.limit_ms
        if is_met and is_too_slow and (index == 0 or not (was_too_slow and could_answer)):
            yield index, _changed_ms(record, index)


def _relief(frames: Sequence[SimulatedFrame], onset: int, since: int) -> int:
    """Return the first frame at which the level before the onset would do again."""
    found = (i for i in range(since, len(frames)) if _would_do(frames, onset, i))
    return next(found, len(frames))


def _relapse(frames: Sequence[SimulatedFrame], onset: int, since: int) -> int:
    """Return the first frame at which it would not."""
    found = (i for i in range(since, len(frames)) if not _would_do(frames, onset, i))
    return next(found, len(frames))


def _would_do(frames: Sequence[SimulatedFrame], onset: int, index: int) -> bool:
    level = frames[max(0, onset - 1)].level
    return frames[index].level_expected_ms[level - 1] <= frames[index].limit_ms


def _changed_ms(record: Record, index: int) -> float:
    """Return when that changed which frame `index` met first: the last change before its start.

    Where it is not known, or lies before the frame before it, the frame's own start.
    """
    frames, changes_ms = record.frames, record.changes_ms
    start_ms = frames[index].start_ms
    position = bisect_right(changes_ms, start_ms)
    changed_ms = changes_ms[position - 1] if position else start_ms
    return changed_ms if index == 0 or changed_ms > frames[index - 1].start_ms else start_ms


def _on_time(record: Record) -> float | None:
    """Return the on-time accuracy over the frames that some level could have met."""
    pairs = zip(_timed(record), record.frames, strict=True)
    return adaptation.on_time_accuracy([timed for timed, frame in pairs if frame.could_be_met])


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
