"""Detect changes in a series of values without assuming a distribution."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

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


def _runs(count: int) -> tuple[tuple[int, int, float], ...]:
    """Return the runs to compare in a series of `count` values.

    For each: its length; the most values, including the run, that are at least its lowest (or at
    most its highest) value if it is a change; and the number below which those before the run,
    plus 1, must lie.
    """
    runs = []
    for run, likely in ((run, CHANCE ** (1.0 / run)) for run in RUNS):
        if run > count or (run > LONG_RUN and 2 * run > count):
            break
        too_many = likely * (max(count - run, EXPECTED_FRAMES) + 1)
        runs.append((run, math.ceil(too_many) + run - 2, too_many))
    return tuple(runs)


_RUNS = tuple(_runs(count) for count in range(WINDOW + 1))


class Series:
    """The last values.

    middle: their median. spread: an estimate of their standard deviation, at least `least_spread`.
    """

    def __init__(self, least_spread: float) -> None:
        self.values: list[float] = []
        self.middle = 0.0
        self.spread = least_spread
        self._ordered: list[float] = []

    def keep(self, values: Sequence[float]) -> None:
        """Discard all values except these."""
        self.values = list(values)
        self._ordered = sorted(values)
        self.middle = self._ordered[len(values) // 2] if values else 0.0

    def add(self, value: float) -> None:
        """Add a value; if the window is full, discard the oldest one."""
        if len(self.values) == WINDOW:
            del self._ordered[bisect_left(self._ordered, self.values.pop(0))]
        self.values.append(value)
        insort(self._ordered, value)
        self.middle = self._ordered[len(self._ordered) // 2]

    def learn_spread(self, value: float, least_spread: float) -> None:
        """Update the spread with a value that has already been added."""
        off = min(abs(value - self.middle), 4.0 * self.spread)
        self.spread = max(self.spread + SPREAD_GAIN * (1.25 * off - self.spread), least_spread)

    def is_strong(self, value: float) -> bool:
        """Return whether a value is far higher than usual."""
        ordered = self._ordered
        common = ordered[-1 - len(ordered) // 10] - self.middle if len(ordered) >= 10 else 0.0
        return value - self.middle > STRONG * max(2.5 * self.spread, 1.25 * common)

    def changed(self) -> int:
        """Return how many of the last values differ from those before; 0 if there is no change."""
        ordered, values, count = self._ordered, self.values, len(self.values)
        lowest = highest = values[-1]
        done = 1  # number of values included in `lowest` and `highest`
        for run, most, too_many in _RUNS[count]:
            # More values can only make `lowest` lower and `highest` higher.
            if most < count and lowest <= ordered[~most] and highest >= ordered[most]:
                continue
            rest, done = values[-run:-done], run
            lowest, highest = min(lowest, *rest), max(highest, *rest)
            above: float = count - bisect_left(ordered, lowest) - run
            below: float = bisect_right(ordered, highest) - run
            missing = EXPECTED_FRAMES - (count - run)
            if missing > 0 and min(above, below) + 1 < too_many:
                above += missing * _below((self.middle - lowest) / self.spread + TIE)
                below += missing * _below((highest - self.middle) / self.spread + TIE)
            if min(above, below) + 1 < too_many:
                return run
        return 0


def _below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
