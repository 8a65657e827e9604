from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamic_ofa_ros.runtime.slowdown import (
    MAX_LOG_RATIO,
    MAX_OFFSET,
    UNKNOWN_SD,
    SlowdownFilter,
    normal_quantile,
    ratio_of,
)

FRAME_NS = 33_000_000
SECOND_NS = 1_000_000_000
NOISE = 0.02

slowdowns = st.floats(0.5, 20.0)
levels = st.lists(st.integers(1, 4), min_size=20, max_size=60)
anything = st.floats(allow_nan=True, allow_infinity=True)


class Device:
    """A device that slows all levels alike, and an estimator that watches it."""

    def __init__(self, noise: float = NOISE, seed: int = 1, level_count: int = 4) -> None:
        self.filter = SlowdownFilter([NOISE] * level_count)
        self.time_ns = 0
        self._random = random.Random(seed)
        self._noise = noise

    def run(self, slowdown: float, frames: int, level: int = 1) -> float:
        for _ in range(frames):
            self.time_ns += FRAME_NS
            ratio = slowdown * math.exp(self._noise * self._random.gauss(0.0, 1.0))
            self.filter.observe(ratio, level, self.time_ns)
        return self.slowdown

    @property
    def slowdown(self) -> float:
        return self.filter.forecast(self.time_ns).slowdown


def test_alone_until_told_otherwise():
    forecast = SlowdownFilter([NOISE]).forecast(0)
    assert forecast.slowdown == 1.0
    assert forecast.sd == pytest.approx(UNKNOWN_SD, rel=0.01)


def test_one_outlier_is_an_outlier():
    device = Device()
    before = device.run(1.0, 50)
    assert device.run(9.0, 1) == pytest.approx(before)
    assert device.run(1.0, 1) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize('slowdown', [0.5, 1.25, 2.0, 20.0])
def test_two_in_a_row_are_a_step(slowdown):
    device = Device()
    device.run(1.0, 50)
    assert device.run(slowdown, 2) == pytest.approx(slowdown, rel=0.06)


def test_where_slow_samples_began_steps_the_next_one_is_believed_at_once():
    device = Device()
    for _ in range(3):
        device.run(1.0, 40)
        device.run(1.5, 40)
    device.run(1.0, 40)
    assert device.run(1.5, 1) == pytest.approx(1.5, rel=0.1)
    assert device.run(1.0, 1) == pytest.approx(1.0, rel=0.1)  # it was none: back at once


def test_follows_a_ramp():
    device = Device()
    for step in range(200):
        slowdown = 1.0 + step / 200.0
        found = device.run(slowdown, 1)
    assert found == pytest.approx(slowdown, rel=0.05)


@pytest.mark.parametrize('noise', [0.01, 0.05, 0.15])
def test_learns_how_noisy_the_device_is(noise):
    device = Device(noise, seed=3)
    device.run(1.0, 600)
    forecast = device.filter.forecast(device.time_ns)
    assert forecast.spread(1) == pytest.approx(noise, rel=0.5)
    estimates = [device.run(1.0, 1) for _ in range(200)]
    assert max(estimates) / min(estimates) < math.exp(2.5 * noise)


def test_the_quantile_covers_both_modes_of_time_slices():
    device = Device()
    slow = random.Random(2)
    for _ in range(300):
        device.run(1.4 if slow.random() < 0.2 else 1.0, 1)
    forecast = device.filter.forecast(device.time_ns)
    assert math.exp(forecast.log_factor(1, 0.95)) == pytest.approx(1.4, rel=0.12)
    assert math.exp(forecast.log_factor(1, 0.5)) < 1.2
    assert forecast.late_shares([math.log(1.2)] * len(forecast.offsets))[0] == pytest.approx(
        0.2, abs=0.1
    )


@given(slowdown=slowdowns, sampled=levels)
def test_the_same_whichever_levels_are_sampled(slowdown, sampled):
    """Contention that multiplies: the level a sample was taken at must not matter."""
    mixed, single = Device(noise=0.0), Device(noise=0.0)
    for level in sampled:
        mixed.run(slowdown, 1, level)
        single.run(slowdown, 1, 1)
    assert mixed.slowdown == pytest.approx(single.slowdown, rel=0.01)
    assert mixed.slowdown == pytest.approx(slowdown, rel=0.02)


