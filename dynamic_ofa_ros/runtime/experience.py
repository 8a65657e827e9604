"""What the frames since the device last changed say about every level's next frame.

No filter and no fitted distribution: the recent frames are the forecast. Each was measured at one
level; what it would have taken at another follows from its slowdown, the factor on the level's
uncontended latency. When frames stop looking like those before them the device has changed, and
those before are forgotten.

That factor is only a first guess: a stall of a time slice does not scale with the level. So what
was seen at a level itself while the device was contended is kept beside it (`own` frames) and
outweighs the guess; and a second, optimistic guess (stalls do not scale at all) says which levels
are worth a try.

Natural logarithms of slowdowns throughout: twice as slow and twice as fast are equally far.
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
"""After so many further frames a frame counts half: at least so many, or this share of all
frames since the last change. A device that stays the same deserves a longer memory."""

PRIOR_FRAMES = 4
"""Frames that the profile's noise stands for in a forecast, fewer the more were seen."""

STEP_CHANCE, STEP_CHANCE_GAIN, CREDIBLE = 0.2, 0.25, 1 / 3
"""Chance that a strong frame begins a step: at first, how fast it is learnt, and when believed."""

CONTENDED_ABOVE = 1.2
"""Slowdown from which on the device is called contended: above what a quiet machine shows."""

OWN_FRAMES, OWN_HALF_LIFE_S, OWN_FEWEST = 32, 30.0, 3
"""Contended frames kept of every level, when they count half, and how many say something."""

GUESS_WEIGHT = 10.0
"""What the guess from other levels weighs, in frames, against frames of the level itself."""

LOG_CONTENDED = math.log(CONTENDED_ABOVE)

OUTSIDE_GRAIN_MS, MIN_OUTSIDE_SPREAD = 0.5, 0.1
"""Delays outside inference are compared by the logarithm of themselves plus so much."""

FRAME_GAIN, LONGEST_FRAME_NS = 0.1, 1e9
"""Weight of the newest in the mean time between frames, and what is taken for a pause."""

MAX_FACTOR = 1000.0
"""Slowdowns are taken as within 1/1000 and 1000: beyond that lies no contention but a fault."""

MIN_NOISE, MAX_NOISE, DEFAULT_NOISE = 0.005, 0.5, 0.02
"""Bounds of a level's sd / mean, and what a profile that does not know it is taken to have."""

KNOWN_FOR_NS, FADING_NS, FORGOTTEN = 2_000_000_000, 3_000_000_000, 0.05
"""Without frames what is known stands for the first time; then it fades with the second as time
constant, until so little is left that nothing is."""

Floats = npt.NDArray[np.float64]

_GOLDEN = 0.6180339887498949
_LOG, _FACTOR, _EXCESS, _OUTSIDE = 0, 1, 2, 3  # columns of a frame; _OUTSIDE: one per scope
_COLUMNS = _OUTSIDE + len(LATENCY_SCOPES)
# Where in the camera's period a frame arrives that has to wait: evenly spread over it.
_PHASES: Floats = np.mod(np.arange(1, 2 * WINDOW + 1) * _GOLDEN, 1.0)


class Seen(NamedTuple):
    """One frame's latencies in ms.

    node_ms, end_to_end_ms: from arrival, or from the stamp, to the answer; NaN when unknown.
    wait_ms: what of that it waited for the frame before it; it depends on that frame's level.
    """

    inference_ms: float
    node_ms: float = math.nan
    end_to_end_ms: float = math.nan
    wait_ms: float = 0.0

    def outside_ms(self) -> tuple[float, ...]:
        """Return by scope what passed outside inference, without the wait; 0.0 where unknown."""
        return tuple(
            max(ms - self.inference_ms - self.wait_ms, 0.0) if math.isfinite(ms) else 0.0
            for ms in (math.nan, self.node_ms, self.end_to_end_ms)
        )


