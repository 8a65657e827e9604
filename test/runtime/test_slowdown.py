from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamic_ofa_ros.runtime.slowdown import TrimmedMeanEstimator, ratio_of

FRAME_NS = 33_000_000


def feed(estimator: TrimmedMeanEstimator, ratios: list[float], start: int = 0) -> float:
    time_ns = 0
    for index, ratio in enumerate(ratios, start=start):
        time_ns = index * FRAME_NS
        estimator.observe(ratio, 1, time_ns)
    return estimator.value(time_ns)


def test_alone_until_told_otherwise():
    assert TrimmedMeanEstimator().value(0) == 1.0


def test_follows_a_step_within_four_frames():
    estimator = TrimmedMeanEstimator()
    feed(estimator, [1.0] * 20)
    assert feed(estimator, [2.0] * 4, start=20) == pytest.approx(2.0)


def test_one_outlier_is_an_outlier():
    estimator = TrimmedMeanEstimator()
    assert feed(estimator, [1.0, 1.0, 1.0, 1.0, 9.0]) == pytest.approx(1.0)


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=30))
def test_stays_within_the_samples(ratios):
    value = feed(TrimmedMeanEstimator(), ratios)
    newest = ratios[-5:]
    assert min(newest) * (1 - 1e-9) <= value <= max(newest) * (1 + 1e-9)


@pytest.mark.parametrize('nonsense', [math.nan, math.inf, 0.0, -1.0])
def test_what_is_no_measurement_is_ignored(nonsense):
    estimator = TrimmedMeanEstimator()
    feed(estimator, [1.5] * 5)
    estimator.observe(nonsense, 1, 5 * FRAME_NS)
    assert estimator.value(5 * FRAME_NS) == pytest.approx(1.5)


def test_contention_is_not_remembered_for_ever():
    estimator = TrimmedMeanEstimator(memory_s=5.0)
    assert feed(estimator, [3.0] * 5) == pytest.approx(3.0)
    assert estimator.value(4_000_000_000) == pytest.approx(3.0)
    assert estimator.value(6_000_000_000) == 1.0


def test_cannot_leave_out_everything():
    with pytest.raises(ValueError, match='leave out'):
        TrimmedMeanEstimator(window=4, trim=2)


def test_ratio_is_nan_when_either_says_nothing():
    assert ratio_of(3.0, 2.0) == 1.5
    for measured, nominal in ((math.nan, 1.0), (1.0, math.nan), (0.0, 1.0), (1.0, 0.0)):
        assert math.isnan(ratio_of(measured, nominal))