@given(st.lists(st.tuples(st.floats(0.01, 100.0), st.integers(1, 4)), min_size=1, max_size=80))
def test_stays_within_the_samples(samples):
    device = Device(noise=0.0)
    for ratio, level in samples:
        device.run(ratio, 1, level)
    lowest = min(1.0, *(ratio for ratio, _ in samples))
    highest = max(1.0, *(ratio for ratio, _ in samples))
    # A level's own factor may move a sample by MAX_OFFSET, no further.
    assert lowest * math.exp(-2 * MAX_OFFSET) <= device.slowdown
    assert device.slowdown <= highest * math.exp(2 * MAX_OFFSET)


@given(st.lists(st.tuples(anything, st.integers(1, 4), st.integers(0, 10**12)), max_size=60))
def test_finite_whatever_it_is_fed(samples):
    estimator = SlowdownFilter([NOISE] * 4)
    for ratio, level, time_ns in samples:
        estimator.observe(ratio, level, time_ns)
        forecast = estimator.forecast(time_ns)
        assert abs(forecast.log_slowdown) <= MAX_LOG_RATIO + 2 * MAX_OFFSET
        assert math.isfinite(forecast.log_factor(level, 0.999))
        assert 0.0 < forecast.variance < MAX_LOG_RATIO**2
        assert max(map(abs, forecast.offsets)) <= MAX_OFFSET + 1e-9


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(1, 4)), max_size=60),
    slowdowns,
)
def test_recovers_from_any_state(history, slowdown):
    device = Device(noise=0.0)
    for ratio, level in history:
        device.run(ratio, 1, level)
    assert device.run(slowdown, 60) == pytest.approx(slowdown, rel=0.1)


def test_a_level_that_deviates_is_learnt_and_the_sum_stays():
    device = Device(noise=0.01)
    for _ in range(150):
        device.run(1.00, 4, level=1)
        device.run(1.06, 4, level=4)
    offsets = device.filter.forecast(device.time_ns).offsets
    assert offsets[3] - offsets[0] == pytest.approx(math.log(1.06), rel=0.4)
    assert sum(offsets) == pytest.approx(0.0, abs=1e-9)


def test_contention_is_not_remembered_for_ever():
    device = Device()
    device.run(3.0, 60)
    estimator, now_ns = device.filter, device.time_ns
    assert estimator.forecast(now_ns + SECOND_NS).slowdown == pytest.approx(3.0, rel=0.05)
    known = estimator.forecast(now_ns)
    fading = estimator.forecast(now_ns + 5 * SECOND_NS)
    assert 1.0 < fading.slowdown < 2.5
    assert fading.variance > known.variance
    unknown = estimator.forecast(now_ns + 60 * SECOND_NS)
    assert unknown.slowdown == pytest.approx(1.0, abs=0.001)
    assert unknown.sd == pytest.approx(UNKNOWN_SD, rel=0.01)
    device.time_ns += 60 * SECOND_NS
    assert device.run(1.0, 2) == pytest.approx(1.0, rel=0.05)


def test_higher_quantiles_ask_for_more():
    device = Device(noise=0.1)
    device.run(1.0, 300)
    forecast = device.filter.forecast(device.time_ns)
    factors = [forecast.log_factor(1, quantile) for quantile in (0.5, 0.8, 0.95, 0.99, 0.999)]
    assert factors == sorted(factors)
    assert factors[0] < factors[-1]


@pytest.mark.parametrize('noise', [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_a_profile_without_a_sensible_noise_is_no_obstacle(noise):
    estimator = SlowdownFilter([noise])
    for frame in range(1, 50):
        estimator.observe(1.5, 1, frame * FRAME_NS)
    assert estimator.forecast(50 * FRAME_NS).slowdown == pytest.approx(1.5, rel=0.02)


def test_normal_quantile():
    assert normal_quantile(0.5) == pytest.approx(0.0)
    assert normal_quantile(0.95) == pytest.approx(1.6449, abs=1e-4)


def test_ratio_is_nan_when_either_says_nothing():
    assert ratio_of(3.0, 2.0) == 1.5
    for measured, nominal in ((math.nan, 1.0), (1.0, math.nan), (0.0, 1.0), (1.0, 0.0)):
        assert math.isnan(ratio_of(measured, nominal))
