from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runtime_fakes import PLATFORM, TimedEngine, make_profile

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import LatencyProfile, read_profile, write_profile
from dynamic_ofa_ros.runtime import known_profile, profile_check, profiling
from dynamic_ofa_ros.runtime.build_cache import BuildCache

HERE_MS = (1.0, 2.0, 4.0)
QUIET, BUSY = 0.05, 0.8
DEADLINE_S = 10.0
RUNS = 40
"""More than in a check, so that a measurement can be told from it."""


class Machine:
    """A machine whose levels take HERE_MS without contention; `start` starts the node."""

    def __init__(self, family: Any, cache: Path) -> None:
        self.family, self.cache = family, cache
        self.load, self.slowed_by = QUIET, (1.0, 1.0, 1.0)
        self.engine_class = TimedEngine
        self.engine = self._engine()

    def start(self) -> tuple[float, ...]:
        """Return the medians that a new engine starts with."""
        self.engine = self._engine()
        self.profile = known_profile.load_or_measure_profile(
            self.engine, self.family, self.cache, runs=RUNS, pause_s=0.0, clock=self.engine.clock
        )
        return tuple(level.median_ms for level in self.profile.levels)

    def ship(self, *latencies_ms: float, **changes: Any) -> None:
        """Add a profile of this platform to the family."""
        profile = dataclasses.replace(make_profile(latencies_ms), **changes)
        self.family = dataclasses.replace(self.family, platforms={PLATFORM: profile})

    @property
    def path(self) -> Path:
        """Return the path of the cached profile."""
        return BuildCache(self.family, self.cache).directory / 'profiles' / f'{PLATFORM}.yaml'

    def store(self, *latencies_ms: float, **changes: Any) -> None:
        """Store a profile of this platform in the cache."""
        write_profile(dataclasses.replace(make_profile(latencies_ms), **changes), self.path)

    @property
    def was_measured(self) -> bool:
        """Whether the last start measured all levels."""
        frames_of_a_check = 3 * profile_check.MAX_BLOCKS * (profile_check.BLOCK_RUNS + 1)
        return len(self.engine.levels_run) > frames_of_a_check

    def _engine(self) -> TimedEngine:
        engine = self.engine_class(HERE_MS)
        engine.slowed_by = self.slowed_by
        return engine


@pytest.fixture
def machine(random_family, tmp_path, monkeypatch, caplog):
    caplog.set_level('INFO')
    machine = Machine(random_family, tmp_path)

    def load(_: str) -> SimpleNamespace:
        return SimpleNamespace(fraction=lambda: machine.load)

    monkeypatch.setattr(profiling, 'OthersLoad', load)
    monkeypatch.setattr(profile_check, 'OthersLoad', load)
    return machine


def test_a_profile_is_measured_once_and_checked_at_later_starts(machine, caplog):
    assert machine.start() == pytest.approx(HERE_MS)
    assert machine.was_measured
    assert machine.start() == pytest.approx(HERE_MS)
    assert not machine.was_measured
    assert 'cpu: the cached profile of ' in caplog.messages[-1]
    assert caplog.messages[-1].endswith(' matches this machine')
    assert machine.engine.notes == ()


def test_a_matching_profile_of_the_family_is_used(machine):
    machine.ship(1.1, 2.1, 4.2)
    assert machine.start() == (1.1, 2.1, 4.2)
    assert not machine.was_measured
    assert not machine.path.exists()


FOREIGN = {
    (2.0, 4.0, 8.0): 'is 2x slower than this machine',
    (0.5, 1.0, 2.0): 'is 2x faster than this machine',
    (2.0, 2.0, 2.0): 'does not match this machine (0.5x to 2x)',
}


@pytest.mark.parametrize('foreign', FOREIGN)
def test_a_profile_of_another_machine_is_measured_again_once(machine, caplog, foreign):
    machine.ship(*foreign)
    assert machine.start() == pytest.approx(HERE_MS)
    sentence = f"cpu: the family's profile of 2026-01-01 {FOREIGN[foreign]}"
    assert f'{sentence}: it is measured again' in caplog.messages
    assert len(f'{sentence}: it is measured again') <= 120
    assert read_profile(machine.path).conditions['replaces'] == sentence
    assert machine.start() == pytest.approx(HERE_MS)  # the newer profile, from the cache
    assert not machine.was_measured


