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
    SILENCE_NS,
    STATUS_PERIOD_NS,
    TURN_NS,
    Coordinator,
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


def test_prediction_alone_is_the_table_and_shared_grows_with_what_the_peers_use() -> None:
    alone = predicted_ms([status('a')], [1.0], np.array([[1], [4]]))
    assert alone[:, 0].tolist() == [10.0, 40.0]
    both = predicted_ms([status('a'), status('b')], [1.0, 1.0], np.array([[4, 1], [4, 4]]))
    assert both[0, 0] > 40.0
    assert both[1, 0] > both[0, 0]


def test_prediction_by_hand_where_the_peer_is_always_busy() -> None:
    """A peer that runs back to back takes half of the device, whatever its level."""
    everyone = [status('a', interval_ms=math.inf), status('b', interval_ms=1e-3)]
    predicted = predicted_ms(everyone, [1.0, 1.5], np.array([[2, 3]]))
    assert predicted[0].tolist() == pytest.approx([40.0, 45.0])


@settings(deadline=None, max_examples=50)
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
    external = [1.0, 1.2, 0.9]
    best = best_combination(everyone, external)

    def meets(levels: tuple[int, ...]) -> bool:
        predicted = predicted_ms(everyone, external, np.array([levels]))[0]
        return all(ms <= s.limit_ms for ms, s in zip(predicted, everyone, strict=True))

    def value(levels: tuple[int, ...]) -> float:
        return sum(
            s.importance * s.accuracies[level - 1]
            for s, level in zip(everyone, levels, strict=True)
        )

    feasible = [c for c in itertools.product(range(1, 5), repeat=3) if meets(c)]
    if feasible:
        assert meets(tuple(best))
        assert value(tuple(best)) == pytest.approx(max(map(value, feasible)))


def test_importance_decides_who_gives_way() -> None:
    limits = {'limit_ms': 48.0}
    for important, other in (('a', 'b'), ('b', 'a')):
        everyone = [
            status(name, importance=5.0 if name == important else 1.0, **limits)
            for name in ('a', 'b')
        ]
        levels = dict(zip(('a', 'b'), best_combination(everyone, [1.0, 1.0]), strict=True))
        assert levels[important] > levels[other]


def test_floor_holds_when_accuracy_has_priority() -> None:
    everyone = [
        status('a', floor=0.75, priority='accuracy', limit_ms=5.0),
        status('b', limit_ms=15.0),
    ]
    levels = best_combination(everyone, [1.0, 1.0])
    assert levels == [3, 1], 'a keeps its floor, at its fastest such level; b does what it can'


def test_many_models_are_not_compared_exhaustively_but_meet_their_limits() -> None:
    everyone = [status(f'm{i:02}', interval_ms=400.0, limit_ms=30.0) for i in range(12)]
    external = [1.0] * 12
    levels = best_combination(everyone, external)
    predicted = predicted_ms(everyone, external, np.array([levels]))[0]
    assert (predicted <= 30.0).all()
    assert max(levels) > 1


def test_alone_there_is_no_ceiling_and_other_devices_do_not_count() -> None:
    coordinator = Coordinator()
    assert coordinator.decide(status('a'), 0) is None
    assert coordinator.receive(status('b', device='host:cuda:0'), 0)
    assert coordinator.decide(status('a'), 1) is None


def test_silent_peer_is_forgotten() -> None:
    coordinator = Coordinator()
    coordinator.receive(status('b', limit_ms=20.0), 0)
    assert coordinator.decide(status('a'), SILENCE_NS) is not None
    assert coordinator.decide(status('a'), SILENCE_NS + 1) is None


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
    cheap = status('cheap', accuracies=(0.77, 0.775, 0.778, 0.78), limit_ms=22.0)
    dear = status('dear', limit_ms=22.0)
    ceilings = {}
    for own, peer in ((cheap, dear), (dear, cheap)):
        coordinator = Coordinator()
        coordinator.receive(peer, 0)
        ceilings[own.name] = coordinator.decide(own, 1)
        waited = coordinator.decide(own, TURN_NS + 2)
        assert waited is not None
        assert waited.level < 4, 'who is waited for too long is not waited for any longer'
    assert ceilings['cheap'].level < 4
    assert ceilings['dear'].level == 4
    assert 'waits for cheap' in ceilings['dear'].reason


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
        everyone = list(self.everyone.values())
        levels = np.array([[s.level for s in everyone]])
        predicted = predicted_ms(everyone, [1.0] * len(everyone), levels)[0] ** self.misfit
        return dict(zip(self.everyone, predicted, strict=True))

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


@pytest.mark.parametrize('misfit', [1.0, 1.02, 0.98])
@pytest.mark.parametrize('seed', range(10))
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
    for _ in range(100):  # ten seconds
        loop.step()
    assert all(time_ns <= 2_000_000_000 for time_ns in loop.changes), 'settled within 2 s'
    best = best_combination(everyone, [1.0] * len(everyone))
    possible = predicted_ms(everyone, [1.0] * len(everyone), np.array([best]))[0] ** misfit
    limits = np.array([s.limit_ms for s in everyone])
    if (possible <= 0.95 * limits).all():
        latencies = np.array(list(loop.latencies().values()))
        assert (latencies <= limits).all()
        reached = [loop.everyone[s.name].level for s in everyone]
        loss = sum(
            s.importance * (s.accuracies[b - 1] - s.accuracies[r - 1])
            for s, b, r in zip(everyone, best, reached, strict=True)
        )
        assert loss <= 0.02 * sum(s.importance for s in everyone)
