"""Estimate the slowdown: how much slower the device is now than when it was alone.

One number is shared by all levels (ALERT, USENIX ATC'20): other work on a device slows every level
by about the same factor, so a sample at one level says what another level would take. The filter
works on logarithms: a factor of two up and a factor of two down are the same distance.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple, Protocol

from dynamic_ofa_ros.runtime.rhythm import Rhythm

CONTENDED_ABOVE = 1.2
"""Slowdown from which on the device is called contended: above what a quiet machine shows."""

WINDOW = 128
"""Frames whose prediction errors are kept: what the tail of the latencies is judged by."""

MAX_LOG_RATIO = math.log(1000.0)
"""Ratios are taken as within 1/1000 and 1000: beyond that lies no contention but a fault."""

MIN_NOISE, MAX_NOISE, DEFAULT_NOISE = 0.005, 0.5, 0.02
"""Bounds of a level's sd / mean, and what a profile that does not know it is taken to have."""

MIN_DRIFT = 0.004
"""Smallest random walk of the log-slowdown per frame (standard deviation): a quiet device's."""

DRIFT_MEMORY = 0.9
"""Share of the old process noise that survives a frame (ALERT's alpha)."""

NOISE_GAIN = 1 / 64
"""Weight of the newest frame in the measured noise."""

NOISE_SCALES = (1 / 16, 400.0)
"""Bounds of measured noise variance / the profile's."""

GATE_SD = 2.5
"""Prediction errors beyond this many standard deviations are an outlier or the start of a step."""

CHANCE = 0.002
"""So many samples far off in a row are a step that outliers, as frequent as they have been of
late, would make a row of with a smaller probability than this; two at least."""

STRONG = 1.5
"""Errors beyond this many gates are no accident; they may be the first of a step."""

STEP_CHANCE, STEP_CHANCE_GAIN, CREDIBLE = 0.2, 0.25, 1 / 3
"""Chance that a strong error begins a step: at first, how fast it is learnt, and when believed.
A late frame costs about three times what a lower level does until the hold lets it up again."""

COMMON = WINDOW // 10
"""Errors that more than so many of the recent frames reach are noise, not outliers."""

COMMON_MARGIN = 1.25
"""Errors this much larger than the common ones are still taken for one of them."""

SETTLING_FRAMES = 8
"""Frames after a change of level that tell how the levels differ; later ones only the device."""

OFFSET_SD = 0.01
"""How much a level's own factor may be off, as the filter sees it (log domain)."""

MAX_OFFSET = 0.25
"""Bound of a level's own factor (log domain)."""

FRAME_GAIN = 0.1
"""Weight of the newest interval in the mean time between frames."""

KNOWN_FOR_NS = 2_000_000_000
"""Without samples the estimate stands for this long; then it fades."""

FADING_NS = 3_000_000_000
"""Time constant of the fading towards `unknown`: slowdown 1."""

FORGOTTEN = 0.05
"""Of an estimate that has faded to this share nothing is kept."""

UNKNOWN_SD = 0.05
"""Standard deviation of the log-slowdown when nothing is known."""


