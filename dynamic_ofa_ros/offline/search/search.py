"""Find the most accurate architectures for given latency limits.

`find_front`, the default, runs NSGA-II over (latency, accuracy) for the whole front, and then a
local search at each limit. `algorithm1.find_with_algorithm_1` is the search of the paper: one
evolutionary run per limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamic_ofa_ros.errors import SearchError
from dynamic_ofa_ros.offline.search.climbing import climb
from dynamic_ofa_ros.offline.search.objectives import Bound, Objectives, Predict
from dynamic_ofa_ros.offline.search.pareto import front
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

__all__ = ['Bound', 'Objectives', 'Predict', 'SearchResult', 'Solution', 'find_front', 'result_of']

# Fraction of the evaluations for NSGA-II; the others are for the local search.
GLOBAL_SHARE = 0.1
# Number of limits of the local search if none are given.
SPREAD_LIMITS = 10


@dataclass(frozen=True)
class Solution:
    """An architecture with its predicted latency and top-1 (fraction)."""

    architecture: SubnetArchitecture
    latency_ms: float
    accuracy: float


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: the front, fastest first, and the best network for each limit.

    `at_limits` has one entry per limit, in the same order.
    """

    front: tuple[Solution, ...]
    at_limits: tuple[Solution, ...]
    evaluations: int
    seconds: float


def find_front(
    objectives: Objectives,
    limits_ms: Sequence[float] = (),
    evaluations: int = 20000,
    seed: int = 1,
    population: int = 100,
    warm_start: Sequence[SubnetArchitecture] = (),
) -> SearchResult:
    """Search the front of (latency, accuracy); the result depends only on the seed.

    Without `limits_ms`, the local search uses ten limits spread over the front. `warm_start` adds
    known architectures to the first population, for instance the front of an earlier search. Raise
    SearchError if no network satisfies the constraints; the message contains the nearest one.
    """
    from dynamic_ofa_ros.offline.search.nsga2 import run_nsga2

    started = time.perf_counter()
    if evaluations < 2 * population:
        raise SearchError(
            f'{evaluations} evaluations are too few; a population of {population} requires at '
            f'least {2 * population}'
        )
    check_limits(limits_ms)
    rng = np.random.default_rng(seed)
    first = _first_population(objectives.encoding, rng, population, warm_start)
    run_nsga2(objectives, first, max(2 * len(first), round(evaluations * GLOBAL_SHARE)), seed)
    targets = list(limits_ms) or _spread_limits(objectives)
    climb(objectives, targets, evaluations, rng)
    return result_of(objectives, limits_ms, time.perf_counter() - started)


def check_limits(limits_ms: Sequence[float]) -> None:
    """Raise SearchError unless all limits are positive numbers."""
    for limit_ms in limits_ms:
        if not 0.0 < limit_ms < math.inf:
            raise SearchError(f'a latency limit is {limit_ms:g} ms; give a positive number')


def _first_population(
    encoding: GenomeEncoding,
    rng: np.random.Generator,
    population: int,
    warm_start: Sequence[SubnetArchitecture],
) -> Genomes:
    """Return canonical genomes: the warm start, the extremes of every resolution, random ones."""
    space = encoding.space
    extremes = np.repeat(
        encoding.encode([space.smallest(), space.largest()]), len(space.resolutions), axis=0
    )
    extremes[:, -1] = np.tile(np.arange(len(space.resolutions)), 2)
    seeds = np.concatenate([encoding.encode([*warm_start, space.smallest()]), extremes])
    genomes = encoding.canonical(np.concatenate([seeds, encoding.sample(rng, population)]))
    _, unique = np.unique(genomes, axis=0, return_index=True)
    return genomes[np.sort(unique)][: max(population, len(warm_start) + 2)]


def _spread_limits(objectives: Objectives) -> list[float]:
    _, latency_ms, top1 = objectives.archive()
    allowed = top1 >= 0
    if not allowed.any():
        return [float(latency_ms.max())]
    latency_ms, top1 = latency_ms[allowed], top1[allowed]
    on_front = latency_ms[front(latency_ms.tolist(), top1.tolist())]
    return [float(q) for q in np.quantile(on_front, np.linspace(0.05, 1.0, SPREAD_LIMITS))]


def result_of(objectives: Objectives, limits_ms: Sequence[float], seconds: float) -> SearchResult:
    """Return the front of all evaluations and the best network for each limit.

    Raise SearchError if no evaluated network satisfies a limit and the constraints.
    """
    genomes, latency_ms, top1 = objectives.archive()
    allowed = np.flatnonzero(top1 >= 0)
    if not len(allowed):
        raise objectives.refuse()

    def found(index: int) -> Solution:
        architecture = objectives.encoding.decode(genomes[index])
        return Solution(architecture, float(latency_ms[index]), float(top1[index]))

    at_limits = []
    for limit_ms in limits_ms:
        within = allowed[latency_ms[allowed] <= limit_ms]
        if not len(within):
            raise objectives.refuse(limit_ms)
        at_limits.append(found(int(within[np.argmax(top1[within])])))
    on_front = front(latency_ms[allowed].tolist(), top1[allowed].tolist())
    return SearchResult(
        front=tuple(found(int(allowed[i])) for i in on_front),
        at_limits=tuple(at_limits),
        evaluations=objectives.evaluations,
        seconds=seconds,
    )
