"""Coordinated classifiers in simulated time, compared with the best combination."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from simulation.examples import make_platform

from benchmarks.combinations import all_combinations, late_shares
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.platform import load_platform
from dynamic_ofa_ros.simulation.processor import Processor
from dynamic_ofa_ros.simulation.run import play
from dynamic_ofa_ros.simulation.runner import SimulatedModel
from dynamic_ofa_ros.simulation.several import CollectiveModel, Network, play_together
from dynamic_ofa_ros.simulation.steps import Steps

PUBLISHED = load_platform()
SLICED = Processor('time_slicing', slice_ms=2.0)


def model(name, limit_ms=math.nan, importance=1.0, platform=PUBLISHED, period_ms=100.0, **options):
    return CollectiveModel(
        SimulatedModel(
            name,
            platform,
            'predictive',
            Constraints(limit_ms),
            Timing(period_ms, options.pop('phase_ms', 0.0)),
            **options,
        ),
        Steps((0.0,), (importance,)),
    )


def together(*models, duration_ms=4000.0, **options):
    options = {'has_alternatives': False, **options}
    return play_together(models, SLICED, duration_ms=duration_ms, **options)


def levels(record, from_ms=0.0, until_ms=math.inf):
    return [f.level for f in record.frames if from_ms <= f.start_ms < until_ms]


def late_share(record, from_ms):
    frames = [frame for frame in record.frames if frame.start_ms >= from_ms]
    return sum(frame.is_violation for frame in frames) / len(frames)


def test_a_less_important_model_gets_a_lower_level():
    """Their frames start together, so b meets its limit at a high level only if a is fast."""
    a, b = model('a'), model('b', limit_ms=112.0, importance=10.0)
    alone = play([a.model, b.model], SLICED, duration_ms=4000.0, has_alternatives=False)
    record_a, record_b = together(a, b)
    assert max(levels(record_a, 2500.0)) < 6
    assert late_share(record_b, 2500.0) <= 0.05
    assert np.mean(levels(record_b, 2500.0)) > np.mean(levels(alone[1], 2500.0))
    assert any('collective' in decision.reason for decision in record_a.decisions)


def test_importance_decides_which_model_gets_a_lower_level():
    for important in (0, 1):
        models = [
            model(n, 112.0, 8.0 if i == important else 1.0, period_ms=130.0)
            for i, n in enumerate('ab')
        ]
        last = [np.mean(levels(record, 2500.0)) for record in together(*models)]
        assert last[important] > last[1 - important]


def test_importance_may_be_an_integer():
    models = [model('a', importance=1), model('b', limit_ms=90.0, importance=10)]
    assert all(record.frames for record in together(*models, duration_ms=500.0))


def test_silent_models_are_removed_and_new_ones_are_added():
    dying = model('b', limit_ms=112.0, importance=10.0, end_ms=2500.0)
    (record, _) = together(model('a'), dying, duration_ms=6000.0)
    assert max(levels(record, 1500.0, 2500.0)) < 6
    assert levels(record, 5500.0)[-1] == 6
    coming = model('b', limit_ms=112.0, importance=10.0, begin_ms=1500.0)
    (record, _) = together(model('a'), coming, duration_ms=5000.0)
    assert set(levels(record, 500.0, 1500.0)) == {6}
    assert max(levels(record, 4000.0)) < 6


def test_without_messages_models_are_not_coordinated():
    models = [model('a'), model('b', limit_ms=90.0)]
    found = together(*models, network=Network(loss=1.0))
    alone = play([m.model for m in models], SLICED, duration_ms=4000.0, has_alternatives=False)
    assert [f.level for f in found[0].frames] == [f.level for f in alone[0].frames]
    assert [f.latency_ms for f in found[1].frames] == [f.latency_ms for f in alone[1].frames]


def test_simulations_are_reproducible():
    models = [model('a', 80.0), model('b', 90.0, phase_ms=20.0)]
    network = Network(delay_ms=5.0, loss=0.3)
    first, second = (together(*models, network=network, seed=7)[1] for _ in range(2))
    assert first.frames[-1].latency_ms == second.frames[-1].latency_ms
    assert [d.time_ns for d in first.decisions] == [d.time_ns for d in second.decisions]


@pytest.mark.parametrize(
    ('make', 'named'),
    [
        (lambda: Network(loss=1.5), 'loss'),
        (lambda: Network(delay_ms=math.nan), 'delay_ms'),
        (lambda: together(model('a'), model('a')), 'names'),
    ],
)
def test_invalid_arguments_are_rejected(make, named):
    with pytest.raises(SimulationError, match=named):
        make()


@pytest.mark.parametrize('sharing', ['proportional', 'time_slicing'])
def test_combinations_are_simulated_like_play(sharing):
    """Compare all frames of all combinations, with noise and models that start and end."""
    platform = make_platform((21.0, 33.0, 47.0), noise=0.1, demands=(0.4, 0.6, 0.9))
    models = [
        SimulatedModel('a', platform, timing=Timing(40.0, 0.0, 0.0)),
        SimulatedModel('b', platform, timing=Timing(70.0, 13.0, 0.0), end_ms=600.0),
        SimulatedModel('c', platform, timing=Timing(90.0, 5.0, 0.0), begin_ms=200.0),
    ]
    processor, limits_ms, played = Processor(sharing), (45.0, 60.0, 80.0), {}
    combinations = all_combinations(models)
    assert len(combinations) == 27
    found = late_shares(
        models, processor, combinations, limits_ms, duration_ms=900.0, from_ms=100.0, seed=3
    )
    for row in (0, 5, 13, 26):
        fixed = [
            replace(m, policy=PolicySettings('fixed', fixed_level=int(level)))
            for m, level in zip(models, combinations[row], strict=True)
        ]
        records = play(fixed, processor, duration_ms=900.0, seed=3, has_alternatives=False)
        played[row] = [
            np.mean([f.latency_ms > limit for f in record.frames if f.start_ms >= 100.0])
            for record, limit in zip(records, limits_ms, strict=True)
        ]
        assert found[row].tolist() == pytest.approx(played[row])
    assert len({tuple(shares) for shares in played.values()}) > 1


@pytest.mark.parametrize('seed', [4, 5, 7, 9, 10, 13])
def test_limits_are_met_if_a_combination_clearly_meets_them(seed):
    """If a combination of two models on one camera has a margin of 10 %, no frame is late."""
    rng = np.random.default_rng(seed)
    models = [
        model(name, float(rng.uniform(70.0, 120.0)), float(rng.uniform(0.5, 2.0)), period_ms=110.0)
        for name in 'ab'
    ]
    limits_ms = [member.model.constraints.max_latency_ms for member in models]
    plain = [member.model for member in models]
    combinations = all_combinations(plain)
    late = late_shares(
        plain, SLICED, combinations, [0.9 * limit for limit in limits_ms], duration_ms=1500.0
    )
    possible = combinations[(late <= 0.05).all(axis=1)]
    records = together(*models, duration_ms=5000.0, seed=seed)
    changes = [sum(d.time_ns > 3e9 for d in record.decisions) for record in records]
    assert max(changes) <= 3, 'no livelock'
    assert len(possible)
    assert all(late_share(record, 2500.0) <= 0.1 for record in records)
    accuracies = np.array(PUBLISHED.accuracies)
    weights = [member.importance.at(0.0) for member in models]
    best = np.average(accuracies[possible - 1], axis=1, weights=weights).max()
    reached = [float(np.mean(accuracies[np.array(levels(r, 2500.0)) - 1])) for r in records]
    assert np.average(reached, weights=weights) >= best - 0.02
