from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_fakes import make_levels, make_profile

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.runtime import policies
from dynamic_ofa_ros.runtime.decisions import Decision, Measurement
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import (
    Option,
    OptionTable,
    PolicyError,
    PolicySettings,
    best_option,
    create_policy,
    policy_names,
    settings,
)
from dynamic_ofa_ros.runtime.policies.table import TablePolicy

ACCURACIES = (0.60, 0.70, 0.75, 0.78, 0.80)
LATENCIES_MS = (10.0, 15.0, 20.0, 30.0, 40.0)
LEVELS = make_levels(ACCURACIES)
PROFILE = make_profile(LATENCIES_MS)
TABLE = OptionTable.of(LEVELS, PROFILE)
FRAME_S = 1 / 30
NOISE = 0.05  # standard deviation of the simulated latencies, a fraction


class Simulation:
    """The manager on a device whose slowdown is a function of simulated time."""

    def __init__(self, policy: PolicySettings, constraints: Constraints, seed: int = 0) -> None:
        self.manager = RuntimeManager(LEVELS, PROFILE, policy=policy, constraints=constraints)
        self.levels: list[int] = []
        self.latencies_ms: list[float] = []
        self.switches: list[Decision] = []
        self._frame = 0
        self._random = np.random.default_rng(seed)

    def run(self, seconds: float, slowdown: float | Callable[[float], float] = 1.0) -> None:
        for _ in range(round(seconds / FRAME_S)):
            self._frame += 1
            time_s = self._frame * FRAME_S
            now_ns = round(time_s * 1e9)
            self._take(self.manager.decide(now_ns))
            level = self.manager.active_level
            factor = slowdown(time_s) if callable(slowdown) else slowdown
            noise = max(0.5, 1.0 + NOISE * self._random.standard_normal())
            latency_ms = LATENCIES_MS[level - 1] * factor * noise
            self.levels.append(level)
            self.latencies_ms.append(latency_ms)
            self._take(self.manager.observe(Measurement(now_ns, level, latency_ms)))

    def _take(self, decision: Decision | None) -> None:
        if decision is not None:
            self.switches.append(decision)


def simulate(name: str, limit_ms: float = math.nan, **constraints: object) -> Simulation:
    return Simulation(PolicySettings(name), Constraints(limit_ms, **constraints))  # type: ignore[arg-type]


# best_option


@pytest.mark.parametrize(
    ('slowdown', 'limit_ms', 'floor', 'priority', 'expected'),
    [
        (1.0, math.inf, 0.0, 'latency', (5, True)),
        (1.0, 30.0, 0.0, 'latency', (4, True)),
        (2.0, 30.0, 0.0, 'latency', (2, True)),
        (1.0, 30.0, 0.75, 'latency', (4, True)),
        (1.0, 18.0, 0.75, 'latency', (2, False)),
        (1.0, 18.0, 0.75, 'accuracy', (3, False)),
        (1.0, 5.0, 0.0, 'latency', (1, False)),
        (1.0, 5.0, 0.0, 'accuracy', (1, False)),
        (1.0, 50.0, 0.90, 'latency', (5, False)),
        (1.0, 18.0, 0.90, 'latency', (2, False)),
        (1.0, 18.0, 0.90, 'accuracy', (5, False)),
        (1.0, -3.0, 0.0, 'latency', (1, False)),
    ],
)
def test_best_option(slowdown, limit_ms, floor, priority, expected):
    option, is_feasible = best_option(TABLE, TABLE.ladder, slowdown, limit_ms, floor, priority)
    assert (option.level, is_feasible) == expected


@given(
    slowdown=st.floats(0.1, 10.0),
    limit_ms=st.floats(1.0, 200.0),
    floor=st.floats(0.0, 1.0),
    priority=st.sampled_from(['latency', 'accuracy']),
)
def test_best_option_against_exhaustive_search(slowdown, limit_ms, floor, priority):
    option, is_feasible = best_option(TABLE, TABLE.ladder, slowdown, limit_ms, floor, priority)
    level = option.level
    good = [
        i
        for i in range(1, 6)
        if LATENCIES_MS[i - 1] * slowdown <= limit_ms and ACCURACIES[i - 1] >= floor
    ]
    assert is_feasible == bool(good)
    if good:
        assert ACCURACIES[level - 1] == max(ACCURACIES[i - 1] for i in good)
    elif priority == 'latency' and LATENCIES_MS[0] * slowdown <= limit_ms:
        assert LATENCIES_MS[level - 1] * slowdown <= limit_ms
    elif priority == 'accuracy' and floor <= ACCURACIES[-1]:
        assert ACCURACIES[level - 1] >= floor


