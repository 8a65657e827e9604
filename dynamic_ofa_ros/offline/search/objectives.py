"""The objectives of a search: latency and accuracy of genomes, with constraints and a counter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import SearchError
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

FloatArray = npt.NDArray[np.float64]
Predict = Callable[[Genomes], FloatArray]

# Evaluations that count for the estimated effects of all changes of a genome: a backward pass has
# at most twice the operations of a forward pass.
EFFECTS_COST = 3


@dataclass(frozen=True)
class Bound:
    """A constraint on a quantity other than accuracy: `smallest <= measure(genomes) <= largest`.

    measure: maps (N, genes) genomes to (N,) values of `name` in `unit`; without it, the bound is
    on latency.
    """

    name: str
    unit: str
    smallest: float = -math.inf
    largest: float = math.inf
    measure: Predict | None = None

    def __post_init__(self) -> None:
        """Raise SearchError unless the ends that are given are positive numbers."""
        for end, missing in ((self.smallest, -math.inf), (self.largest, math.inf)):
            if end != missing and not 0.0 < end < math.inf:
                raise SearchError(
                    f'a bound of {self.name} is {end:g} {self.unit}; give a positive number'
                )

    def excess(self, values: FloatArray) -> FloatArray:
        """Return the (N,) violations as fractions of the bound; 0 if it is satisfied."""
        over = (values - self.largest) / abs(self.largest) if self.largest < math.inf else 0.0
        under = (self.smallest - values) / abs(self.smallest) if self.smallest > -math.inf else 0.0
        return np.maximum(np.maximum(over, under), np.zeros(len(values)))

    def describe(self) -> str:
        """Describe the bound in words."""
        ends = []
        if self.smallest > -math.inf:
            ends.append(f'at least {self.smallest:.4g}')
        if self.largest < math.inf:
            ends.append(f'at most {self.largest:.4g}')
        return f'{" and ".join(ends)} {self.unit} of {self.name}'


class Objectives:
    """Both predictors for populations; stores and counts the evaluations.

    Only accuracies count as evaluations, as in OFA's search, because latencies come from a table.
    `effects` estimates the change of accuracy if a gene takes another choice, (N, genes, choices)
    for (N, genes) genomes, with a forward and a backward pass of the accuracy predictor. Each of
    these genomes counts as EFFECTS_COST.

    The accuracy of a genome that violates bounds is replaced by minus its violation, so that it is
    worse than all valid ones, and smaller violations are better.
    """

    def __init__(
        self,
        encoding: GenomeEncoding,
        latency: Predict,
        accuracy: Predict,
        bounds: Sequence[Bound] = (),
        effects: Predict | None = None,
    ) -> None:
        self.encoding = encoding
        self.bounds = tuple(bounds)
        self._latency, self._accuracy, self._effects = latency, accuracy, effects
        self._known: dict[bytes, tuple[float, float]] = {}
        self._count = 0  # number of used rows of the following arrays
        self._genomes: Genomes = np.empty((1024, len(encoding.choices)), np.int64)
        self._latency_ms: FloatArray = np.empty(1024)
        self._top1: FloatArray = np.empty(1024)
        self.evaluations = 0

    def evaluate(
        self, genomes: Genomes, latency_ms: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return (N,) latencies and (N,) accuracies; every genome counts as an evaluation.

        latency_ms: if they are known already.
        """
        if not len(genomes):
            return np.empty(0), np.empty(0)
        latency_ms = self._latency(genomes) if latency_ms is None else latency_ms
        top1 = self._accuracy(genomes)
        if self.bounds:
            excess = sum(bound.excess(self._measured(bound, genomes, latency_ms))
                         for bound in self.bounds)  # fmt: skip
            top1 = np.where(excess > 0, -excess, top1)
        self.evaluations += len(genomes)
        keys = [genome.tobytes() for genome in genomes]
        self._known.update(zip(keys, zip(latency_ms, top1, strict=True), strict=True))
        self._remember(genomes, latency_ms, top1)
        return latency_ms, top1

    def lookup(self, genomes: Genomes, evaluations: int) -> tuple[FloatArray, FloatArray]:
        """Return (N,) latencies and accuracies; evaluate only unknown genomes.

        At most `evaluations` are made in total, including earlier ones; the rest are NaN.
        """
        fresh = self.unseen(genomes)[: max(0, evaluations - self.evaluations)]
        if len(fresh):
            self.evaluate(fresh)
        unknown = (math.nan, math.nan)
        pairs = [self._known.get(genome.tobytes(), unknown) for genome in genomes]
        latency_ms, top1 = np.array(pairs, np.float64).reshape(-1, 2).T
        return latency_ms, top1

    def latency(self, genomes: Genomes) -> FloatArray:
        """Return (N,) latencies, which do not count as evaluations."""
        return self._latency(genomes)

    def gains(
        self, genomes: Genomes, top1: FloatArray, changed: Sequence[Genomes], evaluations: int
    ) -> list[FloatArray]:
        """Return the estimated gain of single changes over the accuracies `top1` of genomes.

        genomes: (N, genes); changed: N groups of (M, genes), the changes of each genome. Without
        effects of the predictor, the changes are evaluated. Return N groups of (M,); fewer if the
        total would exceed `evaluations`.
        """
        if self._effects is None:
            return self._evaluated_gains(top1, changed, evaluations)
        genomes = genomes[: max(0, evaluations - self.evaluations) // EFFECTS_COST]
        if not len(genomes):
            return []
        self.evaluations += EFFECTS_COST * len(genomes)
        gains = []
        for genome, around, effects in zip(genomes, changed, self._effects(genomes), strict=False):
            genes = (around != genome).argmax(1)
            gains.append(effects[genes, around[np.arange(len(around)), genes]])
        return gains

    def _evaluated_gains(
        self, top1: FloatArray, changed: Sequence[Genomes], evaluations: int
    ) -> list[FloatArray]:
        ends = np.cumsum([len(around) for around in changed])
        _, values = self.lookup(np.concatenate(changed), evaluations)
        gains = [found - own for found, own in zip(np.split(values, ends[:-1]), top1, strict=True)]
        return list(itertools.takewhile(lambda gain: not np.isnan(gain).any(), gains))

    def unseen(self, genomes: Genomes) -> Genomes:
        """Return the distinct genomes that were not evaluated yet."""
        return genomes[self.unseen_at(genomes)]

    def unseen_at(self, genomes: Genomes) -> list[int]:
        """Return the positions of the distinct genomes that were not evaluated yet."""
        fresh: dict[bytes, int] = {}
        for index, genome in enumerate(genomes):
            key = genome.tobytes()
            if key not in self._known:
                fresh.setdefault(key, index)
        return list(fresh.values())

    def archive(self) -> tuple[Genomes, FloatArray, FloatArray]:
        """Return all evaluations in order."""
        count = self._count
        return self._genomes[:count], self._latency_ms[:count], self._top1[:count]

    def _remember(self, genomes: Genomes, latency_ms: FloatArray, top1: FloatArray) -> None:
        begin, end = self._count, self._count + len(genomes)
        if end > len(self._top1):
            room = max(end, 2 * len(self._top1)) - begin
            self._genomes = np.pad(self._genomes[:begin], ((0, room), (0, 0)))
            self._latency_ms = np.pad(self._latency_ms[:begin], (0, room))
            self._top1 = np.pad(self._top1[:begin], (0, room))
        self._genomes[begin:end] = genomes
        self._latency_ms[begin:end] = latency_ms
        self._top1[begin:end] = top1
        self._count = end

    def refuse(self, latency_ms: float = math.inf) -> SearchError:
        """Return the error for a search without results, which contains the nearest network."""
        bound_ms = Bound('latency', 'ms', largest=latency_ms)
        bounds = [*self.bounds, *([bound_ms] if latency_ms < math.inf else [])]
        genomes, all_ms, top1 = self.archive()
        missed = np.maximum(-top1, 0.0) + bound_ms.excess(all_ms)
        nearest = genomes[missed.argmin()][None]
        nearest_ms = all_ms[[missed.argmin()]]
        values = ', '.join(
            f'{float(self._measured(bound, nearest, nearest_ms)[0]):.4g} {bound.unit} of '
            f'{bound.name}'
            for bound in bounds
        )
        return SearchError(
            f'no sub-network of this space has {" and ".join(b.describe() for b in bounds)}; '
            f'the nearest one has {values}'
        )

    def _measured(self, bound: Bound, genomes: Genomes, latency_ms: FloatArray) -> FloatArray:
        return latency_ms if bound.measure is None else bound.measure(genomes)


def cost_measure(encoding: GenomeEncoding, name: str, width_mult: float, classes: int) -> Predict:
    """Return a measure of `macs` or `parameters`, which counts each network once."""
    known: dict[bytes, float] = {}

    def measure(genomes: Genomes) -> FloatArray:
        for genome in genomes:
            if genome.tobytes() not in known:
                cost = encoding.space.count_cost(encoding.decode(genome), width_mult, classes)
                known[genome.tobytes()] = float(getattr(cost, name))
        return np.array([known[genome.tobytes()] for genome in genomes])

    return measure
