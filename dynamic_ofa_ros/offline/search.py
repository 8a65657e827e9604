"""Search: which architectures are the most accurate at a latency.

`find_front` is the default: NSGA-II over (latency, accuracy) finds the whole front at once, then a
local search walks uphill from the best at each limit. `find_with_algorithm_1` is the paper's: one
evolutionary run per target, inside an accuracy window, its latency limit relaxed when nothing
fits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.architecture import SubnetArchitecture
from dynamic_ofa_ros.errors import SearchError
from dynamic_ofa_ros.offline.genome import Genetics, Genomes
from dynamic_ofa_ros.offline.pareto import front

FloatArray = npt.NDArray[np.float64]
Predict = Callable[[Genomes], FloatArray]

# Of the evaluations, the share that NSGA-II gets; local search gets the rest.
GLOBAL_SHARE = 0.4
# How many of the best at a limit local search may start from before it tries larger steps.
STARTS_PER_LIMIT = 6
LARGEST_STEP = 3


@dataclass(frozen=True)
class Found:
    """An architecture with its predicted latency and top-1 (fraction)."""

    architecture: SubnetArchitecture
    latency_ms: float
    accuracy: float


@dataclass(frozen=True)
class SearchResult:
    """What a search found: the front, fastest first, and the best within each limit asked for.

    `at_limits` has one entry per limit, in their order.
    """

    front: tuple[Found, ...]
    at_limits: tuple[Found, ...]
    evaluations: int
    seconds: float


class Objectives:
    """Both predictors over populations; remembers and counts what it evaluated."""

    def __init__(self, genetics: Genetics, latency: Predict, accuracy: Predict) -> None:
        self.genetics = genetics
        self._latency, self._accuracy = latency, accuracy
        self._known: dict[bytes, tuple[float, float]] = {}
        self._genomes: list[Genomes] = []
        self._latency_ms: list[FloatArray] = []
        self._top1: list[FloatArray] = []
        self.evaluations = 0

    def evaluate(self, genomes: Genomes) -> tuple[FloatArray, FloatArray]:
        """Return (N,) latencies and (N,) accuracies; every genome counts as an evaluation."""
        latency_ms, top1 = self._latency(genomes), self._accuracy(genomes)
        self.evaluations += len(genomes)
        keys = (genome.tobytes() for genome in genomes)
        self._known.update(zip(keys, zip(latency_ms, top1, strict=True), strict=True))
        self._genomes.append(genomes)
        self._latency_ms.append(latency_ms)
        self._top1.append(top1)
        return latency_ms, top1

    def unseen(self, genomes: Genomes) -> Genomes:
        """Return those that were not evaluated yet, each once."""
        fresh: dict[bytes, int] = {}
        for index, genome in enumerate(genomes):
            key = genome.tobytes()
            if key not in self._known:
                fresh.setdefault(key, index)
        return genomes[list(fresh.values())]

    def recall(self, genomes: Genomes) -> tuple[FloatArray, FloatArray]:
        """Return what evaluating these gave, NaN for those not evaluated yet."""
        unknown = (math.nan, math.nan)
        pairs = np.array([self._known.get(genome.tobytes(), unknown) for genome in genomes])
        return pairs[:, 0], pairs[:, 1]

    def archive(self) -> tuple[Genomes, FloatArray, FloatArray]:
        """Return everything evaluated so far."""
        return (
            np.concatenate(self._genomes),
            np.concatenate(self._latency_ms),
            np.concatenate(self._top1),
        )


def find_front(
    objectives: Objectives,
    limits_ms: Sequence[float] = (),
    evaluations: int = 20000,
    seed: int = 1,
    population: int = 100,
    warm_start: Sequence[SubnetArchitecture] = (),
) -> SearchResult:
    """Search the front of (latency, accuracy), the same for the same seed.

    Without `limits_ms` local search serves ten limits spread over the front. `warm_start` puts
    known architectures into the first population, for instance an earlier search's front. Raise
    SearchError for a limit below everything the space can do, naming the nearest possible.
    """
    started = time.perf_counter()
    if evaluations < 2 * population:
        raise SearchError(
            f'{evaluations} evaluations are too few; {2 * population} are the least with a '
            f'population of {population}'
        )
    rng = np.random.default_rng(seed)
    first = _first_population(objectives.genetics, rng, population, warm_start)
    _nsga2(objectives, first, round(evaluations * GLOBAL_SHARE), seed)
    _check_limits(objectives, limits_ms)
    targets = list(limits_ms) or _spread_limits(objectives)
    _climb(objectives, targets, evaluations, rng)
    return _result(objectives, limits_ms, time.perf_counter() - started)


def _first_population(
    genetics: Genetics,
    rng: np.random.Generator,
    population: int,
    warm_start: Sequence[SubnetArchitecture],
) -> Genomes:
    space = genetics.space
    seeds = genetics.encode([space.smallest(), space.largest(), *warm_start])
    genomes = np.concatenate([seeds, genetics.sample(rng, population)])
    _, unique = np.unique(genetics.canonical(genomes), axis=0, return_index=True)
    return genetics.canonical(genomes[np.sort(unique)])[: max(population, len(seeds))]


def _nsga2(objectives: Objectives, first: Genomes, evaluations: int, seed: int) -> None:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.crossover import Crossover
    from pymoo.core.duplicate import DefaultDuplicateElimination
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.core.repair import Repair
    from pymoo.optimize import minimize

    genetics = objectives.genetics
    choices = genetics.choices

    class Subnets(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=len(choices), n_obj=2, xl=0, xu=choices - 1, vtype=int)

        def _evaluate(
            self, x: Genomes, out: dict[str, FloatArray], *_: object, **__: object
        ) -> None:
            latency_ms, top1 = objectives.evaluate(x)
            out['F'] = np.column_stack([latency_ms, -top1])

    class RedrawOneGene(Mutation):  # type: ignore[misc]
        """Redraw each gene with a probability that changes about one."""

        def _do(
            self,
            _: object,
            x: Genomes,
            *args: object,
            random_state: np.random.Generator,
            **kwargs: object,
        ) -> Genomes:
            redrawn = random_state.random(x.shape) < 1.0 / len(choices)
            return np.where(redrawn, random_state.integers(0, choices, x.shape), x)

    class Uniform(Crossover):  # type: ignore[misc]
        """Exchange each gene between two parents with equal probability."""

        def __init__(self) -> None:
            super().__init__(2, 2)

        def _do(
            self,
            _: object,
            x: Genomes,
            *args: object,
            random_state: np.random.Generator,
            **kwargs: object,
        ) -> Genomes:
            swapped = random_state.random(x.shape[1:]) < 0.5
            return np.stack([np.where(swapped, x[1], x[0]), np.where(swapped, x[0], x[1])])

    class Canonical(Repair):  # type: ignore[misc]
        def _do(self, _: object, x: Genomes, **__: object) -> Genomes:
            return genetics.canonical(x.astype(np.int64))

    algorithm = NSGA2(
        pop_size=len(first),
        sampling=first,
        crossover=Uniform(),
        mutation=RedrawOneGene(),
        repair=Canonical(),
        eliminate_duplicates=DefaultDuplicateElimination(),
    )
    minimize(Subnets(), algorithm, ('n_eval', evaluations), seed=seed, verbose=False)


def _climb(
    objectives: Objectives, limits_ms: Sequence[float], evaluations: int, rng: np.random.Generator
) -> None:
    """Improve the best at each limit until the evaluations are used up.

    From each start all single changes are evaluated, then leaps that combine them; where the best
    few at every limit are explored, random changes in two or three genes are tried.
    """
    genetics = objectives.genetics
    explored: set[tuple[float, bytes]] = set()
    idle_rounds = 0

    def evaluate(candidates: Genomes) -> int:
        fresh = objectives.unseen(candidates)[: evaluations - objectives.evaluations]
        if len(fresh):
            objectives.evaluate(fresh)
        return len(fresh)

    while objectives.evaluations < evaluations and idle_rounds < 100:
        genomes, latency_ms, top1 = objectives.archive()
        starts: list[tuple[float, Genomes]] = []
        best: list[Genomes] = []
        for limit_ms in limits_ms:
            allowed = np.flatnonzero(latency_ms <= limit_ms)
            ranked = allowed[np.argsort(-top1[allowed], kind='stable')]
            best.append(genomes[ranked[0]])
            ranked = ranked[:STARTS_PER_LIMIT]
            for index in ranked:
                if (limit_ms, genomes[index].tobytes()) not in explored:
                    explored.add((limit_ms, genomes[index].tobytes()))
                    starts.append((limit_ms, genomes[index]))
                    break
        if starts:
            found = evaluate(np.concatenate([genetics.neighbours(g) for _, g in starts]))
            found += evaluate(
                np.concatenate([_combine(objectives, start, limit) for limit, start in starts])
            )
        else:
            found = evaluate(_leaps(genetics, best, rng))
        idle_rounds = 0 if found else idle_rounds + 1


def _combine(objectives: Objectives, start: Genomes, limit_ms: float) -> Genomes:
    """Complete every single change of `start` with others, to fit the limit and use it up.

    Latency is a sum over blocks, and accuracy nearly so for small changes: what changes do
    together is estimated as the sum of what each does alone. A change that breaks the limit is
    paid for with those that lose the least accuracy per millisecond; what is left is spent where
    it gains most. Returns one genome per change, canonical.
    """
    genetics = objectives.genetics
    changed = genetics.neighbours(start)
    latency_ms, top1 = objectives.recall(changed)
    (start_ms,), (start_top1,) = objectives.recall(start[None])
    extra_ms, gain = latency_ms - start_ms, top1 - start_top1
    changed_at = (changed != start).argmax(1)
    is_change = (changed != start).any(1) & ~np.isnan(extra_ms)
    saving = np.flatnonzero(is_change & (extra_ms < 0))
    saving = saving[np.argsort(gain[saving] / extra_ms[saving], kind='stable')]
    spending = np.flatnonzero(is_change & (gain > 0))
    rates = gain[spending] / np.maximum(extra_ms[spending], 1e-9)
    spending = spending[np.argsort(-rates, kind='stable')]
    combined = []
    for first in np.flatnonzero(is_change):
        genome = changed[first].copy()
        slack_ms = limit_ms - latency_ms[first]
        used = {changed_at[first]}
        for moves, wants_more in ((saving, False), (spending, True)):
            for move in moves:
                if not wants_more and slack_ms >= 0:
                    break
                gene = changed_at[move]
                if gene in used or (wants_more and extra_ms[move] > slack_ms):
                    continue
                genome[gene] = changed[move][gene]
                used.add(gene)
                slack_ms -= extra_ms[move]
        combined.append(genome)
    return genetics.canonical(np.stack(combined)) if combined else start[None]


def _leaps(genetics: Genetics, best: Sequence[Genomes], rng: np.random.Generator) -> Genomes:
    """Return random genomes two or three genes away from the best."""
    choices = genetics.choices
    leaps = np.repeat(np.stack(best), 50, axis=0)
    for genome in leaps:
        genes = rng.choice(len(choices), rng.integers(2, LARGEST_STEP + 1), replace=False)
        genome[genes] = rng.integers(0, choices[genes])
    return genetics.canonical(leaps)


def _spread_limits(objectives: Objectives) -> list[float]:
    _, latency_ms, top1 = objectives.archive()
    on_front = latency_ms[front(latency_ms.tolist(), top1.tolist())]
    return [float(q) for q in np.quantile(on_front, np.linspace(0.05, 1.0, 10))]


def _check_limits(objectives: Objectives, limits_ms: Sequence[float]) -> None:
    _, latency_ms, _ = objectives.archive()
    fastest = float(latency_ms.min())
    for limit_ms in limits_ms:
        if not math.isfinite(limit_ms) or limit_ms < fastest:
            raise SearchError(
                f'no sub-network of this space takes {limit_ms:g} ms or less on this platform; '
                f'the fastest takes {fastest:.4g} ms'
            )


def _result(objectives: Objectives, limits_ms: Sequence[float], seconds: float) -> SearchResult:
    genomes, latency_ms, top1 = objectives.archive()

    def found(index: int) -> Found:
        architecture = objectives.genetics.decode(genomes[index])
        return Found(architecture, float(latency_ms[index]), float(top1[index]))

    at_limits = []
    for limit_ms in limits_ms:
        allowed = np.flatnonzero(latency_ms <= limit_ms)
        at_limits.append(found(int(allowed[np.argmax(top1[allowed])])))
    return SearchResult(
        front=tuple(found(i) for i in front(latency_ms.tolist(), top1.tolist())),
        at_limits=tuple(at_limits),
        evaluations=objectives.evaluations,
        seconds=seconds,
    )