def test_levels_slower_than_more_accurate_ones_are_not_options():
    table = OptionTable.of(make_levels((0.6, 0.7, 0.7, 0.8)), make_profile((10, 25, 12, 20)))
    assert [option.level for option in table.ladder] == [1, 3, 4]
    assert best_option(table, table.ladder, 1.0, 100.0, 0.0, 'latency') == (Option(4), True)


def test_a_profile_with_another_number_of_levels_is_rejected():
    with pytest.raises(PolicyError, match='2 levels, but the family has 5'):
        OptionTable.of(LEVELS, make_profile((1.0, 2.0)))


# Settings


@pytest.mark.parametrize('name', ['', 'Table', 'clever'])
def test_the_error_for_an_unknown_policy_lists_the_known_ones(name):
    with pytest.raises(PolicyError, match='must be one of: ') as caught:
        PolicySettings(name)
    assert all(known in str(caught.value) for known in policy_names())


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'fixed_level': -1}, 'fixed_level is -1'),
        ({'window': 0}, 'window is 0'),
        ({'hold_s': -0.1}, 'hold_s is -0.1'),
        ({'hold_s': math.nan}, 'hold_s is nan'),
        ({'hold_s': 1e300}, r'hold_s is 1e\+300 s; it must lie in \[0, 3600\]'),
        ({'max_switches_per_minute': -1.0}, 'max_switches_per_minute is -1'),
        ({'max_switches_per_minute': math.nan}, 'max_switches_per_minute is nan'),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(PolicyError, match=message):
        PolicySettings(**settings)


def test_a_fixed_level_outside_the_family_is_rejected():
    with pytest.raises(PolicyError, match='fixed_level is 6; the family has 5 levels'):
        create_policy(TABLE, PolicySettings('fixed', fixed_level=6))


# The policies, each on a simulated device


def test_table_ignores_measured_latencies():
    simulation = simulate('table', 30.0)
    simulation.run(2.0, slowdown=3.0)
    assert set(simulation.levels) == {4}
    assert simulation.manager.state.violations > 50


def test_table_does_not_switch_when_the_overhead_fluctuates():
    manager = RuntimeManager(
        LEVELS,
        PROFILE,
        policy=PolicySettings('table'),
        constraints=Constraints(31.0, latency_scope='node'),
    )
    random = np.random.default_rng(0)
    for frame in range(1, 300):
        overhead_ms = 1.0 + 0.2 * random.standard_normal()  # level 4 is close to the limit
        manager.observe(
            Measurement(frame * 33_000_000, manager.active_level, 30.0, 30.0 + overhead_ms)
        )
    assert manager.state.switch_count <= 1


def test_fixed_never_switches():
    simulation = Simulation(PolicySettings('fixed', fixed_level=2), Constraints(12.0))
    simulation.run(1.0, slowdown=2.0)
    assert set(simulation.levels) == {2}
    assert not simulation.manager.state.is_feasible
    assert set(levels_of(Simulation(PolicySettings('fixed'), Constraints()))) == {5}


def levels_of(simulation: Simulation) -> Sequence[int]:
    simulation.run(0.2)
    return simulation.levels


def test_reactive_starts_with_the_level_of_the_table():
    simulation = simulate('reactive', 33.0)
    simulation.run(1.0)
    assert set(simulation.levels) == {4}
    assert simulation.manager.initial_decision.from_level == 0
    assert simulation.manager.initial_decision.to_level == 4


def test_reactive_moves_one_level_at_a_time_and_recovers():
    simulation = simulate('reactive', 33.0)
    simulation.run(2.0)
    simulation.run(6.0, slowdown=2.0)
    contended = simulation.levels[60:]
    # Level 2 takes 30 ms now, level 3 would take 40.
    assert contended[-1] == 2
    assert [s.to_level for s in simulation.switches] == [3, 2]
    first_switch = next(i for i, level in enumerate(contended) if level != 4)
    assert 1 <= first_switch <= 10  # the mean of ten frames needs some slow frames
    simulation.switches.clear()
    simulation.run(6.0, slowdown=1.0)
    assert [s.to_level for s in simulation.switches] == [3, 4]
    assert 'one level up' in simulation.switches[0].reason
    assert simulation.manager.state.is_feasible


