"""Several managers on one device: the joint choice, who proposes it, who follows, and silence."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from coordination_fakes import ACCURACIES, LATENCIES, status
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation.examples import make_platform

from benchmarks.several import CollectiveModel, play_together
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.runtime.coordination import (
    FAREWELL_NS,
    IDLE_NS,
    SILENCE_NS,
    STATUS_PERIOD_NS,
    Agreement,
    Ceiling,
    Coordinator,
    Frame,
    FrameInterval,
    Obedience,
    Status,
    proposer,
)
from dynamic_ofa_ros.runtime.coordination.choice import (
    CAUTION,
    MAX_COMBINATIONS,
    Options,
    options,
)
from dynamic_ofa_ros.runtime.coordination.frames import FrameLog
from dynamic_ofa_ros.runtime.coordination.learning import unknown_sharing
from dynamic_ofa_ros.runtime.coordination.obedience import ROOM_NS, too_many_in_a_row
from dynamic_ofa_ros.runtime.coordination.record import Record
from dynamic_ofa_ros.runtime.coordination.sharing import predict
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.processor import SHARINGS, Job, Processor
from dynamic_ofa_ros.simulation.runner import SimulatedModel
from dynamic_ofa_ros.simulation.steps import Steps

SECOND_NS = 1_000_000_000


def best(everyone: list[Status]) -> list[int]:
    found = options(everyone, unknown_sharing(len(everyone)), Record())
    return found.combinations[found.best()].tolist()


class Circle:
    """Managers that obey at once and tell each other everything, on a device that serves in turn.

    All cameras deliver with the statuses; everybody's frame waits for a fair part of the others'.
    """

    def __init__(self, *everyone: Status, fixed: tuple[str, ...] = ()) -> None:
        self.everyone = {s.name: s for s in everyone}
        self.coordinators = {s.name: Coordinator() for s in everyone}
        self.ceilings: dict[str, Ceiling | None] = {}
        self.fixed = fixed
        self.time_ns = SECOND_NS
        self.changes: list[int] = []

    @property
    def levels(self) -> dict[str, int]:
        return {name: s.level for name, s in self.everyone.items()}

    def run(self, seconds: float, silent: tuple[str, ...] = ()) -> None:
        for _ in range(round(seconds * SECOND_NS / STATUS_PERIOD_NS)):
            present = [name for name in self.everyone if name not in silent]
            works_ms = {name: s.latency_ms(s.level) for name, s in self.everyone.items()}
            for name in present:
                own = self.everyone[name]
                taken_ms = sum(min(works_ms[name], works_ms[peer]) for peer in present)
                frame = Frame(self.time_ns + round(taken_ms * 1e6), taken_ms, own.level)
                self.everyone[name] = replace(own, frames=(*own.frames, frame)[-16:])
            self.time_ns += STATUS_PERIOD_NS
            for name in present:
                self._speak(name)

    def _speak(self, name: str) -> None:
        own = self.everyone[name]
        ceiling = self.coordinators[name].decide(own, self.time_ns)
        told = self.coordinators[name].told(own, self.time_ns)
        for peer, coordinator in self.coordinators.items():
            if peer != name:
                assert coordinator.receive(told, self.time_ns)
        self.ceilings[name] = ceiling
        if ceiling is not None and name not in self.fixed and ceiling.level != own.level:
            self.changes.append(self.time_ns)
            self.everyone[name] = replace(own, level=ceiling.level)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_choice_is_that_of_exhaustive_search(data: st.DataObject) -> None:
    """Also where a family has levels that are not worth running."""
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
    levels = tuple(best(everyone))
    every = np.array(list(itertools.product(range(1, 5), repeat=3)))
    late = predict(everyone, unknown_sharing(3), every).share
    meets = (late <= CAUTION * 0.05).all(axis=1)
    values = {
        tuple(combination): sum(
            s.importance * s.accuracy(level)
            for s, level in zip(everyone, combination, strict=True)
        )
        for combination in every[meets].tolist()
    }
    if values:
        assert levels in values
        assert values[levels] == pytest.approx(max(values.values()))


def test_importance_decides_who_gives_way() -> None:
    for important, other in (('a', 'b'), ('b', 'a')):
        everyone = [
            status(name, importance=5.0 if name == important else 1.0, limit_ms=66.0)
            for name in ('a', 'b')
        ]
        levels = dict(zip(('a', 'b'), best(everyone), strict=True))
        assert levels[important] > levels[other]


def test_floor_holds_when_accuracy_has_priority() -> None:
    everyone = [
        status('a', floor=0.75, priority='accuracy', limit_ms=5.0),
        status('b', limit_ms=15.0),
    ]
    assert best(everyone) == [3, 1], 'a keeps its floor, at its fastest such level'


def test_who_stays_is_chosen_around() -> None:
    everyone = [status('a', importance=0.01), status('b', limit_ms=66.0)]
    assert best(everyone)[1] == 4
    found = options(everyone, unknown_sharing(2), Record(), staying={'a'})
    assert found.combinations[found.best()].tolist() == [4, 3]


def test_many_models_are_not_compared_exhaustively_but_meet_their_limits() -> None:
    everyone = [status(f'm{i:02}', interval_ms=400.0, limit_ms=200.0) for i in range(12)]
    assert MAX_COMBINATIONS < 4**12
    levels = best(everyone)
    assert predict(everyone, unknown_sharing(12), np.array([levels])).share.max() <= 0.05
    assert max(levels) > 1


def test_alone_there_is_no_ceiling_and_other_devices_do_not_count() -> None:
    coordinator = Coordinator()
    assert coordinator.decide(status('a'), 0) is None
    assert coordinator.receive(status('b', device='host:cuda:0'), 0)
    assert coordinator.decide(status('a'), 1) is None
    assert coordinator.told(status('a'), 1).agreement is None


def test_all_run_what_the_first_by_name_proposes() -> None:
    circle = Circle(status('b', limit_ms=66.0, importance=9.0), status('a'), status('c'))
    circle.run(1.0)
    rounds = {ceiling.round for ceiling in circle.ceilings.values() if ceiling is not None}
    assert len(rounds) == 1
    assert all(ceiling is not None and ceiling.is_agreed for ceiling in circle.ceilings.values())
    assert circle.levels['b'] > 1
    assert '2 others' in circle.ceilings['a'].reason  # type: ignore[union-attr]


def test_what_is_agreed_stays_and_a_new_limit_is_answered_with_the_next_statuses() -> None:
    circle = Circle(status('a'), status('b'))
    circle.run(3.0)
    assert circle.levels == {'a': 4, 'b': 4}, 'no limits'
    circle.changes.clear()
    circle.run(3.0)
    assert circle.changes == []
    changed_ns = circle.time_ns
    circle.everyone['b'] = replace(circle.everyone['b'], limit_ms=11.0, importance=9.0)
    circle.run(1.0)
    assert circle.levels['b'] == 1
    assert circle.changes[0] - changed_ns <= 3 * STATUS_PERIOD_NS


def test_the_next_one_proposes_when_the_first_falls_silent() -> None:
    circle = Circle(
        status('a', limit_ms=66.0, importance=9.0), status('b'), status('c', limit_ms=100.0)
    )
    circle.run(2.0)
    before = circle.ceilings['b']
    circle.run(1.0 + IDLE_NS / SECOND_NS, silent=('a',))
    after = circle.ceilings['b']
    assert before is not None
    assert after is not None
    assert after.round > before.round
    assert 'a' not in after.reason.split(': level')[0].split(' with ')[1]
    circle.run(1.0)
    assert len({c.round for c in circle.ceilings.values() if c is not None}) == 1, 'a is back'


def test_a_first_one_that_proposes_nothing_is_passed_over() -> None:
    coordinator = Coordinator()
    for time_ns in range(SECOND_NS, 2 * SECOND_NS, STATUS_PERIOD_NS):
        coordinator.receive(status('a', time_ns=time_ns), time_ns)
        ceiling = coordinator.decide(status('b', limit_ms=30.0), time_ns)
    assert ceiling is not None
    assert ceiling.is_agreed


def test_a_proposal_without_the_own_name_or_level_only_keeps_from_going_up() -> None:
    for levels in ((('a', 1),), (('a', 1), ('b', 99))):
        coordinator = Coordinator()
        coordinator.receive(status('a', agreement=Agreement(3, levels)), 1)
        ceiling = coordinator.decide(status('b', level=2), 2)
        assert ceiling is not None
        assert (ceiling.level, ceiling.is_agreed) == (2, False)


def test_silent_peer_is_forgotten_and_who_is_left_goes_on_for_a_while() -> None:
    circle = Circle(status('a', limit_ms=45.0), status('b'))
    circle.run(2.0)
    assert circle.levels['a'] < 4 or circle.levels['b'] < 4
    coordinator, silent_ns = circle.coordinators['a'], circle.time_ns
    circle.run(IDLE_NS / SECOND_NS + 1.5, silent=('b',))
    assert circle.levels['a'] == 4, 'the room that b left is taken'
    assert coordinator.peers('host:cpu', silent_ns + SILENCE_NS + SECOND_NS) == []
    circle.run(FAREWELL_NS / SECOND_NS, silent=('b',))
    assert circle.ceilings['a'] is None


def test_who_does_not_obey_is_taken_as_it_is() -> None:
    """Whatever keeps it (policy `fixed`): the other must meet its limit without it."""
    fixed = status('fixed', importance=0.01)
    circle = Circle(fixed, status('own', limit_ms=66.0), fixed=('fixed',))
    circle.run(0.3)
    asked = circle.ceilings['fixed']
    assert asked is not None
    assert asked.level < 4
    circle.run(3.0)
    asked = circle.ceilings['fixed']
    assert asked is not None
    assert asked.level == 4


def test_what_disappoints_again_and_again_is_tried_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that makes the present combination late and promises that the other one is not."""
    two = np.array([[1, 2], [2, 1]])
    agreed = Agreement(0, ())

    def promises(everyone: list[Status], *_: object) -> Options:
        now = [level for _, level in agreed.levels] or [0, 0]
        is_now = (two == now).all(axis=1, keepdims=True)
        latency_ms = np.array([[10.0, 20.0], [20.0, 10.0]])
        allowed, nothing = np.array([0.05, 0.05]), np.zeros(2)
        late = np.where(is_now, [1.0, 1.0], [0.0, 0.0])
        return Options(two, late, allowed, late.sum(axis=1), nothing, nothing, latency_ms)

    monkeypatch.setattr(proposer, 'options', promises)
    part, rounds = proposer.Proposer(FrameLog()), []
    for time_ns in range(SECOND_NS, 61 * SECOND_NS, STATUS_PERIOD_NS):
        levels = dict(agreed.levels) or {'a': 1, 'b': 1}
        everyone = [status(name, level=levels[name]) for name in 'ab']
        agreed = part.propose(everyone, [], time_ns, 0)
        rounds.append(agreed.round)
    assert 4 <= rounds[-1] <= 10, 'in a minute'
    assert rounds[-1] - rounds[300] <= 1


