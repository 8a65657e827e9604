from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from runtime_fakes import PLATFORM, FakeEngine, make_profile

from dynamic_ofa_ros.family import read_profile, write_profile
from dynamic_ofa_ros.runtime import profiling
from dynamic_ofa_ros.runtime.profiling import (
    BLOCK_RUNS,
    MIN_RUNS,
    load_or_measure_profile,
    profile_engine,
)


class TimedEngine(FakeEngine):
    """Takes a known time at each level, on a clock that only it moves."""

    def __init__(self, latencies_ms: tuple[float, ...], drift_per_run: float = 0.0) -> None:
        super().__init__(len(latencies_ms), 16)
        self._latencies_ms = latencies_ms
        self._drift = drift_per_run
        self.now_ns = 0

    def infer(self, index: int, tensor: np.ndarray) -> np.ndarray:
        factor = 1.0 + self._drift * len(self.levels_run)
        self.now_ns += round(self._latencies_ms[index - 1] * factor * 1e6)
        return super().infer(index, tensor)

    def clock(self) -> int:
        return self.now_ns


def test_measures_every_level(random_family):
    engine = TimedEngine((1.0, 2.0, 4.0))
    profile = profile_engine(engine, random_family, runs=20, pause_s=0.0, clock=engine.clock)
    assert profile.platform == PLATFORM
    assert [level.median_ms for level in profile.levels] == pytest.approx([1.0, 2.0, 4.0])
    assert [level.runs for level in profile.levels] == [20, 20, 20]
    assert profile.levels[0].sd_ms == pytest.approx(0.0, abs=1e-9)
    assert profile.latency_ms(3) == profile.levels[2].median_ms
    assert 'load_of_others' in profile.conditions


def test_percentiles_of_known_latencies(random_family):
    engine = TimedEngine((1.0, 1.0, 1.0), drift_per_run=0.01)
    level = profile_engine(
        engine, random_family, runs=100, pause_s=0.0, clock=engine.clock
    ).levels[0]
    assert level.median_ms < level.p95_ms < level.p99_ms
    assert level.mean_ms == pytest.approx(level.median_ms, rel=0.05)
    assert level.sd_ms > 0.1


def test_levels_take_turns_so_that_drift_hits_all_alike(random_family):
    """One after the other, the last level would look 50 % slower than the first here."""
    engine = TimedEngine((1.0, 1.0, 1.0), drift_per_run=0.002)
    levels = profile_engine(
        engine, random_family, runs=100, pause_s=0.0, clock=engine.clock
    ).levels
    assert levels[2].median_ms == pytest.approx(levels[0].median_ms, rel=0.05)
    block = BLOCK_RUNS + 1
    after_warmup = engine.levels_run[9 : 9 + 3 * block]
    assert after_warmup == [1] * block + [2] * block + [3] * block


def test_slow_levels_get_fewer_runs(random_family):
    engine = TimedEngine((100.0, 200.0, 400.0))
    profile = profile_engine(
        engine, random_family, runs=100, max_seconds=5.0, pause_s=0.0, clock=engine.clock
    )
    assert profile.levels[0].runs == MIN_RUNS
    assert engine.now_ns / 1e9 < 12.0


def test_the_profile_of_the_family_comes_first(random_family, tmp_path):
    shipped = make_profile((1.0, 2.0, 3.0))
    family = dataclasses.replace(random_family, platforms={PLATFORM: shipped})
    assert load_or_measure_profile(TimedEngine((9.0, 9.0, 9.0)), family, tmp_path) is shipped
    assert list(tmp_path.iterdir()) == []


def cached_file(tmp_path: Path) -> Path:
    return next(tmp_path.glob(f'*/profiles/{PLATFORM}.yaml'))


def test_measures_once_and_remembers(random_family, tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, '_is_quiet_now', lambda: False)
    engine = FakeEngine(3, 16)
    first = load_or_measure_profile(engine, random_family, tmp_path, runs=10, pause_s=0.0)
    runs = len(engine.levels_run)
    second = load_or_measure_profile(engine, random_family, tmp_path, runs=10, pause_s=0.0)
    assert len(engine.levels_run) == runs > 0
    assert second.latency_ms(1) == pytest.approx(first.latency_ms(1), abs=1e-5)
    assert read_profile(cached_file(tmp_path)).platform == PLATFORM


@pytest.mark.parametrize('damage', ['', 'levels: [', 'format: something else\n', '\x00'])
def test_a_damaged_profile_is_measured_again(random_family, tmp_path, damage, caplog):
    engine = FakeEngine(3, 16)
    load_or_measure_profile(engine, random_family, tmp_path, runs=10, pause_s=0.0)
    path = cached_file(tmp_path)
    path.write_text(damage)
    runs = len(engine.levels_run)
    profile = load_or_measure_profile(engine, random_family, tmp_path, runs=10, pause_s=0.0)
    assert len(engine.levels_run) > runs
    assert len(profile.levels) == 3
    assert 'damaged' in caplog.text
    assert read_profile(path).levels[0].runs == 10


def test_a_profile_of_another_number_of_levels_is_measured_again(random_family, tmp_path):
    engine = FakeEngine(3, 16)
    load_or_measure_profile(engine, random_family, tmp_path, runs=10, pause_s=0.0)
    write_profile(make_profile((1.0, 2.0)), cached_file(tmp_path))
    assert (
        len(load_or_measure_profile(engine, random_family, tmp_path, runs=10, pause_s=0.0).levels)
        == 3
    )


@pytest.mark.parametrize(('is_quiet', 'is_measured_again'), [(True, True), (False, False)])
def test_a_profile_taken_under_load_lasts_until_the_machine_is_quiet(
    random_family, tmp_path, monkeypatch, is_quiet, is_measured_again
):
    engine = FakeEngine(3, 16)
    load_or_measure_profile(engine, random_family, tmp_path, runs=10, pause_s=0.0)
    path = cached_file(tmp_path)
    busy = dataclasses.replace(read_profile(path), conditions={'load_of_others': '0.80'})
    write_profile(busy, path)
    monkeypatch.setattr(profiling, '_is_quiet_now', lambda: is_quiet)
    runs = len(engine.levels_run)
    load_or_measure_profile(engine, random_family, tmp_path, runs=10, pause_s=0.0)
    assert (len(engine.levels_run) > runs) == is_measured_again


def test_a_cache_that_cannot_be_written_does_not_matter(random_family, tmp_path):
    obstacle = tmp_path / 'file'
    obstacle.touch()
    profile = load_or_measure_profile(
        FakeEngine(3, 16), random_family, obstacle, runs=10, pause_s=0.0
    )
    assert len(profile.levels) == 3


def test_pauses_like_a_camera(random_family, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(profiling.time, 'sleep', pauses.append)
    engine = TimedEngine((1.0, 2.0, 4.0))
    profile = profile_engine(engine, random_family, runs=10, clock=engine.clock)
    assert pauses == [profiling.PAUSE_S] * 30
    assert profile.conditions['pause_ms'] == '10'
