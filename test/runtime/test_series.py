from __future__ import annotations

import math
import random

import pytest

from dynamic_ofa_ros.runtime.series import (
    CHANCE,
    EXPECTED_FRAMES,
    LONG_RUN,
    RUNS,
    TIE,
    WINDOW,
    Series,
)

NOISE = 0.02


def run_that_changed(series: Series) -> int:
    """Return the result of `changed`, computed directly from its definition."""
    values, count = series.values, len(series.values)
    for run in RUNS:
        if run > count or (run > LONG_RUN and 2 * run > count):
            break
        last, before = values[-run:], values[:-run]
        above = float(sum(value >= min(last) for value in before))
        below = float(sum(value <= max(last) for value in before))
        missing = max(0, EXPECTED_FRAMES - len(before))
        for_lowest = (min(last) - series.middle) / series.spread - TIE
        for_highest = (series.middle - max(last)) / series.spread - TIE
        above += missing * 0.5 * math.erfc(for_lowest / math.sqrt(2.0))
        below += missing * 0.5 * math.erfc(for_highest / math.sqrt(2.0))
        share = (min(above, below) + 1) / (len(before) + missing + 1)
        if share < CHANCE ** (1.0 / run):
            return run
    return 0


@pytest.mark.parametrize('seed', range(6))
def test_all_changes_are_detected_without_false_alarms(seed):
    source, series, found = random.Random(seed), Series(NOISE), 0
    middle = 0.0
    for frame in range(1500):
        if frame % 100 == 99:
            middle = source.choice((0.0, 0.02, 0.1, 0.7))
        value = middle + source.gauss(0.0, NOISE) + source.choice((0.0,) * 20 + (0.4,))
        series.add(round(value, source.choice((2, 9))))  # equal values too
        run = series.changed()
        assert run == run_that_changed(series)
        if run:
            series.keep(series.values[-run:])
            found += 1
        else:
            series.learn_spread(value, NOISE)
    assert 5 < found < 60


def test_the_window_is_limited_and_the_middle_is_its_median():
    series = Series(NOISE)
    for value in range(3 * WINDOW):
        series.add(float(value))
    assert len(series.values) == WINDOW
    assert series.middle == sorted(series.values)[WINDOW // 2]
