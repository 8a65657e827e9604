"""How the device is shared, learnt from the frames of all models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dynamic_ofa_ros.runtime.coordination.frames import Observation
from dynamic_ofa_ros.runtime.coordination.sharing import FloatArray, Sharing
from dynamic_ofa_ros.runtime.coordination.status import Status

HALF_LIFE_NS = 3_000_000_000
"""Age at which a frame counts half."""

FIRST_DEMAND, FIRST_LIGHTNESS = 1.0, 0.25
"""Taken for granted before anything was measured: nearly the worst, one at a time."""

DEMAND, DEMAND_SD = 0.5, 0.4
LIGHTNESS, LIGHTNESS_SD = 0.5, 0.5
PACE_SD = 0.1
"""What is believed then, and how firmly (standard deviations; of the logarithm of the pace)."""

MIN_DEMAND, MAX_LIGHTNESS, MAX_LOG_PACE = 0.05, 3.0, math.log(20.0)

FIRST_SPREAD, FIRST_SPREAD_FRAMES, MIN_SPREAD, MAX_SPREAD = 0.04, 4.0, 0.02, 0.3
"""Spread of latencies at first, what that is worth in frames, and bounds."""

OUTLIER_SD = 2.5
"""Frames further off than this pull no harder."""

SMOOTHNESS = 8.0
"""The fit takes (1 + demand^n)^(1/n) for max(1, demand), which has no slope below 1."""

FIT_ROUNDS, STEP, SHORTENED = 6, 1e-3, (1.0, 0.5, 0.2)
"""Rounds of Gauss-Newton, the step of its differences, and what is tried of a step too long."""

SURPRISING_FRAMES, SURPRISE, SURPRISE_SD = 4, 0.1, 3.0
"""So many frames of every model that are off by so much (log), and by so many standard deviations
of their mean, tell that the device has changed."""


def unknown_sharing(count: int) -> Sharing:
    """Return what is believed of a device before anything was measured."""
    return Sharing(
        np.full(count, FIRST_DEMAND),
        np.full(count, FIRST_LIGHTNESS),
        1.0,
        np.full(count, FIRST_SPREAD),
    )


class _Design:
    """Observations as arrays: how well a sharing explains them."""

    def __init__(self, everyone: Sequence[Status], observations: Sequence[Observation]) -> None:
        places = {status.name: i for i, status in enumerate(everyone)}
        self.count = len(everyone)
        self.frames = [
            o
            for o in observations
            if o.name in places and all(name in places for _, work in o.pieces for name, _ in work)
        ]
        longest_ms = [max(status.latencies_ms) for status in everyone]
        pieces = [(i, *piece) for i, o in enumerate(self.frames) for piece in o.pieces]
        self._owner = np.array([index for index, _, _ in pieces], dtype=np.int64)
        self._pieces_ms = np.array([ms for _, ms, _ in pieces])
        self._is_active = np.zeros((len(pieces), self.count))
        self._log_light = np.zeros((len(pieces), self.count))
        for row, (_, _, work) in enumerate(pieces):
            for name, level in work:
                at = places[name]
                self._is_active[row, at] = 1.0
                relative = everyone[at].latency_ms(level) / longest_ms[at]
                self._log_light[row, at] = math.log(relative)
        self._is_alone = self._is_active.sum(axis=1) <= 1.0
        self.model = np.array([places[o.name] for o in self.frames], dtype=np.int64)
        self._log_alone = np.log(
            [everyone[places[o.name]].latency_ms(o.frame.level) for o in self.frames]
        )
        self.end_ns = np.array([o.frame.end_ns for o in self.frames], dtype=np.int64)

    def residuals(self, parameters: FloatArray) -> FloatArray:
        """Return log(measured / explained) of every frame; parameters as in `_parameters`."""
        count = self.count
        demands, light, log_pace = parameters[:count], parameters[count:-1], parameters[-1]
        total = (self._is_active * demands * np.exp(light * self._log_light)).sum(axis=1)
        slow = np.where(self._is_alone, 1.0, (1.0 + total**SMOOTHNESS) ** (1.0 / SMOOTHNESS))
        work_ms = np.bincount(self._owner, self._pieces_ms / slow, len(self.frames))
        found: FloatArray = np.log(np.maximum(work_ms, 1e-9)) - self._log_alone - log_pace
        return found


def _parameters(sharing: Sharing) -> FloatArray:
    return np.concatenate([sharing.demands, sharing.lightness, [math.log(sharing.pace)]])


def fit(
    everyone: Sequence[Status], observations: Sequence[Observation], start: Sharing
) -> Sharing:
    """Return the sharing that explains the frames observed, the newest counting most.

    Gauss-Newton, always from what is taken for granted of an unknown device. start: what was
    known before, for the spread.
    """
    design = _Design(everyone, observations)
    if not design.frames:
        return start
    count, model = design.count, design.model
    age = 0.5 ** ((design.end_ns.max() - design.end_ns) / HALF_LIFE_NS)
    believed = np.array([DEMAND] * count + [LIGHTNESS] * count + [0.0])
    firmness = np.array([DEMAND_SD] * count + [LIGHTNESS_SD] * count + [PACE_SD])
    lowest = np.array([MIN_DEMAND] * count + [0.0] * count + [-MAX_LOG_PACE])
    highest = np.array([1.0] * count + [MAX_LIGHTNESS] * count + [MAX_LOG_PACE])
    at = _parameters(unknown_sharing(count))
    spread = start.spread[model]
    error = design.residuals(at)
    for _ in range(FIT_ROUNDS):
        pull = np.minimum(1.0, OUTLIER_SD * spread / np.maximum(np.abs(error), 1e-12))
        weight = age * pull / spread**2
        slopes = np.column_stack(
            [(design.residuals(at + STEP * unit) - error) / STEP for unit in np.eye(len(at))]
        )
        curvature = slopes.T @ (weight[:, None] * slopes) + np.diag(firmness**-2)
        downhill = slopes.T @ (weight * error) + (at - believed) / firmness**2
        is_free = ~((at >= highest) & (downhill < 0.0) | (at <= lowest) & (downhill > 0.0))
        step = np.zeros_like(at)
        step[is_free] = np.linalg.solve(curvature[np.ix_(is_free, is_free)], downhill[is_free])
        cost = weight @ error**2 + (((at - believed) / firmness) ** 2).sum()
        for shortened in SHORTENED:
            tried = np.clip(at - shortened * step, lowest, highest)
            tried_error = design.residuals(tried)
            if weight @ tried_error**2 + (((tried - believed) / firmness) ** 2).sum() < cost:
                at, error = tried, tried_error
                break
        else:
            break
    squares = np.bincount(model, age * error**2, count) + FIRST_SPREAD_FRAMES * FIRST_SPREAD**2
    spread = np.sqrt(squares / (np.bincount(model, age, count) + FIRST_SPREAD_FRAMES))
    return Sharing(
        at[:count],
        at[count:-1],
        math.exp(at[-1]),
        np.clip(spread, MIN_SPREAD, MAX_SPREAD),
    )


def changed_since_ns(
    everyone: Sequence[Status], observations: Sequence[Observation], sharing: Sharing
) -> int | None:
    """Return since when every model is faster, or every one slower, than the sharing explains.

    Then the device itself has changed: its clock, or what others run on it. None if it has not.
    """
    design = _Design(everyone, observations)
    error = design.residuals(_parameters(sharing)) if design.frames else np.zeros(0)
    since_ns, signs = [], set()
    for place in range(len(everyone)):
        newest = np.flatnonzero(design.model == place)
        newest = newest[np.argsort(design.end_ns[newest])][-SURPRISING_FRAMES:]
        if len(newest) < SURPRISING_FRAMES:
            return None
        mean = float(error[newest].mean())
        noise = float(sharing.spread[place]) / math.sqrt(SURPRISING_FRAMES)
        if abs(mean) < max(SURPRISE, SURPRISE_SD * noise):
            return None
        signs.add(mean > 0.0)
        since_ns.append(int(design.end_ns[newest].min()))
    return max(since_ns) if len(signs) == 1 else None
