"""The benchmark of ablations: each variant changes the policy, and the recording is complete."""

from functools import lru_cache
from itertools import product

import pytest

from benchmarks.ablations import (
    CASES,
    LIMITS_MS,
    VARIANTS,
    patched,
    read_recording,
    recorded_levels,
    slow_frames_late_percent,
)
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.simulation.platform import load_platform
from dynamic_ofa_ros.simulation.run import run
from dynamic_ofa_ros.simulation.traces import make_trace


@lru_cache
def levels_played(variant, kind, limit_ms, seed):
    """Return the level of every frame on a trace."""
    with patched(variant):
        trace, limit = make_trace(kind, seed, 60.0), Constraints(max_latency_ms=limit_ms)
        record = run(trace, load_platform(), 'predictive', limit, seed=seed)
        return [frame.level for frame in record.frames]


@lru_cache
def late_frames(variant):
    """Return the share of late frames in percent if slow frames make images wait."""
    with patched(variant):
        return slow_frames_late_percent(read_recording(), seeds=1)


@pytest.mark.parametrize('variant', [name for name in VARIANTS if VARIANTS[name]])
def test_a_variant_changes_the_decisions(variant):
    cases = product(('burst', 'periodic', 'bimodal'), LIMITS_MS, (1, 2))
    assert any(
        levels_played(variant, *case) != levels_played('complete', *case) for case in cases
    ) or late_frames(variant) != late_frames('complete')


def test_late_frames_are_seldom_although_slow_ones_make_images_wait():
    assert slow_frames_late_percent(read_recording(), seeds=4) <= 5.0


def test_the_recording_contains_every_load():
    loads = {load for load, _ in read_recording()}
    assert loads == {0} | {load for load, _, _ in CASES}


def test_the_recording_names_the_levels_it_contains():
    assert {level for _, level in read_recording()} == {o.index for o in recorded_levels()}
