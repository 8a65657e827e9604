"""Detect changes in a series of values without assuming a distribution."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from statistics import NormalDist

WINDOW = 128
"""Maximum number of stored values."""

RUNS = (2, 3, 4, 6, 9, 13, 19)
"""Lengths of the runs of last values that are compared with the values before them."""

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


def _runs(count: int) -> tuple[tuple[int, int, float, float], ...]:
    """Return the runs to compare in a series of `count` values: (length, place, far, too_many).

    A run is no change if its lowest value is at most `low` and its highest at least `high`. With
    enough values before the run, these are the values at `place`, counted in descending and
    ascending order. With fewer, they lie `far` spreads above and below the middle; a run that is
    not within them is a change if fewer values before it than `too_many` - 1 are as extreme.
    """
    runs = []
    for run, likely in ((run, CHANCE ** (1.0 / run)) for run in RUNS):
        if run > count or (run > LONG_RUN and 2 * run > count):
            break
        missing = EXPECTED_FRAMES - (count - run)
        too_many = likely * (max(count - run, EXPECTED_FRAMES) + 1)
        place = math.ceil(too_many) + run - 2
        share = (too_many - 1.0) / missing if missing > 0 else 0.0
        far = math.inf if share <= 0.0 else -math.inf
        if 0.0 < share < 1.0:
            far = TIE - NormalDist().inv_cdf(share)
        runs.append((run, place, far, too_many))
    return tuple(runs)


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
        ordered, values, count = self.ordered, self.values, len(self.values)
        lowest = highest = values[-1]
        done = 1  # number of values included in `lowest` and `highest`
        for run, place, far, too_many in _RUNS[count]:
            missing = EXPECTED_FRAMES - (count - run)
            if missing > 0:
                low, high = self.middle + far * self.spread, self.middle - far * self.spread
            else:
                low, high = ordered[~place], ordered[place]
            if lowest <= low and highest >= high:
                continue  # more values can only make `lowest` lower and `highest` higher
            rest, done = values[-run:-done], run
            lowest, highest = min(lowest, *rest), max(highest, *rest)
            if lowest <= low and highest >= high:
                continue
            if missing <= 0:
                return run
            above = missing * _below((self.middle - lowest) / self.spread + TIE)
            below = missing * _below((highest - self.middle) / self.spread + TIE)
            above += count - bisect_left(ordered, lowest) - run
            below += bisect_right(ordered, highest) - run
            if min(above, below) + 1 < too_many:
                return run
        return 0


def _below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
