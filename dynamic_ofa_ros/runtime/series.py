"""The last values of something, and whether they have changed: a test without a distribution."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

WINDOW = 128
"""Values that are remembered."""

RUNS = (2, 3, 4, 6, 9, 13, 19)
"""Numbers of last values that are compared with those before them."""

CHANCE = 2e-4
"""A run of values less likely than this, had nothing changed, is a change."""

LONG_RUN = 9
"""A longer one is compared with no fewer values before it."""

TIE = 0.1
"""So many spreads off the middle is as good as on it."""

EXPECTED_FRAMES = 72
"""Where fewer values came before a run, a normal distribution stands for the missing ones."""

STRONG = 1.5
"""A value this many times beyond what is common may be the first of a step by itself."""

SPREAD_GAIN = 0.1
"""Weight of the newest value in the spread."""

_LIKELY = tuple(CHANCE ** (1.0 / run) for run in RUNS)


class Series:
    """The last values, in order and sorted.

    middle: the median; spread: a standard deviation, learnt, of at least the least one.
    """

    def __init__(self, least_spread: float) -> None:
        self.values: list[float] = []
        self.middle = 0.0
        self.spread = least_spread
        self._ordered: list[float] = []

    def keep(self, values: Sequence[float]) -> None:
        """Forget all but these values."""
        self.values = list(values)
        self._ordered = sorted(values)
        self.middle = self._ordered[len(values) // 2] if values else 0.0

    def add(self, value: float) -> None:
        """Take one more value; the oldest goes when the window is full."""
        if len(self.values) == WINDOW:
            del self._ordered[bisect_left(self._ordered, self.values.pop(0))]
        self.values.append(value)
        insort(self._ordered, value)
        self.middle = self._ordered[len(self._ordered) // 2]

    def learn_spread(self, value: float, least_spread: float) -> None:
        """Let one value, after the middle has taken it in, tell how far values lie from it."""
        off = min(abs(value - self.middle), 4.0 * self.spread)
        self.spread = max(self.spread + SPREAD_GAIN * (1.25 * off - self.spread), least_spread)

    def is_strong(self, value: float) -> bool:
        """Tell whether a value is far above what is common."""
        ordered = self._ordered
        common = ordered[-1 - len(ordered) // 10] - self.middle if len(ordered) >= 10 else 0.0
        return value - self.middle > STRONG * max(2.5 * self.spread, 1.25 * common)

    def changed(self) -> int:
        """Return how many of the last values are unlike those before; 0 when all are alike."""
        ordered, values, count = self._ordered, self.values, len(self.values)
        lowest = highest = values[-1]
        at_least, at_most = count - bisect_left(ordered, lowest), bisect_right(ordered, highest)
        done = 1  # values that `lowest` and `highest` are of
        for run, likely in zip(RUNS, _LIKELY, strict=True):
            if run > count or (run > LONG_RUN and 2 * run > count):
                break
            before = count - run
            missing = max(0, EXPECTED_FRAMES - before)
            # What the values looked at so far leave is the least that the whole run can leave.
            if min(at_least, at_most) - run + 1 >= likely * (before + missing + 1):
                continue
            rest, done = values[-run:-done], run
            lowest, highest = min(lowest, *rest), max(highest, *rest)
            at_least = count - bisect_left(ordered, lowest)
            at_most = bisect_right(ordered, highest)
            above, below = float(at_least - run), float(at_most - run)
            if missing:
                above += missing * _below((self.middle - lowest) / self.spread + TIE)
                below += missing * _below((highest - self.middle) / self.spread + TIE)
            if min(above, below) + 1 < likely * (before + missing + 1):
                return run
        return 0


def _below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
