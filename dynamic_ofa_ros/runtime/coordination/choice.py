"""The choice of a combination of levels, from what is predicted of it.

Limits are judged from the critical instant on, as response-time analysis does: all cameras deliver
at once. A frame then takes its uncontended latency times the demands of all that work beside it,
each counted for the part of the frame that it works; see `sharing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dynamic_ofa_ros.runtime.coordination.sharing import FloatArray, Sharing
from dynamic_ofa_ros.runtime.coordination.status import Status

TAIL = 1.65
"""Standard deviations from the mean of a frame's latency to the quantile that the limit is for."""

MAX_FRAMES, NEVER_MS = 1e3, 1e9
"""Bound of the frames of a peer that fit into a limit; the interval of who has no frames."""

Levels = list[int]


def ladder(status: Status) -> Levels:
    """Return the levels worth running, ascending: none is slower than a more accurate one.

    When accuracy has priority only those that meet the floor, if any does.
    """
    found: Levels = []
    order = zip(status.latencies_ms, (-accuracy for accuracy in status.accuracies), strict=True)
    for level, _ in sorted(enumerate(order, start=1), key=lambda entry: entry[1]):
        if not found or status.accuracies[level - 1] > status.accuracies[found[-1] - 1]:
            found.append(level)
    if status.priority == 'accuracy':
        found = [n for n in found if status.accuracies[n - 1] >= status.floor] or found[-1:]
    return found


class Device:
    """The models on a device, by name, and what is known of how they share it."""

    def __init__(self, everyone: Sequence[Status], sharing: Sharing) -> None:
        self._everyone = everyone
        self._sharing = sharing
        limit_ms = np.array([s.limit_ms for s in everyone])
        self._log_limit = np.log(limit_ms)
        self._share = np.array([s.importance for s in everyone])
        self._share /= self._share.sum()
        self._longest_ms = np.array([max(s.latencies_ms) for s in everyone])
        interval_ms = np.array([s.interval_ms for s in everyone])
        # Of each peer (second axis) whole intervals fit into a limit (first axis), and some rest.
        finite_ms = np.minimum(interval_ms, NEVER_MS)
        window_ms = np.minimum(limit_ms, MAX_FRAMES * finite_ms.min())[:, None]
        self._whole = np.floor(window_ms / finite_ms)
        self._rest_ms = np.where(np.isinf(interval_ms), 0.0, window_ms - self._whole * finite_ms)

    def latencies_ms(self, levels: Sequence[int]) -> FloatArray:
        """Return (models,) the uncontended latencies of a combination."""
        pairs = zip(self._everyone, levels, strict=True)
        return np.array([s.latencies_ms[level - 1] for s, level in pairs])

    def accuracy(self, levels: Sequence[int]) -> float:
        """Return the weighted accuracy of a combination."""
        pairs = zip(self._share, self._everyone, levels, strict=True)
        return math.fsum(share * s.accuracies[level - 1] for share, s, level in pairs)

    def excess(self, own_ms: FloatArray) -> FloatArray:
        """Return (..., models): the quantile of latency over the limit, log."""
        demand = self._sharing.demands * (own_ms / self._longest_ms) ** self._sharing.powers
        peers_ms = own_ms[..., None, :]
        beside_ms = self._whole * peers_ms + np.minimum(peers_ms, self._rest_ms)
        beside = np.minimum(beside_ms / own_ms[..., :, None], 1.0)
        is_self = np.eye(len(self._everyone), dtype=bool)
        total = (np.where(is_self, 1.0, beside) * demand[..., None, :]).sum(axis=-1)
        latency_ms = own_ms * np.maximum(total, 1.0)
        found: FloatArray = np.log(latency_ms) - self._log_limit + TAIL * self._sharing.spread
        return found

    def late(self, own_ms: FloatArray, margin: float) -> FloatArray:
        """Return (...): how late (log) all are in sum, with limits moved by a margin."""
        found: FloatArray = np.maximum(self.excess(own_ms) - margin, 0.0).sum(axis=-1)
        return found

    def choose(self, ladders: Sequence[Levels], margin: float) -> Levels:
        """Return the levels with the most accuracy that meet the limits; else the least late.

        Down from the top by the least accuracy lost per millisecond freed, then up again where
        that delays nobody.
        """
        way = self._way_down([choices[-1] for choices in ladders], ladders)
        late = self.late(np.array([self.latencies_ms(levels) for levels in way]), margin)
        first = int(np.argmin(np.round(late, 9)))
        levels, least = way[first], float(late[first]) + 1e-9
        while higher := self._steps_up(levels, ladders, margin, least):
            levels = max(higher, key=self.accuracy)
        return levels

    def _steps_up(
        self, levels: Levels, ladders: Sequence[Levels], margin: float, late: float
    ) -> list[Levels]:
        """Return the combinations that are a step of one model higher and no later than this."""
        steps = [
            [*levels[:i], choices[choices.index(levels[i]) + 1], *levels[i + 1 :]]
            for i, choices in enumerate(ladders)
            if levels[i] in choices[:-1]
        ]
        if not steps:
            return []
        after = self.late(np.array([self.latencies_ms(step) for step in steps]), margin)
        return [step for step, excess in zip(steps, after, strict=True) if excess <= late]

    def lighter(self, levels: Levels, ladders: Sequence[Levels], factor: float) -> Levels:
        """Return the first combination on the way down that is so much lighter; else the last."""
        way = self._way_down(levels, ladders)
        enough_ms = factor * self.latencies_ms(levels).sum()
        return next((w for w in way if self.latencies_ms(w).sum() <= enough_ms), way[-1])

    def ladders_below(self, ladders: Sequence[Levels], levels: Levels) -> list[Levels]:
        """Return only the levels that are not slower than these."""
        found = []
        for s, choices, level in zip(self._everyone, ladders, levels, strict=True):
            limit_ms = s.latencies_ms[level - 1]
            found.append([n for n in choices if s.latencies_ms[n - 1] <= limit_ms] or choices[:1])
        return found

    def _way_down(self, levels: Levels, ladders: Sequence[Levels]) -> list[Levels]:
        """Return combinations, each a step down from the last, to everyone's lowest level."""
        places = [ns.index(n) if n in ns else 0 for n, ns in zip(levels, ladders, strict=True)]
        prices = [self._price(i, ladders[i], place) for i, place in enumerate(places)]
        way = [levels]
        while (price := min(prices)) < math.inf:
            i = prices.index(price)
            places[i] -= 1
            prices[i] = self._price(i, ladders[i], places[i])
            way.append([*way[-1][:i], ladders[i][places[i]], *way[-1][i + 1 :]])
        return way

    def _price(self, i: int, choices: Levels, place: int) -> float:
        """Return the weighted accuracy that a step down costs for each millisecond it frees."""
        if place == 0:
            return math.inf
        s, level, lower = self._everyone[i], choices[place] - 1, choices[place - 1] - 1
        lost = float(self._share[i]) * (s.accuracies[level] - s.accuracies[lower])
        return lost / (s.latencies_ms[level] - s.latencies_ms[lower])
