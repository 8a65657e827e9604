from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
from runtime_fakes import TimedEngine, make_levels, make_profile

from dynamic_ofa_ros.runtime import profile_check
from dynamic_ofa_ros.runtime.profile_check import (
    BLOCK_RUNS,
    MAX_BLOCKS,
    MAX_FACTOR,
    MAX_SECONDS,
    TOLERANCE,
    Check,
    LevelTimes,
    check_levels,
)

QUIET, BUSY = 0.05, 0.8
NOMINAL_MS = (1.0, 2.0, 4.0)
PROFILE = make_profile(NOMINAL_MS)


def check_of(*factors: float, load: float = QUIET, spread: float = 0.0) -> Check:
    """Return a check with these factors of the profile; the median is higher by `spread`."""
    levels = tuple(
        LevelTimes(index, factor * ms, (factor + spread) * ms)
        for index, (factor, ms) in enumerate(zip(factors, NOMINAL_MS, strict=True), start=1)
    )
    return Check(levels, load)


NOISE = 0.8 * TOLERANCE

FITTING = {
    'as measured': check_of(1.0, 1.0, 1.0),
    'noise': check_of(1.0 - NOISE, 1.0, 1.0 + NOISE),
    'some frames slow': check_of(0.7, 0.8, 0.7, spread=0.3),
    'contention': check_of(2.0, 2.0, 2.0, load=BUSY),
    'contention that long levels meet more often': check_of(1.0, 1.5, 4.0, load=BUSY),
    'contention with spread': check_of(1.0, 1.0, 1.1, load=BUSY, spread=3.0),
}
OTHER_SPEED = {
    'slower': (check_of(1.4, 1.5, 1.6), (1.4 * 1.6) ** 0.5),
    'faster': (check_of(0.6, 0.7, 0.8), (0.6 * 0.8) ** 0.5),
    'load unknown': (check_of(1.4, 1.4, 1.4, load=math.nan), 1.4),
    'faster, and contention': (check_of(0.7, 1.0, 1.5, load=BUSY, spread=1.5), 0.7),
}
FAULTS = {
    'a faster machine': (check_of(0.5, 0.5, 0.5), 'is 2x slower than this machine'),
    'a slower machine': (check_of(1.8, 1.8, 1.8), 'is 1.8x faster than this machine'),
    'a slower machine, load unknown': (
        check_of(1.8, 1.8, 1.8, load=math.nan),
        'is 1.8x faster than this machine',
    ),
    'another kind of machine': (
        check_of(0.7, 1.0, 1.6),
        'does not match this machine (0.7x to 1.6x)',
    ),
    'one level slower': (check_of(1.0, 1.0, 1.6), 'does not match this machine (1x to 1.6x)'),
    'one level faster': (
        check_of(1.0, 0.625, 1.0),
        'does not match this machine (0.62x to 1x)',
    ),
    'a faster machine, busy': (
        check_of(0.5, 0.5, 0.5, load=BUSY, spread=1.5),
        'is 2x slower than this machine',
    ),
    'one level faster, busy': (
        check_of(0.5, 1.2, 2.0, load=BUSY),
        'is 2x slower than this machine',
    ),
    'short levels slowed more than long ones, busy': (
        check_of(3.0, 1.5, 1.0, load=BUSY),
        'does not match this machine (1x to 3x)',
    ),
}


@pytest.mark.parametrize('name', FITTING)
def test_noise_and_contention_are_not_faults(name):
    assert FITTING[name].fault(PROFILE) == ''
    assert FITTING[name].corrected(PROFILE) is PROFILE


@pytest.mark.parametrize('name', OTHER_SPEED)
def test_a_factor_of_all_levels_is_corrected(name):
    check, factor = OTHER_SPEED[name]
    assert check.fault(PROFILE) == ''
    medians = [level.median_ms for level in check.corrected(PROFILE).levels]
    assert medians == pytest.approx([factor * ms for ms in NOMINAL_MS])
    assert MAX_FACTOR > max(factor, 1.0 / factor) > 1.0 + TOLERANCE


@pytest.mark.parametrize('name', FAULTS)
def test_deviations_that_contention_cannot_cause_are_faults(name):
    check, sentence = FAULTS[name]
    assert check.fault(PROFILE) == sentence