class Forecast(NamedTuple):
    """The next frame's latency at every level, in the scope asked for, as a weighted sample.

    latencies_ms: (frames, levels), from the slowdown of each frame; weights: (frames,), sum 1.
    outside_ms: (frames,) what no level can change. frames_seen: how many
    real frames stand behind it, since the last change.
    Of a contended device only, else None: optimistic_ms, (frames, levels), of the last frames, if
    what stalled them does not scale with the level; own_ms, own_weights, (levels, n), what the
    levels themselves took while contended, weight 0 where nothing is known.
    noises: (levels,) sd / mean. is_due: whether a load that comes regularly is expected; the
    latencies then include it.
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
        """Tell whether something else slows the device down."""
        return self.log_slowdown > LOG_CONTENDED

    def late_shares(self, limit_ms: float, margin: float = 0.0) -> Floats:
        """Return (levels,) the share of frames that would exceed the limit.

        margin: how far below the limit they must stay, in standard deviations of the profile.
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
        """Return (levels,) the share of late frames if stalls do not scale with the level."""
        if self.optimistic_ms is None:
            return np.ones(len(self.noises))
        weights = self.weights[-len(self.optimistic_ms) :]
        shares: Floats = weights @ (self.optimistic_ms > limit_ms) / weights.sum()
        return shares

    def own_frames(self, level: int) -> float:
        """Return how many contended frames of the level itself are known, the old ones less."""
        return 0.0 if self.own_weights is None else float(self.own_weights[level - 1].sum())

    def outside_late_share(self, limit_ms: float) -> float:
        """Return the share of frames that would be late if inference took no time at all."""
        return float(self.weights @ (self.outside_ms > limit_ms))

    def outside_quantile_ms(self, quantile: float) -> float:
        """Return what passes outside inference in this share of frames, at most."""
        return _weighted_quantile(self.outside_ms, self.weights, quantile)

    def quantile_ms(self, level: int, quantile: float) -> float:
        """Return the latency that this share of frames is predicted to stay below."""
        values_ms, weights = self.latencies_ms[:, level - 1], self.weights
        if self.own_ms is not None and self.own_weights is not None:
            values_ms = np.append(values_ms, self.own_ms[level - 1])
            weights = np.append(GUESS_WEIGHT * weights, self.own_weights[level - 1])
        return _weighted_quantile(values_ms, weights, quantile)

    def inference_ms(self, level: int) -> float:
        """Return what inference is expected to take (the middle of what was seen)."""
        return float(self.uncontended_ms[level - 1]) * self.slowdown


class _Suspect(NamedTuple):
    """A frame far slower than what is common, and what was known before it."""

    frame: tuple[float, ...]
    middle: float
    frames_before: Floats
    is_believed: bool


