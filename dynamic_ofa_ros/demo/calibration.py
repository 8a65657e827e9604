"""Choice of the number of busy processes and the latency limit of the demo on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORKERS = (1, 2, 4)
"""Numbers of busy processes to try, in this order."""

GOOD_MARGIN = 1.3
"""A trial with this margin (see `margin`) is good enough; no further trials are run."""

ON_TIME_SHARE = 0.9
"""Share of images that must meet the limit: at the middle level with load, at the highest without.

With a larger share, a single outlier among the few measured images would decide.
"""


@dataclass(frozen=True)
class Trial:
    """Latencies [ms] from arrival to label, with a number of busy processes.

    middle: the level, between the lowest and the highest one, that was measured.
    """

    workers: int
    middle: int
    highest_ms: Sequence[float]
    middle_ms: Sequence[float]


@dataclass(frozen=True)
class Calibration:
    """The chosen load and limit. `problem` says why no limit separates the levels, or is empty."""

    workers: int
    limit_ms: float
    middle_level: int
    problem: str = ''


def middle_levels(latencies_ms: Sequence[float]) -> tuple[int, ...]:
    """Return levels (from 1) to try as the middle one: the geometric middle, then the second.

    The lowest and the highest level are excluded if there are levels between them.
    """
    centre_ms = math.sqrt(latencies_ms[0] * latencies_ms[-1])
    inner = range(2, len(latencies_ms)) or range(1, 2)
    nearest = min(inner, key=lambda level: abs(math.log(latencies_ms[level - 1] / centre_ms)))
    return tuple(dict.fromkeys((nearest, inner[0])))


def margin(free_ms: Sequence[float], trial: Trial) -> float:
    """Return the ratio of the largest to the smallest useful limit; above 1, a limit exists.

    Below the largest one, the median latency of the highest level under load, most images of the
    highest level are late. The smallest one allows the middle level under load, and the highest
    level without load.
    """
    return float(np.median(trial.highest_ms)) / _needed_ms(free_ms, trial)


def choose(free_ms: Sequence[float], trials: Sequence[Trial]) -> Calibration:
    """Choose the first trial with a good margin, otherwise the trial with the largest margin.

    free_ms: latencies of the highest level without busy processes.
    """
    good = [trial for trial in trials if margin(free_ms, trial) >= GOOD_MARGIN]
    trial = good[0] if good else max(trials, key=lambda trial: margin(free_ms, trial))
    needed_ms, highest_ms = _needed_ms(free_ms, trial), float(np.median(trial.highest_ms))
    if highest_ms > needed_ms:
        limit_ms = math.sqrt(needed_ms * highest_ms)
        return Calibration(trial.workers, round(limit_ms, 2), trial.middle)
    free_limit_ms = float(np.quantile(free_ms, ON_TIME_SHARE))
    limit_ms = max(1.1 * free_limit_ms, math.sqrt(free_limit_ms * highest_ms))
    problem = (
        f'No limit separates the levels here: with {processes(trial.workers)}, the highest '
        f'level has a median latency of {highest_ms:.1f} ms, but a limit must be at least '
        f'{needed_ms:.1f} ms for {ON_TIME_SHARE:.0%} of the images of level {trial.middle} under '
        'load and of the highest level without load.'
    )
    return Calibration(trial.workers, round(limit_ms, 2), trial.middle, problem)


def processes(count: int) -> str:
    """Return a text such as '2 busy processes'."""
    return f'{count} busy process{"" if count == 1 else "es"}'


def _needed_ms(free_ms: Sequence[float], trial: Trial) -> float:
    return float(
        max(np.quantile(free_ms, ON_TIME_SHARE), np.quantile(trial.middle_ms, ON_TIME_SHARE))
    )
