"""What a search optimises: latency and accuracy of genomes, within constraints, counted."""

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

# Evaluations that estimating the effects of all changes of a genome counts as: a backward pass
# takes at most twice the operations of a forward pass.
EFFECTS_COST = 3


@dataclass(frozen=True)
class Bound:
    """A constraint on something other than accuracy: `smallest <= measure(genomes) <= largest`.

    measure: (N, genes) genomes to (N,) values in `unit`, of what `name` says; without it the bound
    is on latency.
    """

    name: str
    unit: str
    smallest: float = -math.inf
    largest: float = math.inf
    measure: Predict | None = None

    def excess(self, values: FloatArray) -> FloatArray:
        """Return (N,) by what share of the bound it is missed; 0 where it is kept."""
        over = (values - self.largest) / abs(self.largest) if self.largest < math.inf else 0.0
        under = (self.smallest - values) / abs(self.smallest) if self.smallest > -math.inf else 0.0
        return np.maximum(np.maximum(over, under), np.zeros(len(values)))

    def describe(self) -> str:
        """Say the bound in words."""
        ends = []
        if self.smallest > -math.inf:
            ends.append(f'at least {self.smallest:.4g}')
        if self.largest < math.inf:
            ends.append(f'at most {self.largest:.4g}')
        return f'{" and ".join(ends)} {self.unit} of {self.name}'


class Objectives:
    """Both predictors over populations; remembers and counts what it evaluated.

    Accuracies are what counts as evaluations, as in OFA's search: latencies alone, which a table
    gives for next to nothing, do not. `effects` estimates from (N, genes) genomes, in a forward
    and a backward pass of the accuracy predictor, how accuracy changes where a gene takes a
    choice: (N, genes, choices). A genome that it is asked about counts as EFFECTS_COST.

    A genome that breaks a bound gets, in place of its accuracy, minus the share by which it breaks
    them: so any that keeps them is better, and of the others the nearest.
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
        self._count = 0  # of what follows, the first so many are in use
        self._genomes: Genomes = np.empty((1024, len(encoding.choices)), np.int64)
        self._latency_ms: FloatArray = np.empty(1024)
        self._top1: FloatArray = np.empty(1024)
        self.evaluations = 0

    def evaluate(
        self, genomes: Genomes, latency_ms: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return (N,) latencies and (N,) accuracies; every genome counts as an evaluation.

        latency_ms: where they are known already.
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
        """Return (N,) latencies and accuracies, evaluating those not known yet.

        No more than `evaluations` are made in all, earlier ones included; NaN for what is left.
        """
        fresh = self.unseen(genomes)[: max(0, evaluations - self.evaluations)]
        if len(fresh):
            self.evaluate(fresh)
        unknown = (math.nan, math.nan)
        pairs = [self._known.get(genome.tobytes(), unknown) for genome in genomes]
        latency_ms, top1 = np.array(pairs, np.float64).reshape(-1, 2).T
        return latency_ms, top1

    def latency(self, genomes: Genomes) -> FloatArray:
        """Return (N,) latencies; no evaluations."""
        return self._latency(genomes)

    def gains(
        self, genomes: Genomes, top1: FloatArray, changed: Sequence[Genomes], evaluations: int
    ) -> list[FloatArray]:
        """Return estimates of what single changes add to the accuracies `top1` of genomes.

        genomes: (N, genes); changed: N groups of (M, genes), each genome's changes. Without a
        predictor's effects the changes are evaluated. Returns N groups of (M,), or fewer where
        more would take more than `evaluations` in all.
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
        """Return those that were not evaluated yet, each once."""
        return genomes[self.unseen_at(genomes)]

    def unseen_at(self, genomes: Genomes) -> list[int]:
        """Return where those are that were not evaluated yet, each once."""
        fresh: dict[bytes, int] = {}
        for index, genome in enumerate(genomes):
            key = genome.tobytes()
            if key not in self._known:
                fresh.setdefault(key, index)
        return list(fresh.values())

    def archive(self) -> tuple[Genomes, FloatArray, FloatArray]:
        """Return everything evaluated so far, in order."""
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
        """Return the error for a search that found nothing, naming the nearest possible."""
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
            f'the nearest possible has {values}'
        )

    def _measured(self, bound: Bound, genomes: Genomes, latency_ms: FloatArray) -> FloatArray:
        return latency_ms if bound.measure is None else bound.measure(genomes)


def cost_measure(encoding: GenomeEncoding, name: str, width_mult: float, classes: int) -> Predict:
    """Return a measure of `macs` or `parameters`, which counts every network once."""
    known: dict[bytes, float] = {}

    def measure(genomes: Genomes) -> FloatArray:
        for genome in genomes:
            if genome.tobytes() not in known:
                cost = encoding.space.count_cost(encoding.decode(genome), width_mult, classes)
                known[genome.tobytes()] = float(getattr(cost, name))
        return np.array([known[genome.tobytes()] for genome in genomes])

    return measure
