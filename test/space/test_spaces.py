from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_ofa_ros.errors import ArchitectureError, BackboneError
from dynamic_ofa_ros.offline.search.search import Objectives, find_front
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.genome import Genetics, Genomes
from dynamic_ofa_ros.space.spaces import SPACES, ProxylessSpace, ResNet50Space, search_space

SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(sorted(SPACES))
WIDTH, CLASSES = 0.5, 10
EVALUATIONS = 1000

every_kind = pytest.mark.parametrize('kind', sorted(SPACES))


def test_kinds_have_the_names_used_in_family_files() -> None:
    assert set(SPACES) == {
        'ofa_mobilenetv3',
        'ofa_proxyless',
        'efficientnet_lite',
        'ofa_resnet50',
    }
    assert search_space('ofa_mobilenetv3', (64,)) == SearchSpace(resolutions=(64,))


def test_unknown_kinds_are_rejected() -> None:
    with pytest.raises(BackboneError, match=r"unknown kind of backbone 'vit'.*ofa_proxyless"):
        search_space('vit')


@settings(deadline=None)
@given(KINDS, SEEDS)
def test_samples_are_in_the_space_and_can_be_written_and_read(kind: str, seed: int) -> None:
    space, rng = search_space(kind), np.random.default_rng(seed)
    first, second = space.sample(rng), space.sample_leaning(rng, rng.uniform(-2, 2))
    for architecture in (first, second):
        space.validate(architecture)
        assert SubnetArchitecture.from_mapping(architecture.to_mapping()) == architecture


@settings(deadline=None)
@given(KINDS, SEEDS)
def test_canonical_form_of_every_kind_keeps_the_cost(kind: str, seed: int) -> None:
    space, rng = search_space(kind), np.random.default_rng(seed)
    architecture = space.sample(rng)
    canonical = architecture.canonical(space)
    space.validate(canonical)
    assert canonical.canonical(space) == canonical
    cost = space.count_cost(architecture, WIDTH, CLASSES)
    assert space.count_cost(canonical, WIDTH, CLASSES) == cost
    active = space.active_blocks(architecture.d)
    for used, before, after in zip(active, architecture.e, canonical.e, strict=True):
        assert after == (before if used else space.expand_ratios[0])


@every_kind
def test_every_architecture_costs_between_the_extremes(kind: str) -> None:
    space, rng = search_space(kind), np.random.default_rng(1)
    least, most = (
        space.count_cost(a, WIDTH, CLASSES) for a in (space.smallest(), space.largest())
    )
    for _ in range(20):
        cost = space.count_cost(space.sample(rng), WIDTH, CLASSES)
        assert least.macs < cost.macs < most.macs
        assert least.parameters < cost.parameters < most.parameters


@every_kind
def test_a_larger_lean_raises_the_mean_cost(kind: str) -> None:
    space, rng = search_space(kind), np.random.default_rng(2)

    def mean_macs(lean: float) -> float:
        drawn = [space.sample_leaning(rng, lean) for _ in range(30)]
        return float(np.mean([space.count_cost(a, WIDTH, CLASSES).macs for a in drawn]))

    assert mean_macs(-1.0) < 0.8 * mean_macs(0.0) < 0.8**2 * mean_macs(1.0)


@every_kind
def test_a_space_can_be_restricted_to_one_resolution(kind: str) -> None:
    space = search_space(kind).at_resolution(160)
    assert type(space) is SPACES[kind]
    assert space.smallest().r == space.largest().r == 160
    smallest = search_space(kind).smallest()
    with pytest.raises(ArchitectureError, match=f'r is {smallest.r}'):
        space.validate(smallest)


def test_the_last_stage_of_proxyless_has_one_block() -> None:
    space = ProxylessSpace()
    assert space.stage_blocks == (4, 4, 4, 4, 4, 1)
    assert {space.sample(np.random.default_rng(seed)).d[-1] for seed in range(9)} == {1}
    wrong = {**space.smallest().to_mapping(), 'd': [2] * 6}
    with pytest.raises(ArchitectureError, match=r'd\[5\] is 2; this search space allows 1'):
        space.validate(SubnetArchitecture.from_mapping(wrong))


