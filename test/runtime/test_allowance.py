"""The allowance of a manager beside other classifiers applies to the next frame."""

from __future__ import annotations

import math

import pytest
from runtime_fakes import make_levels, make_profile

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.runtime.coordination import Allowance
from dynamic_ofa_ros.runtime.decisions import Measurement
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings

LEVELS = make_levels((0.6, 0.7, 0.8))
LATENCIES_MS = (10.0, 20.0, 30.0)
PROFILE = make_profile(LATENCIES_MS)
FRAME_NS = 33_000_000
HOLD_S = 0.5
DEVICES = {PROFILE.platform: 'boot/cpu'}
REASON = 'collective with b: at most level {}'


def make_manager(profile=PROFILE, policy='predictive', **arguments):
    return RuntimeManager(LEVELS, profile, policy=PolicySettings(policy), **arguments)


def ceiling(level):
    return Allowance(1, level, REASON.format(level))


def exactly(level):
    return Allowance(level, level, REASON.format(level))


class Frames:
    """Runs consecutive frames with the latencies of the table."""

    def __init__(self, manager):
        self.manager = manager
        self.time_ns = 0

    def run(self, count):
        """Return all decisions during and between `count` frames."""
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
def test_a_lower_ceiling_applies_to_the_next_frame_with_its_reason(policy):
    manager = make_manager(policy=policy)
    frames = Frames(manager)
    assert not frames.run(3)
    manager.set_allowance(ceiling(2))
    assert manager.active_level == 3
    (decision,) = frames.run(1)
    assert (decision.from_level, decision.to_level) == (3, 2)
    assert REASON.format(2) in decision.reason
    assert not frames.run(60), 'and stays'


def test_a_higher_ceiling_lets_the_policy_move_up():
    manager = make_manager()
    frames = Frames(manager)
    frames.run(3)
    manager.set_allowance(ceiling(1))
    frames.run(30)
    assert manager.active_level == 1
    manager.set_allowance(ceiling(2))
    raised_ns = frames.time_ns
    (decision,) = frames.run(60)
    assert (decision.from_level, decision.to_level) == (1, 2)
    assert decision.time_ns - raised_ns >= HOLD_S * 1e9
    assert 'safe after' in decision.reason


@pytest.mark.parametrize('policy', ['predictive', 'reactive', 'table'])
def test_an_agreed_level_applies_at_once_in_both_directions(policy):
    manager = make_manager(policy=policy)
    frames = Frames(manager)
    frames.run(3)
    for level in (1, 3, 2):
        manager.set_allowance(exactly(level))
        (decision,) = frames.run(1)
        assert decision.to_level == level
        assert decision.reason.startswith(REASON.format(level))
        assert not frames.run(30), 'and stays'


def test_the_policy_decides_when_the_lowest_level_is_allowed_again():
    manager = make_manager(constraints=Constraints(25.0))
    frames = Frames(manager)
    manager.set_allowance(exactly(3))
    frames.run(40)
    assert manager.active_level == 3, 'level 3 takes 30 ms; the coordinator has to lower it'
    manager.set_allowance(ceiling(3))
    frames.run(1)
    assert manager.active_level == 2


def test_a_level_agreed_for_one_device_does_not_restrict_another():
    gpu = make_profile((5.0, 8.0, 12.0), platform='gpu')
    manager = make_manager((gpu, PROFILE), constraints=Constraints(25.0))
    manager.set_allowance(exactly(3))
    for count in range(60):
        level, platform = manager.active_level, manager.active_platform
        taken_ms = 500.0 if platform == 'gpu' else LATENCIES_MS[level - 1]
        manager.observe(Measurement(FRAME_NS * count, level, taken_ms, platform=platform))
    assert (manager.active_level, manager.active_platform) == (2, PROFILE.platform)


def test_a_floor_with_priority_overrides_an_exact_level():
    manager = make_manager(constraints=Constraints(min_accuracy=0.7, priority='accuracy'))
    manager.set_allowance(exactly(1))
    Frames(manager).run(10)
    assert LEVELS[manager.active_level - 1].accuracy >= 0.7


