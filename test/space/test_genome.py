from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_ofa_ros.space.genome import Genetics
from dynamic_ofa_ros.space.spaces import SPACES, search_space

OF_EVERY_KIND = [Genetics(search_space(kind)) for kind in SPACES]
GENETICS = st.sampled_from(OF_EVERY_KIND)
SEEDS = st.integers(0, 2**32 - 1)

every_kind = pytest.mark.parametrize('genetics', OF_EVERY_KIND, ids=list(SPACES))


@settings(deadline=None)
@given(GENETICS, SEEDS)
def test_decoding_is_the_inverse_of_encoding(genetics: Genetics, seed: int) -> None:
    architecture = genetics.space.sample(np.random.default_rng(seed))
    assert genetics.decode(genetics.encode([architecture])[0]) == architecture


@settings(deadline=None)
@given(GENETICS, SEEDS)
def test_canonical_genomes_decode_to_canonical_architectures(
    genetics: Genetics, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    architectures = [genetics.space.sample(rng) for _ in range(5)]
    canonical = genetics.canonical(genetics.encode(architectures))
    expected = [a.canonical(genetics.space) for a in architectures]
    assert [genetics.decode(g) for g in canonical] == expected


@every_kind
def test_active_blocks_equal_those_of_the_architecture(genetics: Genetics) -> None:
    architecture = genetics.space.sample(np.random.default_rng(4))
    active = genetics.active(genetics.encode([architecture]))[0]
    assert active.tolist() == genetics.space.active_blocks(architecture.d).tolist()


@every_kind
def test_neighbours_are_all_changes_of_one_gene(genetics: Genetics) -> None:
    genome = genetics.encode([genetics.space.largest()])[0]
    neighbours = genetics.neighbours(genome)
    # All blocks are active, so each gene can change to each of its other choices.
    assert len(neighbours) == int((genetics.choices - 1).sum())
    assert not (neighbours == genome).all(1).any()
    assert len(np.unique(neighbours, axis=0)) == len(neighbours)


@every_kind
def test_samples_are_canonical_and_in_range(genetics: Genetics) -> None:
    sample = genetics.sample(np.random.default_rng(0), 100)
    assert np.array_equal(sample, genetics.canonical(sample))
    assert (sample >= 0).all()
    assert (sample < genetics.choices).all()


@every_kind
def test_indices_return_the_genes_of_one_list(genetics: Genetics) -> None:
    architecture = genetics.space.sample(np.random.default_rng(6))
    genomes = genetics.encode([architecture])
    for field in ('ks', 'e', 'w'):
        choices = [
            g.choices for g in genetics.space.genes if g.field == field for _ in range(g.count)
        ]
        indices = genetics.indices(genomes, field)[0]
        found = [of_one[i] for of_one, i in zip(choices, indices, strict=True)]
        assert tuple(found) == architecture.values(field)
    assert genetics.resolutions(genomes).tolist() == [architecture.r]


@pytest.mark.parametrize(
    ('kind', 'blocks', 'others'),
    [
        # Kernel sizes and expand ratios of all blocks; resolutions.
        ('ofa_mobilenetv3', 20 * 6, 25),
        ('ofa_proxyless', 21 * 6, 25),
        # 9 of the 15 blocks have two kernel sizes.
        ('efficientnet_lite', 9 * 2 + 6 + 15 * 3, 9),
        # Expand ratios of all blocks; the stem's depth, six widths, resolutions.
        ('ofa_resnet50', 18 * 3, 2 + 6 * 3 + 25),
    ],
)
def test_features_are_one_hot(kind: str, blocks: int, others: int) -> None:
    genetics = Genetics(search_space(kind))
    sample = genetics.sample(np.random.default_rng(2), 300)
    features = genetics.features(sample)
    assert features.dtype == np.float32
    assert features.shape == (300, blocks + others)
    of_blocks = 2 if kind != 'ofa_resnet50' else 1
    constants = 1 if kind != 'ofa_resnet50' else 8
    expected = of_blocks * genetics.active(sample).sum(1) + constants
    assert features.sum(1).tolist() == expected.tolist()


@every_kind
def test_different_networks_have_different_features(genetics: Genetics) -> None:
    start = genetics.sample(np.random.default_rng(3), 1)
    genomes = np.unique(np.concatenate([start, genetics.neighbours(start[0])]), axis=0)
    assert len(np.unique(genetics.features(genomes), axis=0)) == len(genomes)


def test_mobilenet_features_equal_the_encoding_of_ofa() -> None:
    genetics = Genetics(search_space('ofa_mobilenetv3', (128, 160)))
    architecture = genetics.decode(genetics.sample(np.random.default_rng(8), 1)[0])
    expected: list[int] = []
    for values, choices in ((architecture.ks, (3, 5, 7)), (architecture.e, (3, 4, 6))):
        for position, value in enumerate(values):
            used = position % 4 < architecture.d[position // 4]
            expected += [int(used and value == choice) for choice in choices]
    expected += [int(architecture.r == r) for r in (128, 160)]
    assert genetics.features(genetics.encode([architecture]))[0].tolist() == expected