class Experience:
    """The frames of one platform since it last changed.

    latencies_ms, noises: uncontended median and sd / mean of every level, level 1 first.
    """

    def __init__(self, latencies_ms: Sequence[float], noises: Sequence[float]) -> None:
        self._base_ms = np.asarray(latencies_ms, dtype=np.float64)
        self._noises = np.asarray([_noise(noise) for noise in noises], dtype=np.float64)
        self._rows = np.zeros((2 * WINDOW, _COLUMNS))
        self._first = self._end = 0
        self._logs = Series(float(self._noises[0]))  # of the slowdown
        self._outside_logs = Series(MIN_OUTSIDE_SPREAD)
        self._suspect: _Suspect | None = None
        self._step_chance = STEP_CHANCE
        self._last_ns: int | None = None
        self._frame_ns = 0.0  # mean time between frames
        self._rhythm = Rhythm()
        self._own = np.zeros((len(self._base_ms), OWN_FRAMES, 1 + len(LATENCY_SCOPES)))
        self._own_ns = np.zeros((len(self._base_ms), OWN_FRAMES))
        self._own_count = np.zeros(len(self._base_ms), dtype=np.int64)

    def observe(self, time_ns: int, level: int, seen: Seen) -> None:
        """Take one frame that ended at a time; a latency that is no number says nothing."""
        inference_ms = seen.inference_ms
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
        frame = (log, factor, inference_ms - base_ms, *seen.outside_ms())
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
        if len(self._logs.values) <= max(run, 1):  # only just changed
            self._rhythm.step(time_ns, middle_before, self._logs.middle, self._frame_ns)
        else:
            self._logs.learn_spread(log, float(self._noises[level - 1]))
        self._note_own(time_ns, level, frame)
        self._take_outside(frame[-1])

    def forecast(
        self, time_ns: int, scope: str = 'inference', period_ms: float = math.nan
    ) -> Forecast:
        """Return what to expect of a frame at this time; the profile where nothing is known.

        period_ms: time between two images. A level that is slower makes images wait for it, up to
        a whole period: only the newest is classified. NaN or infinite when there is no such wait.
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
        """Return (count, levels) latencies: the middle one with the noise of a device alone.

        Contention adds to a frame's time; it does not multiply its noise.
        """
        noise = np.exp(np.outer(_normals(count), self._noises)) - 1.0
        prior_ms: Floats = self._base_ms * (math.exp(log_slowdown) + noise)
        return prior_ms

    def _keep(self, frames: Floats) -> None:
        """Forget all but these frames."""
        frames = frames.copy()
        self._first, self._end = 0, len(frames)
        self._rows[: self._end] = frames
        self._logs.keep(frames[:, _LOG].tolist())

    def _take_outside(self, outside_ms: float) -> None:
        """See whether what passes outside inference has changed; then only its last count."""
        log = math.log(outside_ms + OUTSIDE_GRAIN_MS)
        self._outside_logs.add(log)
        run = self._outside_logs.changed()
        if run:
            self._outside_logs.keep(self._outside_logs.values[-run:])
        else:
            self._outside_logs.learn_spread(log, MIN_OUTSIDE_SPREAD)

    def _outside_of(self, frames: Floats, column: int) -> Floats:
        """Return (frames,) what passed outside inference, as it is since it last changed."""
        valid = min(len(self._outside_logs.values), len(frames))
        if valid == len(frames):
            outside_ms: Floats = frames[:, column].copy()
        else:
            newest_first = frames[-valid:, column][::-1]
            outside_ms = np.resize(newest_first, len(frames))[::-1].copy()
        return outside_ms

    def _fade(self, remembered: float) -> None:
        """Let what is known from before a pause count no more than it still did at its end."""
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
        """See whether the strong frame before this one began a step, and undo what was wrong."""
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
        """Keep a contended frame for its level."""
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
        """Return how much of what is known still stands, from 1 down to 0."""
        if self._last_ns is None:
            return 1.0
        age_ns = time_ns - self._last_ns - KNOWN_FOR_NS
        return math.exp(-age_ns / FADING_NS) if age_ns > 0 else 1.0


def _with_wait(latencies_ms: Floats, period_ms: float, phases: Floats) -> Floats:
    """Return latencies with the wait of images that come while a slower level still works."""
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
    """Return what so many frames count, the last one most."""
    half_life = max(HALF_LIFE, HALF_LIFE_SHARE * count)
    weights: Floats = 0.5 ** (np.arange(count, 0, -1, dtype=np.float64) / half_life)
    return weights


@lru_cache(maxsize=PRIOR_FRAMES + 1)
def _normals(count: int) -> tuple[float, ...]:
    """Return the middles of `count` equally likely parts of the standard normal distribution."""
    return tuple(NormalDist().inv_cdf((i + 0.5) / count) for i in range(count))


def _noise(noise: float) -> float:
    if not math.isfinite(noise) or noise <= 0.0:
        return DEFAULT_NOISE
    return min(max(noise, MIN_NOISE), MAX_NOISE)
