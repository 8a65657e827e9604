"""The frames of all models, with their times: which of them ran side by side, and when they come.

All peers are processes of one host, so they share its monotonic clock.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamic_ofa_ros.runtime.coordination.sharing import FloatArray
from dynamic_ofa_ros.runtime.coordination.status import Frame, Status

KEPT_FRAMES = 64
"""Frames of each model that are kept."""

FITTED_FRAMES, FITTED_COMBINATIONS = 8, 12
"""The sharing is learnt from so many frames of each model at so many combinations."""

UNTOLD_NS = 300_000_000
"""A peer without a frame for so long had none that is still to be told."""

WAITED_NS = 500_000
"""Who was idle for so long has waited for a picture."""

MIN_ARRIVALS, SEEN_ARRIVALS, MAX_JITTER = 5, 24, 0.1
"""Pictures that a camera's beat is seen from; how much they may be off it, in intervals."""

LOCKED_FOR_MS, LOCKED_WITHIN = 4000.0, 0.05
"""Cameras keep step when in so long they shift by no more than this part of the interval."""

Levels = tuple[tuple[str, int], ...]
"""Names and levels, by name."""


@dataclass(frozen=True)
class Observation:
    """A frame, cut where a peer's frame starts or ends.

    pieces: milliseconds, and who (name, level) was at work then. levels: by name, of everyone.
    is_first: whether it is the first at its level, which costs a little more.
    """

    name: str
    frame: Frame
    pieces: tuple[tuple[float, Levels], ...]
    levels: Levels
    is_first: bool = False


@dataclass(frozen=True)
class Arrivals:
    """The beat of a camera: when the last picture came, and how far off the interval may be."""

    interval_ms: float
    last_ms: float
    error_ms: float