def test_levels_are_ordered_by_latency_not_by_index():
    """On some platforms a higher level is faster; contention affects the slower level more."""
    profile = make_profile((4.0, 2.0, 1.0))
    levels = (LevelTimes(1, 12.0, 12.0), LevelTimes(2, 3.0, 3.0), LevelTimes(3, 1.0, 1.0))
    assert Check(levels, BUSY).fault(profile) == ''


def test_without_measurements_there_is_no_fault():
    assert Check((), QUIET, ('fake failed',)).fault(PROFILE) == ''


def test_factors_of_other_levels_are_interpolated():
    profile = make_profile((1.0, 1.0, 1.0, 1.0, 1.0))
    levels = (LevelTimes(1, 0.5, 9.0), LevelTimes(3, 1.0, 9.0), LevelTimes(5, 2.0, 9.0))
    corrected = Check(levels, BUSY).corrected(profile)
    medians = [level.median_ms for level in corrected.levels]
    assert medians == pytest.approx([0.5, 0.75, 1.0, 1.5, 2.0])
    assert {type(ms) for ms in medians} == {float}  # YAML does not support numpy numbers
    last, factor = dataclasses.asdict(corrected.levels[4]), 2.0
    for name, value in dataclasses.asdict(profile.levels[4]).items():
        assert last[name] == pytest.approx(value if name == 'runs' else factor * value), name


# Measuring the frames


@pytest.fixture
def loads(monkeypatch):
    """Return the devices whose load was read; the load is low."""
    devices: list[str] = []

    def watch(device: str) -> SimpleNamespace:
        devices.append(device)
        return SimpleNamespace(fraction=lambda: QUIET)

    monkeypatch.setattr(profile_check, 'OthersLoad', watch)
    return devices


def family_of(count: int) -> SimpleNamespace:
    levels = make_levels([0.5] * count)
    return SimpleNamespace(levels=levels, level=lambda index: levels[index - 1])


@pytest.mark.parametrize(
    ('count', 'expected'),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 4, 8]), (13, [1, 7, 13])],
)
def test_the_lowest_the_middle_and_the_highest_level_are_measured(loads, count, expected):
    engine = TimedEngine([float(index) for index in range(1, count + 1)])
    engine.device = 'cuda:1'
    checks = check_levels(engine, family_of(count), pause_s=0.0, clock=engine.clock)
    # Each block starts with a frame that is not timed, as for a profile.
    block = [index for index in expected for _ in range(BLOCK_RUNS + 1)]
    for number, check in enumerate(checks, start=1):
        assert [level.index for level in check.levels] == expected
        assert [level.median_ms for level in check.levels] == pytest.approx(expected)
        assert (check.load_of_others, check.failures) == (QUIET, ())
        assert engine.levels_run == number * block
    assert number == MAX_BLOCKS
    assert loads == ['cuda:1']


def test_a_check_includes_the_previous_blocks(loads):
    engine = TimedEngine((1.0,))
    checks = check_levels(engine, family_of(1), pause_s=0.0, clock=engine.clock)
    assert next(checks).levels == (LevelTimes(1, 1.0, 1.0),)
    engine.slowed_by = (3.0,)
    assert next(checks).levels == (LevelTimes(1, 1.0, 2.0),)


def test_slow_levels_get_fewer_frames(loads):
    engine = TimedEngine((1000.0 * MAX_SECONDS,))
    list(check_levels(engine, family_of(1), pause_s=0.0, clock=engine.clock))
    assert len(engine.levels_run) == BLOCK_RUNS + 1


def test_a_level_that_fails_is_named_and_the_others_are_checked(loads):
    engine = TimedEngine((1.0, 2.0, 4.0), failing=(3,))
    *_, check = check_levels(engine, family_of(3), pause_s=0.0, clock=engine.clock)
    assert [level.index for level in check.levels] == [1, 2]
    assert check.failures == ('fake failed at level 3: out of memory',)
    assert check.fault(make_profile((1.0, 2.0, 400.0))) == ''


def test_the_check_pauses_like_a_camera(loads, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr('dynamic_ofa_ros.runtime.profiling.time.sleep', pauses.append)
    engine = TimedEngine((1.0, 2.0, 4.0))
    next(check_levels(engine, family_of(3), clock=engine.clock))
    assert pauses == [0.01] * (3 * BLOCK_RUNS)
