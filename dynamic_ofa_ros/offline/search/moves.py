"""Moves: how a local search changes one genome, guided by estimates.

A move gives one gene another choice. What moves do together is estimated as the sum of what each
does alone, both in latency and in accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.space.genome import FloatArray, Genomes

# Of a batch, the shares of single moves and of combinations of three and more; the rest are pairs.
SINGLES, LARGER = 0.3, 0.3
# How many moves larger combinations have, and the most where they fill what a limit leaves.
SIZES = (3, 4, 6, 8, 12)
MOST_MOVES = 16
# Rates of exchange between accuracy and latency that larger combinations are made for.
RATES = np.linspace(0.05, 0.95, 8)


@dataclass
class Moves:
    """The moves from one genome.

    genes, choices: (M,) what changes, gene after gene; cost_ms, gain: (M,) estimated changes of
    latency and top-1.
    """

    genome: Genomes
    genes: Genomes
    choices: Genomes
    cost_ms: FloatArray
    gain: FloatArray

    def propose(self, slack_ms: float, batch: int) -> Genomes:
        """Return up to three batches of genomes that should need no more than `slack_ms` more.

        In an order in which any first ones hold singles, pairs and larger combinations in their
        shares, each kind by its estimated gain.
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
        """Return combinations of three and more, greedy at several rates of exchange.

        At a rate every gene has a best move. In the order of what they are worth, either the
        first few are made, or all that fit one after the other.
        """
        moving = self.cost_ms != 0
        if not moving.any():
            return np.repeat(self.genome[None], 0, axis=0)
        rates = np.sort(np.abs(self.gain[moving] / self.cost_ms[moving]))
        rates = rates[np.round(RATES * (len(rates) - 1)).astype(np.int64)]
        if slack_ms < 0:  # what misses its limit first of all needs to become faster
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
        """Return (genes, most moves of one): the moves of every gene, then -1."""
        _, starts, counts = np.unique(self.genes, return_index=True, return_counts=True)
        offsets = np.arange(counts.max())
        moves: Genomes = np.where(offsets < counts[:, None], starts[:, None] + offsets, -1)
        return moves


@lru_cache(maxsize=256)
def _pairs_of(count: int) -> Genomes:
    """Return (2, pairs): both indices of every pair among so many."""
    return np.stack(np.triu_indices(count, 1))


def _filled(cost_ms: FloatArray, slack_ms: float) -> npt.NDArray[np.bool_]:
    """Return (N, genes): which of N lists of costs fit, one after the other, into the slack."""
    made = []
    for costs in cost_ms.tolist():  # lists: these are too short for an array's overhead
        left_ms, fitting = slack_ms, []
        for cost in costs:
            fits = cost <= left_ms
            left_ms -= cost if fits else 0.0
            fitting.append(fits)
        made.append(fitting)
    return np.array(made, np.bool_).reshape(cost_ms.shape)


def _largest(values: FloatArray, count: int) -> Genomes:
    """Return the indices of the largest values, `count` at most, the largest first."""
    if len(values) > count:
        among = np.argpartition(-values, count)[:count]
        return among[np.argsort(-values[among], kind='stable')]
    return np.argsort(-values, kind='stable')