def test_an_outdated_cached_profile_is_measured_again(machine, caplog):
    """For example after a change of the power mode or a new release of the engine."""
    machine.start()
    machine.store(1.7, 3.4, 6.8)
    assert machine.start() == pytest.approx(HERE_MS)
    assert 'cached profile of 2026-01-01 is 1.7x slower than this machine' in caplog.text


def test_a_profile_is_scaled_by_the_speed_of_the_machine(machine, caplog):
    """For example by another clock; the cached profile remains, so that it cannot drift."""
    machine.start()
    for speed in (1.5, 0.75, 1.0):
        machine.slowed_by = (speed,) * 3
        assert machine.start() == pytest.approx([speed * ms for ms in HERE_MS])
        assert not machine.was_measured
        assert machine.engine.notes == ()
        assert ('scaled' in caplog.messages[-1]) == (speed != 1.0)
    assert 'matches this machine, scaled by 1.5' in caplog.text


def test_a_short_disturbance_during_the_check_is_waited_for(machine):
    machine.store(*HERE_MS)
    machine.slowed_by = (3.0, 1.0, 1.0)

    class Recovering(TimedEngine):
        def infer(self, index: int, tensor: Any) -> Any:
            if len(self.levels_run) == 3 * (profile_check.BLOCK_RUNS + 1):
                self.slowed_by = (1.0,) * 3
            return super().infer(index, tensor)

    machine.engine_class = Recovering
    assert machine.start() == HERE_MS
    assert not machine.was_measured
    # Half of the frames were slow after two blocks, and a third after three.
    assert len(machine.engine.levels_run) == 3 * 3 * (profile_check.BLOCK_RUNS + 1)


def test_the_newest_profile_is_used(machine):
    machine.ship(1.1, 2.0, 4.0, measured_at='2026-03-01T00:00:00+00:00')
    machine.store(1.2, 2.0, 4.0, measured_at='2026-02-01T00:00:00+00:00')
    assert machine.start()[0] == 1.1
    machine.store(1.2, 2.0, 4.0, measured_at='2026-04-01T00:00:00+00:00')
    assert machine.start()[0] == 1.2


def test_an_older_profile_is_used_if_the_newer_one_does_not_match(machine):
    machine.ship(9.0, 9.0, 9.0, measured_at='2026-03-01T00:00:00+00:00')
    machine.store(1.2, 2.0, 4.0)
    assert machine.start()[0] == 1.2
    assert not machine.was_measured


# A machine whose speed wavers


class WaveringEngine(TimedEngine):
    """Takes times with the noise of a virtual machine whose physical core has other users.

    The constants describe 264 latencies of each of three levels in 11 processes, with a busy
    neighbour: two speeds, changing within seconds; a deviation of each level in each process; and
    a deviation of each frame, with rare stalls.
    """

    SPEEDS, CHANGE_CHANCE = (0.83, 1.2), 0.02
    LEVEL_SD, FRAME_SD = 0.06, 0.1
    STALL, STALL_CHANCE = 3.0, 0.02

    def __init__(self, seed: int) -> None:
        super().__init__(HERE_MS)
        self.random = np.random.default_rng(seed)
        self.speed = self.random.choice(self.SPEEDS)
        self.level_factors = np.exp(self.random.normal(0.0, self.LEVEL_SD, len(HERE_MS)))

    def infer(self, index: int, tensor: Any) -> Any:
        if self.random.random() < self.CHANGE_CHANCE:
            self.speed = self.random.choice(self.SPEEDS)
        frame = self.speed * np.exp(self.random.normal(0.0, self.FRAME_SD))
        stall = self.STALL if self.random.random() < self.STALL_CHANCE else 1.0
        self.slowed_by = tuple(frame * stall * self.level_factors)
        return super().infer(index, tensor)