class FrameLog:
    """The frames of all models, and what is known of those whose neighbours have been told."""

    def __init__(self) -> None:
        self._frames: dict[str, deque[Frame]] = {}
        self._pending: dict[str, deque[tuple[Frame, bool]]] = {}
        self._told_ns: dict[str, int] = {}
        self._observed: dict[Levels, dict[str, deque[Observation]]] = {}

    def take(self, status: Status) -> None:
        """Note the frames of a status that are new."""
        frames = self._frames.setdefault(status.name, deque(maxlen=KEPT_FRAMES))
        pending = self._pending.setdefault(status.name, deque(maxlen=KEPT_FRAMES))
        self._told_ns[status.name] = status.time_ns
        for frame in status.frames:
            if frames and frame.end_ns <= frames[-1].end_ns:
                continue
            pending.append((frame, not frames or frame.level != frames[-1].level))
            frames.append(frame)

    def observe(self, names: Sequence[str]) -> list[Observation]:
        """Return the frames that are newly known with all their neighbours."""
        self._forget_others(names)
        found = []
        for name in names:
            pending = self._pending.get(name, deque())
            peers = [peer for peer in names if peer != name]
            while pending and all(self._is_told(peer, pending[0][0].end_ns) for peer in peers):
                found.append(self._observation(name, *pending.popleft(), peers))
        for observation in found:
            entry = self._observed.pop(observation.levels, {})
            self._observed[observation.levels] = entry  # the last one visited comes last
            entry.setdefault(observation.name, deque(maxlen=FITTED_FRAMES)).append(observation)
        while len(self._observed) > FITTED_COMBINATIONS:
            del self._observed[next(iter(self._observed))]
        return found

    def observed(self) -> list[Observation]:
        """Return what the sharing is to be learnt from."""
        return [
            observation
            for entry in self._observed.values()
            for observations in entry.values()
            for observation in observations
        ]

    def forget_before(self, time_ns: int) -> None:
        """Learn nothing any more from frames that ended before a time."""
        for entry in self._observed.values():
            for observations in entry.values():
                while observations and observations[0].frame.end_ns < time_ns:
                    observations.popleft()

    def _forget_others(self, names: Sequence[str]) -> None:
        """Keep only what these have told, and nothing that others may have had a part in."""
        gone = set(self._frames) - set(names)
        if not gone:
            return
        until_ns = max(self._told_ns[name] for name in gone) + UNTOLD_NS
        for pending in self._pending.values():
            while pending and pending[0][0].start_ns < until_ns:
                pending.popleft()
        for name in gone:
            del self._frames[name], self._pending[name], self._told_ns[name]

    def arrivals(self, name: str) -> Arrivals | None:
        """Return the regular beat of a model's camera; None when there is none to see.

        Seen is a picture that the model waited for: its frame starts with it.
        """
        frames = self._frames.get(name, ())
        starts_ms = [
            later.start_ns / 1e6
            for earlier, later in itertools.pairwise(frames)
            if later.start_ns - earlier.end_ns > WAITED_NS
        ][-SEEN_ARRIVALS:]
        if len(starts_ms) < MIN_ARRIVALS:
            return None
        times_ms = np.array(starts_ms)
        gaps_ms = np.diff(times_ms)
        beats = np.concatenate([[0.0], np.cumsum(np.round(gaps_ms / gaps_ms.min()))])
        interval_ms, offset_ms = np.polyfit(beats, times_ms - times_ms[0], 1)
        left_ms = times_ms - times_ms[0] - offset_ms - interval_ms * beats
        jitter_ms = float(np.sqrt((left_ms**2).sum() / (len(times_ms) - 2)))
        if jitter_ms > MAX_JITTER * interval_ms:
            return None
        error_ms = jitter_ms / math.sqrt(((beats - beats.mean()) ** 2).sum())
        return Arrivals(
            float(interval_ms), float(times_ms[0] + offset_ms + beats[-1] * interval_ms), error_ms
        )

    def _is_told(self, peer: str, until_ns: int) -> bool:
        """Tell whether all frames of a peer that began before a time are known."""
        frames = self._frames.get(peer)
        if frames and frames[-1].start_ns >= until_ns:
            return True
        quiet_ns = max([UNTOLD_NS, *(round(3e6 * frame.latency_ms) for frame in frames or ())])
        return self._told_ns.get(peer, until_ns) - until_ns > quiet_ns

    def _observation(
        self, name: str, frame: Frame, is_first: bool, peers: Sequence[str]
    ) -> Observation:
        begin_ns, end_ns = frame.start_ns, frame.end_ns
        beside, levels = [], [(name, frame.level)]
        for peer in peers:
            is_last = True
            for other in reversed(self._frames.get(peer, ())):
                if other.start_ns >= end_ns:
                    continue
                if is_last:  # the level that the peer was at
                    levels.append((peer, other.level))
                    is_last = False
                if other.end_ns <= begin_ns:
                    break
                beside.append((peer, other))
        cuts = {begin_ns, end_ns}
        for _, other in beside:
            cuts |= {t for t in (other.start_ns, other.end_ns) if begin_ns < t < end_ns}
        times = sorted(cuts)
        pieces = tuple(
            (
                (until - since) / 1e6,
                (
                    (name, frame.level),
                    *(
                        (peer, other.level)
                        for peer, other in beside
                        if other.start_ns <= since and other.end_ns >= until
                    ),
                ),
            )
            for since, until in itertools.pairwise(times)
        )
        return Observation(name, frame, pieces, tuple(sorted(levels)), is_first)


def offsets_ms(names: Sequence[str], log: FrameLog) -> FloatArray | None:
    """Return how much later than the first camera each delivers; None unless all keep step."""
    beats = [log.arrivals(name) for name in names]
    first = beats[0]
    if first is None:
        return None
    found = []
    for beat in beats:
        if beat is None:
            return None
        off_ms = abs(beat.interval_ms - first.interval_ms) + beat.error_ms + first.error_ms
        if off_ms * LOCKED_FOR_MS > LOCKED_WITHIN * first.interval_ms**2:
            return None
        # Compared where both were seen last: an error of the interval must not add up.
        found.append(math.remainder(beat.last_ms - first.last_ms, first.interval_ms))
    return np.array(found) - min(found)