def test_depths_of_resnet_are_added_to_the_least_blocks() -> None:
    space = ResNet50Space()
    assert space.stage_blocks == (4, 4, 6, 4)
    assert space.active_blocks(space.smallest().d).sum() == 2 + 2 + 4 + 2
    assert space.active_blocks((0, 1, 0, 2, 1)).tolist() == (
        [True] * 3 + [False] + [True] * 2 + [False] * 2 + [True] * 9 + [False]
    )
    assert space.block_places[4] == (1, 0)


def test_the_middle_layer_of_the_resnet_stem_adds_its_cost() -> None:
    space = ResNet50Space(resolutions=(64,))
    with_layer = space.largest().to_mapping()
    without = SubnetArchitecture.from_mapping({**with_layer, 'd': [0, 2, 2, 2, 2]})
    difference = (
        space.count_cost(space.largest(), 1.0, CLASSES).macs
        - space.count_cost(without, 1.0, CLASSES).macs
    )
    assert difference == 32 * 32 * 3 * 3 * 32 * 32  # 32 channels, 3x3, at 32 x 32


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'e': [0.2] * 17}, 'e has 17 values; this search space requires 18'),
        ({'e': [0.3] * 18}, r'e\[0\] is 0.3; this search space allows 0.2, 0.25, 0.35'),
        ({'d': [1, 0, 0, 0, 0]}, r'd\[0\] is 1; this search space allows 0, 2'),
        ({'w': [0, 0, 0, 0, 0, 3]}, r'w\[5\] is 3'),
        ({'w': [0.65] * 6}, 'w holds 0.65, which is not an integer'),
        ({'ks': [3] * 18}, 'ks has 18 values; this search space requires 0'),
    ],
)
def test_invalid_resnets_are_rejected(changed: dict[str, object], message: str) -> None:
    space = ResNet50Space()
    with pytest.raises(ArchitectureError, match=message):
        space.validate(
            SubnetArchitecture.from_mapping({**space.smallest().to_mapping(), **changed})
        )


def test_missing_lists_of_a_resnet_are_named() -> None:
    with pytest.raises(ArchitectureError, match="needs e, d, w and r; 'e' is missing"):
        SubnetArchitecture.from_mapping({'w': [0] * 6, 'd': [0] * 5, 'r': 128})


@every_kind
def test_search_finds_a_better_front_than_random_sampling(kind: str) -> None:
    """Latency is proportional to MACs, and every larger choice raises the accuracy."""
    genetics = Genetics(search_space(kind, (64, 96, 128)))
    weights = np.random.default_rng(5).uniform(0.1, 1.0, len(genetics.choices))

    def latency_ms(genomes: Genomes) -> np.ndarray:
        macs = [
            genetics.space.count_cost(genetics.decode(genome), WIDTH, CLASSES).macs
            for genome in genomes
        ]
        return np.array(macs) / 1e6

    def top1(genomes: Genomes) -> np.ndarray:
        used = np.ones(genomes.shape)
        for field in ('ks', 'e'):
            genes = genetics.indices(used, field)
            genes[:] = genetics.active(genomes)[:, : genes.shape[1]]
        return 1.0 - np.exp(-0.05 * ((genomes * used) @ weights))

    result = find_front(
        Objectives(genetics, latency_ms, top1), evaluations=EVALUATIONS, population=50, seed=3
    )
    ends = genetics.encode([genetics.space.smallest(), genetics.space.largest()])
    fastest, slowest = latency_ms(ends)
    assert len(result.front) >= 15
    assert result.front[0].latency_ms == fastest
    assert result.front[-1].latency_ms == slowest
    for found in result.front:
        genetics.space.validate(found.architecture)
    random = genetics.sample(np.random.default_rng(9), EVALUATIONS)
    random_ms, random_top1 = latency_ms(random), top1(random)
    gains = [
        max(f.accuracy for f in result.front if f.latency_ms <= limit_ms)
        - random_top1[random_ms <= limit_ms].max()
        for limit_ms in np.quantile(random_ms, (0.1, 0.3, 0.5))
    ]
    assert np.mean(gains) > 0.01, 'not better than random sampling with as many evaluations'