@pytest.fixture
def wavering(machine, monkeypatch):
    """Return a function that starts the node with noise, and returns whether it measured."""

    def start(seed: int) -> bool:
        monkeypatch.setattr(machine, '_engine', lambda: WaveringEngine(seed))
        machine.start()
        return machine.was_measured

    return start


def test_the_noise_of_a_virtual_machine_is_not_a_wrong_profile(machine, wavering):
    measured = []
    for profile in range(5):
        machine.path.unlink(missing_ok=True)
        assert wavering(profile)
        measured += [wavering(seed) for seed in range(100, 120)]
    assert sum(measured) <= 0.1 * len(measured)


FOREIGN_SHAPES = [(1.6, 1.0, 1.0), (1.0, 1.6, 1.0), (1.0, 1.0, 1.6), (1.0, 1.0, 1 / 1.6)]


@pytest.mark.parametrize('factors', FOREIGN_SHAPES)
def test_a_profile_with_a_wrong_level_is_recognized_despite_noise(machine, wavering, factors):
    machine.ship(*(factor * ms for factor, ms in zip(factors, HERE_MS, strict=True)))
    measured = []
    for seed in range(25):
        machine.path.unlink(missing_ok=True)
        measured.append(wavering(seed))
    assert sum(measured) >= 0.7 * len(measured)


@pytest.mark.parametrize('factor', [0.5, 2.0])
def test_a_profile_of_another_speed_is_recognized_despite_noise(machine, wavering, factor):
    """It is measured again or scaled: level 2 is never off by more than speed and noise."""
    machine.ship(*(factor * ms for ms in HERE_MS))
    for seed in range(25):
        machine.path.unlink(missing_ok=True)
        wavering(seed)
        assert 0.6 < machine.profile.levels[1].median_ms / HERE_MS[1] < 1.6


# A busy machine


def test_contention_is_not_mistaken_for_a_wrong_profile(machine):
    machine.ship(*HERE_MS)
    machine.load, machine.slowed_by = BUSY, (1.5, 2.0, 2.5)
    assert machine.start() == HERE_MS
    assert not machine.was_measured
    assert machine.engine.notes == ()


def test_a_wrong_profile_is_corrected_while_the_device_is_busy(machine):
    machine.ship(3.0, 6.0, 12.0)
    machine.load, machine.slowed_by = BUSY, (1.2, 1.2, 1.5)
    assert machine.start() == pytest.approx((1.2, 2.4, 6.0))
    assert not machine.was_measured
    assert not machine.path.exists()
    sentence = "cpu: the family's profile of 2026-01-01 is 2.5x slower than this machine"
    assert machine.engine.notes == (f'{sentence}: corrected until a start on an idle device',)
    assert machine.profile.conditions['corrected'] == sentence
    machine.load, machine.slowed_by = QUIET, (1.0, 1.0, 1.0)
    assert machine.start() == pytest.approx(HERE_MS)
    assert machine.was_measured


@pytest.mark.parametrize('place', ['ship', 'store'])
def test_a_profile_measured_under_load_is_used_until_the_device_is_idle(machine, place, caplog):
    getattr(machine, place)(1.1, 2.1, 4.2, conditions={'load_of_others': '0.80'})
    machine.load = BUSY
    assert machine.start() == (1.1, 2.1, 4.2)
    assert 'was measured on a busy device, and it is busy now: it is used' in caplog.text
    machine.load = QUIET
    assert machine.start() == pytest.approx(HERE_MS)
    assert 'was measured on a busy device: it is measured again' in caplog.text
    assert machine.start() == pytest.approx(HERE_MS)
    assert not machine.was_measured


def test_a_first_measurement_under_load_is_repeated(machine, caplog):
    machine.load, machine.slowed_by = BUSY, (2.0, 2.0, 2.0)
    assert machine.start() == pytest.approx((2.0, 4.0, 8.0))
    assert (
        'other programs used 80 % of the device; latencies may be too high: it is' in caplog.text
    )
    machine.load, machine.slowed_by = QUIET, (1.0, 1.0, 1.0)
    assert machine.start() == pytest.approx(HERE_MS)


