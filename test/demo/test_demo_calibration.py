"""The choice of load and limit, with synthetic latencies."""

import pytest

from dynamic_ofa_ros.demo.calibration import Trial, choose, margin, middle_levels

FREE_MS = [8.0, 8.5, 9.0]


@pytest.mark.parametrize(
    ('latencies_ms', 'levels'),
    [
        ([0.6, 1.0, 1.5, 2.2, 3.5, 8.0], (4, 2)),
        ([1.0, 9.0, 10.0], (2,)),
        ([1.0, 1.0, 1.0, 1.0], (2,)),
        ([2.0, 4.0], (1,)),
        ([3.0], (1,)),
    ],
)
def test_a_middle_level_is_neither_the_lowest_nor_the_highest(latencies_ms, levels):
    assert middle_levels(latencies_ms) == levels


def test_the_limit_lies_between_the_needed_latency_and_that_of_the_highest_level():
    trial = Trial(1, 3, highest_ms=[18.0, 20.0, 22.0], middle_ms=[4.0, 5.0, 6.0])
    chosen = choose(FREE_MS, [trial])
    assert (chosen.workers, chosen.middle_level, chosen.problem) == (1, 3, '')
    assert max(FREE_MS) < chosen.limit_ms < min(trial.highest_ms)


def test_a_middle_level_that_is_slow_under_load_raises_the_limit():
    fast = Trial(1, 3, highest_ms=[40.0], middle_ms=[5.0])
    slow = Trial(1, 3, highest_ms=[40.0], middle_ms=[20.0])
    assert choose(FREE_MS, [slow]).limit_ms > choose(FREE_MS, [fast]).limit_ms > 9.0
    assert margin(FREE_MS, fast) == pytest.approx(40.0 / 8.9)
    assert margin(FREE_MS, slow) == pytest.approx(2.0)


def test_the_first_load_with_a_good_margin_is_chosen_otherwise_the_best():
    none = Trial(1, 3, highest_ms=[9.0], middle_ms=[5.0])
    some = Trial(2, 3, highest_ms=[10.0], middle_ms=[5.0])
    good = Trial(4, 3, highest_ms=[15.0], middle_ms=[5.0])
    better = Trial(8, 3, highest_ms=[30.0], middle_ms=[5.0])
    assert choose(FREE_MS, [none, good, better]).workers == 4
    assert choose(FREE_MS, [none, some]).workers == 2


def test_the_problem_says_why_no_limit_separates_the_levels():
    trials = [Trial(1, 3, highest_ms=[9.5], middle_ms=[30.0]), Trial(2, 3, [10.0], [40.0])]
    chosen = choose(FREE_MS, trials)
    assert chosen.workers == 1
    for part in ('1 busy process', 'median latency of 9.5 ms', '30.0 ms for 90% of', 'level 3'):
        assert part in chosen.problem
    # The highest level still meets the limit without load.
    assert max(FREE_MS) < chosen.limit_ms < 30.0
