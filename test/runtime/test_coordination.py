"""Several managers on one device: the joint choice, turns, silence; and closed loops of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_ofa_ros.runtime.coordination import (
    PATIENCE_NS,
    SETTLED_NS,
    SILENCE_NS,
    STATUS_PERIOD_NS,
    TURN_NS,
    Ceiling,
    Contention,
    Coordinator,
    FrameInterval,
    Memory,
    Predict,
    Status,
    best_combination,
    predicted_ms,
)

LATENCIES = (10.0, 20.0, 30.0, 40.0)
ACCURACIES = (0.70, 0.74, 0.76, 0.78)
PERIOD_MS = 100.0


def status(name: str, **changes: object) -> Status:
    return replace(
        Status(name, 'host:cpu', 4, LATENCIES, ACCURACIES, interval_ms=PERIOD_MS),
        **changes,  # type: ignore[arg-type]
    )


def contention(count: int, strength: float = 1.0, external: float = 1.0) -> Contention:
    return Contention(np.full(count, strength), np.full(count, external))


def predict_for(everyone: list[Status], strength: float = 1.0) -> Predict:
    return lambda levels: predicted_ms(everyone, contention(len(everyone), strength), levels)


def decided(coordinator: Coordinator, own: Status, *peers: Status, since_ns: int = 1) -> Ceiling:
    """Return the ceiling after statuses that stay as they are for long enough to be believed."""
    ceiling = None
    for time_ns in range(since_ns, since_ns + SETTLED_NS + 1, STATUS_PERIOD_NS):
        for peer in peers:
            assert coordinator.receive(peer, time_ns)
        ceiling = coordinator.decide(own, time_ns)
    assert ceiling is not None
    return ceiling


def test_prediction_alone_is_the_table_and_shared_grows_with_the_peers_level() -> None:
    alone = predicted_ms([status('a')], contention(1), np.array([[1], [4]]))
    assert alone[:, 0].tolist() == [10.0, 40.0]
    everyone = [status('a'), status('b')]
    both = predicted_ms(everyone, contention(2), np.array([[4, 1], [4, 4]]))
    assert 40.0 < both[0, 0] < both[1, 0]
    weakly = predicted_ms(everyone, contention(2, 0.5), np.array([[4, 1]]))
    assert weakly[0, 0] - 40.0 == pytest.approx((both[0, 0] - 40.0) / 2)


def test_prediction_by_hand() -> None:
    """At their highest levels frames of equal length double, and an external factor multiplies."""
    everyone = [status('a', interval_ms=math.inf), status('b', interval_ms=math.inf)]
    found = predicted_ms(
        everyone, Contention(np.ones(2), np.array([1.0, 1.5])), np.array([[4, 4]])
    )
    assert found[0].tolist() == pytest.approx([80.0, 120.0])
    busy = [status('a'), status('b', interval_ms=1e-3, latencies_ms=(1.0, 1.0, 1.0, 1.0))]
    assert predicted_ms(busy, contention(2), np.array([[4, 4]]))[0, 0] == pytest.approx(80.0), (
        'a peer whose frames are short but follow each other is there all the time'
    )


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_best_combination_is_that_of_exhaustive_search(data: st.DataObject) -> None:
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
    predict = predict_for(everyone, data.draw(st.floats(0.0, 1.0)))
    best = tuple(best_combination(everyone, predict))
    # Levels that are slower and less accurate than others are left out, by both.
    every = np.array(list(itertools.product(range(1, 5), repeat=3)))
    meets = (predict(every) <= [s.limit_ms for s in everyone]).all(axis=1)
    values = {
        tuple(levels): sum(
            s.importance * s.accuracies[level - 1]
            for s, level in zip(everyone, levels, strict=True)
        )
        for levels in every[meets].tolist()
    }
    if values:
        assert best in values
        assert values[best] == pytest.approx(max(values.values()))


def test_importance_decides_who_gives_way() -> None:
    for important, other in (('a', 'b'), ('b', 'a')):
        everyone = [
            status(name, importance=5.0 if name == important else 1.0, limit_ms=62.0)
            for name in ('a', 'b')
        ]
        best = best_combination(everyone, predict_for(everyone))
        levels = dict(zip(('a', 'b'), best, strict=True))
        assert levels[important] > levels[other]


def test_floor_holds_when_accuracy_has_priority() -> None:
    everyone = [
        status('a', floor=0.75, priority='accuracy', limit_ms=5.0),
        status('b', limit_ms=15.0),
    ]
    levels = best_combination(everyone, predict_for(everyone))
    assert levels == [3, 1], 'a keeps its floor, at its fastest such level; b does what it can'


def test_many_models_are_not_compared_exhaustively_but_meet_their_limits() -> None:
    everyone = [status(f'm{i:02}', interval_ms=400.0, limit_ms=30.0) for i in range(12)]
    predict = predict_for(everyone, 0.12)
    levels = best_combination(everyone, predict)
    assert (predict(np.array([levels])) <= 30.0).all()
    assert max(levels) > 1


def test_what_was_measured_is_known_and_bounds_what_was_not() -> None:
    measured = [
        status('a', level=2, slowdown=1.5),
        status('b', level=3, slowdown=2.0),
    ]
    memory = Memory()
    memory.note(measured, (2, 3), SETTLED_NS, 0)
    found = memory.predicted_ms(measured, np.array([[2, 3], [1, 3], [1, 1], [4, 4], [2, 4]]))
    assert found[0].tolist() == pytest.approx([30.0, 60.0])
    delays = found - [[20, 30], [10, 30], [10, 10], [40, 40], [20, 40]]
    assert (delays[1:3] <= delays[0]).all()
    assert (delays[3:] >= delays[0]).all()


def test_peaks_are_remembered_and_ease_forgets() -> None:
    memory, here = Memory(), np.array([[4, 4]])

    def note(slowdown: float, stay_s: float) -> float:
        everyone = [status('a', slowdown=slowdown), status('b')]
        memory.note(everyone, (4, 4), round(stay_s * 1e9), round(stay_s * 1e9))
        return float(memory.predicted_ms(everyone, here)[0, 0])

    assert note(1.5, 2.0) == pytest.approx(60.0)
    assert note(1.25, 2.1) > 59.0, 'a quiet moment is no reason to forget a peak'
    assert note(1.0, 2.2) == pytest.approx(40.0), 'contention that ends is'


def test_alone_there_is_no_ceiling_and_other_devices_do_not_count() -> None:
    coordinator = Coordinator()
    assert coordinator.decide(status('a'), 0) is None
    assert coordinator.receive(status('b', device='host:cuda:0'), 0)
    assert coordinator.decide(status('a'), 1) is None


def test_nobody_goes_up_before_anything_was_measured() -> None:
    coordinator = Coordinator()
    coordinator.receive(status('b'), 0)
    ceiling = coordinator.decide(status('a', level=2), 1)
    assert ceiling is not None
    assert (ceiling.level, ceiling.reason) == (2, 'collective with b: measures')
    assert decided(coordinator, status('a', level=2), status('b')).level == 4


def test_silent_peer_is_forgotten() -> None:
    coordinator = Coordinator()
    coordinator.receive(status('b', limit_ms=20.0), 0)
    assert coordinator.decide(status('a'), SILENCE_NS) is not None
    assert coordinator.decide(status('a'), SILENCE_NS + 1) is None


def test_a_peer_that_comes_makes_what_was_measured_void() -> None:
    coordinator = Coordinator()
    assert 'at most' in decided(coordinator, status('a'), status('b')).reason
    coordinator.receive(status('c'), SETTLED_NS + 2)
    ceiling = coordinator.decide(status('a'), SETTLED_NS + 3)
    assert ceiling is not None
    assert ceiling.reason.endswith('measures')


def test_a_new_limit_is_answered_with_the_next_status() -> None:
    coordinator = Coordinator()
    slow = [status(name, slowdown=1.5) for name in 'ab']
    assert decided(coordinator, slow[0], slow[1]).level == 4
    later_ns = 2 * SETTLED_NS
    coordinator.receive(replace(slow[1], limit_ms=45.0, importance=9.0), later_ns)
    ceiling = coordinator.decide(slow[0], later_ns + 1)
    assert ceiling is not None
    assert ceiling.level < 4
    assert 'makes room for b' in ceiling.reason


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
        {'interval_ms': 0.0},
        {'importance': -1.0},
        {'floor': 2.0},
        {'priority': 'mine'},
        {'accuracies': (0.1, 0.2, 0.3, 7.0)},
    ],
)
def test_senseless_status_is_ignored(changes: dict[str, object]) -> None:
    coordinator = Coordinator()
    assert not coordinator.receive(status('b', **changes), 0)
    assert coordinator.decide(status('a'), 1) is None


def test_the_one_that_loses_least_goes_first_and_the_other_waits_its_turn() -> None:
    slow = {'slowdown': 1.9, 'limit_ms': 22.0}
    cheap = status('cheap', accuracies=(0.77, 0.775, 0.778, 0.78), **slow)
    dear = status('dear', **slow)
    ceilings = {}
    for own, peer in ((cheap, dear), (dear, cheap)):
        coordinator = Coordinator()
        ceilings[own.name] = decided(coordinator, own, peer)
        waited = coordinator.decide(own, SETTLED_NS + TURN_NS + 2)
        assert waited is not None
        assert waited.level < 4, 'who is waited for too long is not waited for any longer'
    assert ceilings['cheap'].level < 4
    assert ceilings['dear'].level == 4
    assert 'waits for cheap' in ceilings['dear'].reason


def test_who_does_not_make_room_is_taken_as_it_is() -> None:
    """Whatever keeps it (policy `fixed`): the other must meet its limit without it."""
    fixed = status('fixed', slowdown=1.9, importance=0.01)
    own = status('own', slowdown=1.9, limit_ms=68.0)
    coordinator = Coordinator()
    assert decided(coordinator, own, fixed).level == 4
    later = decided(coordinator, own, fixed, since_ns=SETTLED_NS + 2)
    later = decided(coordinator, own, fixed, since_ns=2 * SETTLED_NS + 3)
    assert later.level == 4, 'it is still expected to move'
    later = decided(coordinator, own, fixed, since_ns=2 * SETTLED_NS + PATIENCE_NS)
    assert later.level < 4


class Loop:
    """Closed loops: what the device really does is the model above, with noise, and worse."""

    def __init__(self, everyone: list[Status], seed: int, misfit: float) -> None:
        self.everyone = {s.name: s for s in everyone}
        self.coordinators = {s.name: Coordinator() for s in everyone}
        self.rng = np.random.default_rng(seed)
        self.misfit = misfit
        self.time_ns = 0
        self.changes: list[int] = []

    def latencies(self) -> dict[str, float]:
        return dict(zip(self.everyone, self.true_ms(*self.levels), strict=True))

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(s.level for s in self.everyone.values())

    def true_ms(self, *levels: int) -> np.ndarray:
        everyone = list(self.everyone.values())
        modelled = predicted_ms(everyone, contention(len(everyone), 0.6), np.array([levels]))[0]
        return modelled**self.misfit

    def step(self) -> None:
        self.time_ns += STATUS_PERIOD_NS
        measured = self.latencies()
        for name, own in self.everyone.items():
            uncontended = own.latencies_ms[own.level - 1]
            ratio = measured[name] / uncontended * self.rng.lognormal(0.0, 0.03)
            self.everyone[name] = replace(own, slowdown=own.slowdown**0.5 * ratio**0.5)
        statuses = list(self.everyone.values())
        for name in self.rng.permutation(list(self.everyone)):
            coordinator = self.coordinators[name]
            for peer in statuses:
                if peer.name != name and self.rng.random() < 0.9:  # messages are lost
                    coordinator.receive(peer, self.time_ns)
            own = self.everyone[name]
            ceiling = coordinator.decide(own, self.time_ns)
            if ceiling is not None and ceiling.level != own.level:
                # The policy's own limit: it takes the ceiling only where that is met.
                self.changes.append(self.time_ns)
                self.everyone[name] = replace(own, level=ceiling.level)


@pytest.mark.parametrize('misfit', [1.0, 0.98])
@pytest.mark.parametrize('seed', range(3))
def test_closed_loop_settles_and_meets_the_limits(seed: int, misfit: float) -> None:
    rng = np.random.default_rng(seed)
    everyone = [
        status(
            name,
            latencies_ms=tuple(np.sort(rng.uniform(5.0, 40.0, 4)).tolist()),
            limit_ms=float(rng.uniform(20.0, 60.0)),
            importance=float(rng.uniform(0.5, 2.0)),
            interval_ms=float(rng.uniform(50.0, 150.0)),
        )
        for name in 'abc'[: rng.integers(2, 4)]
    ]
    loop = Loop(everyone, seed, misfit)
    for _ in range(60):  # six seconds
        loop.step()
    assert sum(time_ns > 4_000_000_000 for time_ns in loop.changes) <= 1, 'no livelock'
    limits = np.array([s.limit_ms for s in everyone])
    possible = [
        levels
        for levels in itertools.product(range(1, 5), repeat=len(everyone))
        if (loop.true_ms(*levels) <= 0.9 * limits).all()
    ]
    if possible:
        assert (loop.true_ms(*loop.levels) <= limits).all()
        weights = [s.importance for s in everyone]

        def value(levels: tuple[int, ...]) -> float:
            accuracies = [ACCURACIES[level - 1] for level in levels]
            return float(np.average(accuracies, weights=weights))

        assert value(loop.levels) >= max(map(value, possible)) - 0.025
