from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dynamic_ofa_ros.architecture import SearchSpace
from dynamic_ofa_ros.offline.genome import Genetics

GENETICS = Genetics(SearchSpace())
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_decoding_undoes_encoding(seed: int) -> None:
    architecture = GENETICS.space.sample(np.random.default_rng(seed))
    assert GENETICS.decode(GENETICS.encode([architecture])[0]) == architecture


@given(SEEDS)
def test_canonical_genomes_are_canonical_architectures(seed: int) -> None:
    rng = np.random.default_rng(seed)
    architectures = [GENETICS.space.sample(rng) for _ in range(5)]
    canonical = GENETICS.canonical(GENETICS.encode(architectures))
    expected = [a.canonical(GENETICS.space) for a in architectures]
    assert [GENETICS.decode(g) for g in canonical] == expected


def test_active_blocks_are_those_of_the_architecture() -> None:
    architecture = GENETICS.space.sample(np.random.default_rng(4))
    active = GENETICS.active(GENETICS.encode([architecture]))[0]
    assert active.tolist() == architecture.active_mask(4).tolist()


def test_neighbours_are_all_single_changes() -> None:
    genome = GENETICS.encode([GENETICS.space.largest()])[0]
    neighbours = GENETICS.neighbours(genome)
    # With every block in use, each gene can change to each of its other choices.
    assert len(neighbours) == int((GENETICS.choices - 1).sum())
    assert not (neighbours == genome).all(1).any()
    assert len(np.unique(neighbours, axis=0)) == len(neighbours)


def test_samples_are_canonical_and_in_range() -> None:
    sample = GENETICS.sample(np.random.default_rng(0), 100)
    assert np.array_equal(sample, GENETICS.canonical(sample))
    assert (sample >= 0).all()
    assert (sample < GENETICS.choices).all()
