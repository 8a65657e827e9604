"""The choice of a combination of levels: exhaustive, from what is predicted and measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dynamic_ofa_ros.runtime.coordination.record import Record
from dynamic_ofa_ros.runtime.coordination.sharing import (
    BoolArray,
    FloatArray,
    IntArray,
    Sharing,
    latencies,
    predict,
)
from dynamic_ofa_ros.runtime.coordination.status import Status

MAX_COMBINATIONS = 2_000
"""Up to so many are compared; beyond, levels are lowered one by one."""

BELIEF_FRAMES = 8.0
"""What a prediction weighs against frames measured at that very combination."""

FORGIVEN = 1.0
"""Late frames that are taken for outliers."""

CAUTION = 0.6
"""Part of the late frames allowed that a new combination may be expected to have."""


@dataclass(frozen=True)
class Options:
    """The combinations to choose from; arrays are (N, models) or (N,).

    late: expected share of late frames; allowed: (models,) share; trouble: how often and by how
    much (log) all are late together, weighted; short: how much floors are missed, and accuracy:
    weighted. latency_ms: uncontended.
    """

    combinations: IntArray
    late: FloatArray
    allowed: FloatArray
    trouble: FloatArray
    short: FloatArray
    accuracy: FloatArray
    latency_ms: FloatArray

    def best(self, among: BoolArray | None = None) -> int:
        """Return the row with the most accuracy that meets every limit; else the least late.

        among: (N,) the rows to choose from.
        """
        among = np.ones(len(self.combinations), dtype=bool) if among is None else among
        meets = (self.late <= CAUTION * self.allowed).all(axis=1) & among
        if not meets.any():
            meets = (self.late <= self.allowed).all(axis=1) & among
        trouble = np.zeros_like(self.trouble) if meets.any() else self.trouble
        order = np.lexsort(
            (self.latency_ms.sum(axis=1), -self.accuracy, self.short, trouble, ~meets, ~among)
        )
        return int(order[0])

    def lighter(self, row: int) -> BoolArray:
        """Return which rows have no level that is slower than in this one."""
        found: BoolArray = (self.latency_ms <= self.latency_ms[row]).all(axis=1)
        return found

    def row(self, levels: Sequence[int]) -> int | None:
        """Return where a combination is; None when it is no option."""
        rows = np.flatnonzero((self.combinations == np.array(levels)).all(axis=1))
        return int(rows[0]) if len(rows) else None

    def meets(self, row: int) -> bool:
        """Tell whether a combination is expected to meet every limit."""
        return bool((self.late[row] <= self.allowed).all())


def options(
    everyone: Sequence[Status],
    sharing: Sharing,
    record: Record,
    staying: Collection[str] = (),
    offsets_ms: FloatArray | None = None,
) -> Options:
    """Judge all combinations. staying: names of those that stay at the level they are at."""
    ladders = [[s.level] if s.name in staying else ladder(s) for s in everyone]
    if math.prod(len(levels) for levels in ladders) <= MAX_COMBINATIONS:
        grids = np.meshgrid(*[np.array(levels) for levels in ladders], indexing='ij')
        combinations = np.stack([grid.ravel() for grid in grids], axis=1)
    else:
        combinations = _descent(everyone, ladders)
    weight = np.array([status.importance for status in everyone])
    weight /= weight.sum()
    accuracy = np.column_stack(
        [np.array(s.accuracies)[combinations[:, i] - 1] for i, s in enumerate(everyone)]
    )
    predicted = predict(everyone, sharing, combinations, offsets_ms)
    latency_ms = latencies(everyone, combinations)
    late = _corrected(everyone, record, combinations, predicted.share)
    allowed = np.array([1.0 - status.quantile for status in everyone])
    floor = np.array([status.floor for status in everyone])
    return Options(
        combinations,
        late,
        allowed,
        np.round((np.maximum(late - allowed, 0.0) + predicted.excess) @ weight, 9),
        np.round(np.maximum(floor - accuracy, 0.0) @ weight, 9),
        accuracy @ weight,
        latency_ms,
    )


def _corrected(
    everyone: Sequence[Status], record: Record, combinations: IntArray, predicted: FloatArray
) -> FloatArray:
    """Return the share of late frames after what was measured, here and at lighter levels."""
    late = predicted
    latency_ms = latencies(everyone, combinations)
    for levels, frames, late_frames in record.measured(everyone):
        at_ms = latencies(everyone, np.array([levels]))[0]
        here = (latency_ms == at_ms).all(axis=1)
        above = (latency_ms >= at_ms).all(axis=1) & ~here
        measured = np.maximum(late_frames - FORGIVEN, 0.0)
        late[here] = (BELIEF_FRAMES * late[here] + measured) / (BELIEF_FRAMES + frames)
        below = (latency_ms <= at_ms).all(axis=1) & ~here
        if here.any():
            late[above] = np.maximum(late[above], late[here][0])
            late[below] = np.minimum(late[below], late[here][0])
    return late


def ladder(status: Status) -> list[int]:
    """Return the levels worth running, ascending: none is slower than a more accurate one.

    When accuracy has priority only those that meet the floor, if any does.
    """
    found: list[int] = []
    for level in sorted(
        range(1, len(status.accuracies) + 1),
        key=lambda level: (-status.accuracy(level), status.latency_ms(level)),
    ):
        if not found or status.latency_ms(level) < status.latency_ms(found[-1]):
            found.append(level)
    found.reverse()
    if status.priority == 'accuracy':
        accurate = [level for level in found if status.accuracy(level) >= status.floor]
        return accurate or found[-1:]
    return found


def _descent(everyone: Sequence[Status], ladders: Sequence[Sequence[int]]) -> IntArray:
    """Return the way down from everyone's highest level, cheapest steps first."""
    at = [len(levels) - 1 for levels in ladders]
    way = [[levels[i] for levels, i in zip(ladders, at, strict=True)]]
    while any(at):
        prices = {
            i: _price(everyone[i], ladders[i][at[i]], ladders[i][at[i] - 1])
            for i in range(len(everyone))
            if at[i]
        }
        at[min(prices, key=lambda i: (prices[i], everyone[i].name))] -= 1
        way.append([levels[i] for levels, i in zip(ladders, at, strict=True)])
    return np.array(way)


def _price(status: Status, level: int, lower: int) -> float:
    """Return the weighted accuracy lost per millisecond freed by going down."""
    freed_ms = status.latency_ms(level) - status.latency_ms(lower)
    lost = status.importance * (status.accuracy(level) - status.accuracy(lower))
    return lost / freed_ms if freed_ms > 0.0 else math.inf