def test_limits_that_nothing_meets_are_not_reviewed_with_every_late_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reviews = []

    def counted(*arguments: Any) -> Options:
        reviews.append(circle.time_ns)
        return options(*arguments)

    monkeypatch.setattr(proposer, 'options', counted)
    circle = Circle(status('a', limit_ms=5.0), status('b', limit_ms=5.0))
    circle.run(10.0)
    settled = len(reviews)
    circle.run(20.0)
    assert circle.levels == {'a': 1, 'b': 1}
    assert 15 <= len(reviews) - settled <= 30, 'about once a second'


def test_frame_interval_is_unknown_at_first_and_follows_the_camera() -> None:
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
        {'latencies_ms': ()},
        {'latencies_ms': (1.0, math.nan, 2.0, 3.0)},
        {'accuracies': (0.5,)},
        {'level': 0},
        {'level': 9},
        {'slowdown': 0.0},
        {'slowdown': math.inf},
        {'limit_ms': -1.0},
        {'limit_ms': math.nan},
        {'quantile': 1.0},
        {'interval_ms': 0.0},
        {'importance': -1.0},
        {'floor': 2.0},
        {'priority': 'mine'},
        {'accuracies': (0.1, 0.2, 0.3, 7.0)},
        {'frames': (Frame(1, math.nan, 1),)},
        {'frames': (Frame(1, 5.0, 9),)},
    ],
)
def test_senseless_status_is_ignored(changes: dict[str, object]) -> None:
    coordinator = Coordinator()
    assert not coordinator.receive(status('b', **changes), 0)
    assert coordinator.decide(status('a'), 1) is None


