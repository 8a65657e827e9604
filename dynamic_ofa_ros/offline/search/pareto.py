"""Pareto fronts of (latency, accuracy), and the choice of levels from a front."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def front(latency_ms: Sequence[float], accuracy: Sequence[float]) -> list[int]:
    """Return the indices of the points that no other point dominates, fastest first.

    A point dominates another if it is not slower and not less accurate, and better in one of them.
    Of equal points, the first one is returned.
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
    """Return the area that the points dominate, up to the worst (latency, accuracy)."""
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
    count: int | None = None,
    smallest_step: float = 0.01,
    largest_step: float = 0.03,
) -> list[int]:
    """Choose up to `count` points of the front as levels, fastest first.

    Both ends are always chosen. Neighbours differ by `smallest_step` to `largest_step` in accuracy
    (fractions) if the front has such points. Among such choices, the number of levels is as large
    as possible, and they are spread evenly in accuracy and log-latency. Without `count`, the steps
    determine the number of levels.
    """
    candidates = front(latency_ms, accuracy)
    if count is not None and count < 2:
        return candidates[-1:]
    if len(candidates) <= 2:
        return candidates
    speed = np.log([latency_ms[i] for i in candidates])
    top1 = np.array([accuracy[i] for i in candidates])
    most = len(candidates) if count is None else min(count, len(candidates))
    most = min(most, 2 + int((top1[-1] - top1[0]) / smallest_step))
    step = top1[None] - top1[:, None]  # from row to column
    missed = np.maximum(smallest_step - step, 0.0) / smallest_step
    missed += np.maximum(step - largest_step, 0.0) / largest_step
    even = (step / (top1[-1] - top1[0])) ** 2
    even += ((speed[None] - speed[:, None]) / (speed[-1] - speed[0])) ** 2
    chosen = min(
        (_shortest_path(missed, even, levels) for levels in range(2, most + 1)),
        key=lambda path: (round(_length(missed, path), 9), -len(path)),
    )
    return [candidates[i] for i in chosen]


def _shortest_path(first: FloatArray, second: FloatArray, points: int) -> list[int]:
    """Return a path from the first to the last of N points, over `points` of them in order.

    The sum of its steps in `first` is minimal, and among these the sum in `second` is nearly
    minimal; both are (N, N), for a step from row to column.
    """
    steps = np.where(np.triu(np.ones_like(first), 1) > 0, first + 1e-6 * second, np.inf)
    length = steps[0]
    origins = []
    for _ in range(points - 2):
        through = length[:, None] + steps
        origins.append(through.argmin(0))
        length = through.min(0)
    path = [len(first) - 1]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return [0, *reversed(path)]


def _length(steps: FloatArray, path: Sequence[int]) -> float:
    return float(sum(steps[i, j] for i, j in itertools.pairwise(path)))
