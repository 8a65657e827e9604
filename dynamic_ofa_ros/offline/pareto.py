"""Pareto fronts of (latency, accuracy), and choosing a family's levels from one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def front(latency_ms: Sequence[float], accuracy: Sequence[float]) -> list[int]:
    """Return the indices of the points that no other dominates, fastest first.

    A point dominates another when it is no slower and no less accurate, and better in one of both;
    of equal points the first stays.
    """
    order = sorted(range(len(latency_ms)), key=lambda i: (latency_ms[i], -accuracy[i], i))
    kept: list[int] = []
    best = -np.inf
    for index in order:
        if accuracy[index] > best:
            kept.append(index)
            best = accuracy[index]
    return kept


def hypervolume(
    latency_ms: Sequence[float],
    accuracy: Sequence[float],
    reference: tuple[float, float],
) -> float:
    """Return the area the points dominate, up to the worst (latency, accuracy), `reference`."""
    worst_latency, worst_accuracy = reference
    area, floor = 0.0, worst_accuracy
    for index in front(latency_ms, accuracy):
        if latency_ms[index] < worst_latency and accuracy[index] > floor:
            area += (worst_latency - latency_ms[index]) * (accuracy[index] - floor)
            floor = accuracy[index]
    return area


def choose_levels(
    latency_ms: Sequence[float],
    accuracy: Sequence[float],
    count: int,
    smallest_step: float = 0.005,
) -> list[int]:
    """Choose up to `count` points of the front, fastest first, spread evenly along it.

    The two ends are always taken. Between them the points are spread by accuracy and log-latency
    alike, so that neither a flat nor a steep part of the front takes all levels. A step in
    accuracy smaller than `smallest_step` (fraction) buys nothing and is left out.
    """
    candidates = front(latency_ms, accuracy)
    if len(candidates) <= 2 or count < 2:
        return candidates[-1:] if count < 2 else candidates
    speed = np.log([latency_ms[i] for i in candidates])
    top1 = np.array([accuracy[i] for i in candidates])
    position = 0.5 * (speed - speed[0]) / (speed[-1] - speed[0]) + 0.5 * (top1 - top1[0]) / (
        top1[-1] - top1[0]
    )
    chosen = [0]
    last = len(candidates) - 1
    for target in np.linspace(0.0, 1.0, count)[1:-1]:
        open_ = [
            i
            for i in range(chosen[-1] + 1, last)
            if top1[i] - top1[chosen[-1]] >= smallest_step
            and top1[last] - top1[i] >= smallest_step
        ]
        if open_:
            chosen.append(min(open_, key=lambda i: abs(position[i] - target)))
    return [candidates[i] for i in [*chosen, last]]
