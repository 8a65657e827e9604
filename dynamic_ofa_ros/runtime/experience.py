"""Forecast the latency of every level from the frames since the device last changed.

There is no filter and no parametric distribution: the recent frames are the forecast. Each frame
was measured at one level; its latency at another level is estimated from its slowdown, the ratio
to the uncontended latency. When frames differ from the frames before them, the device has changed,
and the older frames are discarded.

This estimate is rough, because a stall by another program's time slice does not scale with the
level. Therefore frames measured at a level itself while the device was contended (`own` frames)
are also stored, and they outweigh the estimate. A second, optimistic estimate (stalls do not scale
at all) shows which levels are worth a trial.

Slowdowns are represented by natural logarithms, so that twice as slow and twice as fast are
equally far from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.constraints import LATENCY_SCOPES
from dynamic_ofa_ros.runtime.rhythm import Rhythm
from dynamic_ofa_ros.runtime.series import WINDOW, Series

HALF_LIFE, HALF_LIFE_SHARE = 6.0, 0.25
"""Half-life of a frame's weight, in frames: the first value, or the second one as a share of all
frames since the last change, whichever is larger."""

PRIOR_FRAMES = 4
"""Number of frames with the profile's noise in a forecast; it decreases with measured frames."""

STEP_CHANCE, STEP_CHANCE_GAIN, CREDIBLE = 0.2, 0.25, 1 / 3
"""Probability that a strong frame is the start of a step: initial value, learning rate, and the
value from which a step is assumed at once."""

CONTENDED_ABOVE = 1.2
"""Slowdown above which the device is contended; an idle machine stays below it."""

OWN_FRAMES, OWN_HALF_LIFE_S, OWN_FEWEST = 32, 30.0, 3
"""Own frames of every level: maximum number, half-life of the weight, and minimum number to
use."""

GUESS_WEIGHT = 10.0
"""Weight of the estimate from other levels, in frames, against own frames of the level."""

LOG_CONTENDED = math.log(CONTENDED_ABOVE)

OUTSIDE_GRAIN_MS, MIN_OUTSIDE_SPREAD = 0.5, 0.1
"""Delays outside inference are compared by log(delay + grain); minimum spread of this value."""

FRAME_GAIN, LONGEST_FRAME_NS = 0.1, 1e9
"""Weight of the newest value in the mean time between frames, and the maximum of a value."""

MAX_FACTOR = 1000.0
"""Slowdowns are clipped to 1/1000 and 1000; more extreme ones are errors, not contention."""

MIN_NOISE, MAX_NOISE, DEFAULT_NOISE = 0.005, 0.5, 0.02
"""Bounds of a level's sd / mean, and its default for a profile without it."""

KNOWN_FOR_NS, FADING_NS, FORGOTTEN = 2_000_000_000, 3_000_000_000, 0.05
"""Without new frames, estimates are valid for the first time; then they decay exponentially with
the second time as time constant, and below the third value they are discarded."""

Floats = npt.NDArray[np.float64]

_GOLDEN = 0.6180339887498949
_LOG, _FACTOR, _EXCESS, _OUTSIDE = 0, 1, 2, 3  # columns of a frame; _OUTSIDE: one per scope
_COLUMNS = _OUTSIDE + len(LATENCY_SCOPES)
# Arrival times of waiting frames as fractions of the camera's period, evenly distributed.
_PHASES: Floats = np.mod(np.arange(1, 2 * WINDOW + 1) * _GOLDEN, 1.0)


class FrameLatencies(NamedTuple):
    """The latencies of one frame in ms.

    node_ms, end_to_end_ms: from arrival, or from the stamp, to the result; NaN if unknown.
    wait_ms: the part of it that the frame waited for the previous one.
    """

    inference_ms: float
    node_ms: float = math.nan
    end_to_end_ms: float = math.nan
    wait_ms: float = 0.0

    def outside_ms(self) -> tuple[float, ...]:
        """Return the time outside inference, without the wait, by scope; 0.0 if unknown."""
        return tuple(
            max(ms - self.inference_ms - self.wait_ms, 0.0) if math.isfinite(ms) else 0.0
            for ms in (math.nan, self.node_ms, self.end_to_end_ms)
        )