@pytest.mark.parametrize('hours', [-5, 5])
def test_a_peer_with_another_clock_does_no_harm(hours: int) -> None:
    coordinator = Coordinator()
    for time_ns in range(SECOND_NS, 4 * SECOND_NS, STATUS_PERIOD_NS):
        skewed_ns = time_ns + hours * 3600 * SECOND_NS
        frames = (Frame(skewed_ns, 20.0, 2),)
        coordinator.receive(status('b', level=2, time_ns=skewed_ns, frames=frames), time_ns)
        own = status('a', limit_ms=66.0, frames=(Frame(time_ns, 40.0, 4),))
        ceiling = coordinator.decide(own, time_ns)
    assert ceiling is not None
    assert ceiling.is_agreed


def test_late_frames_in_a_row_end_the_obedience_until_something_else_is_agreed() -> None:
    obedience, agreed = Obedience(), Ceiling(3, 'agreed', is_agreed=True, round=1)

    def holds(
        ceiling: Ceiling, time_ns: int, *, is_late: bool = True, wants_lower: bool = True
    ) -> bool:
        return obedience.holds(
            ceiling, time_ns, is_late=is_late, wants_lower=wants_lower, quantile=0.95
        )

    assert all(holds(agreed, time_ns) for time_ns in (0, 1, ROOM_NS)), 'they are making room'
    assert holds(agreed, ROOM_NS + 1)
    assert holds(agreed, ROOM_NS + 2, is_late=False)
    assert holds(agreed, ROOM_NS + 3)
    assert holds(agreed, ROOM_NS + 4, wants_lower=False), 'the policy knows no better'
    assert not holds(agreed, ROOM_NS + 5)
    assert not holds(agreed, ROOM_NS + 6, is_late=False), 'for good'
    assert not obedience.is_owed(agreed)
    assert holds(replace(agreed, round=2), ROOM_NS + 7)
    assert not holds(Ceiling(3, 'only a ceiling'), 0)


def test_how_many_late_frames_in_a_row_are_no_chance() -> None:
    assert [too_many_in_a_row(q) for q in (0.999, 0.95, 0.5)] == [2, 2, 8]


def closed_loop(sharing: str, *, change: str, duration_ms: float = 12000.0):
    """Play two models whose limits the middle of the run makes harder to meet."""
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
def test_a_slower_clock_is_answered_and_its_end_too(sharing: str) -> None:
    records = closed_loop(sharing, change='clock')
    for record in records:
        frames = [f for f in record.frames if 5000.0 <= f.start_ms < 7000.0]
        assert sum(f.is_violation for f in frames) <= 1
        assert sum(d.time_ns > 10e9 for d in record.decisions) <= 1, 'it settles'

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
    assert accuracy(10000.0, 12000.0) > accuracy(2500.0, 4000.0) - 0.01


def test_another_program_is_made_room_for() -> None:
    for record in closed_loop('proportional', change='job', duration_ms=7000.0):
        frames = [f for f in record.frames if 5000.0 <= f.start_ms < 7000.0]
        assert sum(f.is_violation for f in frames) <= 1
