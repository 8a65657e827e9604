"""Moves: changes of one genome in the local search, guided by estimates.

A move changes one gene. The effect of several moves on latency and accuracy is estimated as the
sum of their single effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.space.genome import FloatArray, Genomes

# Fractions of single moves and of combinations of three and more in a batch; the rest are pairs.
SINGLES, LARGER = 0.3, 0.3
# Sizes of larger combinations, and the maximum of those that fill the remaining latency.
SIZES = (3, 4, 6, 8, 12)
MOST_MOVES = 16
# Exchange rates between accuracy and latency for larger combinations.
RATES = np.linspace(0.05, 0.95, 8)


@dataclass
class Moves:
    """The moves from one genome.

    genes, choices: (M,) the changes, gene by gene; cost_ms, gain: (M,) estimated changes of
    latency and top-1.
    """

    genome: Genomes
    genes: Genomes
    choices: Genomes
    cost_ms: FloatArray
    gain: FloatArray

    def propose(self, slack_ms: float, batch: int) -> Genomes:
        """Return up to three batches of genomes that increase the latency by at most `slack_ms`.

        Their order mixes single moves, pairs and larger combinations in fixed proportions; within
        each kind they are sorted by estimated gain.
        """
        kinds = [
            self._singles(slack_ms, batch),
            self._larger(slack_ms, batch),
            self._pairs(slack_ms, 2 * batch),
        ]
        shares = (SINGLES, LARGER, 1.0 - SINGLES - LARGER)
        places = [
            (np.arange(len(kind)) + 0.5) / share for kind, share in zip(kinds, shares, strict=True)
        ]
        order = np.argsort(np.concatenate(places), kind='stable')[: 3 * batch]
        proposed: Genomes = np.concatenate(kinds)[order]
        return proposed

    def _apply(self, moves: Genomes) -> Genomes:
        """Return (N, genes): the genome after each row of (N, size) moves."""
        genomes: Genomes = np.repeat(self.genome[None], len(moves), axis=0)
        genomes[np.arange(len(moves))[:, None], self.genes[moves]] = self.choices[moves]
        return genomes

    def _singles(self, slack_ms: float, count: int) -> Genomes:
        fits = np.flatnonzero(self.cost_ms <= slack_ms)
        return self._apply(fits[_largest(self.gain[fits], count)][:, None])

    def _pairs(self, slack_ms: float, count: int) -> Genomes:
        useful = np.flatnonzero((self.cost_ms < 0) | (self.gain > 0))
        first, second = useful[_pairs_of(len(useful))]
        fits = self.cost_ms[first] + self.cost_ms[second] <= slack_ms
        fits &= self.genes[first] != self.genes[second]
        pairs = np.column_stack([first[fits], second[fits]])
        return self._apply(pairs[_largest(self.gain[pairs].sum(1), count)])

    def _larger(self, slack_ms: float, count: int) -> Genomes:
        """Return combinations of three and more moves, chosen greedily for several exchange rates.

        Each rate defines the best move of every gene. In the order of their value, either the
        first few are taken, or all that fit one after the other.
        """
        moving = self.cost_ms != 0
        if not moving.any():
            return np.repeat(self.genome[None], 0, axis=0)
        rates = np.sort(np.abs(self.gain[moving] / self.cost_ms[moving]))
        rates = rates[np.round(RATES * (len(rates) - 1)).astype(np.int64)]
        if slack_ms < 0:  # a genome beyond its limit must first become faster
            rates = np.append(rates, 1e3 * rates[-1] + 1.0)
        worth = self.gain - rates[:, None] * self.cost_ms
        of_gene = self._of_gene
        best = np.where(of_gene < 0, -np.inf, worth[:, of_gene]).argmax(2)
        best = of_gene[np.arange(len(of_gene)), best]  # (rates, genes)
        rate = np.arange(len(rates))[:, None]
        ranked = best[rate, np.argsort(-worth[rate, best], axis=1, kind='stable')]
        if slack_ms >= 0:
            ranked = ranked[:, :MOST_MOVES]
        is_worth = worth[rate, ranked] > 0
        cost_ms = np.where(is_worth, self.cost_ms[ranked], np.inf)
        gene_count = ranked.shape[1]
        sizes = [size for size in SIZES if size <= gene_count]
        if slack_ms < 0:
            sizes = list(range(1, gene_count + 1))
        prefixes = np.arange(gene_count) < np.array(sizes, np.int64)[:, None]  # (sizes, genes)
        fits = np.cumsum(cost_ms, axis=1)[:, np.array(sizes, np.int64) - 1] <= slack_ms
        of_rate, size = np.nonzero(fits)
        made = np.concatenate([prefixes[size], _filled(cost_ms, slack_ms)])
        of_rate = np.concatenate([of_rate, np.arange(len(rates))])
        gain = np.where(made, self.gain[ranked[of_rate]], 0.0).sum(1)
        top = _largest(gain, count)
        moves, made = ranked[of_rate[top]], made[top]
        genomes: Genomes = np.repeat(self.genome[None], len(top), axis=0)
        rows = np.arange(len(top))[:, None]
        genomes[rows, self.genes[moves]] = np.where(
            made, self.choices[moves], self.genome[self.genes[moves]]
        )
        return genomes

    @cached_property
    def _of_gene(self) -> Genomes:
        """Return (genes, most moves of one): the moves of every gene, padded with -1."""
        _, starts, counts = np.unique(self.genes, return_index=True, return_counts=True)
        offsets = np.arange(counts.max())
        moves: Genomes = np.where(offsets < counts[:, None], starts[:, None] + offsets, -1)
        return moves


@lru_cache(maxsize=256)
def _pairs_of(count: int) -> Genomes:
    """Return (2, pairs): the indices of all pairs of `count` items."""
    return np.stack(np.triu_indices(count, 1))


def _filled(cost_ms: FloatArray, slack_ms: float) -> npt.NDArray[np.bool_]:
    """Return (N, genes): which of the N lists of costs fit into the slack, one after the other."""
    made = []
    for costs in cost_ms.tolist():  # lists are faster than such short arrays
        left_ms, fitting = slack_ms, []
        for cost in costs:
            fits = cost <= left_ms
            left_ms -= cost if fits else 0.0
            fitting.append(fits)
        made.append(fitting)
    return np.array(made, np.bool_).reshape(cost_ms.shape)


def _largest(values: FloatArray, count: int) -> Genomes:
    """Return the indices of up to `count` largest values, in descending order."""
    if len(values) > count:
        among = np.argpartition(-values, count)[:count]
        return among[np.argsort(-values[among], kind='stable')]
    return np.argsort(-values, kind='stable')
