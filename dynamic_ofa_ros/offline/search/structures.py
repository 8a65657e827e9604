"""Structures: the parts of a genome that determine depths and resolution.

A search by single changes seldom moves from one depth or resolution to another, because the rest
of the network would have to change too. Therefore structures are searched separately. Within a
structure, latency and accuracy are almost sums over the other genes, which are easy to optimise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

FloatArray = npt.NDArray[np.float64]

# Of spaces with more structures, this many are drawn.
MOST_STRUCTURES = 20000
# Multipliers for the trade-off of accuracy and latency, times the ratio of their deviations.
_TRADES = np.array([0.0, *np.geomspace(0.003, 10.0, 20)])
_RIDGE = 1e-2


class Structures:
    """The structures of a search space, and an additive model that ranks them."""

    def __init__(self, encoding: GenomeEncoding, rng: np.random.Generator) -> None:
        self.encoding = encoding
        self._rng = rng
        self._in_use: dict[bytes, npt.NDArray[np.bool_]] = {}

    @cached_property
    def genes(self) -> Genomes:
        """Return the genes that determine the active blocks, and the resolution (the last one)."""
        choices = self.encoding.choices
        deciding = []
        for gene, count in enumerate(choices):
            genomes = np.repeat((choices - 1)[None], count, axis=0)
            genomes[:, gene] = np.arange(count)
            others = np.delete(self.encoding.canonical(genomes), gene, axis=1)
            if (others != others[-1]).any():
                deciding.append(gene)
        return np.array([*deciding, len(choices) - 1])

    @cached_property
    def free(self) -> npt.NDArray[np.bool_]:
        """Return (genes,): the genes that are not part of the structure."""
        free = np.ones(len(self.encoding.choices), np.bool_)
        free[self.genes] = False
        return free

    def ids(self, genomes: Genomes) -> Genomes:
        """Return (N,): a number that is equal for genomes of the same structure."""
        number: Genomes = np.ravel_multi_index(
            tuple(genomes[:, self.genes].T), tuple(self.encoding.choices[self.genes])
        )
        return number

    def moves(self, genome: Genomes) -> tuple[Genomes, Genomes, Genomes]:
        """Return all changes of a single gene within the structure.

        They are (M,) genes, (M,) new choices, and the (M, genes) genomes.
        """
        in_use = self.free_in_use(genome)
        moved = np.flatnonzero(in_use[self._gene] & (self._choice != genome[self._gene]))
        genes, choices = self._gene[moved], self._choice[moved]
        genomes: Genomes = np.repeat(genome[None], len(moved), axis=0)
        genomes[np.arange(len(moved)), genes] = choices
        return genes, choices, genomes

    def free_in_use(self, genome: Genomes) -> npt.NDArray[np.bool_]:
        """Return (genes,): the active genes of this genome that are not part of the structure."""
        key = genome[self.genes].tobytes()
        if key not in self._in_use:
            self._in_use[key] = self.used(genome[None])[0] & self.free
        return self._in_use[key]

    def promising(
        self,
        genomes: Genomes,
        latency_ms: FloatArray,
        top1: FloatArray,
        limit_ms: float,
        count: int,
        latency: Callable[[Genomes], FloatArray],
    ) -> Genomes:
        """Return up to `count` genomes that are optimal for sums fitted to the given ones.

        For every structure, Lagrange multipliers find the optimum of the sums at the limit, and
        their bound ranks the structures. The multiplier of each is the smallest one whose genome
        satisfies the limit, as given by `latency`.
        """
        one_hot = self.used(genomes)[:, self._gene] & (genomes[:, self._gene] == self._choice)
        features = np.column_stack([one_hot, np.ones(len(genomes))]).astype(np.float64)
        normal = features.T @ features + _RIDGE * np.eye(features.shape[1])
        weights = np.linalg.solve(normal, features.T @ np.column_stack([latency_ms, top1]))
        cost, gain = weights[:-1, 0], weights[:-1, 1]
        trades = _TRADES * (top1.std() + 1e-12) / (latency_ms.std() + 1e-12)
        structures = self._all
        used = self._all_used
        picks = np.zeros((len(trades), len(self.free)), np.int64)
        picked = np.zeros((2, len(trades), len(self.free)))
        chosen = np.zeros((2, len(structures), 1))
        for gene in range(len(self.free)):
            columns = np.flatnonzero(self._gene == gene)
            if self.free[gene]:
                best = (gain[columns] - trades[:, None] * cost[columns]).argmax(1)
                picks[:, gene] = best
                picked[:, :, gene] = cost[columns[best]], gain[columns[best]]
            else:
                own = columns[structures[:, gene]]
                chosen[:, :, 0] += cost[own], gain[own]
        total_ms, total = used @ picked.transpose(0, 2, 1) + chosen + weights[-1][:, None, None]
        bound = (total + trades * (limit_ms - total_ms)).min(1)
        # A structure that slightly exceeds the limit in the sum may satisfy it in truth.
        bound = np.where(total_ms.min(1) <= 1.01 * limit_ms, bound, -math.inf)
        ranked = np.argsort(-bound, kind='stable')[:count]
        made = np.tile(picks, (len(ranked), 1))
        made[:, self.genes] = np.repeat(structures[ranked][:, self.genes], len(trades), axis=0)
        made = self.encoding.canonical(made)
        fits = (latency(made) <= limit_ms).reshape(len(ranked), len(trades))
        first = np.arange(len(ranked)) * len(trades) + fits.argmax(1)
        found: Genomes = made[first[fits.any(1)]]
        return found

    @cached_property
    def _gene(self) -> Genomes:
        choices = self.encoding.choices
        return np.repeat(np.arange(len(choices)), choices)

    @cached_property
    def _choice(self) -> Genomes:
        return np.concatenate([np.arange(count) for count in self.encoding.choices])

    @cached_property
    def _all(self) -> Genomes:
        """Return a genome of every structure, with all other genes at their largest choice."""
        choices = self.encoding.choices
        counts = choices[self.genes]
        if math.prod(int(count) for count in counts) <= MOST_STRUCTURES:
            values = np.array(list(itertools.product(*(range(count) for count in counts))))
        else:
            values = self._rng.integers(0, counts, (MOST_STRUCTURES, len(counts)))
        genomes: Genomes = np.repeat((choices - 1)[None], len(values), axis=0)
        genomes[:, self.genes] = values
        return self.encoding.canonical(genomes)

    @cached_property
    def _all_used(self) -> FloatArray:
        return self.used(self._all).astype(np.float64)

    def used(self, genomes: Genomes) -> npt.NDArray[np.bool_]:
        """Return (N, genes): which genes are active."""
        largest = np.repeat((self.encoding.choices - 1)[None], len(genomes), axis=0)
        largest[:, self.genes] = genomes[:, self.genes]
        used: npt.NDArray[np.bool_] = self.encoding.canonical(largest) > 0
        used[:, self.genes] = True
        return used