class Forecast(NamedTuple):
    """The distribution of the next frame's latency at every level, as a weighted sample.

    latencies_ms: in the requested scope, estimated from the slowdown of each frame, (frames,
    levels). weights: (frames,), with the sum 1.
    outside_ms: time that does not depend on the level, (frames,). frames_seen: number of measured
    frames since the last change.
    optimistic_ms: like latencies_ms, for the last measured frames, if stalls do not scale with the
    level. own_ms, own_weights: latencies of own frames, (levels, n); weight 0 for none. These
    three are None if the device is not contended.
    noises: sd / mean of every level, (levels,). is_due: whether a periodic load is expected and
    included in the latencies.
    """

    log_slowdown: float
    latencies_ms: Floats
    weights: Floats
    outside_ms: Floats
    frames_seen: int
    optimistic_ms: Floats | None
    own_ms: Floats | None
    own_weights: Floats | None
    noises: Floats
    uncontended_ms: Floats
    is_due: bool = False

    @property
    def slowdown(self) -> float:
        """Return the factor on every level's uncontended latency."""
        return math.exp(self.log_slowdown)

    @property
    def is_contended(self) -> bool:
        """Return whether the device is contended."""
        return self.log_slowdown > LOG_CONTENDED

    def late_shares(self, limit_ms: float, margin: float = 0.0) -> Floats:
        """Return the predicted share of late frames, (levels,).

        margin: amount by which the limit is lowered, in standard deviations of the profile.
        """
        limits_ms = limit_ms * np.exp(-margin * self.noises) if margin else limit_ms
        shares: Floats = self.weights @ (self.latencies_ms > limits_ms)
        if self.own_ms is None or self.own_weights is None:
            return shares
        limits_of_own_ms = limits_ms[:, None] if margin else limit_ms  # type: ignore[index]
        late = ((self.own_ms > limits_of_own_ms) * self.own_weights).sum(axis=1)
        counts = self.own_weights.sum(axis=1)
        blended: Floats = (GUESS_WEIGHT * shares + late) / (GUESS_WEIGHT + counts)
        return blended

    def optimistic_late_shares(self, limit_ms: float) -> Floats:
        """Return the share of late frames if stalls do not scale with the level, (levels,)."""
        if self.optimistic_ms is None:
            return np.ones(len(self.noises))
        weights = self.weights[-len(self.optimistic_ms) :]
        shares: Floats = weights @ (self.optimistic_ms > limit_ms) / weights.sum()
        return shares

    def own_frames(self, level: int) -> float:
        """Return the number of own frames of a level, weighted by age."""
        return 0.0 if self.own_weights is None else float(self.own_weights[level - 1].sum())

    def outside_late_share(self, limit_ms: float) -> float:
        """Return the share of frames that would be late if inference took no time."""
        return float(self.weights @ (self.outside_ms > limit_ms))

    def outside_quantile_ms(self, quantile: float) -> float:
        """Return a quantile of the time outside inference."""
        return _weighted_quantile(self.outside_ms, self.weights, quantile)

    def quantile_ms(self, level: int, quantile: float) -> float:
        """Return the predicted quantile of a level's latency."""
        values_ms, weights = self.latencies_ms[:, level - 1], self.weights
        if self.own_ms is not None and self.own_weights is not None:
            values_ms = np.append(values_ms, self.own_ms[level - 1])
            weights = np.append(GUESS_WEIGHT * weights, self.own_weights[level - 1])
        return _weighted_quantile(values_ms, weights, quantile)

    def inference_ms(self, level: int) -> float:
        """Return the expected inference latency of a level, from the median slowdown."""
        return float(self.uncontended_ms[level - 1]) * self.slowdown


class _Suspect(NamedTuple):
    """A frame far slower than usual, and the state before it."""

    frame: tuple[float, ...]
    middle: float
    frames_before: Floats
    is_believed: bool


