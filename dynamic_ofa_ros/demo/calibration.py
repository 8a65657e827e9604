"""How many busy processes, and which latency limit, make switching worth while on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORKERS = (1, 2, 4)
"""Numbers of busy processes to try, in this order."""

GOOD_MARGIN = 1.3
"""Between what the middle level needs and what the highest takes: enough, no more is tried."""

ON_TIME_SHARE = 0.9
"""Of images that the middle level must label in time under load, and the highest one free.

Not more: so few images are measured that a single hiccup of the machine would decide.
"""


@dataclass(frozen=True)
class Trial:
    """Latencies [ms] under a number of busy processes, from arrival to label.

    middle: the level that stands for those between the ends.
    """

    workers: int
    middle: int
    highest_ms: Sequence[float]
    middle_ms: Sequence[float]


@dataclass(frozen=True)
class Calibration:
    """The choice. `problem` says why no limit separates the two levels; empty where one does."""

    workers: int
    limit_ms: float
    middle_level: int
    problem: str = ''


def middle_levels(latencies_ms: Sequence[float]) -> tuple[int, ...]:
    """Return levels (from 1) to try as the middle one: the geometric middle, then the second.

    None is an end, unless there is nothing in between.
    """
    centre_ms = math.sqrt(latencies_ms[0] * latencies_ms[-1])
    inner = range(2, len(latencies_ms)) or range(1, 2)
    nearest = min(inner, key=lambda level: abs(math.log(latencies_ms[level - 1] / centre_ms)))
    return tuple(dict.fromkeys((nearest, inner[0])))


def margin(free_ms: Sequence[float], trial: Trial) -> float:
    """Return how far apart the levels are under load, as a factor; a limit needs more than 1.

    The median latency of the highest level, so that most of its images are late, over what the
    limit must allow: the middle level under load, and the highest without it.
    """
    return float(np.median(trial.highest_ms)) / _needed_ms(free_ms, trial)


def choose(free_ms: Sequence[float], trials: Sequence[Trial]) -> Calibration:
    """Choose the first trial with a good margin, else that with the best.

    free_ms: of the highest level with no busy process.
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
        f'No limit separates the levels here: beside {processes(trial.workers)} the highest level '
        f'takes {highest_ms:.1f} ms (median), no more than the {needed_ms:.1f} ms that level '
        f'{trial.middle} needs beside them ({ON_TIME_SHARE:.0%} of images) or the highest '
        f'alone.'
    )
    return Calibration(trial.workers, round(limit_ms, 2), trial.middle, problem)


def processes(count: int) -> str:
    """Return a number of busy processes in words."""
    return f'{count} busy process{"" if count == 1 else "es"}'


def _needed_ms(free_ms: Sequence[float], trial: Trial) -> float:
    return float(
        max(np.quantile(free_ms, ON_TIME_SHARE), np.quantile(trial.middle_ms, ON_TIME_SHARE))
    )