def test_a_load_that_is_not_a_number_is_ignored(machine):
    machine.ship(*HERE_MS, conditions={'load_of_others': 'unknown'})
    assert machine.start() == HERE_MS
    assert not machine.was_measured


# Damaged files and errors


@pytest.mark.parametrize('damage', ['', 'levels: [', 'format: something else\n', '\x00'])
def test_a_damaged_profile_is_measured_again(machine, damage, caplog):
    machine.start()
    machine.path.write_text(damage)
    assert machine.start() == pytest.approx(HERE_MS)
    assert machine.was_measured
    assert 'damaged' in caplog.text
    assert read_profile(machine.path).levels[0].runs == RUNS


def test_a_profile_of_another_number_of_levels_is_measured_again(machine):
    machine.store(1.0, 2.0)
    assert machine.start() == pytest.approx(HERE_MS)


def test_a_profile_of_another_platform_is_measured_again(machine):
    machine.store(*HERE_MS, platform='cpu-other-fake-fp32-t1')
    machine.start()
    assert machine.was_measured
    assert machine.profile.platform == PLATFORM


def test_a_profile_is_returned_if_the_cache_cannot_be_written(machine, tmp_path):
    machine.cache = tmp_path / 'file'
    machine.cache.touch()
    assert machine.start() == pytest.approx(HERE_MS)


def test_a_matching_profile_in_a_read_only_cache_is_used(machine, monkeypatch):
    machine.store(1.1, 2.0, 4.0)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, 'Read-only file system')

    monkeypatch.setattr(known_profile, 'write_profile', refuse)
    assert machine.start()[0] == 1.1


def test_a_level_that_fails_in_the_check_is_noted(machine, monkeypatch):
    machine.ship(*HERE_MS)
    monkeypatch.setattr(machine, '_engine', lambda: TimedEngine(HERE_MS, failing=(3,)))
    assert machine.start() == HERE_MS
    assert machine.engine.notes == (
        "cpu: the family's profile of 2026-01-01 could not be checked: "
        'fake failed at level 3: out of memory',
    )


def test_the_known_profile_is_used_if_all_levels_fail(machine, monkeypatch, caplog):
    machine.ship(9.0, 9.0, 9.0)
    monkeypatch.setattr(machine, '_engine', lambda: TimedEngine(HERE_MS, failing=(1, 2, 3)))
    assert machine.start() == (9.0, 9.0, 9.0)
    assert len(machine.engine.notes) == 3
    assert 'fits' not in caplog.text


def test_an_engine_failure_during_the_measurement_is_reported(machine, monkeypatch):
    monkeypatch.setattr(machine, '_engine', lambda: TimedEngine(HERE_MS, failing=(2,)))
    with pytest.raises(EngineError, match='fake failed at level 2: out of memory'):
        machine.start()


def test_simultaneous_starts_measure_once(machine, monkeypatch):
    """The second one waits for the first, because they would slow each other down."""
    other = Machine(machine.family, machine.cache)
    has_begun, is_waiting = threading.Event(), threading.Event()
    measure = known_profile.profile_engine
    locked = BuildCache.locked

    def slowly(*args: Any, **kwargs: Any) -> LatencyProfile:
        has_begun.set()
        assert is_waiting.wait(DEADLINE_S)
        return measure(*args, **kwargs)

    def noticed(self: BuildCache, relative: str) -> Any:
        if has_begun.is_set():
            is_waiting.set()
        return locked(self, relative)

    monkeypatch.setattr(known_profile, 'profile_engine', slowly)
    monkeypatch.setattr(BuildCache, 'locked', noticed)
    first = threading.Thread(target=machine.start)
    first.start()
    assert has_begun.wait(DEADLINE_S)
    assert other.start() == pytest.approx(HERE_MS)
    first.join(DEADLINE_S)
    assert machine.was_measured
    assert other.engine.levels_run == []
    assert other.profile == read_profile(machine.path)
