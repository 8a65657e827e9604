"""What a simulated run is judged by: the measures of control.md's last section, exactly.

The oracle is counterfactual: for the very frames that the policy met (same time, same noise), it
takes the most accurate level that meets the limit. So no policy can beat it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.simulation.record import Record, SimulatedFrame


@dataclass(frozen=True)
class Reaction:
    """How long a change of the device was answered late; one for each change that needed it."""

    frame: int
    frames: int
    duration_ms: float


@dataclass(frozen=True)
class Metrics:
    """The measures of one run; accuracies are fractions, None where there is nothing to measure.

    violation_ratio: frames that took longer than their limit, of all.
    oracle_violation_ratio: frames that every level would have violated, of all.
    on_time_accuracy: mean top-1 over the frames that some level could have met; a violating frame
    counts zero. oracle_on_time_accuracy: the same of the oracle; best_fixed_on_time_accuracy: of
    the best fixed level in hindsight, without the cost of a switch.
    reaction_frames: frames that ran too slow after the device had slowed down (noise and the cost
    of a switch left aside) although some level would have met the limit; mean over the changes.
    recovery_frames: frames from when the level in use before such a change would have met the
    limit again until one as accurate ran; mean over those changes that were recovered from.
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


def measure(record: Record) -> Metrics:
    """Compute the measures of a run; raise SimulationError when it has no frame."""
    frames = record.frames
    if not frames:
        raise SimulationError(f'{record.name} is over before its first frame; let it last longer')
    reachable = [frame for frame in frames if frame.could_be_met]
    accuracies = record.platform.accuracies
    violations = sum(frame.is_violation for frame in frames)
    reactions, recoveries = find_reactions(record), find_recoveries(record)
    last = frames[-1]
    minutes = (last.start_ms + last.latency_ms - frames[0].start_ms) / 60e3
    return Metrics(
        frames=len(frames),
        violations=violations,
        violation_ratio=violations / len(frames),
        oracle_violation_ratio=(len(frames) - len(reachable)) / len(frames),
        on_time_accuracy=_mean(
            [0.0 if frame.is_violation else record.accuracy(frame) for frame in reachable]
        ),
        oracle_on_time_accuracy=_mean(
            [accuracies[record.oracle_level(frame) - 1] for frame in reachable]
        ),
        best_fixed_on_time_accuracy=_best_fixed(reachable, accuracies),
        mean_accuracy=sum(record.accuracy(frame) for frame in frames) / len(frames),
        switches=record.switch_count,
        switches_per_minute=record.switch_count / minutes,
        reaction_frames=_mean([reaction.frames for reaction in reactions]),
        reaction_ms=_mean([reaction.duration_ms for reaction in reactions]),
        recovery_frames=_mean([recovery.frames for recovery in recoveries]),
        recovery_ms=_mean([recovery.duration_ms for recovery in recoveries]),
    )


def find_reactions(record: Record) -> list[Reaction]:
    """Return the changes of the device or of the limit that made the level in use too slow.

    Each with the frames that ran too slow before the answer, though some level would have met the
    limit. A change during which no level would have is none: nothing can answer it. One that the
    run's end cut short counts with the frames it had.
    """
    frames = record.frames
    reactions: list[Reaction] = []
    index = 0
    while index < len(frames):
        if not _is_onset(frames, index):
            index += 1
            continue
        end = index
        while end < len(frames) and _is_avoidably_slow(frames[end]):
            end += 1
        reactions.append(
            Reaction(index, end - index, _until(frames, end) - frames[index].start_ms)
        )
        index = max(end, index + 1)
    return reactions


def find_recoveries(record: Record) -> list[Reaction]:
    """Return how late each change's end was answered; `frame` is where it ended.

    It has ended when the level in use before the change would meet the limit again, and is
    answered when a level as accurate runs. When contention returns before that, counting begins
    anew; what is never answered is left out.
    """
    frames = record.frames
    recoveries: list[Reaction] = []
    for onset in (index for index in range(1, len(frames)) if _is_onset(frames, index)):
        before = frames[onset - 1]
        relief: int | None = None
        for index in range(onset, len(frames)):
            frame = frames[index]
            if frame.level_expected_ms[before.level - 1] > frame.limit_ms:
                relief = None
                continue
            relief = index if relief is None else relief
            if record.accuracy(frame) >= record.accuracy(before):
                late_ms = frame.start_ms - frames[relief].start_ms
                recoveries.append(Reaction(relief, index - relief, late_ms))
                break
            if _is_onset(frames, index) and index > onset:
                break  # the next change has a recovery of its own
    return recoveries


def _is_avoidably_slow(frame: SimulatedFrame) -> bool:
    """Tell whether the level is too slow, noise left aside, and some level would not be."""
    expected_ms = frame.level_expected_ms
    return expected_ms[frame.level - 1] > frame.limit_ms and min(expected_ms) <= frame.limit_ms


def _is_onset(frames: Sequence[SimulatedFrame], index: int) -> bool:
    """Tell whether the device or the limit has just made the level of the last frame too slow.

    That is an onset even when the policy was quick enough for this very frame. A policy that went
    up too far on a device that did not change has no onset: that is its own mistake.
    """
    frame = frames[index]
    if index == 0:
        return _is_avoidably_slow(frame)
    before = frames[index - 1]
    is_met = min(frame.level_expected_ms) <= frame.limit_ms
    is_too_slow = frame.level_expected_ms[before.level - 1] > frame.limit_ms
    was_too_slow = before.level_expected_ms[before.level - 1] > before.limit_ms
    could_answer = min(before.level_expected_ms) <= before.limit_ms
    return is_met and is_too_slow and not (was_too_slow and could_answer)


def _until(frames: Sequence[SimulatedFrame], end: int) -> float:
    """Return when frame `end` starts; when the last one is done if there is none."""
    if end < len(frames):
        return frames[end].start_ms
    return frames[-1].start_ms + frames[-1].latency_ms


def _best_fixed(
    reachable: Sequence[SimulatedFrame], accuracies: tuple[float, ...]
) -> float | None:
    if not reachable:
        return None
    return max(
        accuracy
        * sum(frame.level_latencies_ms[i] <= frame.limit_ms for frame in reachable)
        / len(reachable)
        for i, accuracy in enumerate(accuracies)
    )


def _mean(values: Sequence[float]) -> float | None:
    if not values:
        return None
    return math.fsum(values) / len(values)
