"""A quantity that changes in steps over time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """Each value is valid from its time until the next one; the first value also before its time.

    times_ms: ascending, not empty, one per value.
    """

    times_ms: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Steps:
        """Build the steps from (time in ms, value) pairs."""
        return cls(tuple(time_ms for time_ms, _ in pairs), tuple(value for _, value in pairs))

    def at(self, time_ms: float) -> float:
        """Return the value at a time."""
        return self.values[max(0, bisect_right(self.times_ms, time_ms) - 1)]

    def next_change_ms(self, time_ms: float) -> float:
        """Return the time of the next step after `time_ms`; infinite if there is none."""
        position = bisect_right(self.times_ms, time_ms)
        return self.times_ms[position] if position < len(self.times_ms) else math.inf


ALWAYS_ONE = Steps((0.0,), (1.0,))
ALWAYS_ZERO = Steps((0.0,), (0.0,))
