"""Algorithm 1 of the Dynamic-OFA paper: one evolutionary search per latency limit.

The evolutionary search is that of OFA (Cai et al., ICLR 2020). The most accurate networks of a
generation are the parents of the next one, by mutation and crossover. Children are drawn until
enough of them satisfy the conditions: an accuracy within a window and a latency within the limit.
The limit is relaxed only for the random first generation: by one step after a number of draws
without success, up to a cap, and for one network at a time. A network beyond the true limit can be
a parent if there are too few others, but it is never a result.

Networks that are too slow by the latency model are not evaluated, so they do not count as
evaluations. Population, generations and ratios are those of the released code of the paper.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import SearchError
from dynamic_ofa_ros.offline.search.objectives import FloatArray, Objectives
from dynamic_ofa_ros.offline.search.search import SearchResult, Solution, check_limits, result_of
from dynamic_ofa_ros.space.genome import Genomes

logger = logging.getLogger(__name__)

# Step of the relaxation, as a fraction of the range of latencies, so that the settings are valid
# for tables of 2 ms and of 2 s; number of steps between the limit and the cap.
STEP_SHARE = 0.01
CAP_STEPS = 10

# Genomes with (N,) latencies and accuracies.
Evaluated = tuple[Genomes, FloatArray, FloatArray]


@dataclass(frozen=True)
class Algorithm1Settings:
    """The parameters of Algorithm 1.

    min_accuracy, max_accuracy: the window, fractions; latency_step_ms (Lat_add): added to the
    limit after step_every (itr_n) consecutive draws without success, up to latency_cap_ms. None:
    STEP_SHARE of the range of latencies, and CAP_STEPS steps above the limit.
    """

    min_accuracy: float = 0.0
    max_accuracy: float = 1.0
    latency_step_ms: float | None = None
    step_every: int = 1000
    latency_cap_ms: float | None = None
    population: int = 100
    generations: int = 500
    parent_ratio: float = 0.25
    mutation_ratio: float = 0.5
    mutation_probability: float = 0.4

    def __post_init__(self) -> None:
        """Raise SearchError for invalid settings."""
        if not 0.0 <= self.min_accuracy < self.max_accuracy <= 1.0:
            raise SearchError(
                f'the accuracy window from {self.min_accuracy:g} to {self.max_accuracy:g} is '
                'empty; give fractions in ascending order'
            )
        step_ms = self.latency_step_ms
        if (step_ms is not None and not 0 < step_ms < math.inf) or self.step_every < 1:
            step = 'the default step' if step_ms is None else f'a latency step of {step_ms:g} ms'
            raise SearchError(
                f'{step} every {self.step_every} draws has no effect; both must be positive'
            )
        if self.population < 4 or self.generations < 1:
            raise SearchError(
                f'a population of {self.population} and {self.generations} generations are too '
                'few; the minimum is 4 and 1'
            )


@dataclass(frozen=True)
class Target:
    """The result of one run: the limit, its largest relaxation, and all accepted networks.

    population: (N, genes) distinct genomes of all generations; best: the best within the limit.
    """

    limit_ms: float
    relaxed_ms: float
    population: Genomes
    best: Solution


def find_with_algorithm_1(
    objectives: Objectives,
    limits_ms: Sequence[float],
    evaluations: int = 100000,
    seed: int = 1,
    settings: Algorithm1Settings | None = None,
    *,
    skips_empty: bool = False,
) -> tuple[SearchResult, tuple[Target, ...]]:
    """Run Algorithm 1 once per limit; return the result and the details of each run.

    `evaluations` is the maximum of all runs together, divided evenly. Raise SearchError if no
    network in the window satisfies a limit; the message contains the nearest one. With
    `skips_empty` such limits are logged and skipped; the error is raised only if all are empty.
    """
    settings = settings or Algorithm1Settings()
    if not limits_ms:
        raise SearchError('Algorithm 1 requires at least one latency limit')
    check_limits(limits_ms)
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    targets = []
    for index, limit_ms in enumerate(limits_ms):
        left = evaluations - objectives.evaluations
        share = objectives.evaluations + left // (len(limits_ms) - index)
        try:
            targets.append(_Run(objectives, limit_ms, share, settings, rng).search())
        except SearchError as error:
            is_last_chance = index == len(limits_ms) - 1 and not targets
            if not skips_empty or is_last_chance:
                raise
            logger.warning('limit skipped: %s', error)
    everything = result_of(objectives, (), time.perf_counter() - started)
    result = SearchResult(
        front=everything.front,
        at_limits=tuple(target.best for target in targets),
        evaluations=everything.evaluations,
        seconds=time.perf_counter() - started,
    )
    return result, tuple(targets)


class _Run:
    """One evolutionary search for one limit."""

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
        self._fastest_ms = math.inf
        self._kept: list[Genomes] = []
        self._keys: set[bytes] = set()

    def search(self) -> Target:
        settings, encoding = self.settings, self.objectives.encoding
        genomes, latency_ms, top1 = self._fill(
            settings.population, lambda count: encoding.sample(self.rng, count), *self._relaxing()
        )
        mutations = round(settings.mutation_ratio * settings.population)
        for _ in range(settings.generations):
            if self._is_spent or not len(genomes):
                break
            # Networks within the limit come first, then the more accurate ones.
            parents = np.lexsort((-top1, latency_ms > self.limit_ms))
            parents = parents[: max(2, round(settings.parent_ratio * settings.population))]
            mutated = self._fill(mutations, self._mutating(genomes[parents]))
            crossed = self._fill(settings.population - mutations, self._crossing(genomes[parents]))
            genomes, latency_ms, top1 = _joined(
                [(genomes[parents], latency_ms[parents], top1[parents]), mutated, crossed]
            )
            if not len(mutated[0]) and not len(crossed[0]):
                break
        within = np.flatnonzero(latency_ms <= self.limit_ms)
        if not len(within):
            raise self._nothing()
        best = int(within[top1[within].argmax()])
        return Target(
            self.limit_ms,
            self.relaxed_ms,
            np.concatenate(self._kept),
            Solution(encoding.decode(genomes[best]), float(latency_ms[best]), float(top1[best])),
        )

    @property
    def _is_spent(self) -> bool:
        return self.objectives.evaluations >= self._evaluations

    def _relaxing(self) -> tuple[float, float]:
        """Return the step and the cap of the relaxation."""
        step_ms, cap_ms = self.settings.latency_step_ms, self.settings.latency_cap_ms
        if step_ms is None:
            encoding = self.objectives.encoding
            ends = encoding.encode([encoding.space.smallest(), encoding.space.largest()])
            step_ms = STEP_SHARE * float(np.ptp(self.objectives.latency(ends)))
        if cap_ms is None:
            cap_ms = self.limit_ms + CAP_STEPS * step_ms
        if not self.limit_ms <= cap_ms < math.inf:
            raise SearchError(
                f'the largest relaxed limit is {cap_ms:g} ms; give at least the limit, '
                f'{self.limit_ms:g} ms'
            )
        return step_ms, cap_ms

    def _fill(
        self,
        count: int,
        draw: Callable[[int], Genomes],
        step_ms: float = 0.0,
        cap_ms: float = -math.inf,
    ) -> Evaluated:
        """Draw until `count` new genomes are accepted, or until no progress or evaluation is left.

        Below the cap, the limit is relaxed by a step after a number of draws without success, for
        one genome; at the cap, drawing then ends.
        """
        settings = self.settings
        nothing = np.empty((0, len(self.objectives.encoding.choices)), np.int64)
        parts: list[Evaluated] = [(nothing, np.empty(0), np.empty(0))]
        limit_ms, misses = self.limit_ms, 0
        while count > 0 and not self._is_spent:
            drawn = draw(min(settings.step_every, max(count, settings.population)))
            genomes, latency_ms, top1 = self._fitting(self._without_duplicates(drawn), limit_ms)
            if len(genomes):
                kept = slice(1 if limit_ms > self.limit_ms else count)
                parts.append((genomes[kept], latency_ms[kept], top1[kept]))
                self._keys.update(genome.tobytes() for genome in genomes[kept])
                self._kept.append(genomes[kept])
                count -= len(genomes[kept])
                self.relaxed_ms = max(self.relaxed_ms, limit_ms)
                limit_ms, misses = self.limit_ms, 0
                continue
            misses += len(drawn)
            if misses >= settings.step_every:
                if limit_ms >= cap_ms:
                    break
                limit_ms, misses = min(limit_ms + step_ms, cap_ms), 0
        return _joined(parts)

    def _fitting(self, genomes: Genomes, limit_ms: float) -> Evaluated:
        """Return the accepted genomes; only those within the limit are evaluated."""
        latency_ms = self.objectives.latency(genomes)
        self._fastest_ms = min(self._fastest_ms, float(latency_ms.min(initial=math.inf)))
        genomes = genomes[latency_ms <= limit_ms]
        genomes = genomes[: max(0, self._evaluations - self.objectives.evaluations)]
        latency_ms, top1 = self.objectives.evaluate(genomes)
        fits = self._in_window(top1)
        return genomes[fits], latency_ms[fits], top1[fits]

    def _in_window(self, top1: FloatArray) -> npt.NDArray[np.bool_]:
        return (top1 >= self.settings.min_accuracy) & (top1 <= self.settings.max_accuracy)

    def _mutating(self, parents: Genomes) -> Callable[[int], Genomes]:
        def draw(count: int) -> Genomes:
            genomes = parents[self.rng.integers(len(parents), size=count)]
            redrawn = self.rng.random(genomes.shape) < self.settings.mutation_probability
            random = self.rng.integers(0, self.objectives.encoding.choices, genomes.shape)
            return self.objectives.encoding.canonical(np.where(redrawn, random, genomes))

        return draw

    def _crossing(self, parents: Genomes) -> Callable[[int], Genomes]:
        def draw(count: int) -> Genomes:
            first, second = parents[self.rng.integers(len(parents), size=(2, count))]
            swapped = self.rng.random(first.shape) < 0.5
            return self.objectives.encoding.canonical(np.where(swapped, second, first))

        return draw

    def _without_duplicates(self, genomes: Genomes) -> Genomes:
        """Return distinct genomes that are not in a generation of this run yet."""
        fresh = {genome.tobytes(): index for index, genome in enumerate(genomes)}
        return genomes[[index for key, index in fresh.items() if key not in self._keys]]

    def _nothing(self) -> SearchError:
        """Return an error that contains the nearest network, by latency and then by accuracy."""
        settings = self.settings
        window = f'top-1 from {settings.min_accuracy:g} to {settings.max_accuracy:g}'
        asked = f'nothing with {window} was found within {self.limit_ms:.4g} ms'
        _, latency_ms, top1 = self.objectives.archive()
        within = latency_ms <= self.limit_ms
        slower_ms = latency_ms[self._in_window(top1) & ~within]
        if len(slower_ms):
            return SearchError(f'{asked}; the fastest one takes {slower_ms.min():.4g} ms')
        if not within.any():
            return SearchError(f'{asked}; the nearest one takes {self._fastest_ms:.4g} ms')
        allowed = within & (top1 >= 0)
        if not allowed.any():
            return self.objectives.refuse()
        latency_ms, top1 = latency_ms[allowed], top1[allowed]
        distance = np.maximum(settings.min_accuracy - top1, top1 - settings.max_accuracy)
        nearest = int(distance.argmin())
        return SearchError(
            f'{asked}; the nearest one has top-1 {top1[nearest]:.4f} at '
            f'{latency_ms[nearest]:.4g} ms'
        )


def _joined(parts: Sequence[Evaluated]) -> Evaluated:
    genomes, latency_ms, top1 = (np.concatenate(column) for column in zip(*parts, strict=True))
    return genomes, latency_ms, top1
