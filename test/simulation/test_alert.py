from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from simulation.examples import make_platform

from dynamic_ofa_ros.runtime.policies import Option, OptionTable
from dynamic_ofa_ros.simulation.alert import TUNED_CONSTANTS, AlertPolicy

PLATFORM = make_platform()
TABLE = OptionTable.of(PLATFORM.levels, PLATFORM.profile)


def situation(latency_ms, level=2, limit_ms=45.0, floor=0.0):
    """Return a `Situation` with the fields that an AlertPolicy uses."""
    return SimpleNamespace(
        option=Option(level),
        candidates=TABLE.ladder,
        inference_ms=latency_ms,
        inference_limit_ms=limit_ms,
        floor=floor,
        quantile=0.95,
    )


def test_one_step_of_the_filter_by_hand():
    policy = AlertPolicy(TABLE)
    policy.decide(situation(30.0))  # a ratio of 1.5
    # y = .5; Q = max(.1, .3*.1 + .7*(.5*.5)^2) = .1; K = (.5*.1 + .1)/(.5*.1 + .1 + .001)
    gain = 0.15 / 0.151
    assert policy._gain == pytest.approx(gain)
    assert policy._slowdown == pytest.approx(1.0 + gain * 0.5)
    assert policy._variance == pytest.approx((1.0 - gain) * 0.1 + 0.1)
    expected = 0.5 * (1.0 + math.erf((1.8 - policy._slowdown) / math.sqrt(2 * policy._variance)))
    assert policy._on_time(Option(1), 18.0) == pytest.approx(expected)


def test_published_constants_follow_the_last_sample_and_better_ones_do_not():
    gains = []
    for policy in (AlertPolicy(TABLE), AlertPolicy(TABLE, TUNED_CONSTANTS)):
        for _ in range(50):
            policy.decide(situation(20.0))
        gains.append(policy._gain)
    assert gains == [pytest.approx(0.99, abs=0.002), pytest.approx(0.62, abs=0.002)]


def test_the_level_with_the_highest_expected_accuracy_runs():
    policy = AlertPolicy(TABLE, TUNED_CONSTANTS)
    for _ in range(50):
        choice = policy.decide(situation(20.0, limit_ms=45.0))
    assert (choice.option.level, choice.is_feasible) == (3, True)
    for _ in range(5):
        choice = policy.decide(situation(40.0, limit_ms=45.0))  # twice as slow
    assert choice.option.level == 2
    assert policy.decide(situation(40.0, limit_ms=5.0)).is_feasible is False


def test_floor_and_absent_limit_are_kept():
    policy = AlertPolicy(TABLE)
    assert policy.decide(situation(math.nan, limit_ms=math.inf)).option.level == 3
    assert policy.decide(situation(30.0, limit_ms=12.0)).option.level == 1
    assert policy.decide(situation(30.0, limit_ms=12.0, floor=0.6)).option.level == 2