class Forecast(NamedTuple):
    """What the next frames will show, as the estimator sees it; natural logarithms throughout.

    Valid until the estimator takes its next sample.

    log_slowdown, variance: of the slowdown. By level, position 0 is level 1: noises, the variance
    of a frame's latency around it by the profile, and offsets, what the level deviates from the
    common slowdown. errors: the recent prediction errors, ascending. noise_scale: measured noise
    over the profile's. due: what a load that comes regularly adds to the log-slowdown, if it is to
    come in the next frame.
    """

    log_slowdown: float
    variance: float
    noises: Sequence[float]
    offsets: Sequence[float]
    errors: Sequence[float]
    noise_scale: float = 1.0
    due: float = 0.0

    @property
    def slowdown(self) -> float:
        """Return the factor on every level's uncontended latency."""
        return math.exp(self.log_slowdown)

    @property
    def sd(self) -> float:
        """Return the standard deviation of the log-slowdown: about its relative error."""
        return math.sqrt(self.variance)

    def spread(self, level: int) -> float:
        """Return the standard deviation of a frame's log-latency around its prediction."""
        return math.sqrt(self.variance + self.noise_scale * self.noises[level - 1])

    def log_factor(self, level: int, quantile: float) -> float:
        """Return the log-factor on a level's latency that this share of frames stays below."""
        return self.log_factors(quantile)[level - 1]

    def margin(self, level: int, quantile: float) -> float:
        """Return what the quantile adds to the slowdown: a factor of at least 1."""
        return math.exp(max(0.0, self._log_margin(level, quantile)))

    def log_factors(self, quantile: float) -> list[float]:
        """Return the log-factors that this share of frames stays below; position 0 is level 1.

        The larger of what the filter expects (a Gaussian) and what was seen lately: contention by
        time slices has two modes, whose upper one a Gaussian underestimates.
        """
        log_slowdown, variance, noises, offsets, _, scale, due = self
        expected = log_slowdown + due
        z, seen, sqrt = normal_quantile(quantile), self._seen(quantile), math.sqrt
        return [
            expected
            + offset
            + (margin if (margin := z * sqrt(variance + scale * noise)) > seen else seen)
            for noise, offset in zip(noises, offsets, strict=True)
        ]

    def _log_margin(self, level: int, quantile: float) -> float:
        return max(normal_quantile(quantile) * self.spread(level), self._seen(quantile))

    def _seen(self, quantile: float) -> float:
        """Return the quantile of the recent errors: at most 1 - quantile of them are above it."""
        allowed = int((1.0 - quantile) * len(self.errors) + 1e-9)
        return self.errors[-1 - allowed] if self.errors else 0.0

    def late_shares(self, log_headrooms: Sequence[float]) -> list[float]:
        """Return the share of recent frames that would have been late; position 0 is level 1.

        log_headrooms: by level, the logarithm of limit / uncontended latency.
        """
        errors, expected, count = self.errors, self.log_slowdown + self.due, len(self.errors)
        return [
            1.0 - bisect_left(errors, headroom - expected - offset) / count if count else 0.0
            for headroom, offset in zip(log_headrooms, self.offsets, strict=True)
        ]


@dataclass(frozen=True)
class _Suspicion:
    """A sample far off, and what was known before it."""

    sample: float
    error: float
    is_strong: bool
    log_slowdown: float
    variance: float
    time_ns: int
    in_a_row: int = 1


class SlowdownEstimator(Protocol):
    """What the manager needs of an estimator; it is fed with ratios, never with latencies."""

    def observe(self, ratio: float, level: int, time_ns: int) -> None:
        """Take one measured latency / uncontended latency of the level it was measured at."""

    def forecast(self, time_ns: int) -> Forecast:
        """Return what to expect at this time; slowdown 1 as long as nothing is known."""