def test_reactive_detects_severe_contention():
    """The published demo discarded samples above 90 ms, so it did not react to them."""
    simulation = simulate('reactive', 33.0)
    simulation.run(1.0)
    simulation.run(4.0, slowdown=20.0)
    assert simulation.levels[-1] == 1
    assert not simulation.manager.state.is_feasible
    assert 'no lower level is left' in simulation.manager.state.reason


@pytest.mark.parametrize('slowdown', [1.0, 1.05, 1.1, 1.3, 1.6, 2.0, 2.2])
@pytest.mark.parametrize('seed', [1, 2])
def test_reactive_does_not_oscillate_with_stationary_noise(slowdown, seed):
    simulation = Simulation(PolicySettings('reactive'), Constraints(33.0), seed=seed)
    simulation.run(5.0, slowdown)
    simulation.switches.clear()
    simulation.run(120.0, slowdown)
    assert len(simulation.switches) <= 2 * 6


def test_reactive_holds_in_wall_clock_time_not_in_frames():
    settings = PolicySettings('reactive', hold_s=3.0)
    simulation = Simulation(settings, Constraints(33.0))
    simulation.run(1.0)
    simulation.run(4.0, slowdown=2.0)
    ended_s = 5.0
    simulation.switches.clear()
    simulation.run(10.0, slowdown=1.0)
    first_up_s = simulation.switches[0].time_ns / 1e9
    assert ended_s + 3.0 <= first_up_s <= ended_s + 4.0


def test_reactive_ignores_the_first_frame_after_a_switch():
    manager = RuntimeManager(
        LEVELS, PROFILE, policy=PolicySettings('reactive', window=1), constraints=Constraints(33.0)
    )
    assert manager.active_level == 4
    assert manager.observe(Measurement(1, 4, 500.0)) is None  # the very first frame
    decision = manager.observe(Measurement(2, 4, 50.0))
    assert decision is not None
    assert decision.to_level == 3
    assert manager.observe(Measurement(3, 3, 500.0)) is None
    assert manager.state.violations == 3  # it counts as a violation


def test_reactive_discards_its_window_after_a_pause():
    simulation = simulate('reactive', 33.0)
    simulation.run(0.9, slowdown=1.0)
    manager = simulation.manager
    later_ns = 60_000_000_000
    for frame in range(9):  # less than a window; frames before the pause must not count
        assert manager.observe(Measurement(later_ns + frame, 4, 90.0)) is None
    assert manager.observe(Measurement(later_ns + 9, 4, 90.0)) is not None


def test_reactive_keeps_the_accuracy_floor_when_it_has_priority():
    simulation = simulate('reactive', 33.0, min_accuracy=0.75, priority='accuracy')
    simulation.run(5.0, slowdown=3.0)
    assert simulation.levels[-1] == 3
    assert not simulation.manager.state.is_feasible


def test_reactive_keeps_the_limit_when_that_has_priority():
    simulation = simulate('reactive', 33.0, min_accuracy=0.75, priority='latency')
    simulation.run(5.0, slowdown=3.0)
    assert simulation.levels[-1] == 1
    assert not simulation.manager.state.is_feasible
    simulation.run(5.0, slowdown=1.0)
    assert simulation.levels[-1] == 4
    assert simulation.manager.state.is_feasible


def test_new_constraints_use_the_current_slowdown():
    simulation = simulate('reactive')
    simulation.run(1.0, slowdown=2.0)
    assert simulation.levels[-1] == 5
    simulation.manager.set_constraints(Constraints(45.0))
    simulation.run(FRAME_S, slowdown=2.0)
    assert simulation.levels[-1] == 3
    assert 'new constraints' in simulation.switches[-1].reason


# predictive


def test_predictive_is_the_default():
    assert PolicySettings().name == 'predictive'


