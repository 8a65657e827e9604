import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamic_ofa_ros.demo.scenario import (
    Action,
    ScenarioError,
    ScenarioPlayer,
    choose_limit,
    default_scenario,
)


class FakeClock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def test_phases_are_those_of_the_demo_and_last_as_long_as_asked():
    scenario = default_scenario(20.0)
    assert [phase.action for phase in scenario.phases] == [
        Action.NONE,
        Action.SET_LIMIT,
        Action.START_COMPETITOR,
        Action.STOP_COMPETITOR,
        Action.LIFT_LIMIT,
    ]
    assert scenario.duration_s == pytest.approx(20.0)
    assert scenario.start_s(2) == pytest.approx(0.37 * 20.0)


@pytest.mark.parametrize('seconds', [4.9, -1.0, 3601.0, math.nan, math.inf])
def test_absurd_durations_are_refused(seconds):
    with pytest.raises(ScenarioError, match='--seconds takes 5 to 3600'):
        default_scenario(seconds)


def test_each_phase_begins_once_and_in_time():
    clock = FakeClock()
    player = ScenarioPlayer(default_scenario(40.0), clock)
    assert player.begun() == []  # not started
    player.start()
    began = []
    for tick in range(450):
        clock.now_s = 1000.0 + tick * 0.1
        began += [(phase.name, tick * 0.1) for phase in player.begun()]
    names = [phase.name for phase in player.scenario.phases]
    assert [name for name, _ in began] == names
    for index, (_, time_s) in enumerate(began):
        assert time_s == pytest.approx(player.scenario.start_s(index), abs=0.11)
    assert player.progress().is_over


def test_a_late_caller_still_gets_every_phase():
    clock = FakeClock()
    player = ScenarioPlayer(default_scenario(10.0), clock)
    player.start()
    clock.now_s += 100.0
    assert len(player.begun()) == len(player.scenario.phases)
    assert player.begun() == []


def test_progress_tells_the_phase_and_the_time_in_it():
    clock = FakeClock()
    player = ScenarioPlayer(default_scenario(100.0), clock)
    assert not player.progress().is_over
    player.start()
    clock.now_s += 20.0
    progress = player.progress()
    assert progress.index == 1
    assert progress.phase_elapsed_s == pytest.approx(3.0)
    assert not progress.is_over


@pytest.mark.parametrize(
    ('latencies_ms', 'level'),
    [((1.0, 2.0, 4.0), 2), ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0), 3), ((1.0, 2.0), 1), ((3.0,), 1)],
)
def test_limit_is_met_by_the_middle_level_and_not_by_the_highest(latencies_ms, level):
    choice = choose_limit(latencies_ms)
    assert choice.level == level
    assert choice.limit_ms > 1.1 * latencies_ms[level - 1]
    if level < len(latencies_ms):
        assert choice.limit_ms < latencies_ms[-1]


def test_limit_follows_a_credible_slowdown_only():
    latencies_ms = (1.0, 2.0, 4.0)
    alone = choose_limit(latencies_ms).limit_ms
    assert choose_limit(latencies_ms, 1.5).limit_ms == pytest.approx(1.5 * alone, abs=0.01)
    assert choose_limit(latencies_ms, 0.3).limit_ms == alone
    assert choose_limit(latencies_ms, 50.0).limit_ms == pytest.approx(1.6 * alone, abs=0.01)
    assert choose_limit(latencies_ms, math.nan).limit_ms == alone


@pytest.mark.parametrize('latencies_ms', [(), (1.0, math.nan), (0.0, 1.0)])
def test_limit_needs_a_usable_table(latencies_ms):
    with pytest.raises(ScenarioError, match='no limit can be derived'):
        choose_limit(latencies_ms)


@given(st.floats(5.0, 3600.0), st.floats(0.0, 0.999))
def test_every_moment_belongs_to_the_phase_around_it(seconds, share):
    scenario = default_scenario(seconds)
    time_s = share * seconds
    index = scenario.index_at(time_s)
    assert scenario.start_s(index) <= time_s
    assert time_s < scenario.start_s(index) + scenario.phases[index].duration_s + 1e-9
