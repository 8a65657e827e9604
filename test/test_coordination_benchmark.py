"""The benchmark of several models on one device: parts can be removed and are restored."""

from __future__ import annotations

from functools import lru_cache

import pytest

from benchmarks.coordination import ABLATIONS, draw, play_with

SEEDS = (5033, 5001, 5007, 5077, 5024)
FOR_OTHER_CASES = (
    'no learning of unavoidable late frames',
    'no detection of models that stay at their level',
)
"""The scenarios have no stalls and no fixed levels; test_coordination.py tests these cases."""


@lru_cache
def levels_played(contender, seed):
    """Return the levels of all frames of all models."""
    records = play_with(draw(seed), contender)
    return [[frame.level for frame in record.frames] for record in records]


@pytest.mark.parametrize('part', [name for name in ABLATIONS if name not in FOR_OTHER_CASES])
def test_an_ablation_changes_the_agreement(part):
    assert any(levels_played(part, seed) != levels_played('collective', seed) for seed in SEEDS)


def test_a_removed_part_is_restored_afterwards():
    seed = SEEDS[0]
    before = play_with(draw(seed), 'collective')
    for part in ABLATIONS:
        play_with(draw(seed), part)
    assert play_with(draw(seed), 'collective') == before
