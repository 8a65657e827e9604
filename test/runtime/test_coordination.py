"""Several managers on one device: choice of levels, proposals, agreements, failing peers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from coordination_fakes import ACCURACIES, LATENCIES, shared_frames, status
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation.examples import make_platform

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.runtime.coordination import (
    SILENCE_NS,
    STATUS_PERIOD_NS,
    Agreement,
    Allowance,
    Coordinator,
    Frame,
    FrameInterval,
    Status,
)
from dynamic_ofa_ros.runtime.coordination.choice import Device, ladder
from dynamic_ofa_ros.runtime.coordination.coordinator import FAREWELL_NS, MAX_PEERS
from dynamic_ofa_ros.runtime.coordination.sharing import Sharing
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.processor import SHARINGS, Job, Processor
from dynamic_ofa_ros.simulation.runner import SimulatedModel
from dynamic_ofa_ros.simulation.several import CollectiveModel, play_together
from dynamic_ofa_ros.simulation.steps import Steps

SECOND_NS = 1_000_000_000
MEAN_LOSS, LOSS = 0.001, 0.02
"""Mean and maximum loss of weighted accuracy of the greedy search against exhaustive search."""


def known(count: int, demand: float = 1.0) -> Sharing:
    """Return a device with a known demand; with a demand of 1, models run one at a time."""
    sharing = Sharing(range(count))
    sharing.demand, sharing.power = demand, 0.0
    return sharing


def chosen(everyone: list[Status], demand: float = 1.0) -> list[int]:
    device = Device(everyone, known(len(everyone), demand))
    return device.choose([ladder(s) for s in everyone], 0.0)


class Circle:
    """Managers that switch at once and exchange all statuses, on a time-sliced device.

    All cameras deliver images with the statuses, so all frames run at the same time.
    """

    def __init__(self, *everyone: Status, fixed: tuple[str, ...] = ()) -> None:
        self.everyone = {s.name: s for s in everyone}
        self.coordinators = {s.name: Coordinator() for s in everyone}
        self.allowances: dict[str, Allowance | None] = {}
        self.fixed = fixed
        self.time_ns = SECOND_NS
        self.changes: list[int] = []
        self.extra_ms = 0.0

    @property
    def levels(self) -> dict[str, int]:
        return {name: s.level for name, s in self.everyone.items()}

    def run(self, seconds: float, silent: tuple[str, ...] = ()) -> None:
        for _ in range(round(seconds * SECOND_NS / STATUS_PERIOD_NS)):
            present = [name for name in self.everyone if name not in silent]
            works_ms = {n: s.latencies_ms[s.level - 1] for n, s in self.everyone.items()}
            for name in present:
                own = self.everyone[name]
                taken_ms = sum(min(works_ms[name], works_ms[peer]) for peer in present)
                taken_ms += self.extra_ms
                last_ns = own.frames[-1].end_ns if own.frames else 0
                end_ns = max(self.time_ns + round(taken_ms * 1e6), last_ns + 1)
                frame = Frame(end_ns, taken_ms, own.level)
                self.everyone[name] = replace(own, frames=(*own.frames, frame)[-16:])
            self.time_ns += STATUS_PERIOD_NS
            for name in present:
                self._speak(name)

    def _speak(self, name: str) -> None:
        own = self.everyone[name]
        allowance = self.coordinators[name].decide(own, self.time_ns)
        told = self.coordinators[name].told(own, self.time_ns)
        for peer, coordinator in self.coordinators.items():
            if peer != name:
                assert coordinator.receive(told, self.time_ns)
        self.allowances[name] = allowance
        if allowance is not None and name not in self.fixed and allowance.highest != own.level:
            self.changes.append(self.time_ns)
            self.everyone[name] = replace(own, level=allowance.highest)


def greedy_and_best(everyone: list[Status]) -> tuple[float, float, float]:
    """Return lateness and accuracy of the choice, and the best accuracy on time (0 if none)."""
    device = Device(everyone, known(3))
    levels = device.choose([ladder(s) for s in everyone], 0.0)
    every = [list(c) for c in itertools.product(range(1, 5), repeat=3)]
    late = device.late(np.array([device.latencies_ms(c) for c in every]), 0.0)
    best = max(
        (device.accuracy(c) for c, ms in zip(every, late, strict=True) if not ms), default=0.0
    )
    return float(device.late(device.latencies_ms(levels), 0.0)), device.accuracy(levels), best


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_choice_meets_the_limits_if_it_is_possible(data: st.DataObject) -> None:
    """A family may have levels that are not Pareto-optimal."""
    numbers = st.floats(1.0, 50.0)
    everyone = [
        status(
            name,
            latencies_ms=tuple(data.draw(st.lists(numbers, min_size=4, max_size=4))),
            limit_ms=data.draw(st.floats(5.0, 150.0)),
            importance=data.draw(st.floats(0.1, 10.0)),
        )
        for name in 'abc'
    ]
    late, _, best = greedy_and_best(everyone)
    assert not best or late == 0.0


def test_the_choice_nearly_equals_exhaustive_search() -> None:
    random = np.random.default_rng(1)
    lost = []
    for _ in range(300):
        everyone = [
            status(
                name,
                latencies_ms=tuple(random.uniform(1.0, 50.0, 4).tolist()),
                limit_ms=float(random.uniform(5.0, 150.0)),
                importance=float(random.uniform(0.1, 10.0)),
            )
            for name in 'abc'
        ]
        _, accuracy, best = greedy_and_best(everyone)
        lost += [best - accuracy] if best else []
    assert len(lost) > 100
    assert np.mean(lost) <= MEAN_LOSS
    assert max(lost) <= LOSS


def test_the_less_important_model_gets_the_lower_level() -> None:
    for important, other in (('a', 'b'), ('b', 'a')):
        everyone = [
            status(name, importance=5.0 if name == important else 1.0, limit_ms=66.0)
            for name in ('a', 'b')
        ]
        levels = dict(zip(('a', 'b'), chosen(everyone), strict=True))
        assert levels[important] > levels[other]


def test_all_models_keep_their_levels_if_demands_fit() -> None:
    everyone = [status(name, limit_ms=45.0) for name in 'ab']
    assert chosen(everyone, demand=0.5) == [4, 4]
    assert chosen(everyone, demand=1.0) < [4, 4]


def test_the_floor_is_kept_when_accuracy_has_priority() -> None:
    floor = status('a', floor=0.75, priority='accuracy', limit_ms=5.0)
    assert ladder(floor) == [3, 4]
    assert chosen([floor, status('b', limit_ms=15.0)]) == [3, 1], 'its fastest such level'


def test_levels_slower_than_more_accurate_ones_are_omitted() -> None:
    odd = status('a', latencies_ms=(10.0, 30.0, 20.0, 20.0), accuracies=(0.5, 0.6, 0.7, 0.8))
    assert ladder(odd) == [1, 4]


def test_ten_models_meet_their_limits() -> None:
    everyone = [status(f'm{i}', interval_ms=400.0, limit_ms=200.0) for i in range(10)]
    levels = chosen(everyone)
    device = Device(everyone, known(10))
    assert device.late(device.latencies_ms(levels), 0.0) == 0.0
    assert max(levels) > 1


@pytest.mark.parametrize('demand', [0.4, 0.7, 1.0])
def test_the_demand_is_learnt_from_overlapping_frames(demand: float) -> None:
    works_ms, starts_ms = (40.0, 40.0), [np.arange(0, 2000, 100.0), np.arange(15, 2000, 103.0)]
    frames = shared_frames(works_ms, (demand, demand), starts_ms, (4, 4))
    everyone = [status('a', level=4), status('b', level=4)]
    sharing = Sharing('ab')
    for now_ns in range(2 * STATUS_PERIOD_NS, 2 * SECOND_NS, STATUS_PERIOD_NS):
        told = [
            replace(s, time_ns=now_ns, frames=tuple(f for f in known if f.end_ns <= now_ns)[-16:])
            for s, known in zip(everyone, frames, strict=True)
        ]
        sharing.take(told)
    slow = max(1.0, 2.0 * sharing.demand)
    assert slow == pytest.approx(max(1.0, 2 * demand), abs=0.1)


def test_there_is_no_allowance_without_peers_on_the_device() -> None:
    coordinator = Coordinator()
    assert coordinator.decide(status('a'), 0) is None
    assert coordinator.receive(status('b', device='boot/GPU-1'), 0)
    assert coordinator.decide(status('a'), 1) is None
    assert coordinator.told(status('a'), 1).agreement is None


def test_a_peer_that_moves_to_the_device_is_considered() -> None:
    coordinator = Coordinator()
    assert coordinator.receive(status('b', device='boot/GPU-1'), 0)
    assert coordinator.decide(status('a'), 1) is None
    assert coordinator.receive(status('b'), 2)
    assert coordinator.decide(status('a'), 3) is not None


def test_all_models_run_the_proposal_of_the_first_by_name() -> None:
    circle = Circle(status('b', limit_ms=66.0, importance=9.0), status('a'), status('c'))
    circle.run(1.0)
    assert circle.levels['b'] > 1
    for name, allowance in circle.allowances.items():
        assert allowance is not None
        assert allowance.lowest == allowance.highest == circle.levels[name]
        assert '2 others' in allowance.reason


def test_an_agreement_is_stable_until_a_limit_changes() -> None:
    circle = Circle(status('a'), status('b'))
    circle.run(3.0)
    assert circle.levels == {'a': 4, 'b': 4}, 'no limits'
    circle.changes.clear()
    circle.run(3.0)
    assert circle.changes == []
    changed_ns = circle.time_ns
    circle.everyone['b'] = replace(circle.everyone['b'], limit_ms=11.0, importance=9.0)
    circle.run(1.5)
    assert circle.levels['b'] == 1
    assert circle.changes[0] - changed_ns <= 3 * STATUS_PERIOD_NS


def test_a_fluctuating_limit_does_not_change_the_agreement() -> None:
    circle = Circle(status('a', limit_ms=80.0), status('b', limit_ms=80.0))
    circle.run(10.0)
    circle.changes.clear()
    for limit_ms in itertools.islice(itertools.cycle((82.0, 78.5)), 40):
        circle.everyone['a'] = replace(circle.everyone['a'], limit_ms=limit_ms)
        circle.run(0.1)
    assert len(circle.changes) <= 2


def test_the_next_peer_proposes_when_the_first_fails() -> None:
    circle = Circle(
        status('a', limit_ms=66.0, importance=9.0), status('b'), status('c', limit_ms=100.0)
    )
    circle.run(2.0)
    circle.run(1.0 + SILENCE_NS / SECOND_NS, silent=('a',))
    allowance = circle.allowances['b']
    assert allowance is not None
    assert 'collective with c' in allowance.reason
    circle.run(1.0)
    assert circle.allowances['c'] is not None
    assert '2 others' in circle.allowances['c'].reason, 'a is back'


def test_a_first_peer_without_proposals_is_skipped() -> None:
    coordinator = Coordinator()
    for time_ns in range(SECOND_NS, 2 * SECOND_NS, STATUS_PERIOD_NS):
        coordinator.receive(status('a', time_ns=time_ns), time_ns)
        coordinator.decide(status('b', limit_ms=30.0), time_ns)
    assert coordinator.told(status('b'), time_ns).agreement is not None


def test_an_unusable_proposal_only_prevents_moves_up() -> None:
    for levels in ((('a', 1),), (('a', 1), ('b', 99))):
        coordinator = Coordinator()
        coordinator.receive(status('a', agreement=Agreement(3, levels)), 1)
        allowance = coordinator.decide(status('b', level=2), 2)
        assert allowance is not None
        assert allowance[:2] == (1, 2)


def test_a_silent_peer_is_removed_and_coordination_ends_later() -> None:
    circle = Circle(status('a', limit_ms=45.0), status('b'))
    circle.run(2.0)
    assert circle.levels['a'] < 4 or circle.levels['b'] < 4
    circle.run(SILENCE_NS / SECOND_NS + 1.5, silent=('b',))
    assert circle.levels['a'] == 4, 'the time that b leaves is used'
    circle.run(FAREWELL_NS / SECOND_NS, silent=('b',))
    assert circle.allowances['a'] is None


def test_a_peer_that_does_not_switch_is_assumed_to_stay() -> None:
    """With policy `fixed`, for example; the other model must meet its limit anyway."""
    fixed = status('fixed', importance=0.01)
    circle = Circle(fixed, status('own', limit_ms=66.0), fixed=('fixed',))
    circle.run(0.3)
    asked = circle.allowances['fixed']
    assert asked is not None
    circle.run(3.0)
    asked = circle.allowances['fixed']
    assert asked is not None
    assert asked.highest == 4
    assert circle.levels['own'] < 4


def test_a_level_that_would_have_met_the_limit_is_tried() -> None:
    """Regression: frames never overlap, so predictions are wrong and must be outweighed."""
    circle = Circle(status('a', limit_ms=60.0), status('b', limit_ms=60.0))
    circle.run(1.0)
    low = dict(circle.levels)
    assert min(low.values()) < 4
    alone = {name: replace(s, frames=()) for name, s in circle.everyone.items()}
    circle.everyone = alone
    run_apart(circle, 30.0)
    assert circle.levels == {'a': 4, 'b': 4}


def run_apart(circle: Circle, seconds: float) -> None:
    """Frames of b start half a period after those of a, so there is no slowdown."""
    for _ in range(round(seconds * SECOND_NS / STATUS_PERIOD_NS)):
        for place, (name, own) in enumerate(circle.everyone.items()):
            taken_ms = own.latencies_ms[own.level - 1]
            end_ns = circle.time_ns + place * 50_000_000 + round(taken_ms * 1e6)
            frames = (*own.frames, Frame(end_ns, taken_ms, own.level))[-16:]
            circle.everyone[name] = replace(own, frames=frames)
        circle.time_ns += STATUS_PERIOD_NS
        for name in circle.everyone:
            circle._speak(name)


def test_higher_levels_return_after_a_load_on_all_levels() -> None:
    circle = Circle(status('a', limit_ms=90.0), status('b', limit_ms=90.0))
    circle.run(8.0)
    before = dict(circle.levels)
    circle.extra_ms = 100.0
    circle.run(5.0)
    circle.extra_ms = 0.0
    circle.run(60.0)
    assert sum(circle.levels.values()) >= sum(before.values()) - 1


def test_stalls_at_every_level_do_not_lower_the_accuracy() -> None:
    """Every eighth frame is late at any level, so lower levels are not better."""
    circle = Circle(status('a', limit_ms=90.0), status('b', limit_ms=90.0))
    for count in range(300):
        circle.extra_ms = 200.0 * (count % 8 == 0)
        circle.run(0.1)
    assert circle.levels == {'a': 4, 'b': 4}


def test_limits_that_cannot_be_met_do_not_cause_switches() -> None:
    circle = Circle(status('a', limit_ms=5.0), status('b', limit_ms=5.0))
    circle.run(10.0)
    circle.changes.clear()
    circle.run(20.0)
    assert circle.levels == {'a': 1, 'b': 1}
    assert circle.changes == []


def test_the_frame_interval_is_first_unknown_then_that_of_the_camera() -> None:
    interval = FrameInterval()
    assert interval.update(0, 0) == math.inf
    assert interval.update(100_000_000, 2) == math.inf, 'too short to tell'
    assert interval.update(1_000_000_000, 20) == pytest.approx(50.0)
    for tenth in range(11, 41):
        found = interval.update(tenth * 100_000_000, 10 + tenth)
    assert found == pytest.approx(100.0)
    assert interval.update(9_000_000_000, 50) == math.inf, 'the camera has stopped'


@pytest.mark.parametrize(
    'changes',
    [
        {'name': ''},
        {'name': 'x' * 10_000},
        {'latencies_ms': ()},
        {'latencies_ms': (1.0, math.nan, 2.0, 3.0)},
        {'latencies_ms': (1.0, 1e305, 2.0, 3.0)},
        {'latencies_ms': (1.0, -1.0, 2.0, 3.0)},
        {'latencies_ms': (1.0,) * 1_000_000, 'accuracies': (0.5,) * 1_000_000},
        {'accuracies': (0.5,)},
        {'accuracies': (0.1, 0.2, 0.3, 7.0)},
        {'accuracies': (0.1, 0.2, 0.3, math.nan)},
        {'level': 0},
        {'level': 9},
        {'limit_ms': -1.0},
        {'limit_ms': 0.0},
        {'limit_ms': 1e305},
        {'limit_ms': math.nan},
        {'quantile': 1.0},
        {'quantile': math.nan},
        {'interval_ms': 0.0},
        {'interval_ms': 5e-324},
        {'importance': -1.0},
        {'importance': math.inf},
        {'floor': 2.0},
        {'priority': 'mine'},
        {'time_ns': 3600 * SECOND_NS},
        {'time_ns': -3600 * SECOND_NS},
        {'frames': (Frame(1, math.nan, 1),)},
        {'frames': (Frame(1, 1e305, 1),)},
        {'frames': (Frame(1, 0.0, 1),)},
        {'frames': (Frame(1, 5.0, 9),)},
        {'frames': (Frame(2, 5.0, 1), Frame(1, 5.0, 1))},
        {'frames': (Frame(3600 * SECOND_NS, 5.0, 1),)},
        {'frames': tuple(Frame(i, 5.0, 1) for i in range(1000))},
        {'agreement': Agreement(-1, ())},
        {'agreement': Agreement(2**62, ())},
        {'agreement': Agreement(1, tuple((str(i), 1) for i in range(1000)))},
    ],
)
def test_an_invalid_status_is_ignored(changes: dict[str, Any]) -> None:
    coordinator = Coordinator()
    assert not coordinator.receive(replace(status('b'), **changes), 0)
    assert coordinator.decide(status('a'), 1) is None


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_valid_status_yields_a_choice(data: st.DataObject) -> None:
    """Any sequence of valid statuses of peers is handled."""
    coordinator, time_ns = Coordinator(), SECOND_NS
    numbers = st.floats(1e-3, 1e5)
    for _ in range(data.draw(st.integers(1, 6))):
        time_ns += STATUS_PERIOD_NS
        count = data.draw(st.integers(1, 5))
        ends_ns = sorted(data.draw(st.sets(st.integers(0, time_ns + SECOND_NS), max_size=8)))
        peer = Status(
            data.draw(st.sampled_from(('a', 'z'))),
            'boot/cpu',
            data.draw(st.integers(1, count)),
            tuple(data.draw(st.lists(numbers, min_size=count, max_size=count))),
            tuple(data.draw(st.lists(st.floats(0.0, 1.0), min_size=count, max_size=count))),
            time_ns + data.draw(st.integers(-5 * SECOND_NS, SECOND_NS)),
            data.draw(numbers | st.just(math.inf)),
            data.draw(st.floats(0.01, 0.99)),
            data.draw(st.floats(0.0, 1.0)),
            data.draw(st.sampled_from(('latency', 'accuracy'))),
            data.draw(numbers),
            data.draw(numbers | st.just(math.inf)),
            tuple(
                Frame(end_ns, data.draw(numbers), data.draw(st.integers(1, count)))
                for end_ns in ends_ns
            ),
            data.draw(
                st.none() | st.builds(Agreement, st.integers(0, 99), st.just((('m', 7), ('a', 1))))
            ),
        )
        coordinator.receive(peer, time_ns)
        frames = (Frame(time_ns - 1, 25.0, 3),)
        allowance = coordinator.decide(status('m', limit_ms=30.0, frames=frames), time_ns)
        assert allowance is None or 1 <= allowance.lowest <= allowance.highest <= 4


def test_a_choice_with_many_peers_is_fast() -> None:
    coordinator = Coordinator()
    taken = [coordinator.receive(status(f'peer {i}'), 0) for i in range(1000)]
    assert sum(taken) == MAX_PEERS
    assert coordinator.decide(status('a'), 1) is not None


def closed_loop(sharing: str, *, change: str, duration_ms: float = 20000.0):
    """Simulate two models with a lower clock or another program in the middle of the run."""
    frequency = Steps.of(
        [(0.0, 1.0), (4000.0, 0.7), (7000.0, 1.0)] if change == 'clock' else [(0.0, 1.0)]
    )
    jobs = [Job('job', 0.5, 4000.0, 7000.0)] if change == 'job' else []
    platform = make_platform(LATENCIES, ACCURACIES, noise=0.02, demands=(0.5, 0.6, 0.8, 1.0))
    models = [
        CollectiveModel(
            SimulatedModel(
                name, platform, 'predictive', Constraints(limit_ms), Timing(period_ms, 0.0)
            )
        )
        for name, limit_ms, period_ms in (('a', 66.0, 100.0), ('b', 75.0, 80.0))
    ]
    return play_together(
        models,
        Processor(sharing, slice_ms=2.0, frequency=frequency),
        jobs,
        duration_ms=duration_ms,
        has_alternatives=False,
    )


@pytest.mark.parametrize('sharing', SHARINGS)
def test_levels_follow_a_lower_clock_and_its_end(sharing: str) -> None:
    records = closed_loop(sharing, change='clock')
    for record in records:
        frames = [f for f in record.frames if 5000.0 <= f.start_ms < 7000.0]
        assert sum(f.is_violation for f in frames) <= 2
        assert sum(d.time_ns > 16e9 for d in record.decisions) <= 2, 'it settles'

    def accuracy(begin_ms: float, end_ms: float) -> float:
        return float(
            np.mean(
                [
                    ACCURACIES[f.level - 1]
                    for record in records
                    for f in record.frames
                    if begin_ms <= f.start_ms < end_ms
                ]
            )
        )

    assert accuracy(5000.0, 7000.0) < accuracy(2500.0, 4000.0) - 0.005
    assert accuracy(18000.0, 20000.0) > accuracy(2500.0, 4000.0) - 0.01


def test_levels_are_lowered_for_another_program() -> None:
    for record in closed_loop('proportional', change='job', duration_ms=7000.0):
        frames = [f for f in record.frames if 5000.0 <= f.start_ms < 7000.0]
        assert sum(f.is_violation for f in frames) <= 1
