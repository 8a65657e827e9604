"""What was measured at which combination of levels."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from dynamic_ofa_ros.runtime.coordination.frames import KEPT_FRAMES, Observation
from dynamic_ofa_ros.runtime.coordination.sharing import FloatArray
from dynamic_ofa_ros.runtime.coordination.status import Status

REMEMBERED_NS = 30_000_000_000
"""What was measured is forgotten after this long away from that combination."""

REFUSED_FRAMES = 3
"""Late frames that it counts as when somebody left a combination."""


class Record:
    """How long frames took at which combination of levels."""

    def __init__(self) -> None:
        self._latencies_ms: dict[tuple[int, ...], list[deque[float]]] = {}
        self._noted_ns: dict[tuple[int, ...], int] = {}

    def note(self, names: Sequence[str], observation: Observation) -> None:
        """Take a frame of a combination that is known completely."""
        levels = dict(observation.levels)
        if observation.is_first or any(name not in levels for name in names):
            return
        key = tuple(levels[name] for name in names)
        entry = self._latencies_ms.setdefault(key, [deque(maxlen=KEPT_FRAMES) for _ in names])
        entry[list(names).index(observation.name)].append(observation.frame.latency_ms)
        now_ns = self._noted_ns[key] = observation.frame.end_ns
        for old in [k for k, ns in self._noted_ns.items() if now_ns - ns > REMEMBERED_NS]:
            del self._latencies_ms[old], self._noted_ns[old]

    def refuse(self, levels: tuple[int, ...], time_ns: int) -> None:
        """Take note that somebody left a combination because of what it measured."""
        entry = self._latencies_ms.setdefault(levels, [deque(maxlen=KEPT_FRAMES) for _ in levels])
        for latencies_ms in entry:
            latencies_ms.extend([math.inf] * REFUSED_FRAMES)
        self._noted_ns[levels] = time_ns

    def clear(self) -> None:
        """Forget everything: the device or the cameras have changed."""
        self._latencies_ms.clear()
        self._noted_ns.clear()

    def measured(
        self, everyone: Sequence[Status]
    ) -> Iterator[tuple[tuple[int, ...], FloatArray, FloatArray]]:
        """Yield each combination, and (models,) how many frames and late ones it had."""
        for levels, entry in self._latencies_ms.items():
            late = [
                sum(ms > status.limit_ms for ms in latencies)
                for status, latencies in zip(everyone, entry, strict=True)
            ]
            yield levels, np.array([len(ms) for ms in entry], float), np.array(late, float)
