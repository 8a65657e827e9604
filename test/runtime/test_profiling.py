from __future__ import annotations

import pytest
from runtime_fakes import PLATFORM, TimedEngine

from dynamic_ofa_ros.runtime import profiling
from dynamic_ofa_ros.runtime.profiling import BLOCK_RUNS, MIN_RUNS, profile_engine


def test_every_level_is_measured(random_family):
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


def test_levels_are_measured_alternately(random_family):
    """Measured consecutively, the last level would seem 50 % slower than the first."""
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


def test_the_load_is_measured_on_the_device_of_the_engine(random_family, monkeypatch):
    class Load:
        def __init__(self, device: str) -> None:
            self._load = {'cuda:1': 0.8}[device]

        def fraction(self) -> float:
            return self._load

    monkeypatch.setattr(profiling, 'OthersLoad', Load)
    engine = TimedEngine((1.0, 2.0, 4.0))
    engine.device = 'cuda:1'
    profile = profile_engine(engine, random_family, runs=10, pause_s=0.0, clock=engine.clock)
    assert profile.conditions['load_of_others'] == '0.80'


def test_the_measurement_pauses_like_a_camera(random_family, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(profiling.time, 'sleep', pauses.append)
    engine = TimedEngine((1.0, 2.0, 4.0))
    profile = profile_engine(engine, random_family, runs=10, clock=engine.clock)
    assert pauses == [profiling.PAUSE_S] * 30
    assert profile.conditions['pause_ms'] == '10'
