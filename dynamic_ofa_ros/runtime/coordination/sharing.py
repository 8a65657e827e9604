"""Learn from frames how models share a device, and predict the latencies of their levels.

There are two ways of sharing; the one that explains recent frames better is used:

- At the same time: the demand of a level is the share of the device that it uses while it runs. If
  the sum of the demands of all running levels exceeds 1, all are slowed down by this sum. An
  extended Kalman filter estimates the log of the demand of every level of every model, and the log
  of the pace: a slowdown of all models that their demands do not explain (a lower clock, another
  program). Similar levels have similar demands, so a frame at one level also says something about
  the others.
- In turns: one model runs at a time, each for a time slice. While a frame is processed, each peer
  runs as long as the frame itself, and at most one slice longer, but not longer than it has work.
  The delay by time slices is measured as a quantile for each model.

All peers are processes of one host and share its monotonic clock, so the times of their frames
show which frames ran at the same time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.runtime.coordination.status import Frame, Status

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Levels = tuple[int, ...]

DEMAND, POWER = 0.5, 0.7
"""Expected demand of the slowest level, and the exponent with which it grows with the latency."""

COMMON_SD, COMMON_POWER_SD, MODEL_SD, MODEL_POWER_SD, LEVEL_SD = 0.5, 0.5, 0.2, 0.3, 0.03
"""Standard deviations of the log-demand and of the exponent: common to all models, of one model;
and of the log-demand of one level."""

PACE_SD, PACE_DRIFT, DEMAND_DRIFT = 0.03, 0.05, 0.01
"""Standard deviation of the log-pace at first; changes of log-pace and log-demand in a second."""

SPREAD, MAX_SPREAD, SPREAD_GAIN = 0.03, 0.3, 0.25
"""Standard deviation of a frame's log-latency: initial and minimum value, maximum, weight of a new
frame."""

OUTLIER_SD = 1.5
"""Deviations are clipped to this number of standard deviations."""

TAIL = 1.65
"""Distance of the limited quantile of the latency from its mean, in standard deviations."""

TURN_SD, MAX_TURN_SDS, FIRST_EVIDENCE, MAX_EVIDENCE = 0.1, 3.0, 0.1, 30.0
"""Unit and maximum (in units) of the deviations of log-latencies whose squares are compared to
decide between the ways of sharing; initial and maximum sum of the differences (> 0: in turns)."""

SHARED, KEPT_DELAYS, DELAY_QUANTILE, TRIAL_QUANTILE, TURN_TAIL = 1.3, 32, 0.95, 0.5, 0.03
"""Mean number of running models for a delay by time slices to be measured; number of delays per
model; their quantiles for predictions and for trials; noise of a log-latency."""

KEPT_FRAMES, MAX_FRAMES, NEVER_MS = 64, 1e3, 1e9
"""Maximum numbers of frames stored per model, and of frames of a peer within a limit; frame
interval of a model without frames."""


def members(everyone: Sequence[Status]) -> list[tuple[object, ...]]:
    """Return what identifies the models."""
    return [(s.name, s.accuracies) for s in everyone]


def of_levels(values: Sequence[Sequence[float]], levels: IntArray) -> FloatArray:
    """Return the values of the levels of combinations; values: of each model; (..., models)."""
    columns = [np.array(row)[levels[..., i] - 1] for i, row in enumerate(values)]
    return np.stack(columns, axis=-1)


class Sharing:
    """The estimates for the models of a device, in the order of the statuses."""

    def __init__(self, everyone: Sequence[Status] = (), before: Sharing | None = None) -> None:
        self.members = members(everyone)
        self.frames: list[deque[Frame]] = [deque(maxlen=KEPT_FRAMES) for _ in everyone]
        self._spread = np.full(len(everyone), SPREAD)
        size = np.concatenate(
            [np.log(s.latencies_ms) - math.log(max(s.latencies_ms)) for s in everyone]
            or [np.zeros(0)]
        )
        counts = [len(s.latencies_ms) for s in everyone]
        self._first = np.cumsum([0, *counts])
        model = np.repeat(np.arange(len(everyone)), counts)
        steep = np.outer(size, size)
        prior = COMMON_SD**2 + COMMON_POWER_SD**2 * steep + LEVEL_SD**2 * np.eye(len(size))
        prior += (model[:, None] == model) * (MODEL_SD**2 + MODEL_POWER_SD**2 * steep)
        count = len(size)
        self._state = np.append(math.log(DEMAND) + POWER * size, 0.0)  # the last one is the pace
        self._covariance = np.zeros((count + 1, count + 1))
        self._covariance[:count, :count] = prior
        self._covariance[count, count] = PACE_SD**2
        self._known_ns = 0
        self._evidence: float = FIRST_EVIDENCE if before is None else before._evidence
        self._delays_ms = [deque([0.0], maxlen=KEPT_DELAYS) for _ in everyone]
        if before is not None:
            self._inherit(before)

    def _inherit(self, before: Sharing) -> None:
        """Take over the demands of the models that were there before.

        Pace and spread are not taken over: they may be due to a model that has left.
        """
        ours: list[int] = []
        theirs: list[int] = []
        for i, member in enumerate(self.members):
            if member in before.members:
                j = before.members.index(member)
                self.frames[i] = before.frames[j]
                self._delays_ms[i] = before._delays_ms[j]
                ours += range(self._first[i], self._first[i + 1])
                theirs += range(before._first[j], before._first[j + 1])
        prior = self._covariance
        inner = prior[np.ix_(ours, ours)]
        gain = np.linalg.solve(inner, prior[ours]).T
        known = before._covariance[np.ix_(theirs, theirs)]
        self._state = self._state + gain @ (before._state[theirs] - self._state[ours])
        self._covariance = prior - gain @ (inner - known) @ gain.T
        self._known_ns = before._known_ns

    def take(self, everyone: Sequence[Status]) -> None:
        """Learn from the new frames in the statuses of all models."""
        for frames, s in zip(self.frames, everyone, strict=True):
            last_ns = frames[-1].end_ns if frames else 0
            frames.extend(frame for frame in s.frames if frame.end_ns > last_ns)
        # A frame is used when all frames that ran at the same time are known.
        longest_ms = max((f.latency_ms for frames in self.frames for f in frames), default=0.0)
        until_ns = min(s.time_ns for s in everyone) - round(1e6 * longest_ms)
        if not self._known_ns:  # other models may have run before
            self._known_ns = until_ns
        if until_ns <= self._known_ns:
            return
        passed_s = (until_ns - self._known_ns) / 1e9
        drift = np.full(len(self._state), DEMAND_DRIFT**2 * passed_s)
        drift[-1] = PACE_DRIFT**2 * passed_s
        self._covariance += np.diag(drift)
        due = [
            (frame, i)
            for i, frames in enumerate(self.frames)
            for frame in frames
            if self._known_ns < frame.end_ns <= until_ns
        ]
        self._known_ns = until_ns
        for frame, i in sorted(due):
            self._learn(everyone, i, frame)

    def _learn(self, everyone: Sequence[Status], model: int, frame: Frame) -> None:
        """Update the estimates with a frame, divided at the times when frames start or end."""
        beside = [(model, frame)]
        for j, frames in enumerate(self.frames):
            for other in reversed(frames):
                if other.end_ns <= frame.start_ns:
                    break
                if j != model and other.start_ns < frame.end_ns:
                    beside.append((j, other))
        times_ns = np.array([t for _, f in beside for t in (f.start_ns, f.end_ns)])
        cuts = np.unique(np.clip(times_ns, frame.start_ns, frame.end_ns))
        place = np.array([self._first[j] + f.level - 1 for j, f in beside])
        works = np.array([(cuts[:-1] >= f.start_ns) & (cuts[1:] <= f.end_ns) for _, f in beside])
        demand = np.exp(np.minimum(self._state[place], 0.0))[:, None] * works
        total = np.maximum(demand.sum(axis=0), 1.0)
        own_ms = everyone[model].latencies_ms[frame.level - 1]
        done = np.diff(cuts) / 1e6 / own_ms / total
        error = math.log(done.sum()) - self._state[-1]  # > 0: the frame took longer than expected
        count = works.sum(axis=0)
        self._learn_turns(model, own_ms, np.diff(cuts) / 1e6, count, error)
        is_shared = (count > 1) & ((total > 1.0) | (error > 0.0))
        slope = np.zeros(len(self._state))
        slope[-1] = 1.0
        np.add.at(slope, place, (demand * (is_shared * done / done.sum() / total)).sum(axis=1))
        uncertain = self._covariance @ slope
        spread = self._spread[model]
        variance = slope @ uncertain + spread**2
        bound = OUTLIER_SD * math.sqrt(variance)
        error = min(max(error, -bound), bound)
        self._state += uncertain * (error / variance)
        self._covariance -= np.outer(uncertain, uncertain) / variance
        rest = (error * spread**2 / variance) ** 2
        after = math.sqrt((1 - SPREAD_GAIN) * spread**2 + SPREAD_GAIN * rest)
        self._spread[model] = min(max(after, SPREAD), MAX_SPREAD)

    def _learn_turns(
        self, model: int, own_ms: float, parts_ms: FloatArray, count: IntArray, error: float
    ) -> None:
        """Measure the delay by time slices, and compare how well both ways predict a frame.

        parts_ms, count: duration and number of running models of its parts. error: of the demands.
        """
        mean = float((parts_ms * count).sum() / parts_ms.sum())
        if mean <= SHARED:
            return
        fair_ms = float((parts_ms / count).sum())  # time for which the frame should have run
        self._delays_ms[model].append((fair_ms - own_ms) * mean / (mean - 1.0))
        deviations = np.array([error, math.log(fair_ms / own_ms)]) / TURN_SD
        demands, turns = np.minimum(np.abs(deviations), MAX_TURN_SDS) ** 2
        evidence = self._evidence + float(demands - turns)
        self._evidence = min(max(evidence, -MAX_EVIDENCE), MAX_EVIDENCE)

    def excess(
        self, everyone: Sequence[Status], levels: IntArray, optimism: float = 0.0
    ) -> FloatArray:
        """Return the log of the ratio of the latency quantile to the limit, (..., models).

        Predicted for the critical instant of response-time analysis: all cameras deliver an image
        at the same time. levels: (..., models). optimism: standard deviations by which a slowdown
        is assumed to be lower than estimated; in turns, the delay is then the median.
        """
        limit_ms = np.minimum([s.limit_ms for s in everyone], NEVER_MS)
        interval_ms = np.minimum([s.interval_ms for s in everyone], NEVER_MS)
        window_ms = np.minimum(limit_ms, MAX_FRAMES * interval_ms.min())[:, None]
        whole = np.floor(window_ms / interval_ms)
        rest_ms = np.where(interval_ms >= NEVER_MS, 0.0, window_ms - whole * interval_ms)
        table = np.concatenate([s.latencies_ms for s in everyone])
        place = self._first[:-1] + levels - 1
        own_ms = table[place]
        peers_ms = own_ms[..., None, :]
        beside_ms = whole * peers_ms + np.minimum(peers_ms, rest_ms)
        is_self = np.eye(len(everyone), dtype=bool)
        if self._evidence > 0.0:
            share = TRIAL_QUANTILE if optimism else DELAY_QUANTILE
            delay_ms = np.array([max(np.quantile(ms, share), 0.0) for ms in self._delays_ms])
            most_ms = (own_ms + delay_ms)[..., :, None]
            others_ms = np.where(is_self, 0.0, np.minimum(beside_ms, most_ms)).sum(axis=-1)
            turns: FloatArray = np.log((own_ms + others_ms) / limit_ms) + TURN_TAIL
            return turns
        beside = np.minimum(beside_ms / own_ms[..., :, None], 1.0)
        beside = np.where(is_self, 1.0, beside)
        demand = beside * np.exp(np.minimum(self._state[place], 0.0))[..., None, :]
        total = demand.sum(axis=-1)
        slowdown = np.log(total)
        if optimism:
            slope = demand / total[..., None]
            covariance = self._covariance[place[..., :, None], place[..., None, :]]
            variance = np.einsum('...ij,...jk,...ik->...i', slope, covariance, slope)
            slowdown -= optimism * np.sqrt(np.maximum(variance, 0.0))
        slowdown = np.maximum(slowdown, 0.0) + self._state[-1] + TAIL * self._spread
        found: FloatArray = np.log(own_ms / limit_ms) + slowdown
        return found
