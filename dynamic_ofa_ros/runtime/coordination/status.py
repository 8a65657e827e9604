"""What managers on one device tell each other, and what they agree on."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

STATUS_PERIOD_NS = 100_000_000
"""How often a manager tells its status."""

FRAMES_TOLD = 16
"""Frames that a status repeats: enough to survive a few lost messages."""

MAX_COUNT, MAX_NAME, MAX_ROUND = 64, 256, 2**31
MIN_VALUE, MAX_VALUE = 1e-3, 1e5
MAX_AHEAD_NS, MAX_AGE_NS = 1_000_000_000, 10_000_000_000
"""Bounds of what a peer may say: of lists, names, rounds, numbers (ms, importance) and times."""

RATE_WINDOW_NS, MIN_RATE_WINDOW_NS = 2_000_000_000, 500_000_000
"""Time over which arriving frames are counted; at first."""


class Frame(NamedTuple):
    """One frame: when it ended (the host's monotonic clock), its latency, its level."""

    end_ns: int
    latency_ms: float
    level: int

    @property
    def start_ns(self) -> int:
        """Return when its latency began."""
        return self.end_ns - round(self.latency_ms * 1e6)


@dataclass(frozen=True)
class Agreement:
    """The levels, from 1, that all shall run, by name; round counts the agreements."""

    round: int
    levels: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Status:
    """What one manager tells the others. Latencies are in the scope of its own limit.

    name: unique among the peers; device: the processor or GPU in use now.
    time_ns: when it was told, by the host's monotonic clock.
    level: the active one, from 1; latencies_ms and accuracies: of every level, uncontended.
    limit_ms: infinite without a limit; quantile: the share of frames that must meet it.
    floor: accuracy wanted, 0 = none; priority: the constraint that holds when both cannot.
    interval_ms: mean time between frames that arrive, processed or not; infinite for none.
    frames: the last ones, ascending. agreement: what the teller takes to be agreed.
    """

    name: str
    device: str
    level: int
    latencies_ms: tuple[float, ...]
    accuracies: tuple[float, ...]
    time_ns: int = 0
    limit_ms: float = math.inf
    quantile: float = 0.95
    floor: float = 0.0
    priority: str = 'latency'
    importance: float = 1.0
    interval_ms: float = math.inf
    frames: tuple[Frame, ...] = ()
    agreement: Agreement | None = None

    def is_sound(self, time_ns: int) -> bool:
        """Tell whether a peer's status makes sense at a time: it is not to be trusted."""
        count = len(self.latencies_ms)
        positive = [self.importance, *self.latencies_ms, *(f.latency_ms for f in self.frames)]
        positive += [ms for ms in (self.limit_ms, self.interval_ms) if ms != math.inf]
        times_ns = [self.time_ns, *(frame.end_ns for frame in self.frames)]
        agreement = self.agreement or Agreement(0, ())
        return (
            0 < len(self.name) <= MAX_NAME
            and 0 < count == len(self.accuracies)
            and max(count, len(self.frames), len(agreement.levels)) <= MAX_COUNT
            and all(1 <= level <= count for level in (self.level, *(f.level for f in self.frames)))
            and all(MIN_VALUE <= value <= MAX_VALUE for value in positive)
            and all(0.0 <= fraction <= 1.0 for fraction in (*self.accuracies, self.floor))
            and 0.0 < self.quantile < 1.0
            and self.priority in ('latency', 'accuracy')
            and time_ns - MAX_AGE_NS <= self.time_ns
            and max(times_ns) <= time_ns + MAX_AHEAD_NS
            and all(before < after for before, after in pairwise(times_ns[1:]))
            and 0 <= agreement.round < MAX_ROUND
        )

    @property
    def wishes(self) -> tuple[object, ...]:
        """Return what is wanted beside the limit: when it changes, the choice is made afresh."""
        return self.name, self.quantile, self.floor, self.priority, self.importance


class Allowance(NamedTuple):
    """The levels that the others leave to a manager, from lowest to highest, and why."""

    lowest: int
    highest: int
    reason: str


class FrameInterval:
    """Mean time between the frames that arrive, over the last two seconds."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque()

    def update(self, time_ns: int, count: int) -> float:
        """Take how many frames have come so far; return the interval in ms, infinite for none."""
        counts = self._counts
        counts.append((time_ns, count))
        while time_ns - counts[0][0] > RATE_WINDOW_NS:
            counts.popleft()
        frames, span_ns = count - counts[0][1], time_ns - counts[0][0]
        if frames <= 0 or span_ns < MIN_RATE_WINDOW_NS:
            return math.inf
        return span_ns / 1e6 / frames