def test_policy_fixed_ignores_an_exact_level():
    manager = make_manager(policy='fixed')
    manager.set_allowance(exactly(1))
    assert not Frames(manager).run(10)


def test_none_removes_the_ceiling():
    manager = make_manager()
    frames = Frames(manager)
    manager.set_allowance(ceiling(1))
    frames.run(30)
    manager.set_allowance(None)
    frames.run(60)
    assert manager.active_level == 3
    assert 'collective' not in manager.state.reason


def test_the_own_limit_holds_below_any_ceiling():
    manager = make_manager(constraints=Constraints(15.0))
    frames = Frames(manager)
    manager.set_allowance(ceiling(3))
    assert not frames.run(60)
    assert manager.active_level == 1


def test_policy_fixed_ignores_the_ceiling():
    manager = make_manager(policy='fixed')
    manager.set_allowance(ceiling(1))
    assert not Frames(manager).run(10)
    assert manager.active_level == 3


def test_a_floor_with_priority_overrides_the_ceiling():
    manager = make_manager(constraints=Constraints(min_accuracy=0.7, priority='accuracy'))
    manager.set_allowance(ceiling(1))
    Frames(manager).run(10)
    assert LEVELS[manager.active_level - 1].accuracy >= 0.7


def test_the_ceiling_limits_the_accuracy_on_every_platform():
    """Level 2 is allowed on both devices; under a limit, the faster device is used."""
    fast = make_profile((5.0, 8.0, 12.0), platform='gpu')
    manager = make_manager((PROFILE, fast), constraints=Constraints(15.0))
    assert (manager.active_level, manager.active_platform) == (3, 'gpu')
    manager.set_allowance(ceiling(2))
    decision = manager.decide(FRAME_NS)
    assert decision is not None
    assert (decision.to_level, decision.to_platform) == (2, 'gpu')


def test_status_contains_the_data_for_peers():
    manager = make_manager(constraints=Constraints(25.0, min_accuracy=0.65))
    Frames(manager).run(5)
    status = manager.status('/a/classifier', DEVICES, 2.0, 33.0)
    assert (status.name, status.device, status.importance) == ('/a/classifier', 'boot/cpu', 2.0)
    assert status.is_sound(status.time_ns)
    assert status.level == manager.active_level == 2
    assert status.latencies_ms == LATENCIES_MS
    assert status.accuracies == (0.6, 0.7, 0.8)
    assert (status.limit_ms, status.floor) == (25.0, 0.65)
    assert status.quantile == 0.95
    assert [frame.level for frame in status.frames] == [2, 2, 2, 2, 2]
    assert [frame.latency_ms for frame in status.frames] == [20.0] * 5
    assert make_manager().status('a', DEVICES, 1.0, 33.0).limit_ms == math.inf


def test_status_refers_to_the_platform_in_use():
    """After a move from GPU to CPU, the status has the latencies and the device of the CPU."""
    gpu = make_profile((5.0, 8.0, 12.0), platform='gpu')
    manager = make_manager((gpu, PROFILE), constraints=Constraints(100.0))
    devices = {'gpu': 'boot/GPU-1', PROFILE.platform: 'boot/cpu'}
    assert manager.status('a', devices, 1.0, 33.0).device == 'boot/GPU-1'
    for count in range(60):
        level, platform = manager.active_level, manager.active_platform
        taken_ms = 500.0 if platform == 'gpu' else LATENCIES_MS[level - 1]
        manager.observe(Measurement(FRAME_NS * count, level, taken_ms, platform=platform))
    status = manager.status('a', devices, 1.0, 33.0)
    assert (manager.active_platform, status.device) == (PROFILE.platform, 'boot/cpu')
    assert status.latencies_ms == LATENCIES_MS


def test_latencies_are_in_the_scope_of_the_limit():
    manager = make_manager(constraints=Constraints(50.0, latency_scope='node'))
    for count in range(1, 6):
        manager.observe(Measurement(FRAME_NS * count, 3, 30.0, node_ms=37.0))
    status = manager.status('a', DEVICES, 1.0, 33.0)
    assert status.latencies_ms == pytest.approx((17.0, 27.0, 37.0))
    assert status.limit_ms == 50.0
    assert status.frames[-1].latency_ms == 37.0