def test_predictive_moves_directly_down_and_back_after_the_hold():
    simulation = simulate('predictive', 38.0)
    simulation.run(5.0)
    assert set(simulation.levels[3:]) == {4}
    simulation.run(4.0, slowdown=2.0)
    contended = simulation.levels[150:]
    assert next(i for i, level in enumerate(contended) if level != 4) <= 2
    assert simulation.switches[0].to_level <= 2  # directly, without level 3 in between
    first = simulation.switches[0]
    for part in ('level 2 predicted', 'measured', 'the limit of 38.00 ms', 'slowdown'):
        assert part in first.reason
    simulation.switches.clear()
    ended_ns = round(9.0 * 1e9)
    simulation.run(8.0)
    assert simulation.levels[-1] == 4
    assert simulation.switches[0].time_ns >= ended_ns + 0.5e9
    assert 'safe after' in simulation.switches[0].reason


def test_predictive_holds_in_wall_clock_time():
    simulation = Simulation(PolicySettings('predictive', hold_s=3.0), Constraints(33.0))
    simulation.run(2.0)
    simulation.run(4.0, slowdown=2.0)
    simulation.switches.clear()
    simulation.run(10.0)
    first_up_s = simulation.switches[0].time_ns / 1e9
    assert 6.0 + 3.0 / 5 <= first_up_s <= 6.0 + 4.5  # the level was on time before


def test_predictive_ignores_a_single_outlier():
    manager = RuntimeManager(LEVELS, PROFILE, constraints=Constraints(33.0))
    for frame in range(1, 300):
        latency_ms = 150.0 if frame in (100, 200) else 30.0
        assert manager.observe(Measurement(frame * 33_000_000, 4, latency_ms)) is None


@pytest.mark.parametrize('slowdown', [1.0, 1.05, 1.1, 1.3, 1.6, 2.0, 2.2])
@pytest.mark.parametrize('seed', [1, 2])
def test_predictive_does_not_switch_with_stationary_noise(slowdown, seed):
    simulation = Simulation(PolicySettings('predictive'), Constraints(33.0), seed=seed)
    simulation.run(5.0, slowdown)
    simulation.switches.clear()
    simulation.run(120.0, slowdown)
    assert len(simulation.switches) <= 2 * 6
    assert np.mean(np.asarray(simulation.latencies_ms) > 33.0) < 0.05


def test_predictive_keeps_the_share_of_late_frames_that_the_quantile_allows():
    shares, accuracies = [], []
    for quantile in (0.5, 0.8, 0.99):
        simulation = simulate('predictive', 33.0, quantile=quantile)
        random = np.random.default_rng(3)
        simulation.run(60.0, lambda time_s, r=random: 1.5 if r.random() < 0.3 else 1.0)
        late = np.asarray(simulation.latencies_ms[300:]) > 33.0
        shares.append(late.mean())
        accuracies.append(np.mean([ACCURACIES[level - 1] for level in simulation.levels]))
        assert late.mean() <= 1.1 * (1.0 - quantile)
    assert shares[0] > shares[2]
    assert accuracies[0] > accuracies[2]


def test_predictive_keeps_the_accuracy_if_stalls_affect_every_level():
    """One frame in ten takes 300 ms longer at any level, so it is always late."""
    manager = RuntimeManager(LEVELS, PROFILE, constraints=Constraints(36.0))
    random = np.random.default_rng(4)
    levels = []
    for frame in range(1, 2400):
        level = manager.active_level
        levels.append(level)
        stall_ms = 300.0 if random.random() < 0.1 else 0.0
        noise = 1.0 + 0.02 * random.standard_normal()
        latency_ms = LATENCIES_MS[level - 1] * noise + stall_ms
        manager.observe(Measurement(frame * 33_000_000, level, latency_ms))
    assert np.mean(np.asarray(levels) == 4) > 0.6


def test_predictive_does_not_become_stricter_if_no_level_could_have_been_on_time():
    shares = []
    for seed in range(5):
        simulation = simulate('predictive', 36.0)
        random = np.random.default_rng(seed)
        simulation.run(10.0, slowdown=30.0)
        simulation.run(30.0, lambda _, r=random: 1.5 if r.random() < 0.04 else 1.0)
        assert np.mean(np.asarray(simulation.latencies_ms[300:]) > 36.0) <= 0.05
        shares.append(np.mean(np.asarray(simulation.levels[300:]) == 4))
    assert np.mean(shares) > 0.65


