"""Populations: many architectures as one integer array, so that predictors work on all at once.

A genome is a row of indices into the choices of a search space, in the order of its `genes`: `ks`
and `e` of every block, depths, widths, and the resolution last; what a space lacks is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.space.architecture import BLOCK_LISTS, LISTS, SearchSpace, SubnetArchitecture

Scalar = TypeVar('Scalar', bound=np.generic)
Genomes = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Genetics:
    """How a search space maps to genomes: (N, genes) int64."""

    space: SearchSpace

    @cached_property
    def choices(self) -> Genomes:
        """Return the number of choices of every gene."""
        return np.array([len(choices) for choices in self._choices])

    def encode(self, architectures: Sequence[SubnetArchitecture]) -> Genomes:
        """Turn architectures into genomes; raise ArchitectureError outside the space."""
        fields = dict.fromkeys(genes.field for genes in self.space.genes)
        genomes = np.empty((len(architectures), len(self._choices)), np.int64)
        for genome, architecture in zip(genomes, architectures, strict=True):
            self.space.validate(architecture)
            values = [value for field in fields for value in architecture.values(field)]
            genome[:] = [c.index(v) for c, v in zip(self._choices, values, strict=True)]
        return genomes

    def decode(self, genome: Genomes) -> SubnetArchitecture:
        """Turn one genome into an architecture."""
        return self.space.assemble(
            [choices[index] for choices, index in zip(self._choices, genome, strict=True)]
        )

    def indices(self, genomes: npt.NDArray[Scalar], field: str) -> npt.NDArray[Scalar]:
        """Return (N, entries) genes of one list of an architecture, none where it has no such."""
        return genomes[:, self._columns[field]]

    def kernels(self, genomes: Genomes) -> Genomes:
        """Return (N, blocks) indices of kernel sizes."""
        return self.indices(genomes, 'ks')

    def expands(self, genomes: Genomes) -> Genomes:
        """Return (N, blocks) indices of expand ratios."""
        return self.indices(genomes, 'e')

    def resolutions(self, genomes: Genomes) -> Genomes:
        """Return (N,) resolutions in pixels."""
        pixels: Genomes = np.asarray(self.space.resolutions)[genomes[:, -1]]
        return pixels

    def active(self, genomes: Genomes) -> npt.NDArray[np.bool_]:
        """Return (N, blocks): whether a block lies within its stage's depth."""
        depths = self._depths[np.arange(len(self._depths)), self.indices(genomes, 'd')]
        return self.space.active_blocks(depths)

    def canonical(self, genomes: Genomes) -> Genomes:
        """Return the same networks with the genes of unused blocks at 0: equal ones are equal."""
        result: Genomes = genomes.copy()
        unused = ~self.active(genomes)
        for field in BLOCK_LISTS:
            genes = self.indices(result, field)  # a view, of no columns without such a list
            genes[unused[:, : genes.shape[1]]] = 0
        return result

    def sample(self, rng: np.random.Generator, count: int) -> Genomes:
        """Draw genomes, every choice uniform and independent; canonical."""
        choices = self.choices
        return self.canonical(rng.integers(0, choices, (count, len(choices))))

    def neighbours(self, genome: Genomes) -> Genomes:
        """Return every genome that differs from this one in a single gene; canonical."""
        choices = self.choices
        genes = np.repeat(np.arange(len(choices)), choices)
        values = np.concatenate([np.arange(count) for count in choices])
        changed = values != genome[genes]
        result: Genomes = np.repeat(genome[None], changed.sum(), axis=0)
        result[np.arange(len(result)), genes[changed]] = values[changed]
        return self.canonical(result)

    def features(self, genomes: Genomes) -> npt.NDArray[np.float32]:
        """Return (N, F) float32, one-hot: the input of predictors fitted for this space.

        Kernel sizes and expand ratios of every block, all zeros where it is unused, which tells
        the depths of the stages (OFA's encoding, Cai et al. 2020); then what the blocks do not
        tell: other depths, widths, and the resolution.
        """
        used = np.ones_like(genomes, np.bool_)
        active = self.active(genomes)
        for field in BLOCK_LISTS:
            genes = self.indices(used, field)
            genes[:] = active[:, : genes.shape[1]]
        columns, values = self.one_hot
        features: npt.NDArray[np.float32] = np.float32(
            (genomes[:, columns] == values) & used[:, columns]
        )
        return features

    @cached_property
    def one_hot(self) -> tuple[Genomes, Genomes]:
        """Return the gene, and its choice, that every feature stands for."""
        told_by_blocks = self._columns['d'].stop - np.arange(len(self.space.stage_blocks)) - 1
        columns = np.setdiff1d(np.arange(len(self.choices)), told_by_blocks)
        choices = self.choices[columns]
        return np.repeat(columns, choices), np.concatenate([np.arange(n) for n in choices])

    @cached_property
    def _choices(self) -> tuple[tuple[float, ...], ...]:
        return tuple(genes.choices for genes in self.space.genes for _ in range(genes.count))

    @cached_property
    def _columns(self) -> dict[str, slice]:
        """Return where the genes of every list are; an empty slice for one that there is not."""
        fields = [genes.field for genes in self.space.genes for _ in range(genes.count)]
        return {
            name: slice(fields.index(name), fields.index(name) + fields.count(name))
            if name in fields
            else slice(0, 0)
            for name in LISTS
        }

    @cached_property
    def _depths(self) -> Genomes:
        """Return (entries of `d`, most choices): the depth behind every index."""
        choices = self._choices[self._columns['d']]
        most = max(len(c) for c in choices)
        return np.array([[*c, *[-1] * (most - len(c))] for c in choices], np.int64)
