"""Algorithm 1 of Dynamic-OFA: one evolutionary run per target (section 3.3).

The evolutionary search is OFA's (Cai et al., ICLR 2020): of each generation the most accurate are
parents, their children are mutations and crossovers, and a child is drawn again until it fits.
Here it fits when its accuracy lies in a window and its latency within the limit; the limit is
relaxed by a step whenever so many draws in a row found nothing, up to a cap. What is
too slow by the latency model is not evaluated, so it does not count as an evaluation. The numbers
of the population, generations and ratios are those of the paper's released code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import SearchError
from dynamic_ofa_ros.offline.search.objectives import FloatArray, Objectives
from dynamic_ofa_ros.offline.search.search import Found, SearchResult, result_of
from dynamic_ofa_ros.space.genome import Genetics, Genomes


@dataclass(frozen=True)
class Algorithm1Settings:
    """The parameters of Algorithm 1.

    min_accuracy, max_accuracy: the window, fractions; latency_step_ms (Lat_add) is added to the
    limit after step_every (itr_n) draws in a row that do not fit, up to latency_cap_ms, which is
    by default the limit and ten steps.
    """

    min_accuracy: float = 0.0
    max_accuracy: float = 1.0
    latency_step_ms: float = 1.0
    step_every: int = 1000
    latency_cap_ms: float | None = None
    population: int = 100
    generations: int = 500
    parent_ratio: float = 0.25
    mutation_ratio: float = 0.5
    mutation_probability: float = 0.4

    def __post_init__(self) -> None:
        """Raise SearchError for settings that make no sense."""
        if not 0.0 <= self.min_accuracy < self.max_accuracy <= 1.0:
            raise SearchError(
                f'the accuracy window from {self.min_accuracy:g} to {self.max_accuracy:g} is '
                'empty; give fractions, the smaller first'
            )
        if not self.latency_step_ms > 0 or self.step_every < 1:
            raise SearchError(
                f'a latency step of {self.latency_step_ms:g} ms every {self.step_every} draws '
                'relaxes nothing; both must be positive'
            )
        if self.population < 4 or self.generations < 1:
            raise SearchError(
                f'a population of {self.population} over {self.generations} generations is too '
                'small; 4 and 1 are the least'
            )

    def cap_ms(self, limit_ms: float) -> float:
        """Return how far a limit may be relaxed."""
        default = limit_ms + 10 * self.latency_step_ms
        return max(limit_ms, default if self.latency_cap_ms is None else self.latency_cap_ms)


@dataclass(frozen=True)
class Target:
    """One run: the limit asked for, the limit it was relaxed to, and everything that fitted.

    population: (N, genes) genomes of all generations, no two the same.
    """

    limit_ms: float
    relaxed_ms: float
    population: Genomes
    best: Found


def find_with_algorithm_1(
    objectives: Objectives,
    limits_ms: Sequence[float],
    evaluations: int = 100000,
    seed: int = 1,
    settings: Algorithm1Settings | None = None,
) -> tuple[SearchResult, tuple[Target, ...]]:
    """Run Algorithm 1 once per limit; return what was found and how each run went.

    `evaluations` is the most of all runs together, shared evenly. Raise SearchError where nothing
    lies in the window within the relaxed limit, naming the nearest found.
    """
    settings = settings or Algorithm1Settings()
    if not limits_ms:
        raise SearchError('Algorithm 1 searches at given latency limits; none was given')
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    targets = []
    for index, limit_ms in enumerate(limits_ms):
        left = evaluations - objectives.evaluations
        share = objectives.evaluations + left // (len(limits_ms) - index)
        targets.append(_Run(objectives, limit_ms, share, settings, rng).search())
    everything = result_of(objectives, (), time.perf_counter() - started)
    result = SearchResult(
        front=everything.front,
        at_limits=tuple(target.best for target in targets),
        evaluations=everything.evaluations,
        seconds=time.perf_counter() - started,
    )
    return result, tuple(targets)


class _Run:
    """One evolutionary search at one limit."""

    def __init__(
        self,
        objectives: Objectives,
        limit_ms: float,
        evaluations: int,
        settings: Algorithm1Settings,
        rng: np.random.Generator,
    ) -> None:
        self.objectives, self.settings, self.rng = objectives, settings, rng
        self.limit_ms = self.relaxed_ms = limit_ms
        self._evaluations = evaluations
        self._misses = 0
        self._fastest_ms = math.inf
        self._kept: list[Genomes] = []
        self._keys: set[bytes] = set()

    def search(self) -> Target:
        settings, genetics = self.settings, self.objectives.genetics
        genomes, latency_ms, top1 = self._fill(
            settings.population, lambda count: genetics.sample(self.rng, count)
        )
        mutations = round(settings.mutation_ratio * settings.population)
        for _ in range(settings.generations):
            parents = np.argsort(-top1, kind='stable')
            parents = parents[: max(2, round(settings.parent_ratio * settings.population))]
            if self._is_spent or not len(parents):
                break
            generation = [(genomes[parents], latency_ms[parents], top1[parents])]
            generation.append(self._fill(mutations, self._mutating(genomes[parents])))
            generation.append(
                self._fill(settings.population - mutations, self._crossing(genomes[parents]))
            )
            genomes, latency_ms, top1 = (
                np.concatenate([part[i] for part in generation]) for i in range(3)
            )
        if not len(top1):
            raise self._nothing()
        best = int(top1.argmax())
        return Target(
            self.limit_ms,
            self.relaxed_ms,
            np.concatenate(self._kept),
            Found(genetics.decode(genomes[best]), float(latency_ms[best]), float(top1[best])),
        )

    @property
    def _is_spent(self) -> bool:
        return self.objectives.evaluations >= self._evaluations

    def _fill(
        self, count: int, draw: Callable[[int], Genomes]
    ) -> tuple[Genomes, FloatArray, FloatArray]:
        """Draw until `count` new genomes fit, relaxing the limit; fewer where that is no use."""
        settings = self.settings
        parts: list[tuple[Genomes, FloatArray, FloatArray]] = []
        wanted, fruitless = count, 0
        # Below the cap the limit gives way; at the cap, so many draws in vain end the search.
        while wanted and not self._is_spent and fruitless < 2 * settings.step_every:
            room = min(settings.step_every, self._evaluations - self.objectives.evaluations)
            genomes = self._without_duplicates(draw(min(room, max(wanted, settings.population))))
            if not len(genomes):
                fruitless += settings.population
                continue
            fitting, latency_ms, top1 = self._fitting(genomes)
            if len(fitting):
                kept = fitting[:wanted]
                parts.append((kept, latency_ms[:wanted], top1[:wanted]))
                self._keys.update(genome.tobytes() for genome in kept)
                self._kept.append(kept)
                wanted -= len(kept)
                self._misses = fruitless = 0
            else:
                self._misses += len(genomes)
                if self.relaxed_ms >= settings.cap_ms(self.limit_ms):
                    fruitless += len(genomes)
            if self._misses >= settings.step_every:
                step_ms = settings.latency_step_ms
                self.relaxed_ms = min(self.relaxed_ms + step_ms, settings.cap_ms(self.limit_ms))
                self._misses = 0
        if not parts:
            none = np.empty(0)
            return np.empty((0, len(self.objectives.genetics.choices)), np.int64), none, none
        genomes, latency_ms, top1 = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return genomes, latency_ms, top1

    def _fitting(self, genomes: Genomes) -> tuple[Genomes, FloatArray, FloatArray]:
        """Return those that fit, evaluating only what is within the limit."""
        latency_ms = self.objectives.latency(genomes)
        self._fastest_ms = min(self._fastest_ms, float(latency_ms.min()))
        genomes = genomes[latency_ms <= self.relaxed_ms]
        genomes = genomes[: max(0, self._evaluations - self.objectives.evaluations)]
        latency_ms, top1 = self.objectives.evaluate(genomes)
        fits = (top1 >= self.settings.min_accuracy) & (top1 <= self.settings.max_accuracy)
        return genomes[fits], latency_ms[fits], top1[fits]

    def _mutating(self, parents: Genomes) -> Callable[[int], Genomes]:
        def draw(count: int) -> Genomes:
            genomes = parents[self.rng.integers(len(parents), size=count)]
            redrawn = self.rng.random(genomes.shape) < self.settings.mutation_probability
            return _redraw(self.objectives.genetics, genomes, redrawn, self.rng)

        return draw

    def _crossing(self, parents: Genomes) -> Callable[[int], Genomes]:
        def draw(count: int) -> Genomes:
            first, second = parents[self.rng.integers(len(parents), size=(2, count))]
            swapped = self.rng.random(first.shape) < 0.5
            return self.objectives.genetics.canonical(np.where(swapped, second, first))

        return draw

    def _without_duplicates(self, genomes: Genomes) -> Genomes:
        """Return those that no generation of this run has yet, each once."""
        fresh = {genome.tobytes(): index for index, genome in enumerate(genomes)}
        return genomes[[index for key, index in fresh.items() if key not in self._keys]]

    def _nothing(self) -> SearchError:
        """Return the error that names the nearest possible: by latency, then by accuracy."""
        settings = self.settings
        window = f'top-1 from {settings.min_accuracy:g} to {settings.max_accuracy:g}'
        asked = f'nothing with {window} was found within {self.relaxed_ms:.4g} ms'
        _, latency_ms, top1 = self.objectives.archive()
        within = latency_ms <= self.relaxed_ms
        if not within.any():
            return SearchError(
                f'{asked}; the nearest that was found takes {self._fastest_ms:.4g} ms'
            )
        allowed = within & (top1 >= 0)
        if not allowed.any():
            return self.objectives.refuse()
        latency_ms, top1 = latency_ms[allowed], top1[allowed]
        distance = np.maximum(settings.min_accuracy - top1, top1 - settings.max_accuracy)
        nearest = int(distance.argmin())
        return SearchError(
            f'{asked}; the nearest that was found has top-1 {top1[nearest]:.4f} at '
            f'{latency_ms[nearest]:.4g} ms'
        )


def _redraw(
    genetics: Genetics, genomes: Genomes, redrawn: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Genomes:
    random = rng.integers(0, genetics.choices, genomes.shape)
    return genetics.canonical(np.where(redrawn, random, genomes))