def test_predictive_uses_the_fastest_level_if_no_level_is_on_time():
    simulation = simulate('predictive', 33.0)
    simulation.run(1.0)
    simulation.run(4.0, slowdown=20.0)
    assert simulation.levels[-1] == 1
    assert not simulation.manager.state.is_feasible
    assert 'no level meets the limit' in simulation.manager.state.reason


@pytest.mark.parametrize(('priority', 'expected'), [('accuracy', 3), ('latency', 1)])
def test_predictive_keeps_the_constraint_with_priority(priority, expected):
    simulation = simulate('predictive', 38.0, min_accuracy=0.75, priority=priority)
    simulation.run(5.0, slowdown=3.0)
    assert simulation.levels[-1] == expected
    assert not simulation.manager.state.is_feasible
    simulation.run(8.0)
    assert simulation.levels[-1] == 4
    assert simulation.manager.state.is_feasible


def test_predictive_uses_the_current_slowdown_for_new_constraints():
    simulation = simulate('predictive')
    simulation.run(1.0, slowdown=2.0)
    assert simulation.levels[-1] == 5
    simulation.manager.set_constraints(Constraints(48.0))
    simulation.run(FRAME_S, slowdown=2.0)
    assert simulation.levels[-1] == 3
    assert 'new constraints' in simulation.switches[-1].reason


def test_predictive_doubles_the_hold_of_a_level_that_was_late():
    policy = create_policy(TABLE, PolicySettings('predictive'))
    manager = RuntimeManager(
        LEVELS, PROFILE, constraints=Constraints(33.0), policy_factory=lambda *_: policy
    )
    for frame in range(1, 1500):  # contention returns whenever the manager moves up
        level = manager.active_level
        slowdown = 2.0 if frame < 30 or level == 4 else 1.0
        manager.observe(Measurement(frame * 33_000_000, level, LATENCIES_MS[level - 1] * slowdown))
    assert policy.hold_s(Option(4)) == policy.hold_s(Option(5)) == 2.0
    assert policy.hold_s(Option(1)) <= 0.5
    assert manager.state.switch_count < 50


def test_predictive_estimates_decay_without_frames():
    simulation = simulate('predictive', 33.0)
    simulation.run(3.0, slowdown=2.0)
    manager = simulation.manager
    assert manager.state.level < 4
    for frame in range(90):
        assert manager.active_level < 4 or frame > 2  # only after a hold time
        manager.observe(
            Measurement(
                120_000_000_000 + frame * 33_000_000,
                manager.active_level,
                LATENCIES_MS[manager.active_level - 1],
            )
        )
    assert manager.active_level == 4


@pytest.mark.parametrize('policy', ['table', 'reactive', 'predictive', 'fixed'])
@pytest.mark.parametrize('slowdown', [1.0, 3.0, 90.0])
def test_reasons_are_short_enough_for_topic_echo(policy, slowdown):
    constraints = Constraints(9999.25, 0.7654321, quantile=0.999, priority='accuracy')
    profile = make_profile(tuple(10.0 * level.median_ms for level in PROFILE.levels))
    manager = RuntimeManager(
        LEVELS, profile, policy=PolicySettings(policy), constraints=constraints
    )
    reasons = [manager.initial_decision.reason]
    for limit_ms in (9999.25, 1234.5, 0.0125):
        manager.set_constraints(Constraints(limit_ms, 0.7654321, quantile=0.999))
        for frame in range(1, 200):
            level = manager.active_level
            latency_ms = slowdown * manager.uncontended_ms(level, profile.platform)
            decisions = (
                manager.decide(frame * 33_000_000),
                manager.observe(Measurement(frame * 33_000_000, level, latency_ms)),
            )
            reasons += [decision.reason for decision in decisions if decision is not None]
            reasons.append(manager.state.reason)
    assert max(map(len, reasons)) <= 120, max(reasons, key=len)


def test_a_policy_can_be_added(monkeypatch):
    """An added policy would stay until the end of the process, so the globals are patched."""
    monkeypatch.setattr(policies, '_POLICIES', dict(policies._POLICIES))
    monkeypatch.setattr(settings, 'POLICY_NAMES', settings.POLICY_NAMES)
    policies.add_policy('mine', TablePolicy)
    assert policy_names()[-1] == 'mine'
    assert isinstance(create_policy(TABLE, PolicySettings('mine')), TablePolicy)
