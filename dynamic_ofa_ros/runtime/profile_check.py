"""Check with a few frames whether a latency profile matches the current state of this machine.

Platforms of different speed can have the same name, and machines change, for instance by another
power mode or another release of an engine. A few levels are measured and compared with the
profile. If all of them are faster or slower by a similar factor, the profile is scaled by it,
because clocks change, and a virtual machine is as fast as its neighbours allow. If the factor is
very large, or if the levels deviate from each other, the profile is wrong.

Contention must not be mistaken for such a change. It only increases latencies, and it increases
long latencies at least as much as short ones, because time slices of other programs interrupt long
frames more often. So on a busy device, the lower quartile of each level's latencies is considered
instead of the median, and a profile is wrong only if contention cannot explain the deviations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import TYPE_CHECKING

import numpy as np

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import LatencyProfile, LevelLatency
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.profiling import BUSY_ABOVE, PAUSE_S, Clock, time_block
from dynamic_ofa_ros.runtime.reference import probe_input

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.engine import Engine

MAX_BLOCKS = 4
BLOCK_RUNS = 4
MAX_SECONDS = 1.0
"""After this time no further block is started, so that the check of a slow device is short."""

TOLERANCE = 0.2
"""Relative deviations up to this, of all levels together and of one level, are considered
noise."""

MAX_FACTOR = 1.6
"""Maximum factor by which a profile is scaled; beyond it, all levels are measured again."""


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
        factors = self._factors(profile)
        # Contention cannot slow down a fast level much more than a slower one.
        bounds = np.maximum.accumulate(factors) if self.is_busy else factors.max()
        if (factors * (1.0 + TOLERANCE) ** 2 < bounds).any():
            return f'does not match this machine ({factors.min():.2g}x to {factors.max():.2g}x)'
        factor = self._common_factor(profile)
        if factor > MAX_FACTOR:
            return f'is {factor:.2g}x faster than this machine'
        if factor < 1.0 / MAX_FACTOR:
            return f'is {1.0 / factor:.2g}x slower than this machine'
        return ''

    def corrected(self, profile: LatencyProfile) -> LatencyProfile:
        """Return the profile scaled by the measured factors.

        A profile without a fault is scaled by one factor, or returned unchanged if that may be
        noise. Otherwise the factors are interpolated by level.
        """
        if not self.levels:
            return profile
        if self.fault(profile):
            indexes = [level.index for level in self.levels]
            factors = [level.low_ms / profile.latency_ms(level.index) for level in self.levels]
        else:
            factor = self._common_factor(profile)
            if 1.0 / (1.0 + TOLERANCE) <= factor <= 1.0 + TOLERANCE:
                return profile
            indexes, factors = [1], [factor]
        scale = np.interp(range(1, len(profile.levels) + 1), indexes, factors)
        levels = (_scaled(*pair) for pair in zip(profile.levels, scale.tolist(), strict=True))
        return replace(profile, levels=tuple(levels))

    def _factors(self, profile: LatencyProfile) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return measured over profiled latency of each level, in ascending order of latency."""
        pairs = [(profile.latency_ms(level.index), level) for level in self.levels]
        pairs.sort(key=lambda pair: pair[0])
        return np.array(
            [(level.low_ms if self.is_busy else level.median_ms) / ms for ms, level in pairs]
        )

    def _common_factor(self, profile: LatencyProfile) -> float:
        factors = self._factors(profile)
        low, high = float(factors.min()), float(factors.max())
        return min(low, 1.0) if self.is_busy else math.sqrt(low * high)


def checked_levels(count: int) -> list[int]:
    """Return the lowest, the middle and the highest of `count` levels."""
    return sorted({1, (count + 1) // 2, count})


def check_levels(
    engine: Engine,
    family: Family,
    *,
    pause_s: float = PAUSE_S,
    clock: Clock = time.perf_counter_ns,
) -> Iterator[Check]:
    """Measure the `checked_levels` in short blocks, as for a profile.

    Yield a check after each block; it includes the latencies of the previous blocks, so that the
    caller can go on if the first frames do not match.
    """
    samples_ms: dict[int, list[float]] = {i: [] for i in checked_levels(len(family.levels))}
    failures = {}
    load = OthersLoad(engine.device)
    started_ns = clock()
    for block in range(MAX_BLOCKS):
        if block and (clock() - started_ns) / 1e9 > MAX_SECONDS:
            break
        for index, samples in samples_ms.items():
            if index in failures:
                continue
            tensor = probe_input(family.level(index).resolution)
            try:
                samples += time_block(engine, index, tensor, BLOCK_RUNS, pause_s, clock)
            except EngineError as error:
                failures[index] = str(error)
        times = (
            LevelTimes(index, *quantiles(samples, n=4, method='inclusive')[:2])
            for index, samples in samples_ms.items()
            if index not in failures
        )
        yield Check(tuple(times), load.fraction(), tuple(failures.values()))


def _scaled(level: LevelLatency, factor: float) -> LevelLatency:
    return replace(
        level,
        median_ms=factor * level.median_ms,
        mean_ms=factor * level.mean_ms,
        sd_ms=factor * level.sd_ms,
        p95_ms=factor * level.p95_ms,
        p99_ms=factor * level.p99_ms,
    )
