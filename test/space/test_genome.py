from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.space.spaces import SPACES, search_space

OF_EVERY_KIND = [GenomeEncoding(search_space(kind)) for kind in SPACES]
GENETICS = st.sampled_from(OF_EVERY_KIND)
SEEDS = st.integers(0, 2**32 - 1)

every_kind = pytest.mark.parametrize('encoding', OF_EVERY_KIND, ids=list(SPACES))


@settings(deadline=None)
@given(GENETICS, SEEDS)
def test_decoding_is_the_inverse_of_encoding(encoding: GenomeEncoding, seed: int) -> None:
    architecture = encoding.space.sample(np.random.default_rng(seed))
    assert encoding.decode(encoding.encode([architecture])[0]) == architecture


@settings(deadline=None)
@given(GENETICS, SEEDS)
def test_canonical_genomes_decode_to_canonical_architectures(
    encoding: GenomeEncoding, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    architectures = [encoding.space.sample(rng) for _ in range(5)]
    canonical = encoding.canonical(encoding.encode(architectures))
    expected = [a.canonical(encoding.space) for a in architectures]
    assert [encoding.decode(g) for g in canonical] == expected


@every_kind
def test_active_blocks_equal_those_of_the_architecture(encoding: GenomeEncoding) -> None:
    architecture = encoding.space.sample(np.random.default_rng(4))
    active = encoding.active(encoding.encode([architecture]))[0]
    assert active.tolist() == encoding.space.active_blocks(architecture.d).tolist()


@every_kind
def test_samples_are_canonical_and_in_range(encoding: GenomeEncoding) -> None:
    sample = encoding.sample(np.random.default_rng(0), 100)
    assert np.array_equal(sample, encoding.canonical(sample))
    assert (sample >= 0).all()
    assert (sample < encoding.choices).all()


@every_kind
def test_indices_return_the_genes_of_one_list(encoding: GenomeEncoding) -> None:
    architecture = encoding.space.sample(np.random.default_rng(6))
    genomes = encoding.encode([architecture])
    for field in ('ks', 'e', 'w'):
        choices = [
            g.choices for g in encoding.space.genes if g.field == field for _ in range(g.count)
        ]
        indices = encoding.indices(genomes, field)[0]
        found = [of_one[i] for of_one, i in zip(choices, indices, strict=True)]
        assert tuple(found) == architecture.values(field)
    assert encoding.resolutions(genomes).tolist() == [architecture.r]


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
    encoding = GenomeEncoding(search_space(kind))
    sample = encoding.sample(np.random.default_rng(2), 300)
    features = encoding.features(sample)
    assert features.dtype == np.float32
    assert features.shape == (300, blocks + others)
    of_blocks = 2 if kind != 'ofa_resnet50' else 1
    constants = 1 if kind != 'ofa_resnet50' else 8
    expected = of_blocks * encoding.active(sample).sum(1) + constants
    assert features.sum(1).tolist() == expected.tolist()


@every_kind
def test_different_networks_have_different_features(encoding: GenomeEncoding) -> None:
    rng, count = np.random.default_rng(3), 400
    genomes = np.repeat(encoding.sample(rng, 1), count, axis=0)
    genes = rng.integers(0, genomes.shape[1], count)  # one changed gene each
    genomes[np.arange(count), genes] = rng.integers(0, encoding.choices[genes])
    genomes = np.unique(encoding.canonical(genomes), axis=0)
    assert len(genomes) > 20
    assert len(np.unique(encoding.features(genomes), axis=0)) == len(genomes)


def test_mobilenet_features_equal_the_encoding_of_ofa() -> None:
    encoding = GenomeEncoding(search_space('ofa_mobilenetv3', (128, 160)))
    architecture = encoding.decode(encoding.sample(np.random.default_rng(8), 1)[0])
    expected: list[int] = []
    for values, choices in ((architecture.ks, (3, 5, 7)), (architecture.e, (3, 4, 6))):
        for position, value in enumerate(values):
            used = position % 4 < architecture.d[position // 4]
            expected += [int(used and value == choice) for choice in choices]
    expected += [int(architecture.r == r) for r in (128, 160)]
    assert encoding.features(encoding.encode([architecture]))[0].tolist() == expected
