"""The ceiling that other classifiers leave: obeyed at once, lifted at the policy's pace."""

from __future__ import annotations

import math

import pytest
from runtime_fakes import make_levels, make_profile

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.runtime.coordination import Ceiling
from dynamic_ofa_ros.runtime.decisions import Measurement
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings

LEVELS = make_levels((0.6, 0.7, 0.8))
LATENCIES_MS = (10.0, 20.0, 30.0)
PROFILE = make_profile(LATENCIES_MS)
FRAME_NS = 33_000_000
HOLD_S = 0.5
REASON = 'collective with b: at most level {}'


def make_manager(profile=PROFILE, policy='predictive', **arguments):
    return RuntimeManager(LEVELS, profile, policy=PolicySettings(policy), **arguments)


def ceiling(level):
    return Ceiling(level, REASON.format(level))


class Frames:
    """Frames one after another, as the table says."""

    def __init__(self, manager):
        self.manager = manager
        self.time_ns = 0

    def run(self, count):
        """Return the decisions of so many frames, those between them included."""
        decisions = []
        for _ in range(count):
            self.time_ns += FRAME_NS
            level = self.manager.active_level
            decisions.append(self.manager.decide(self.time_ns))
            level = self.manager.active_level
            frame = Measurement(self.time_ns, level, LATENCIES_MS[level - 1])
            decisions.append(self.manager.observe(frame))
        return [decision for decision in decisions if decision is not None]


@pytest.mark.parametrize('policy', ['predictive', 'reactive', 'table'])
def test_a_lower_ceiling_is_obeyed_at_the_next_frame_and_says_why(policy):
    manager = make_manager(policy=policy)
    frames = Frames(manager)
    assert not frames.run(3)
    manager.set_ceiling(ceiling(2))
    assert manager.active_level == 3
    (decision,) = frames.run(1)
    assert (decision.from_level, decision.to_level) == (3, 2)
    assert REASON.format(2) in decision.reason
    assert not frames.run(60), 'and stays'


def test_a_higher_ceiling_leaves_the_pace_to_the_policy():
    manager = make_manager()
    frames = Frames(manager)
    frames.run(3)
    manager.set_ceiling(ceiling(1))
    frames.run(30)
    assert manager.active_level == 1
    manager.set_ceiling(ceiling(2))
    raised_ns = frames.time_ns
    (decision,) = frames.run(60)
    assert (decision.from_level, decision.to_level) == (1, 2)
    assert decision.time_ns - raised_ns >= HOLD_S * 1e9
    assert 'safe for' in decision.reason


def agreed(level, round=1):
    return Ceiling(level, REASON.format(level), is_agreed=True, round=round)


@pytest.mark.parametrize('policy', ['predictive', 'reactive', 'table'])
def test_what_is_agreed_is_run_at_once_up_and_down(policy):
    manager = make_manager(policy=policy)
    frames = Frames(manager)
    frames.run(3)
    for level in (1, 3, 2):
        manager.set_ceiling(agreed(level))
        (decision,) = frames.run(1)
        assert decision.to_level == level
        assert decision.reason == REASON.format(level)
        assert not frames.run(30), 'and stays'


def test_what_is_agreed_is_left_when_its_frames_are_late_and_the_policy_decides():
    manager = make_manager(constraints=Constraints(25.0))
    frames = Frames(manager)
    manager.set_ceiling(agreed(3))
    frames.run(40)
    assert manager.active_level == 2, 'level 3 takes 30 ms'
    manager.set_ceiling(agreed(3))
    assert not frames.run(10), 'said again, it is no news'
    manager.set_ceiling(agreed(1, round=2))
    frames.run(1)
    assert manager.active_level == 1


def test_a_floor_with_priority_beats_what_is_agreed():
    manager = make_manager(constraints=Constraints(min_accuracy=0.7, priority='accuracy'))
    manager.set_ceiling(agreed(1))
    Frames(manager).run(10)
    assert LEVELS[manager.active_level - 1].accuracy >= 0.7


def test_policy_fixed_ignores_what_is_agreed():
    manager = make_manager(policy='fixed')
    manager.set_ceiling(agreed(1))
    assert not Frames(manager).run(10)


def test_none_lifts_the_ceiling():
    manager = make_manager()
    frames = Frames(manager)
    manager.set_ceiling(ceiling(1))
    frames.run(30)
    manager.set_ceiling(None)
    frames.run(60)
    assert manager.active_level == 3
    assert 'collective' not in manager.state.reason


def test_the_own_limit_holds_below_any_ceiling():
    manager = make_manager(constraints=Constraints(15.0))
    frames = Frames(manager)
    manager.set_ceiling(ceiling(3))
    assert not frames.run(60)
    assert manager.active_level == 1


def test_policy_fixed_ignores_the_ceiling():
    manager = make_manager(policy='fixed')
    manager.set_ceiling(ceiling(1))
    assert not Frames(manager).run(10)
    assert manager.active_level == 3


def test_a_floor_with_priority_beats_the_ceiling():
    manager = make_manager(constraints=Constraints(min_accuracy=0.7, priority='accuracy'))
    manager.set_ceiling(ceiling(1))
    Frames(manager).run(10)
    assert LEVELS[manager.active_level - 1].accuracy >= 0.7


def test_the_ceiling_is_one_of_accuracy_on_every_platform():
    """Level 2 of either device is allowed: the faster one of them is taken under a limit."""
    fast = make_profile((5.0, 8.0, 12.0), platform='gpu')
    manager = make_manager((PROFILE, fast), constraints=Constraints(15.0))
    assert (manager.active_level, manager.active_platform) == (3, 'gpu')
    manager.set_ceiling(ceiling(2))
    decision = manager.decide(FRAME_NS)
    assert decision is not None
    assert (decision.to_level, decision.to_platform) == (2, 'gpu')


def test_status_is_what_the_peers_need():
    manager = make_manager(constraints=Constraints(25.0, min_accuracy=0.65))
    Frames(manager).run(5)
    status = manager.status('/a/classifier', 'host:cpu', 2.0, 33.0)
    assert (status.name, status.device, status.importance) == ('/a/classifier', 'host:cpu', 2.0)
    assert status.is_sound
    assert status.level == manager.active_level == 2
    assert status.latencies_ms == LATENCIES_MS
    assert status.accuracies == (0.6, 0.7, 0.8)
    assert (status.limit_ms, status.floor) == (25.0, 0.65)
    assert status.slowdown == pytest.approx(1.0, abs=0.02)
    assert status.quantile == 0.95
    assert [frame.level for frame in status.frames] == [2, 2, 2, 2, 2]
    assert [frame.latency_ms for frame in status.frames] == [20.0] * 5
    assert make_manager().status('a', 'd', 1.0, 33.0).limit_ms == math.inf
