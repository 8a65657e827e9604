"""Measure the uncontended latency of every level on this machine, and remember it."""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import LatencyProfile, LevelLatency, read_profile, write_profile
from dynamic_ofa_ros.runtime.build_cache import BuildCache
from dynamic_ofa_ros.runtime.host import OthersLoad

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.engine import Engine

DEFAULT_RUNS = 60
MIN_RUNS = 10
BLOCK_RUNS = 5
"""Timed runs of a level in a row, after one that is not timed and finds the caches cold."""

PAUSE_S = 0.01
"""Idle time before each run, as between the frames of a camera.

Back to back, a small level finds its data still in the caches and looks up to 1.4 times as fast as
it ever is on a robot; every frame would then look contended.
"""

MAX_SECONDS = 5.0
BUSY_ABOVE = 0.25
"""Share of the CPU that other processes may use while a profile that lasts is measured."""

_log = logging.getLogger(__name__)


def profile_engine(
    engine: Engine,
    family: Family,
    *,
    runs: int = DEFAULT_RUNS,
    warmup: int = 3,
    max_seconds: float = MAX_SECONDS,
    pause_s: float = PAUSE_S,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> LatencyProfile:
    """Measure every level, batch 1, and return median, mean, sd, p95 and p99.

    Levels take turns in short blocks, so that drift of clocks and temperature hits all alike;
    `pause_s` before each run makes them frames of a camera. Slow levels get fewer runs: the
    measurement ends after about `max_seconds`, with at least `MIN_RUNS` (or `runs`, when that is
    less) of each level.
    """
    inputs = [_noise(level.resolution, level.index) for level in family.levels]
    for level, tensor in zip(family.levels, inputs, strict=True):
        for _ in range(warmup):
            engine.infer(level.index, tensor)
    load = OthersLoad()
    samples_ms: list[list[float]] = [[] for _ in family.levels]
    started_ns = clock()
    while len(samples_ms[0]) < runs:
        is_over = (clock() - started_ns) / 1e9 > max_seconds
        if is_over and len(samples_ms[0]) >= min(MIN_RUNS, runs):
            break
        block = min(BLOCK_RUNS, runs - len(samples_ms[0]))
        for level, tensor, samples in zip(family.levels, inputs, samples_ms, strict=True):
            engine.infer(level.index, tensor)
            for _ in range(block):
                if pause_s > 0.0:
                    time.sleep(pause_s)
                start_ns = clock()
                engine.infer(level.index, tensor)
                samples.append((clock() - start_ns) / 1e6)
    others_load = load.fraction()
    return LatencyProfile(
        platform=engine.platform,
        levels=tuple(_summary(samples) for samples in samples_ms),
        measured_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        conditions={
            'batch': '1',
            'order': f'levels in turns, blocks of {BLOCK_RUNS}',
            'pause_ms': f'{1e3 * pause_s:g}',
            'load_of_others': 'unknown' if math.isnan(others_load) else f'{others_load:.2f}',
        },
    )


def load_or_measure_profile(
    engine: Engine,
    family: Family,
    cache_dir: Path | None = None,
    *,
    runs: int = DEFAULT_RUNS,
    max_seconds: float = MAX_SECONDS,
    pause_s: float = PAUSE_S,
) -> LatencyProfile:
    """Return the latency profile of this platform.

    The family's own comes first, then the build cache's; else it is measured (seconds) and cached.
    A damaged cached profile is measured again. One that was taken while other programs kept the
    CPU busy serves only until a start that finds the machine quiet, which measures again.
    """
    shipped = family.platforms.get(engine.platform)
    if shipped is not None and not _was_busy(shipped):
        return shipped
    cache = BuildCache(family, cache_dir)
    relative = f'profiles/{engine.platform}.yaml'
    cached = _read_cached(cache, relative, engine, len(family.levels))
    if cached is not None and not _was_busy(cached):
        return cached
    doubtful = shipped or cached
    if doubtful is not None and not _is_quiet_now():
        return doubtful
    profile = profile_engine(engine, family, runs=runs, max_seconds=max_seconds, pause_s=pause_s)
    if _was_busy(profile):
        _log.warning(
            'others used %s of the CPU while levels were measured: measured again at the next '
            'quiet start',
            profile.conditions['load_of_others'],
        )
    cache.write(relative, lambda path: write_profile(profile, path))
    return profile


def _read_cached(
    cache: BuildCache, relative: str, engine: Engine, level_count: int
) -> LatencyProfile | None:
    path = cache.find(relative)
    if path is None:
        return None
    try:
        profile = read_profile(path)
    except FamilyError as error:
        _log.warning('the cached profile is damaged and is measured again: %s', error)
        return None
    if profile.platform != engine.platform or len(profile.levels) != level_count:
        _log.warning('%s belongs to something else and is measured again', path)
        return None
    return profile


def _was_busy(profile: LatencyProfile) -> bool:
    try:
        return float(profile.conditions.get('load_of_others', 'nan')) > BUSY_ABOVE
    except ValueError:
        return False


def _is_quiet_now(seconds: float = 0.2) -> bool:
    load = OthersLoad()
    time.sleep(seconds)
    return load.fraction() <= BUSY_ABOVE


def _summary(samples_ms: list[float]) -> LevelLatency:
    samples = np.asarray(samples_ms, dtype=np.float64)
    median, p95, p99 = (float(value) for value in np.quantile(samples, (0.5, 0.95, 0.99)))
    return LevelLatency(
        median_ms=median,
        mean_ms=float(samples.mean()),
        sd_ms=float(samples.std(ddof=1)) if samples.size > 1 else 0.0,
        p95_ms=p95,
        p99_ms=p99,
        runs=int(samples.size),
    )


def _noise(resolution: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    random = np.random.default_rng(seed)
    return random.standard_normal((1, 3, resolution, resolution)).astype(np.float32)
