from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_file

from dynamic_ofa_ros.errors import ArchitectureError
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.cost import make_divisible

SPACE = SearchSpace()
SEEDS = st.integers(0, 2**32 - 1)


def test_the_cost_of_published_levels_equals_the_published_cost() -> None:
    levels = json.loads(reference_file('levels_xavier_nx.json').read_text())['gpu']
    assert len(levels) == 6
    for level in levels:
        architecture = SubnetArchitecture.from_mapping(level)
        SPACE.validate(architecture)
        cost = SPACE.count_cost(architecture, width_mult=1.2, classes=1000)
        assert (cost.macs, cost.parameters) == (level['macs'], level['params'])


@given(SEEDS)
def test_canonical_form_keeps_the_cost_and_resets_inactive_blocks(seed: int) -> None:
    architecture = SPACE.sample(np.random.default_rng(seed))
    canonical = architecture.canonical(SPACE)
    assert SPACE.count_cost(canonical, 1.0, 10) == SPACE.count_cost(architecture, 1.0, 10)
    assert canonical.canonical(SPACE) == canonical
    unused = ~SPACE.active_blocks(architecture.d)
    assert all(k == 3 for k, is_unused in zip(canonical.ks, unused, strict=True) if is_unused)


def test_sampling_is_uniform() -> None:
    rng = np.random.default_rng(0)
    samples = [SPACE.sample(rng) for _ in range(600)]
    kernels = np.array([s.ks for s in samples])
    for size in SPACE.kernel_sizes:
        assert abs((kernels == size).mean() - 1 / 3) < 0.02
    assert {s.r for s in samples} == set(SPACE.resolutions)


def test_sampling_is_deterministic_by_seed() -> None:
    assert SPACE.sample(np.random.default_rng(3)) == SPACE.sample(np.random.default_rng(3))


def test_the_largest_architecture_has_the_highest_cost() -> None:
    costs = [SPACE.count_cost(a, 1.0, 10).macs for a in (SPACE.smallest(), SPACE.largest())]
    middle = SPACE.count_cost(SPACE.sample(np.random.default_rng(5)), 1.0, 10).macs
    assert costs[0] < middle < costs[1]


@settings(max_examples=30)
@given(st.floats(1, 2000))
def test_channels_are_multiples_of_eight_and_at_least_90_percent(value: float) -> None:
    rounded = make_divisible(value)
    assert rounded % 8 == 0
    assert rounded >= 0.9 * value


GOOD = SPACE.smallest().to_mapping()


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'ks': [3] * 19}, 'ks has 19 values; this search space requires 20'),
        ({'ks': [4] + [3] * 19}, r'ks\[0\] is 4'),
        ({'e': [3] * 19 + [5]}, r'e\[19\] is 5'),
        ({'d': [2, 2, 2, 2, 5]}, r'd\[4\] is 5'),
        ({'r': 130}, 'r is 130'),
        ({'ks': 'abc'}, 'ks must be a list'),
        ({'ks': [3.5] * 20}, 'ks holds 3.5'),
        ({'d': [True] * 5}, 'd holds True'),
        ({'r': '128'}, "r holds '128'"),
        ({'e': ['3'] * 20}, "e holds '3', which is not a number"),
        ({'e': [3.5] * 20}, r'e\[0\] is 3.5; this search space allows 3, 4, 6'),
        ({'w': [0] * 6}, 'w has 6 values; this search space requires 0'),
    ],
)
def test_invalid_architectures_are_rejected(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        SPACE.validate(SubnetArchitecture.from_mapping({**GOOD, **changed}))


def test_missing_keys_are_named() -> None:
    with pytest.raises(ArchitectureError, match="'d' is missing"):
        SubnetArchitecture.from_mapping({'ks': [], 'e': []})


def test_whole_expand_ratios_become_integers() -> None:
    architecture = SubnetArchitecture.from_mapping({**GOOD, 'e': [3.0] * 20})
    assert architecture == SPACE.smallest()
    assert all(isinstance(e, int) for e in architecture.e)
