"""The status that managers on one device exchange, and their agreement."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

STATUS_PERIOD_NS = 100_000_000
"""Period of a manager's status."""

FRAMES_TOLD = 16
"""Number of last frames in a status, so that a few messages can be lost."""

MAX_COUNT, MAX_NAME, MAX_ROUND = 64, 256, 2**31
MIN_VALUE, MAX_VALUE = 1e-3, 1e5
MAX_AHEAD_NS, MAX_AGE_NS = 1_000_000_000, 10_000_000_000
"""Limits for a peer's status: lengths of lists and names, rounds, numbers (ms, importance), times.
"""

RATE_WINDOW_NS, MIN_RATE_WINDOW_NS = 2_000_000_000, 500_000_000
"""Time over which arriving frames are counted; its minimum after the start."""


class Frame(NamedTuple):
    """One frame: its end (by the host's monotonic clock), latency and level."""

    end_ns: int
    latency_ms: float
    level: int

    @property
    def start_ns(self) -> int:
        """Return the start of the frame's latency."""
        return self.end_ns - round(self.latency_ms * 1e6)


@dataclass(frozen=True)
class Agreement:
    """The agreed levels (1-based) of all models, by name; `round` counts the agreements."""

    round: int
    levels: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Status:
    """The status of one manager. Latencies are in the scope of its own limit.

    name: unique among the peers. device: the processor or GPU in use.
    time_ns: time of the status by the host's monotonic clock.
    level: the active level (1-based). latencies_ms, accuracies: of every level, uncontended.
    limit_ms: infinite without a limit. quantile: the share of frames that must meet the limit.
    floor: minimum accuracy; 0: none. priority: the constraint to keep if both cannot be met.
    interval_ms: mean time between arriving frames, processed or not; infinite if none arrive.
    frames: the last frames in ascending order of time. agreement: the agreement known to the
    manager.
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
        """Return whether an (untrusted) status is valid at a time."""
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
        """Return the requirements other than the limit; a change requires a new choice."""
        return self.name, self.quantile, self.floor, self.priority, self.importance


class Allowance(NamedTuple):
    """The range of levels that a manager may use beside its peers, and the reason."""

    lowest: int
    highest: int
    reason: str


class FrameInterval:
    """Mean time between the frames that arrive, over the last two seconds."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque()

    def update(self, time_ns: int, count: int) -> float:
        """Add the number of frames so far; return the interval in ms, infinite if none arrive."""
        counts = self._counts
        counts.append((time_ns, count))
        while time_ns - counts[0][0] > RATE_WINDOW_NS:
            counts.popleft()
        frames, span_ns = count - counts[0][1], time_ns - counts[0][0]
        if frames <= 0 or span_ns < MIN_RATE_WINDOW_NS:
            return math.inf
        return span_ns / 1e6 / frames
