"""Detect changes in a series of values without assuming a distribution.

A run is the last few values. If a share p of the values before it is at least as high as its
lowest value, then n new values are all that high by chance with a probability of about p^n. A run
is a change if this probability is below CHANCE. The same applies to low values.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from statistics import NormalDist

WINDOW = 128
"""Maximum number of stored values."""

RUNS = (2, 3, 4, 6, 9, 13, 19)
"""Lengths of the runs that are compared with the values before them."""

CHANCE = 2e-4
"""A run is a change if its probability without a change is below this."""

LONG_RUN = 9
"""A longer run is used only if there are at least as many values before it."""

TIE = 0.1
"""Tolerance for ties with the assumed normal distribution, in spreads."""

EXPECTED_FRAMES = 72
"""If there are fewer values before a run, the missing ones follow a normal distribution."""

STRONG = 1.5
"""Factor over the usual deviation above which a single value may be the start of a step."""

SPREAD_GAIN = 0.1
"""Weight of the newest value in the spread."""


_Run = tuple[int, int, float, int, float]


def _run(length: int, before: int) -> _Run:
    """Return (length, rank, reach, missing, usual) of a run with `before` values before it.

    rank: the run is not high if its lowest value is not among the `rank` - 1 highest of all
    values, and not low if its highest value is not among the `rank` - 1 lowest.
    reach: if `rank` is 0, these limits are `reach` spreads above and below the middle instead.
    missing: number of values before the run that follow the normal distribution.
    usual: the run is a change if fewer values before it are as high as its lowest value, or as
    low as its highest value.
    """
    missing = max(0, EXPECTED_FRAMES - before)
    usual = CHANCE ** (1.0 / length) * (before + missing + 1) - 1.0
    if usual < missing:  # the normal distribution alone can make the run usual
        return length, 0, TIE - NormalDist().inv_cdf(usual / missing), missing, usual
    # With `before`: a run with the lowest of all values is not high.
    return length, min(math.ceil(usual), before) + length, 0.0, missing, usual


def _runs(count: int) -> tuple[_Run, ...]:
    """Return the runs to compare in a series of `count` values."""
    lengths = [n for n in RUNS if n <= count and (n <= LONG_RUN or 2 * n <= count)]
    return tuple(_run(length, count - length) for length in lengths)


_RUNS = tuple(_runs(count) for count in range(WINDOW + 1))


class SortedWindow:
    """The last values, at most `size`, in order of arrival and in ascending order."""

    def __init__(self, size: int) -> None:
        self.values: list[float] = []
        self.ordered: list[float] = []
        self._size = size

    def add(self, value: float) -> None:
        """Add a value; if the window is full, discard the oldest one."""
        if len(self.values) == self._size:
            del self.ordered[bisect_left(self.ordered, self.values.pop(0))]
        self.values.append(value)
        insort(self.ordered, value)


class Series(SortedWindow):
    """The last values.

    middle: their median. spread: an estimate of their standard deviation, at least `least_spread`.
    """

    def __init__(self, least_spread: float) -> None:
        super().__init__(WINDOW)
        self.middle = 0.0
        self.spread = least_spread

    def keep(self, values: Sequence[float]) -> None:
        """Discard all values except these."""
        self.values = list(values)
        self.ordered = sorted(values)
        self.middle = self.ordered[len(values) // 2] if values else 0.0

    def add(self, value: float) -> None:
        """Add a value; if the window is full, discard the oldest one."""
        super().add(value)
        self.middle = self.ordered[len(self.ordered) // 2]

    def learn_spread(self, value: float, least_spread: float) -> None:
        """Update the spread with a value that has already been added."""
        off = min(abs(value - self.middle), 4.0 * self.spread)
        self.spread = max(self.spread + SPREAD_GAIN * (1.25 * off - self.spread), least_spread)

    def is_strong(self, value: float) -> bool:
        """Return whether a value is far higher than usual."""
        ordered = self.ordered
        common = ordered[-1 - len(ordered) // 10] - self.middle if len(ordered) >= 10 else 0.0
        return value - self.middle > STRONG * max(2.5 * self.spread, 1.25 * common)

    def changed(self) -> int:
        """Return how many of the last values differ from those before; 0 if there is no change."""
        values, ordered = self.values, self.ordered
        lowest = highest = values[-1]
        included = 1  # number of values included in `lowest` and `highest`
        for length, rank, reach, missing, usual in _RUNS[len(values)]:
            if rank:
                low, high = ordered[-rank], ordered[rank - 1]
            else:
                distance = reach * self.spread
                low, high = self.middle + distance, self.middle - distance
            if lowest <= low and highest >= high:
                continue  # more values can only make `lowest` lower and `highest` higher
            rest, included = values[-length:-included], length
            lowest, highest = min(lowest, *rest), max(highest, *rest)
            is_usual = lowest <= low and highest >= high
            if not is_usual and self._as_extreme(lowest, highest, missing) - length < usual:
                return length
        return 0

    def _as_extreme(self, lowest: float, highest: float, missing: int) -> float:
        """Return how many values are at least `lowest`, or at most `highest` if those are fewer.

        missing: number of values in addition that follow the normal distribution.
        """
        above = len(self.ordered) - bisect_left(self.ordered, lowest)
        below = bisect_right(self.ordered, highest)
        share_above = _normal_share((self.middle - lowest) / self.spread + TIE)
        share_below = _normal_share((highest - self.middle) / self.spread + TIE)
        return min(above + missing * share_above, below + missing * share_below)


def _normal_share(z: float) -> float:
    """Return the share of a normal distribution below `z` standard deviations."""
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
