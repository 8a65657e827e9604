"""Predict the next start of a periodic load.

Many programs on a robot's processor run on a timer, such as a planner or a map update. A policy
that only reacts is always late for the first frame of such a load. If the load started at equal
intervals before, its next start can be predicted.
"""

from __future__ import annotations

from collections import deque

MIN_RISE = 0.05
"""Minimum rise of the log-slowdown at the start of a load."""

FEWEST, MOST = 3, 8
"""Minimum number of rises for a rhythm, and maximum number of stored rises."""

MIN_FRAMES = 10.0
"""Minimum period in frames; shorter periods could be random."""

TOLERANCE_FRAMES = 0.5
"""Maximum deviation of a rise from the rhythm, in frames."""

GUARD_FRAMES = 1.5
"""A load is expected this many frames earlier and later, in addition to the measured deviation."""


class Rhythm:
    """Learns the period of a load from rises of the log-slowdown."""

    def __init__(self) -> None:
        self._rises_ns: deque[int] = deque(maxlen=MOST)
        self._half_way = self._height = 0.0  # middle and height of the last rise
        self._due_ns: float | None = None  # None if no rhythm is known
        self._spread_ns = 0.0

    def step(self, time_ns: int, before: float, after: float, frame_ns: float) -> None:
        """Add a step of the log-slowdown in the frame that ended at `time_ns`.

        frame_ns: time between frames.
        """
        if after - before < MIN_RISE:
            return
        is_on_top = bool(self._rises_ns) and before > self._half_way  # the last load is still on
        self._half_way, self._height = 0.5 * (before + after), after - before
        if not is_on_top:
            self._rises_ns.append(time_ns)
            self._find(frame_ns)

    def due(self, time_ns: int, log_slowdown: float, frame_ns: float) -> float:
        """Return the expected rise of the log-slowdown in the next frame; 0 if none is expected.

        time_ns: end of the last frame; the next one ends about `frame_ns` later.
        """
        if self._due_ns is None or log_slowdown > self._half_way:
            return 0.0
        ahead_ns = self._due_ns - (time_ns + frame_ns)
        guard_ns = self._spread_ns + GUARD_FRAMES * frame_ns
        return self._height if -guard_ns - frame_ns <= ahead_ns <= guard_ns else 0.0

    def _find(self, frame_ns: float) -> None:
        """Fit a period to as many of the last rises as possible."""
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
