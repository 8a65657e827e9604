"""Check with a few frames whether a latency profile is of this machine as it is today.

Platforms of different speed may share a name, and machines change: another power mode, another
release of an engine. Contention must not be mistaken for that. It only adds to a latency, and to
a long one at least as much as to a short one, which a time slice of others meets less often:
whatever else is seen tells of a wrong profile. Slower frames alone tell of one only while nobody
else uses the device. Of each level the lower quartile and the median count: the truth may lie
anywhere between them.
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
"""No second block begins after this time: levels of a slow device take long enough."""

TOLERANCE = 0.25
"""Largest relative difference from a profile, and of two levels' differences, that is noise."""


@dataclass(frozen=True)
class LevelTimes:
    """What the frames of one level took: the lower quartile and the median."""

    index: int
    low_ms: float
    median_ms: float


@dataclass(frozen=True)
class Check:
    """A few frames of some levels; `failures` say which levels could not be run, and why."""

    levels: tuple[LevelTimes, ...]
    load_of_others: float
    failures: tuple[str, ...] = ()

    @property
    def is_busy(self) -> bool:
        """Whether others use so much of the device that latencies are no truth."""
        return self.load_of_others > BUSY_ABOVE

    def fault(self, profile: LatencyProfile) -> str:
        """Return what is wrong with a profile, to follow its name; '' when it may be right."""
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
            return f'does not fit this machine ({low.min():.2g}x to {low.max():.2g}x)'
        return ''

    def corrected(self, profile: LatencyProfile) -> LatencyProfile:
        """Return the profile as this machine seems to be: scaled by the factors of its levels."""
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
    """Run a few frames of the lowest, the middle and the highest level, as a profile would."""
    count = len(family.levels)
    left = sorted({1, (count + 1) // 2, count})
    samples_ms: dict[int, list[float]] = {index: [] for index in left}
    failures = {}
    load = OthersLoad(engine.device)
    started_ns = clock()
    for block in range(BLOCKS):
        if block and (clock() - started_ns) / 1e9 > MAX_SECONDS:
            break
        for index in left:
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
    """Tell whether a level is slowed much more than a longer one: no contention does that."""
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