class Experience:
    """Stores the frames of one platform since it last changed, and forecasts latencies.

    latencies_ms, noises: uncontended median and sd / mean of every level, from level 1.
    """

    def __init__(self, latencies_ms: Sequence[float], noises: Sequence[float]) -> None:
        self._base_ms = np.asarray(latencies_ms, dtype=np.float64)
        self._noises = np.asarray([_noise(noise) for noise in noises], dtype=np.float64)
        self._rows = np.zeros((2 * WINDOW, _COLUMNS))
        self._first = self._end = 0
        self._logs = Series(float(self._noises[0]))  # log-slowdowns
        self._outside_logs = Series(MIN_OUTSIDE_SPREAD)
        self._suspect: _Suspect | None = None
        self._step_chance = STEP_CHANCE
        self._last_ns: int | None = None
        self._frame_ns = 0.0  # mean time between frames
        self._rhythm = Rhythm()
        self._own = np.zeros((len(self._base_ms), OWN_FRAMES, 1 + len(LATENCY_SCOPES)))
        self._own_ns = np.zeros((len(self._base_ms), OWN_FRAMES))
        self._own_count = np.zeros(len(self._base_ms), dtype=np.int64)

    def observe(self, time_ns: int, level: int, latencies: FrameLatencies) -> None:
        """Add a frame that ended at `time_ns`; ignore it if its inference latency is invalid."""
        inference_ms = latencies.inference_ms
        if not 0.0 < inference_ms < math.inf:
            return
        self._fade(self._share_remembered(time_ns))
        if self._last_ns is not None:
            gap_ns = min(float(time_ns - self._last_ns), LONGEST_FRAME_NS)
            gain = FRAME_GAIN if self._frame_ns else 1.0
            self._frame_ns += gain * (gap_ns - self._frame_ns)
        self._last_ns, middle_before = time_ns, self._logs.middle
        base_ms = float(self._base_ms[level - 1])
        factor = min(max(inference_ms / base_ms, 1.0 / MAX_FACTOR), MAX_FACTOR)
        log = math.log(factor)
        frame = (log, factor, inference_ms - base_ms, *latencies.outside_ms())
        if self._suspect is not None:
            self._settle(frame)
        elif self._logs.is_strong(log):
            is_believed = self._step_chance >= CREDIBLE
            self._suspect = _Suspect(frame, middle_before, self._frames.copy(), is_believed)
            if is_believed:
                self._keep(np.empty((0, _COLUMNS)))
        self._add(frame)
        run = self._logs.changed()
        if run:
            self._keep(self._frames[-run:])
        if len(self._logs.values) <= max(run, 1):  # changed in this frame
            self._rhythm.step(time_ns, middle_before, self._logs.middle, self._frame_ns)
        else:
            self._logs.learn_spread(log, float(self._noises[level - 1]))
        self._note_own(time_ns, level, frame)
        self._take_outside(frame[-1])

    def forecast(
        self, time_ns: int, scope: str = 'inference', period_ms: float = math.nan
    ) -> Forecast:
        """Return the forecast for a frame at `time_ns`; that of the profile without frames.

        period_ms: time between two images. If a level takes longer, images wait for up to one
        period, because only the newest image is classified. NaN or infinite: no wait.
        """
        known = self._share_remembered(time_ns)
        frames, column = self._frames, _OUTSIDE + LATENCY_SCOPES.index(scope)
        count, middle = len(frames), self._logs.middle * known
        factors = frames[:, _FACTOR] if known == 1.0 else frames[:, _FACTOR] ** known
        due = self._rhythm.due(time_ns, middle, self._frame_ns)
        if due:
            factors = factors * math.exp(due)
        latencies_ms = np.outer(factors, self._base_ms)
        outside_ms = self._outside_of(frames, column)
        weights = _weights(count)
        prior = max(0, PRIOR_FRAMES - count // 2)
        if prior:
            before_ms = float(np.median(outside_ms)) if count else 0.0
            outside_ms = np.append(np.full(prior, before_ms), outside_ms)
            latencies_ms = np.vstack((self._prior_ms(prior, middle), latencies_ms))
            weights = np.append(np.full(prior, 0.5 ** (count / HALF_LIFE)), weights)
            weights /= weights.sum()
        else:
            weights = weights / weights.sum()
        own_ms = own_weights = optimistic_ms = None
        if middle > LOG_CONTENDED:
            excess_ms = frames[:, _EXCESS] + outside_ms[len(outside_ms) - count :]
            optimistic_ms = np.add.outer(excess_ms, self._base_ms)
            own_ms = self._own[:, :, 0] + self._own[:, :, column - _OUTSIDE + 1]
            own_weights = self._own_weights(time_ns)
        if scope != 'inference':
            latencies_ms += outside_ms[:, None]
            if period_ms < math.inf:  # false for NaN
                latencies_ms = _with_wait(latencies_ms, period_ms, _PHASES[: len(weights), None])
                if optimistic_ms is not None and own_ms is not None:
                    phases = _PHASES[:count, None]
                    optimistic_ms = _with_wait(optimistic_ms, period_ms, phases)
                    own_ms = _with_wait(own_ms, period_ms, _PHASES[:OWN_FRAMES])
        return Forecast(
            middle,
            latencies_ms,
            weights,
            outside_ms,
            count,
            optimistic_ms,
            own_ms,
            own_weights,
            self._noises,
            self._base_ms,
            due > 0.0,
        )

    @property
    def _frames(self) -> Floats:
        return self._rows[self._first : self._end]

    def _prior_ms(self, count: int, log_slowdown: float) -> Floats:
        """Return latencies (count, levels): the median with the noise of an uncontended device.

        Contention adds to the latency and does not scale the noise.
        """
        noise = np.exp(np.outer(_normals(count), self._noises)) - 1.0
        prior_ms: Floats = self._base_ms * (math.exp(log_slowdown) + noise)
        return prior_ms

    def _keep(self, frames: Floats) -> None:
        """Discard all frames except these."""
        frames = frames.copy()
        self._first, self._end = 0, len(frames)
        self._rows[: self._end] = frames
        self._logs.keep(frames[:, _LOG].tolist())

    def _take_outside(self, outside_ms: float) -> None:
        """Add a time outside inference; discard older values if it has changed."""
        log = math.log(outside_ms + OUTSIDE_GRAIN_MS)
        self._outside_logs.add(log)
        run = self._outside_logs.changed()
        if run:
            self._outside_logs.keep(self._outside_logs.values[-run:])
        else:
            self._outside_logs.learn_spread(log, MIN_OUTSIDE_SPREAD)

    def _outside_of(self, frames: Floats, column: int) -> Floats:
        """Return the time outside inference since it last changed, repeated to (frames,)."""
        valid = min(len(self._outside_logs.values), len(frames))
        if valid == len(frames):
            outside_ms: Floats = frames[:, column].copy()
        else:
            newest_first = frames[-valid:, column][::-1]
            outside_ms = np.resize(newest_first, len(frames))[::-1].copy()
        return outside_ms

    def _fade(self, remembered: float) -> None:
        """Reduce the stored slowdowns to their remembered share after a pause."""
        if remembered < FORGOTTEN:
            self._keep(np.empty((0, _COLUMNS)))
            self._suspect = None
        elif remembered < 1.0:
            frames = self._frames.copy()
            frames[:, _LOG] *= remembered
            frames[:, _FACTOR] **= remembered
            frames[:, _EXCESS] *= remembered
            self._keep(frames)

    def _add(self, frame: tuple[float, ...]) -> None:
        if self._end - self._first == WINDOW:
            self._first += 1
        if self._end == len(self._rows):
            kept = self._frames.copy()
            self._first, self._end = 0, len(kept)
            self._rows[: self._end] = kept
        self._rows[self._end] = frame
        self._end += 1
        self._logs.add(frame[_LOG])

    def _settle(self, frame: tuple[float, ...]) -> None:
        """Decide if the strong frame before this one started a step, and correct the state."""
        assert self._suspect is not None
        suspect, self._suspect = self._suspect, None
        log = frame[_LOG]
        is_step = abs(log - suspect.frame[_LOG]) < abs(log - suspect.middle)
        self._step_chance += STEP_CHANCE_GAIN * (is_step - self._step_chance)
        if is_step and not suspect.is_believed:
            self._keep(np.array([suspect.frame]))
        elif suspect.is_believed and not is_step:
            self._keep(np.vstack((suspect.frames_before, suspect.frame))[-WINDOW:])

    def _note_own(self, time_ns: int, level: int, frame: tuple[float, ...]) -> None:
        """Store a frame as an own frame of its level if the device is contended."""
        if self._logs.middle <= LOG_CONTENDED:
            return
        row, place = level - 1, self._own_count[level - 1] % OWN_FRAMES
        self._own[row, place] = (frame[_EXCESS] + self._base_ms[row], *frame[_OUTSIDE:])
        self._own_ns[row, place] = time_ns
        self._own_count[row] += 1

    def _own_weights(self, time_ns: int) -> Floats:
        ages_s = (time_ns - self._own_ns) / 1e9
        weights: Floats = 0.5 ** np.clip(ages_s / OWN_HALF_LIFE_S, 0.0, 60.0)
        is_there = np.arange(OWN_FRAMES) < self._own_count[:, None]
        return weights * (is_there & (self._own_count[:, None] >= OWN_FEWEST))

    def _share_remembered(self, time_ns: int) -> float:
        """Return the share of the estimates that is still valid, in [0, 1]."""
        if self._last_ns is None:
            return 1.0
        age_ns = time_ns - self._last_ns - KNOWN_FOR_NS
        return math.exp(-age_ns / FADING_NS) if age_ns > 0 else 1.0


def _with_wait(latencies_ms: Floats, period_ms: float, phases: Floats) -> Floats:
    """Add the waiting time of images that arrive during a latency longer than the period."""
    if latencies_ms.size == 0 or latencies_ms.max() <= period_ms:
        return latencies_ms
    return latencies_ms + (latencies_ms > period_ms) * (period_ms * phases)


def _weighted_quantile(values: Floats, weights: Floats, quantile: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    place = min(int(np.searchsorted(reached, quantile * reached[-1])), len(order) - 1)
    return float(values[order[place]])


@lru_cache(maxsize=WINDOW + 1)
def _weights(count: int) -> Floats:
    """Return the weights of `count` frames, ascending."""
    half_life = max(HALF_LIFE, HALF_LIFE_SHARE * count)
    weights: Floats = 0.5 ** (np.arange(count, 0, -1, dtype=np.float64) / half_life)
    return weights


@lru_cache(maxsize=PRIOR_FRAMES + 1)
def _normals(count: int) -> tuple[float, ...]:
    """Return the medians of `count` equally likely parts of the standard normal distribution."""
    return tuple(NormalDist().inv_cdf((i + 0.5) / count) for i in range(count))


def _noise(noise: float) -> float:
    if not math.isfinite(noise) or noise <= 0.0:
        return DEFAULT_NOISE
    return min(max(noise, MIN_NOISE), MAX_NOISE)
