"""Choose a combination of levels by predicted latencies.

Latencies are predicted for the critical instant of response-time analysis: all cameras deliver an
image at the same time. The latency of a frame is then its uncontended latency times the sum of the
demands of all models (see `sharing`), each weighted by the share of the frame during which the
model runs. The longer a frame takes, the more images of the peers arrive during it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dynamic_ofa_ros.runtime.coordination.sharing import FloatArray, Sharing
from dynamic_ofa_ros.runtime.coordination.status import Status

TAIL = 1.65
"""Distance of the limited quantile of the latency from its mean, in standard deviations."""

ROUNDS = 3
"""Iterations of the response-time analysis."""

NEVER_MS = 1e9
"""Frame interval of a model without frames."""

Levels = list[int]


def ladder(status: Status) -> Levels:
    """Return the Pareto-optimal levels, in ascending order: a slower level is more accurate.

    If accuracy has priority, return only the levels that meet the accuracy floor; if there are
    none, the most accurate level.
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
    """The models on a device, and the model of how they share it."""

    def __init__(self, everyone: Sequence[Status], sharing: Sharing) -> None:
        self._everyone = everyone
        self._sharing = sharing
        self._log_limit = np.log([s.limit_ms for s in everyone])
        self._share = np.array([s.importance for s in everyone], dtype=float)
        self._share /= self._share.sum()
        self._longest_ms = np.array([max(s.latencies_ms) for s in everyone])
        interval_ms = np.array([s.interval_ms for s in everyone])
        self._is_idle = np.isinf(interval_ms)
        self._interval_ms = np.minimum(interval_ms, NEVER_MS)

    def latencies_ms(self, levels: Sequence[int]) -> FloatArray:
        """Return the uncontended latencies of a combination, (models,)."""
        pairs = zip(self._everyone, levels, strict=True)
        return np.array([s.latencies_ms[level - 1] for s, level in pairs])

    def accuracy(self, levels: Sequence[int]) -> float:
        """Return the weighted accuracy of a combination."""
        pairs = zip(self._share, self._everyone, levels, strict=True)
        return math.fsum(share * s.accuracies[level - 1] for share, s, level in pairs)

    def excess(self, own_ms: FloatArray) -> FloatArray:
        """Return the log of the ratio of the latency quantile to the limit, (..., models)."""
        demand = self._sharing.demand * (own_ms / self._longest_ms) ** self._sharing.power
        peers_ms = np.where(self._is_idle, 0.0, own_ms)[..., None, :]
        is_self = np.eye(len(self._everyone), dtype=bool)
        latency_ms = own_ms
        for _ in range(ROUNDS):
            whole = np.floor(latency_ms[..., None] / self._interval_ms)
            rest_ms = latency_ms[..., None] - whole * self._interval_ms
            beside_ms = whole * peers_ms + np.minimum(peers_ms, rest_ms)
            beside = np.minimum(beside_ms / own_ms[..., None], 1.0)
            total = (np.where(is_self, 1.0, beside) * demand[..., None, :]).sum(axis=-1)
            latency_ms = own_ms * np.maximum(total, 1.0)
        found: FloatArray = np.log(latency_ms) - self._log_limit + TAIL * self._sharing.spread
        return found

    def late(self, own_ms: FloatArray, margin: float) -> FloatArray:
        """Return the sum of all positive excesses (log) over limits raised by a margin, (...)."""
        found: FloatArray = np.maximum(self.excess(own_ms) - margin, 0.0).sum(axis=-1)
        return found

    def choose(self, ladders: Sequence[Levels], margin: float) -> Levels:
        """Return the most accurate levels that meet the limits, or else the least late ones.

        Greedy search: go down from the highest levels in steps that lose the least accuracy per
        millisecond; then raise single levels as long as this makes no model later.
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
        """Return the combinations with one model a level higher that are at most this late."""
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
        """Return the first combination in steps down whose latency sum is `factor` of `levels`'.

        If there is none, return the lowest levels.
        """
        way = self._way_down(levels, ladders)
        enough_ms = factor * self.latencies_ms(levels).sum()
        return next((w for w in way if self.latencies_ms(w).sum() <= enough_ms), way[-1])

    def ladders_below(self, ladders: Sequence[Levels], levels: Levels) -> list[Levels]:
        """Return the ladders without the levels that are slower than `levels`."""
        found = []
        for s, choices, level in zip(self._everyone, ladders, levels, strict=True):
            limit_ms = s.latencies_ms[level - 1]
            found.append([n for n in choices if s.latencies_ms[n - 1] <= limit_ms] or choices[:1])
        return found

    def _way_down(self, levels: Levels, ladders: Sequence[Levels]) -> list[Levels]:
        """Return combinations from `levels` to the lowest levels, each one step below the last."""
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
        """Return the weighted accuracy that a step down loses per millisecond."""
        if place == 0:
            return math.inf
        s, level, lower = self._everyone[i], choices[place] - 1, choices[place - 1] - 1
        lost = float(self._share[i]) * (s.accuracies[level] - s.accuracies[lower])
        return lost / (s.latencies_ms[level] - s.latencies_ms[lower])
