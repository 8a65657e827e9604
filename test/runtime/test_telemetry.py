from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamic_ofa_ros.runtime.telemetry import CauseCounter, RollingStatistics

SECOND_NS = 1_000_000_000


@given(
    values=st.lists(st.floats(0.0, 1e4), min_size=1, max_size=50),
    capacity=st.integers(1, 20),
    fraction=st.floats(0.0, 1.0),
)
def test_percentiles_are_those_of_the_newest_frames(values, capacity, fraction):
    statistics = RollingStatistics(capacity)
    for time_ns, value in enumerate(values):
        statistics.add(value, time_ns)
    newest = values[-capacity:]
    assert statistics.percentiles(fraction)[0] == pytest.approx(np.quantile(newest, fraction))


def test_several_percentiles_at_once():
    statistics = RollingStatistics(101)
    for value in range(101):
        statistics.add(float(value), value)
    assert statistics.percentiles(0.5, 0.95) == (50.0, 95.0)


def test_statistics_are_nan_without_frames():
    statistics = RollingStatistics(10)
    assert all(math.isnan(value) for value in statistics.percentiles(0.5, 0.95))
    assert math.isnan(statistics.rate_hz())
    statistics.add(1.0, 0)
    assert math.isnan(statistics.rate_hz())


def test_frames_without_a_value_count_for_the_rate_only():
    statistics = RollingStatistics(10)
    statistics.add(math.nan, 0)
    statistics.add(4.0, SECOND_NS)
    assert statistics.percentiles(0.5) == (4.0,)
    assert statistics.rate_hz() == 1.0


@pytest.mark.parametrize('frames', [2, 5, 10, 11, 25])
def test_rate_is_that_of_the_window(frames):
    statistics = RollingStatistics(10)
    for index in range(frames):
        statistics.add(1.0, index * SECOND_NS // 20)
    assert statistics.rate_hz() == pytest.approx(20.0)


def test_capacity_must_be_positive():
    with pytest.raises(ValueError, match='at least 1'):
        RollingStatistics(0)


def test_causes_are_counted_separately_across_threads():
    counter = CauseCounter()
    threads = [
        threading.Thread(target=lambda: [counter.add('step') for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.add('encoding') == 1
    assert counter.total == 2001
    snapshot = counter.snapshot()
    counter.add('encoding')
    assert snapshot == {'step': 2000, 'encoding': 1}
