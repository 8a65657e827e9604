"""What managers on one device tell each other, and what they agree on."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

STATUS_PERIOD_NS = 100_000_000
"""How often a manager tells its status."""

FRAMES_TOLD = 16
"""Frames that a status repeats: enough to survive a few lost messages."""

RATE_WINDOW_NS, MIN_RATE_WINDOW_NS = 2_000_000_000, 500_000_000
"""Time over which arriving frames are counted; at first."""


class Frame(NamedTuple):
    """One inference: when it ended (the host's monotonic clock), how long it took, its level."""

    end_ns: int
    latency_ms: float
    level: int

    @property
    def start_ns(self) -> int:
        """Return when it began."""
        return self.end_ns - round(self.latency_ms * 1e6)


@dataclass(frozen=True)
class Agreement:
    """The levels, from 1, that all shall run, by name; round counts the agreements."""

    round: int
    levels: tuple[tuple[str, int], ...]

    def level(self, name: str) -> int | None:
        """Return the level agreed for one of them; None for who has no part in it."""
        return dict(self.levels).get(name)


@dataclass(frozen=True)
class Status:
    """What one manager tells the others.

    name: unique among the peers; device: the processor it runs on, with the host's name.
    time_ns: when it was told, by the host's monotonic clock.
    level: the active one, from 1; latencies_ms and accuracies: of every level, uncontended.
    limit_ms: what inference may take, infinite without a limit; quantile: the share of frames
    that must meet it. floor: accuracy wanted, 0 = none.
    slowdown: as estimated now, for people to see.
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
    slowdown: float = 1.0
    interval_ms: float = math.inf
    frames: tuple[Frame, ...] = ()
    agreement: Agreement | None = None

    @property
    def is_sound(self) -> bool:
        """Tell whether the numbers make sense: a peer's message is not to be trusted."""
        count = len(self.latencies_ms)
        positive = (*self.latencies_ms, self.slowdown, self.importance)
        return (
            0 < count == len(self.accuracies)
            and 1 <= self.level <= count
            and all(math.isfinite(value) and value > 0.0 for value in positive)
            and all(0.0 <= accuracy <= 1.0 for accuracy in self.accuracies)
            and self.limit_ms > 0.0
            and 0.0 < self.quantile < 1.0
            and self.interval_ms > 0.0
            and 0.0 <= self.floor <= 1.0
            and self.priority in ('latency', 'accuracy')
            and all(
                1 <= frame.level <= count and 0.0 < frame.latency_ms < math.inf
                for frame in self.frames
            )
        )

    def latency_ms(self, level: int) -> float:
        """Return the uncontended latency of a level."""
        return self.latencies_ms[level - 1]

    def accuracy(self, level: int) -> float:
        """Return the accuracy of a level."""
        return self.accuracies[level - 1]


@dataclass(frozen=True)
class Ceiling:
    """What the others leave to a manager, and why.

    level: the highest one it may use; when it is agreed, the one to use as long as the own frames
    do not speak against it. round: of the agreement; who left a level keeps off it until the next.
    """

    level: int
    reason: str
    is_agreed: bool = False
    round: int = 0


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