class SlowdownFilter:
    """A scalar Kalman filter of the log-slowdown: a random walk, seen through noise.

    The process noise follows the innovations, as in ALERT (USENIX ATC'20), but of logarithms. The
    measurement noise is the profile's (sd / mean)^2 of the level, scaled by what is measured:
    white noise makes neighbouring differences of samples correlate negatively, by its variance.

    One sample far off is an outlier and is left out; a second one in the same direction makes a
    step: the filter starts again from the two. What happens often is neither: it is noise. Where
    samples far above turned out to begin a step before, the next one is believed at once, until
    the sample after it says otherwise.

    noises: sd / mean of each level's uncontended latency, level 1 first.
    """

    def __init__(self, noises: Sequence[float]) -> None:
        self._profiled = [_variance(noise) for noise in noises]
        self._offsets = [0.0] * len(self._profiled)
        self._noise_scale = 1.0
        self._step_chance = STEP_CHANCE
        self._level = 0
        self._frames_at_level = 0
        self._last_ns: int | None = None
        self._log_slowdown = 0.0
        self._variance = UNKNOWN_SD**2
        self._drift = MIN_DRIFT**2
        self._suspicion: _Suspicion | None = None
        self._last_sample = self._last_difference = math.nan
        self._recent = deque([0.0] * WINDOW)
        self._errors = [0.0] * WINDOW  # the same, ascending
        self._rhythm = Rhythm()
        self._frame_ns = 0.0

    def observe(self, ratio: float, level: int, time_ns: int) -> None:
        """Take one ratio; what is not positive and finite is no measurement and is ignored."""
        if not (math.isfinite(ratio) and ratio > 0.0):
            return
        self._fade(time_ns)
        if self._last_ns is not None and time_ns - self._last_ns < KNOWN_FOR_NS:
            self._frame_ns += FRAME_GAIN * (time_ns - self._last_ns - self._frame_ns)
        self._last_ns = time_ns
        self._frames_at_level += 1
        if level != self._level:
            self._frames_at_level = 0 if self._level else SETTLING_FRAMES
            self._level = level
        raw = min(max(math.log(ratio), -MAX_LOG_RATIO), MAX_LOG_RATIO)
        sample = raw - self._offsets[level - 1]
        noise = self._profiled[level - 1] * self._noise_scale
        suspicion, self._suspicion = self._suspicion, None
        if suspicion is not None:
            self._settle(suspicion, sample)
        error = sample - self._log_slowdown
        gate = self._gate(error, noise)
        self._remember(error)
        if abs(error) <= gate:
            self._follow(error, noise, level)
            self._learn_noise(sample, level)
        elif suspicion is None or suspicion.error * error < 0.0:
            self._suspect(sample, error, gate, noise, time_ns)
        elif suspicion.in_a_row + 1 >= self._enough_in_a_row(error, gate, suspicion.in_a_row + 1):
            self._step_to(suspicion, sample, noise)
        else:
            self._suspicion = replace(
                suspicion, sample=sample, in_a_row=suspicion.in_a_row + 1, is_strong=False
            )

    def forecast(self, time_ns: int) -> Forecast:
        """Return what to expect of a frame at this time."""
        weight = self._remembered(time_ns)
        due = self._rhythm.due(time_ns, self._log_slowdown, self._frame_ns) if weight == 1.0 else 0
        variance = (self._variance + self._drift) * weight**2 + UNKNOWN_SD**2 * (1.0 - weight**2)
        return Forecast(
            self._log_slowdown * weight,
            variance,
            self._profiled,
            self._offsets,
            self._errors,
            self._noise_scale,
            due,
        )

    def _remembered(self, time_ns: int) -> float:
        """Return how much of the estimate still stands, from 1 down to 0."""
        if self._last_ns is None:
            return 1.0
        age_ns = time_ns - self._last_ns - KNOWN_FOR_NS
        return math.exp(-age_ns / FADING_NS) if age_ns > 0 else 1.0

    def _fade(self, time_ns: int) -> None:
        weight = self._remembered(time_ns)
        if weight >= 1.0:
            return
        if weight < FORGOTTEN:
            self._start_again()
            return
        self._log_slowdown *= weight
        self._variance = self._variance * weight**2 + UNKNOWN_SD**2 * (1.0 - weight**2)
        self._break_off()

    def _start_again(self) -> None:
        """Know nothing of the device; what was learnt of its noise and its levels stays."""
        self._log_slowdown = 0.0
        self._variance = UNKNOWN_SD**2
        self._drift = MIN_DRIFT**2
        self._break_off()
        self._rhythm = Rhythm()
        self._recent = deque([0.0] * WINDOW)
        self._errors = [0.0] * WINDOW

    def _break_off(self) -> None:
        """Compare the next sample with none before it."""
        self._suspicion = None
        self._last_sample = self._last_difference = math.nan

    def _gate(self, error: float, noise: float) -> float:
        """Return how large an error may be and still be noise."""
        expected = GATE_SD * math.sqrt(self._variance + self._drift + noise)
        seen = self._errors[-1 - COMMON] if error > 0.0 else -self._errors[COMMON]
        return max(expected, COMMON_MARGIN * seen)

    def _enough_in_a_row(self, error: float, gate: float, in_a_row: int) -> int:
        """Return how many samples far off in a row are more than chance makes of single ones."""
        errors = self._errors
        far = WINDOW - bisect_left(errors, gate) if error > 0.0 else bisect_left(errors, -gate)
        share = max(far - in_a_row, 1) / WINDOW
        return max(2, math.ceil(math.log(CHANCE) / math.log(min(share, 0.5))))

    def _remember(self, error: float) -> None:
        oldest = self._recent.popleft()
        del self._errors[bisect_left(self._errors, oldest)]
        self._recent.append(error)
        insort(self._errors, error)

    def _follow(self, error: float, noise: float, level: int) -> None:
        prior = self._variance + self._drift
        most = GATE_SD * math.sqrt(prior + noise)
        error = min(max(error, -most), most)  # what is common and yet far pulls, but no harder
        gain = prior / (prior + noise)
        self._log_slowdown += gain * error
        self._variance = (1.0 - gain) * prior
        self._drift = max(
            MIN_DRIFT**2, DRIFT_MEMORY * self._drift + (1.0 - DRIFT_MEMORY) * (gain * error) ** 2
        )
        if self._frames_at_level < SETTLING_FRAMES:
            self._learn_offset(error, prior + noise, level)

    def _suspect(
        self, sample: float, error: float, gate: float, noise: float, time_ns: int
    ) -> None:
        """Leave out a sample far off; believe it where slow ones used to be the first of many."""
        is_strong = error > STRONG * gate
        self._suspicion = _Suspicion(
            sample, error, is_strong, self._log_slowdown, self._variance, time_ns
        )
        self._last_sample = self._last_difference = math.nan
        if is_strong and self._step_chance >= CREDIBLE:
            self._log_slowdown, self._variance = sample, noise

    def _settle(self, suspicion: _Suspicion, sample: float) -> None:
        """See from the next sample whether the one far off began a step; if not, forget it."""
        is_step = abs(sample - suspicion.sample) < abs(sample - suspicion.log_slowdown)
        if suspicion.is_strong:
            self._step_chance += STEP_CHANCE_GAIN * (is_step - self._step_chance)
        if not is_step:
            self._log_slowdown, self._variance = suspicion.log_slowdown, suspicion.variance
        elif self._log_slowdown != suspicion.log_slowdown:  # it was believed at once
            self._rhythm.step(
                suspicion.time_ns, suspicion.log_slowdown, self._log_slowdown, self._frame_ns
            )

    def _step_to(self, suspicion: _Suspicion, second: float, noise: float) -> None:
        """Start again from two samples that agree on a step: the gain is open."""
        first, before = suspicion.sample, self._log_slowdown
        self._log_slowdown = 0.5 * (first + second)
        self._variance = 0.5 * noise + 0.25 * (second - first) ** 2
        self._rhythm.step(suspicion.time_ns, before, self._log_slowdown, self._frame_ns)
        self._break_off()

    def _learn_noise(self, sample: float, level: int) -> None:
        difference = sample - self._last_sample
        product = -difference * self._last_difference
        self._last_sample, self._last_difference = sample, difference
        if math.isnan(product):
            return
        scale = self._noise_scale + NOISE_GAIN * (
            product / self._profiled[level - 1] - self._noise_scale
        )
        self._noise_scale = min(max(scale, NOISE_SCALES[0]), NOISE_SCALES[1])

    def _learn_offset(self, error: float, variance: float, level: int) -> None:
        """Lay a little of the error to the level; the offsets sum to zero, so none can drift."""
        offsets = self._offsets
        if len(offsets) < 2:
            return
        change = error * OFFSET_SD**2 / (variance + OFFSET_SD**2)
        share = change / len(offsets)
        for position in range(len(offsets)):
            offsets[position] -= share
        offsets[level - 1] += change
        largest = max(map(abs, offsets))
        if largest > MAX_OFFSET:
            for position in range(len(offsets)):
                offsets[position] *= MAX_OFFSET / largest


def ratio_of(latency_ms: float, uncontended_ms: float) -> float:
    """Return measured over uncontended latency; NaN when either says nothing."""
    if not (latency_ms > 0.0 and uncontended_ms > 0.0):
        return math.nan
    return latency_ms / uncontended_ms


@lru_cache(maxsize=64)
def normal_quantile(quantile: float) -> float:
    """Return the standard normal's quantile."""
    return NormalDist().inv_cdf(quantile)


def _variance(noise: float) -> float:
    if not math.isfinite(noise) or noise <= 0.0:
        return DEFAULT_NOISE**2
    return min(max(noise, MIN_NOISE), MAX_NOISE) ** 2
