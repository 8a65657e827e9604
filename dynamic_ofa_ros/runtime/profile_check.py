"""Check with a few frames whether a latency profile matches the current state of this machine.

Platforms of different speed can have the same name, and machines change, for instance by another
power mode or another release of an engine. Contention must not be mistaken for such a change. It
only increases latencies, and it increases long latencies at least as much as short ones, because
time slices of other programs interrupt long frames more often. Any other deviation shows that the
profile is wrong. If all frames are slower, the profile is wrong only if no other program uses the
device. The lower quartile and the median of each level are considered, because the uncontended
latency may be anywhere between them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import LatencyProfile, LevelLatency
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.profiling import BUSY_ABOVE, PAUSE_S, Clock, input_of, time_block

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.engine import Engine

BLOCKS = 2
BLOCK_RUNS = 4
MAX_SECONDS = 1.0
"""After this time no further block is started, so that the check of a slow device is short."""

TOLERANCE = 0.25
"""Relative deviations up to this, from a profile and between levels, are considered noise."""


@dataclass(frozen=True)
class LevelTimes:
    """The lower quartile and the median of one level's latencies."""

    index: int
    low_ms: float
    median_ms: float


@dataclass(frozen=True)
class Check:
    """Latencies of a few frames of some levels; `failures` are the errors of failed levels."""

    levels: tuple[LevelTimes, ...]
    load_of_others: float
    failures: tuple[str, ...] = ()

    @property
    def is_busy(self) -> bool:
        """Whether other processes use the device so much that latencies are not reliable."""
        return self.load_of_others > BUSY_ABOVE

    def fault(self, profile: LatencyProfile) -> str:
        """Return what is wrong with a profile, as the predicate of a sentence, or ''."""
        if not self.levels:
            return ''
        nominal_ms = np.array([profile.latency_ms(level.index) for level in self.levels])
        low = np.array([level.low_ms for level in self.levels]) / nominal_ms
        median = np.array([level.median_ms for level in self.levels]) / nominal_ms
        seen = low if self.is_busy else median
        is_too_slow = seen * (1.0 + TOLERANCE) < 1.0
        is_too_fast = np.zeros_like(is_too_slow) if self.is_busy else low > 1.0 + TOLERANCE
        if is_too_slow.all():
            return f'is {1.0 / np.median(seen):.2g}x slower than this machine'
        if is_too_fast.all():
            return f'is {np.median(seen):.2g}x faster than this machine'
        is_uneven = self.is_busy and _falls(low[np.argsort(nominal_ms)])
        if is_too_slow.any() or is_too_fast.any() or is_uneven:
            return f'does not match this machine ({low.min():.2g}x to {low.max():.2g}x)'
        return ''

    def corrected(self, profile: LatencyProfile) -> LatencyProfile:
        """Return the profile scaled by the measured factors, which are interpolated by level."""
        indexes = [level.index for level in self.levels]
        factors = [level.low_ms / profile.latency_ms(level.index) for level in self.levels]
        scale = np.interp(range(1, len(profile.levels) + 1), indexes, factors)
        levels = (_scaled(*pair) for pair in zip(profile.levels, scale.tolist(), strict=True))
        return replace(profile, levels=tuple(levels))


def check_levels(
    engine: Engine,
    family: Family,
    *,
    pause_s: float = PAUSE_S,
    clock: Clock = time.perf_counter_ns,
) -> Check:
    """Measure a few frames of the lowest, the middle and the highest level, as for a profile."""
    count = len(family.levels)
    indices = sorted({1, (count + 1) // 2, count})
    samples_ms: dict[int, list[float]] = {index: [] for index in indices}
    failures = {}
    load = OthersLoad(engine.device)
    started_ns = clock()
    for block in range(BLOCKS):
        if block and (clock() - started_ns) / 1e9 > MAX_SECONDS:
            break
        for index in indices:
            if index in failures:
                continue
            tensor = input_of(family.level(index))
            try:
                samples_ms[index] += time_block(engine, index, tensor, BLOCK_RUNS, pause_s, clock)
            except EngineError as error:
                failures[index] = str(error)
    times = (
        LevelTimes(index, *np.quantile(samples, (0.25, 0.5)).tolist())
        for index, samples in samples_ms.items()
        if index not in failures
    )
    return Check(tuple(times), load.fraction(), tuple(failures.values()))


def _falls(factors: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bool:
    """Return whether a fast level is slowed down much more than a slower one.

    factors: in ascending order of latency. Contention cannot have this effect.
    """
    return bool((np.maximum.accumulate(factors) > factors * (1.0 + TOLERANCE) ** 2).any())


def _scaled(level: LevelLatency, factor: float) -> LevelLatency:
    return replace(
        level,
        median_ms=factor * level.median_ms,
        mean_ms=factor * level.mean_ms,
        sd_ms=factor * level.sd_ms,
        p95_ms=factor * level.p95_ms,
        p99_ms=factor * level.p99_ms,
    )
