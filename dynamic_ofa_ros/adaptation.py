"""Metrics of how well a run met its latency limit: late, on time, reaction, recovery.

The node, the simulator, the demo and the benchmarks all use these definitions.

A frame is late when its latency, measured in the limit's scope, exceeds the limit; otherwise it is
on time. A frame without an answer has an infinite latency. If the limit is NaN or infinite, there
is no limit and no frame is late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

ON_TIME_IN_A_ROW = 3
"""A reaction ends at the first of this many consecutive frames on time."""

ONSET_WINDOW_MS = 2000.0
"""A load has an effect only if a frame is late within this time after its onset."""


class TimedFrame(NamedTuple):
    """One frame of a run.

    time_ms: start of the limit's scope (the frame's arrival, or its stamp).
    latency_ms: infinite if the frame got no answer.
    accuracy: top-1 of the level that ran; 1.0 or 0.0 if it is known whether the answer was
    correct; NaN if the frame got no answer.
    """

    time_ms: float
    latency_ms: float
    limit_ms: float
    level: int = 0
    accuracy: float = math.nan

    @property
    def is_late(self) -> bool:
        """Return whether the frame exceeded its limit."""
        return is_late(self.latency_ms, self.limit_ms)


@dataclass(frozen=True)
class Delay:
    """A duration: the number of frames before the frame that ended it, and milliseconds.

    is_over: False if the run ended first; the duration then lasts until the end of the run.
    """

    frames: int
    ms: float
    is_over: bool = True


def is_late(latency_ms: float, limit_ms: float) -> bool:
    """Return whether a latency exceeds a limit; a NaN or infinite limit means no limit."""
    return latency_ms > limit_ms  # False if either is NaN


def late_share(frames: Sequence[TimedFrame]) -> float | None:
    """Return the share of late frames; None if there are no frames."""
    return _mean([frame.is_late for frame in frames])


def on_time_accuracy(frames: Sequence[TimedFrame]) -> float | None:
    """Return the mean accuracy, with late frames counted as 0; None if there are no frames."""
    return _mean([0.0 if frame.is_late else frame.accuracy for frame in frames])


def mean_accuracy(frames: Sequence[TimedFrame]) -> float | None:
    """Return the mean accuracy of all frames with an answer, late or not; None if none has one."""
    return _mean([frame.accuracy for frame in frames if math.isfinite(frame.latency_ms)])


def switch_count(levels: Sequence[object]) -> int:
    """Return how often the level (or level and platform) changes from one frame to the next."""
    return sum(before != after for before, after in pairwise(levels))


def reaction(frames: Sequence[TimedFrame], onset_ms: float) -> Delay | None:
    """Return the time from the onset of a load until the frames were on time again.

    The reaction ends at the first of ON_TIME_IN_A_ROW consecutive frames on time after the first
    late frame. Return None if no frame was late within ONSET_WINDOW_MS after the onset: there was
    nothing to react to.

    frames: ascending in time, up to the end of the load.
    """
    loaded = [frame for frame in frames if frame.time_ms >= onset_ms]
    first_late = next((i for i, frame in enumerate(loaded) if frame.is_late), None)
    if first_late is None or loaded[first_late].time_ms - onset_ms > ONSET_WINDOW_MS:
        return None
    for first in range(first_late, len(loaded) - ON_TIME_IN_A_ROW + 1):
        if not any(frame.is_late for frame in loaded[first : first + ON_TIME_IN_A_ROW]):
            return Delay(first, loaded[first].time_ms - onset_ms)
    return Delay(len(loaded), loaded[-1].time_ms - onset_ms, is_over=False)


def recovery(frames: Sequence[TimedFrame], relief_ms: float, accuracy: float) -> Delay | None:
    """Return the time from the end of a load until a level as accurate as before it ran.

    relief_ms: end of the load. accuracy: that of the level before the load. Return None if no
    frame came after the end of the load.
    """
    unloaded = [frame for frame in frames if frame.time_ms >= relief_ms]
    for index, frame in enumerate(unloaded):
        if frame.accuracy >= accuracy:
            return Delay(index, frame.time_ms - relief_ms)
    if not unloaded:
        return None
    return Delay(len(unloaded), unloaded[-1].time_ms - relief_ms, is_over=False)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None
