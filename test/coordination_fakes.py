"""Statuses, frames and a proportionally shared device for tests of the coordination."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dynamic_ofa_ros.runtime.coordination import Frame, Status

LATENCIES = (10.0, 20.0, 30.0, 40.0)
ACCURACIES = (0.70, 0.74, 0.76, 0.78)
PERIOD_MS = 100.0


def status(name: str, **changes: object) -> Status:
    return replace(
        Status(name, 'boot/cpu', 4, LATENCIES, ACCURACIES, interval_ms=PERIOD_MS),
        **changes,  # type: ignore[arg-type]
    )


def shared_frames(
    works_ms: Sequence[float],
    demands: Sequence[float],
    starts_ms: Sequence[Sequence[float]],
    levels: Sequence[int],
    pace: float = 1.0,
) -> list[tuple[Frame, ...]]:
    """Return each model's frames on a proportionally shared device, simulated in steps of 10 us.

    starts_ms: arrivals of each model's images; an image that arrives during a frame waits.
    """
    step_ms, now_ms = 0.01, 0.0
    upcoming = [list(starts) for starts in starts_ms]
    left_ms, since_ms = [0.0] * len(works_ms), [0.0] * len(works_ms)
    frames: list[list[Frame]] = [[] for _ in works_ms]
    while any(upcoming) or any(left > 0.0 for left in left_ms):
        for i, images in enumerate(upcoming):
            if left_ms[i] <= 0.0 and images and images[0] <= now_ms:
                images.pop(0)
                left_ms[i], since_ms[i] = works_ms[i] * pace, now_ms
        total = math.fsum(d for d, left in zip(demands, left_ms, strict=True) if left > 0.0)
        now_ms += step_ms
        for i in range(len(works_ms)):
            if left_ms[i] > 0.0:
                left_ms[i] -= step_ms / max(1.0, total)
                if left_ms[i] <= 0.0:
                    frames[i].append(Frame(round(now_ms * 1e6), now_ms - since_ms[i], levels[i]))
    return [tuple(found) for found in frames]
