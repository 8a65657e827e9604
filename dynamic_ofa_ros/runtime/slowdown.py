"""Estimate the slowdown: how much slower the device is now than when it was alone.

One number is shared by all levels (ALERT, USENIX ATC'20): other work on a device slows every level
by about the same factor, so a sample at one level says what another level would take.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

CONTENDED_ABOVE = 1.2
"""Slowdown from which on the device is called contended: above what a quiet machine shows."""


class SlowdownEstimator(Protocol):
    """What the manager needs of an estimator; it is fed with ratios, never with latencies."""

    def observe(self, ratio: float, level: int, time_ns: int) -> None:
        """Take one measured latency / uncontended latency of the level it was measured at."""

    def value(self, time_ns: int) -> float:
        """Return the slowdown to expect now; 1.0 as long as nothing is known."""


class TrimmedMeanEstimator:
    """The mean of the recent ratios in the log domain, the extremes left out.

    A single outlier is ignored, a step is followed within half the window. What is older than
    `memory_s` is forgotten: after a pause the device is taken for uncontended again.
    """

    def __init__(self, window: int = 5, trim: int = 1, memory_s: float = 5.0) -> None:
        if not 0 <= 2 * trim < window:
            raise ValueError(f'cannot leave out 2 x {trim} of {window} samples')
        self._samples: deque[tuple[int, float]] = deque(maxlen=window)
        self._trim = trim
        self._memory_ns = round(memory_s * 1e9)

    def observe(self, ratio: float, level: int, time_ns: int) -> None:
        """Take one ratio; what is not positive and finite is no measurement and is ignored."""
        if math.isfinite(ratio) and ratio > 0.0:
            self._samples.append((time_ns, math.log(ratio)))

    def value(self, time_ns: int) -> float:
        """Return the slowdown to expect at this time; 1.0 as long as nothing is known."""
        samples = self._samples
        while samples and time_ns - samples[0][0] > self._memory_ns:
            samples.popleft()
        if not samples:
            return 1.0
        ordered = sorted(log_ratio for _, log_ratio in samples)
        trim = self._trim if len(ordered) > 2 * self._trim else 0
        kept = ordered[trim : len(ordered) - trim]
        return math.exp(sum(kept) / len(kept))


def ratio_of(latency_ms: float, uncontended_ms: float) -> float:
    """Return measured over uncontended latency; NaN when either says nothing."""
    if not (latency_ms > 0.0 and uncontended_ms > 0.0):
        return math.nan
    return latency_ms / uncontended_ms
