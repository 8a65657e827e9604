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
from statistics import NormalDist, median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.constraints import LATENCY_SCOPES
from dynamic_ofa_ros.runtime.decisions import Measurement
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

OWN_FRAMES, OWN_HALF_LIFE_NS, OWN_FEWEST = 32, 30e9, 3
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
_ZEROS, _ONES = np.zeros(2 * WINDOW), np.ones(OWN_FRAMES)


class OwnFrames(NamedTuple):
    """Frames measured at each level itself while the device was contended.

    latencies_ms, weights: (levels, OWN_FRAMES); weight 0 for none. counts: sums of the weights,
    (levels,).
    """

    latencies_ms: Floats
    weights: Floats
    counts: Floats


class Forecast(NamedTuple):
    """The distribution of the next frame's latency at every level, as a weighted sample.

    latencies_ms: in the requested scope, estimated from the slowdown of each frame, (levels,
    frames). weights: (frames,), with the sum 1.
    outside_ms: time that does not depend on the level, (frames,).
    uncontended_ms, noises: median and sd / mean of every level without contention, (levels, 1).
    frames_seen: number of measured frames since the last change.
    excess_ms: measured minus uncontended latency of the measured frames, (frames_seen,).
    period_ms: time between two images if images that wait are included, or else infinite.
    own: None if the device is not contended. is_due: whether a periodic load is expected and
    included in the latencies.
    """

    log_slowdown: float
    latencies_ms: Floats
    weights: Floats
    outside_ms: Floats
    uncontended_ms: Floats
    noises: Floats
    frames_seen: int
    excess_ms: Floats
    period_ms: float
    own: OwnFrames | None
    is_due: bool

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
        shares: Floats = (self.latencies_ms > limits_ms).dot(self.weights)
        own = self.own
        if own is None:
            return shares
        late = ((own.latencies_ms > limits_ms) * own.weights).dot(_ONES)
        blended: Floats = (GUESS_WEIGHT * shares + late) / (GUESS_WEIGHT + own.counts)
        return blended

    def optimistic_late_share(self, level: int, limit_ms: float) -> float:
        """Return the share of late frames of a level if stalls do not scale with the level."""
        count = self.frames_seen
        if not self.is_contended:
            return 1.0
        latencies_ms = self.excess_ms + self.outside_ms[-count:] + self.uncontended_ms[level - 1]
        latencies_ms = _with_wait(latencies_ms, self.period_ms)
        weights = self.weights[-count:]
        return float((latencies_ms > limit_ms).dot(weights) / weights.sum())

    def own_frames(self, level: int) -> float:
        """Return the number of own frames of a level, weighted by age."""
        return 0.0 if self.own is None else float(self.own.counts[level - 1])

    def outside_late_share(self, limit_ms: float) -> float:
        """Return the share of frames that would be late if inference took no time."""
        return float((self.outside_ms > limit_ms).dot(self.weights))

    def outside_quantile_ms(self, quantile: float) -> float:
        """Return a quantile of the time outside inference."""
        return _weighted_quantile(self.outside_ms, self.weights, quantile)

    def quantile_ms(self, level: int, quantile: float) -> float:
        """Return the predicted quantile of a level's latency."""
        values_ms, weights = self.latencies_ms[level - 1], self.weights
        if self.own is not None:
            values_ms = np.append(values_ms, self.own.latencies_ms[level - 1])
            weights = np.append(GUESS_WEIGHT * weights, self.own.weights[level - 1])
        return _weighted_quantile(values_ms, weights, quantile)

    def inference_ms(self, level: int) -> float:
        """Return the expected inference latency of a level, from the median slowdown."""
        return float(self.uncontended_ms[level - 1, 0]) * self.slowdown


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
        self._base_ms = np.array([latencies_ms], dtype=np.float64).T
        self._noises = np.array([[_noise(noise)] for noise in noises], dtype=np.float64)
        self._prior_noises = [
            np.exp(self._noises * _normals(count)) - 1.0 for count in range(PRIOR_FRAMES + 1)
        ]
        self._rows = np.empty((_COLUMNS, 2 * WINDOW))  # never changed where it is filled
        self._first = self._end = 0
        self._logs = Series(float(self._noises[0, 0]))  # log-slowdowns
        self._outside_logs = Series(MIN_OUTSIDE_SPREAD)
        self._suspect: _Suspect | None = None
        self._step_chance = STEP_CHANCE
        self._last_ns: int | None = None
        self._frame_ns = 0.0  # mean time between frames
        self._rhythm = Rhythm()
        levels = len(latencies_ms)
        self._own_ms = np.zeros((len(LATENCY_SCOPES), levels, OWN_FRAMES))
        self._own_ns = np.full((levels, OWN_FRAMES), -math.inf)
        self._own_counts = [0] * levels
        self._is_own_used = np.zeros((levels, 1))

    def observe(self, measurement: Measurement) -> None:
        """Add a frame; ignore it if its inference latency is invalid."""
        time_ns, level = measurement.time_ns, measurement.level
        inference_ms = measurement.inference_ms
        if not 0.0 < inference_ms < math.inf:
            return
        self._fade(self._share_remembered(time_ns))
        if self._last_ns is not None:
            gap_ns = min(float(time_ns - self._last_ns), LONGEST_FRAME_NS)
            gain = FRAME_GAIN if self._frame_ns else 1.0
            self._frame_ns += gain * (gap_ns - self._frame_ns)
        self._last_ns, middle_before = time_ns, self._logs.middle
        base_ms = self._base_ms.item(level - 1)
        factor = min(max(inference_ms / base_ms, 1.0 / MAX_FACTOR), MAX_FACTOR)
        log = math.log(factor)
        frame = (log, factor, inference_ms - base_ms, *measurement.outside_ms())
        if self._suspect is not None:
            self._settle(frame)
        elif self._logs.is_strong(log):
            is_believed = self._step_chance >= CREDIBLE
            self._suspect = _Suspect(frame, middle_before, self._frames, is_believed)
            if is_believed:
                self._keep(np.empty((_COLUMNS, 0)))
        self._add(frame)
        run = self._logs.changed()
        if run:
            self._keep(self._frames[:, -run:])
        if len(self._logs.values) <= max(run, 1):  # changed in this frame
            self._rhythm.step(time_ns, middle_before, self._logs.middle, self._frame_ns)
        else:
            self._logs.learn_spread(log, self._noises.item(level - 1))
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
        frames, place = self._frames, LATENCY_SCOPES.index(scope)
        count, middle = frames.shape[1], self._logs.middle * known
        factors = frames[_FACTOR] if known == 1.0 else frames[_FACTOR] ** known
        due = self._rhythm.due(time_ns, middle, self._frame_ns)
        if due:
            factors = factors * math.exp(due)
        latencies_ms = self._base_ms * factors
        prior = max(0, PRIOR_FRAMES - count // 2)
        if prior:
            # Contention adds to the latency and does not scale the noise.
            prior_ms = self._base_ms * (math.exp(middle) + self._prior_noises[prior])
            latencies_ms = np.concatenate((prior_ms, latencies_ms), axis=1)
        own = self._own_frames(time_ns, place) if middle > LOG_CONTENDED else None
        if scope == 'inference':
            outside_ms, period_ms = _ZEROS[: prior + count], math.inf
        else:
            outside_ms = self._outside_of(frames[_OUTSIDE + place], prior)
            latencies_ms = _with_wait(latencies_ms + outside_ms, period_ms)
            if own is not None:
                own = own._replace(latencies_ms=_with_wait(own.latencies_ms, period_ms))
        return Forecast(
            middle,
            latencies_ms,
            _weights(count, prior),
            outside_ms,
            self._base_ms,
            self._noises,
            count,
            frames[_EXCESS],
            period_ms,
            own,
            due > 0.0,
        )

    @property
    def _frames(self) -> Floats:
        return self._rows[:, self._first : self._end]

    def _keep(self, frames: Floats) -> None:
        """Discard all frames except these."""
        self._refill(frames)
        self._logs.keep(frames[_LOG].tolist())

    def _refill(self, frames: Floats) -> None:
        """Begin new rows with these frames; forecasts still refer to the former ones."""
        self._first, self._end = 0, frames.shape[1]
        self._rows = np.empty((_COLUMNS, 2 * WINDOW))
        self._rows[:, : self._end] = frames

    def _take_outside(self, outside_ms: float) -> None:
        """Add a time outside inference; discard older values if it has changed."""
        log = math.log(outside_ms + OUTSIDE_GRAIN_MS)
        self._outside_logs.add(log)
        run = self._outside_logs.changed()
        if run:
            self._outside_logs.keep(self._outside_logs.values[-run:])
        else:
            self._outside_logs.learn_spread(log, MIN_OUTSIDE_SPREAD)

    def _outside_of(self, outside_ms: Floats, prior: int) -> Floats:
        """Return the time outside inference since it last changed, repeated to (frames,).

        prior: number of frames with the median to be put before them.
        """
        valid, count = len(self._outside_logs.values), len(outside_ms)
        if valid < count:
            outside_ms = outside_ms[-1 - np.arange(count)[::-1] % valid]
        if prior:
            before_ms = median(outside_ms.tolist()) if count else 0.0
            outside_ms = np.concatenate((np.full(prior, before_ms), outside_ms))
        return outside_ms

    def _fade(self, remembered: float) -> None:
        """Reduce the stored slowdowns to their remembered share after a pause."""
        if remembered < FORGOTTEN:
            self._keep(np.empty((_COLUMNS, 0)))
            self._suspect = None
        elif remembered < 1.0:
            frames = self._frames.copy()
            frames[_LOG] *= remembered
            frames[_FACTOR] **= remembered
            frames[_EXCESS] *= remembered
            self._keep(frames)

    def _add(self, frame: tuple[float, ...]) -> None:
        if self._end - self._first == WINDOW:
            self._first += 1
        if self._end == 2 * WINDOW:
            self._refill(self._frames)
        self._rows[:, self._end] = frame
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
            self._keep(np.array([suspect.frame]).T)
        elif suspect.is_believed and not is_step:
            frames = np.column_stack((suspect.frames_before, suspect.frame))
            self._keep(frames[:, -WINDOW:])

    def _note_own(self, time_ns: int, level: int, frame: tuple[float, ...]) -> None:
        """Store a frame as an own frame of its level if the device is contended."""
        if self._logs.middle <= LOG_CONTENDED:
            return
        row, count = level - 1, self._own_counts[level - 1]
        own_ms = frame[_EXCESS] + self._base_ms.item(row)
        place = count % OWN_FRAMES
        self._own_ms[:, row, place] = [own_ms + outside_ms for outside_ms in frame[_OUTSIDE:]]
        self._own_ns[row, place] = time_ns
        self._own_counts[row] = count + 1
        self._is_own_used[row] = count + 1 >= OWN_FEWEST

    def _own_frames(self, time_ns: int, place: int) -> OwnFrames:
        """Return the own frames in a scope, given by its place in LATENCY_SCOPES."""
        weights = np.exp2((self._own_ns - time_ns) / OWN_HALF_LIFE_NS) * self._is_own_used
        return OwnFrames(self._own_ms[place].copy(), weights, weights.dot(_ONES))

    def _share_remembered(self, time_ns: int) -> float:
        """Return the share of the estimates that is still valid, in [0, 1]."""
        if self._last_ns is None:
            return 1.0
        age_ns = time_ns - self._last_ns - KNOWN_FOR_NS
        return math.exp(-age_ns / FADING_NS) if age_ns > 0 else 1.0


def _with_wait(latencies_ms: Floats, period_ms: float) -> Floats:
    """Add the waiting time of images that arrive during a latency longer than the period.

    latencies_ms: (..., frames). period_ms: NaN or infinite for no wait.
    """
    is_longer = latencies_ms > period_ms
    if not is_longer.any():
        return latencies_ms
    return latencies_ms + is_longer * (period_ms * _PHASES[: latencies_ms.shape[-1]])


def _weighted_quantile(values: Floats, weights: Floats, quantile: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    place = min(int(np.searchsorted(reached, quantile * reached[-1])), len(order) - 1)
    return float(values[order[place]])


@lru_cache(maxsize=2 * WINDOW)
def _weights(count: int, prior: int) -> Floats:
    """Return the weights of `prior` frames of the profile and `count` measured ones, ascending."""
    half_life = max(HALF_LIFE, HALF_LIFE_SHARE * count)
    ages = np.arange(count, 0, -1, dtype=np.float64)
    weights = np.append(np.full(prior, 0.5 ** (count / HALF_LIFE)), 0.5 ** (ages / half_life))
    weights /= weights.sum()
    return weights


def _normals(count: int) -> tuple[float, ...]:
    """Return the medians of `count` equally likely parts of the standard normal distribution."""
    return tuple(NormalDist().inv_cdf((i + 0.5) / count) for i in range(count))


def _noise(noise: float) -> float:
    if not math.isfinite(noise) or noise <= 0.0:
        return DEFAULT_NOISE
    return min(max(noise, MIN_NOISE), MAX_NOISE)
