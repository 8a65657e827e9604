"""How well a run of frames kept its latency limit: late, on time, reaction, recovery.

The one definition for the node, the simulator, the demo and the benchmarks.

A frame is late when its latency, in the scope that the limit is about, is greater than the limit;
otherwise it is on time. A frame that never got an answer has an infinite latency. Without a limit
(NaN or infinite) no frame is late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

ON_TIME_IN_A_ROW = 3
"""A late run has ended with the first of so many frames on time in a row."""

FELT_WITHIN_MS = 2000.0
"""A load has been felt when a frame is late within this time after its onset."""


class TimedFrame(NamedTuple):
    """One frame of a run.

    time_ms: when the limit's scope began for it (its arrival, or its stamp); latency_ms: infinite
    for a frame without an answer; accuracy: top-1 of the level that ran, or 1.0 and 0.0 where it
    is known whether the answer was right; NaN without an answer.
    """

    time_ms: float
    latency_ms: float
    limit_ms: float
    level: int = 0
    accuracy: float = math.nan

    @property
    def is_late(self) -> bool:
        """Tell whether the frame broke its limit."""
        return is_late(self.latency_ms, self.limit_ms)


@dataclass(frozen=True)
class Delay:
    """How long something took: frames before the one that ended it, and milliseconds.

    is_over: False when the run ended first; the delay is then that of what there was.
    """

    frames: int
    ms: float
    is_over: bool = True


def is_late(latency_ms: float, limit_ms: float) -> bool:
    """Tell whether a latency breaks a limit; NaN or infinite means that there is no limit."""
    return latency_ms > limit_ms  # false when either is NaN


def late_share(frames: Sequence[TimedFrame]) -> float | None:
    """Return the share of late frames; None without a frame."""
    return _mean([frame.is_late for frame in frames])


def on_time_accuracy(frames: Sequence[TimedFrame]) -> float | None:
    """Return the mean accuracy, a late frame counting zero; None without a frame."""
    return _mean([0.0 if frame.is_late else frame.accuracy for frame in frames])


def mean_accuracy(frames: Sequence[TimedFrame]) -> float | None:
    """Return the mean accuracy of the frames that got an answer, late or not; None without one."""
    return _mean([frame.accuracy for frame in frames if math.isfinite(frame.latency_ms)])


def switch_count(levels: Sequence[object]) -> int:
    """Return how often the level (or level and platform) differs from that of the frame before."""
    return sum(before != after for before, after in pairwise(levels))


def reaction(frames: Sequence[TimedFrame], onset_ms: float) -> Delay | None:
    """Return how long a load was answered late.

    From its onset to the first of three frames on time, looked for from the first late frame on.
    None when no frame was late soon after the onset: then there was nothing to react to.

    frames: ascending in time, up to the end of the load.
    """
    loaded = [frame for frame in frames if frame.time_ms >= onset_ms]
    first_late = next((i for i, frame in enumerate(loaded) if frame.is_late), None)
    if first_late is None or loaded[first_late].time_ms - onset_ms > FELT_WITHIN_MS:
        return None
    for first in range(first_late, len(loaded) - ON_TIME_IN_A_ROW + 1):
        if not any(frame.is_late for frame in loaded[first : first + ON_TIME_IN_A_ROW]):
            return Delay(first, loaded[first].time_ms - onset_ms)
    return Delay(len(loaded), loaded[-1].time_ms - onset_ms, is_over=False)


def recovery(frames: Sequence[TimedFrame], relief_ms: float, accuracy: float) -> Delay | None:
    """Return how long it took, after a load's end, until a level as accurate as before ran.

    accuracy: of the level before the load. None when no frame came after the end.
    """
    free = [frame for frame in frames if frame.time_ms >= relief_ms]
    for index, frame in enumerate(free):
        if frame.accuracy >= accuracy:
            return Delay(index, frame.time_ms - relief_ms)
    return Delay(len(free), free[-1].time_ms - relief_ms, is_over=False) if free else None


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None
