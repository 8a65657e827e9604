"""Rhythm: when a load that comes and goes regularly is due again.

Much of what shares a robot's processor runs on a timer: a planner, a map update, a log rotation.
Nothing that only looks back can save the frame in which such a load comes. Who has seen it come
at equal intervals can.
"""

from __future__ import annotations

from collections import deque

MIN_RISE = 0.05
"""Rises of the log-slowdown below this are no load that comes."""

FEWEST, MOST = 3, 8
"""Rises that make a rhythm, and how many are remembered."""

MIN_FRAMES = 10.0
"""Intervals of fewer frames are not told from chance."""

TOLERANCE_FRAMES = 0.5
"""Rises that are off the beat by no more than this keep it: one is seen a frame early or late."""

GUARD_FRAMES = 1.5
"""Beyond what the rises were off the beat, a load is expected so much earlier and later."""


class Rhythm:
    """Learns from rises of the log-slowdown; times in nanoseconds.

    frame_ns: the time between frames.
    """

    def __init__(self) -> None:
        self._rises_ns: deque[int] = deque(maxlen=MOST)
        self._half_way = self._height = 0.0  # of the last rise
        self._due_ns: float | None = None  # None while no rhythm is known
        self._spread_ns = 0.0

    def step(self, time_ns: int, before: float, after: float, frame_ns: float) -> None:
        """Take a step of the log-slowdown, seen in the frame that ended then."""
        if after - before < MIN_RISE:
            return
        is_on_top = bool(self._rises_ns) and before > self._half_way  # of the last one
        self._half_way, self._height = 0.5 * (before + after), after - before
        if not is_on_top:
            self._rises_ns.append(time_ns)
            self._find(frame_ns)

    def due(self, time_ns: int, log_slowdown: float, frame_ns: float) -> float:
        """Return by how much the log-slowdown of the next frame is expected to rise; mostly 0.

        time_ns: now, the end of the last frame; the next one ends about `frame_ns` later.
        """
        if self._due_ns is None or log_slowdown > self._half_way:
            return 0.0
        ahead_ns = self._due_ns - (time_ns + frame_ns)
        guard_ns = self._spread_ns + GUARD_FRAMES * frame_ns
        return self._height if -guard_ns - frame_ns <= ahead_ns <= guard_ns else 0.0

    def _find(self, frame_ns: float) -> None:
        """Fit a beat to the last rises, to as many of them as keep it."""
        self._due_ns = None
        while (count := len(self._rises_ns)) >= FEWEST:
            first_ns, middle = self._rises_ns[0], 0.5 * (count - 1)
            after_ns = [rise_ns - first_ns for rise_ns in self._rises_ns]
            mean_ns = sum(after_ns) / count
            spread = sum((beat - middle) ** 2 for beat in range(count))
            period_ns = sum((beat - middle) * ns for beat, ns in enumerate(after_ns)) / spread
            off_ns = max(
                abs(ns - mean_ns - (beat - middle) * period_ns) for beat, ns in enumerate(after_ns)
            )
            if off_ns <= TOLERANCE_FRAMES * frame_ns:
                if period_ns >= MIN_FRAMES * frame_ns:
                    self._due_ns = first_ns + mean_ns + (count - middle) * period_ns
                    self._spread_ns = off_ns
                return
            self._rises_ns.popleft()
