"""Measure the uncontended latency of every level on this machine."""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dynamic_ofa_ros.family import LatencyProfile, LevelLatency
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.reference import probe_input

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.engine import Engine
    from dynamic_ofa_ros.runtime.image import FloatArray

Clock = Callable[[], int]

DEFAULT_RUNS = 60
MIN_RUNS = 10
BLOCK_RUNS = 5
"""Consecutive timed runs of a level, after a run that is not timed because the caches are cold."""

PAUSE_S = 0.01
"""Idle time before each run, as between the frames of a camera.

Without pauses, the data of a small level stays in the caches, and the level seems to be up to 1.4
times as fast as on a robot; every frame would then seem to be contended.
"""

MAX_SECONDS = 2.5
BUSY_ABOVE = 0.25
"""Maximum share of the device used by other programs during the measurement of a profile."""

logger = logging.getLogger(__name__)


def warn_when_busy(load_of_others: float, advice: str) -> None:
    """Warn that latencies may be too high if other programs used much of the device.

    load_of_others: fraction of the device during the measurement; NaN if it is unknown.
    """
    if load_of_others > BUSY_ABOVE:
        logger.warning(
            'other programs used %.0f %% of the device; latencies may be too high: %s',
            100.0 * load_of_others,
            advice,
        )


def profile_engine(
    engine: Engine,
    family: Family,
    *,
    runs: int = DEFAULT_RUNS,
    warmup: int = 3,
    max_seconds: float = MAX_SECONDS,
    pause_s: float = PAUSE_S,
    clock: Clock = time.perf_counter_ns,
) -> LatencyProfile:
    """Measure every level with batch size 1; return median, mean, sd, p95 and p99.

    The levels are measured alternately in short blocks, so that changes of clocks and temperature
    affect all levels equally. There is a pause of `pause_s` before each run, as between camera
    images. The measurement ends after about `max_seconds` with fewer than `runs` runs per level,
    but at least `MIN_RUNS`.
    """
    inputs = [probe_input(level.resolution) for level in family.levels]
    for level, tensor in zip(family.levels, inputs, strict=True):
        for _ in range(warmup):
            engine.infer(level.index, tensor)
    load = OthersLoad(engine.device)
    samples_ms: list[list[float]] = [[] for _ in family.levels]
    started_ns = clock()
    while len(samples_ms[0]) < runs:
        is_over = (clock() - started_ns) / 1e9 > max_seconds
        if is_over and len(samples_ms[0]) >= min(MIN_RUNS, runs):
            break
        block = min(BLOCK_RUNS, runs - len(samples_ms[0]))
        for level, tensor, samples in zip(family.levels, inputs, samples_ms, strict=True):
            samples += time_block(engine, level.index, tensor, block, pause_s, clock)
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


def time_block(
    engine: Engine, index: int, tensor: FloatArray, runs: int, pause_s: float, clock: Clock
) -> list[float]:
    """Return the latencies of `runs` runs of a level in ms, after a run that is not timed."""
    engine.infer(index, tensor)
    samples_ms = []
    for _ in range(runs):
        if pause_s > 0.0:
            time.sleep(pause_s)
        start_ns = clock()
        engine.infer(index, tensor)
        samples_ms.append((clock() - start_ns) / 1e6)
    return samples_ms


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
