"""Populations: many architectures as one integer array, for vectorised predictors.

A genome is a row of indices into the choices of a search space, in the order of its `genes`: `ks`
and `e` of every block, depths, widths, resolution. Lists that a space does not have are omitted.
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
class GenomeEncoding:
    """Converts between architectures of a search space and genomes, (N, genes) int64."""

    space: SearchSpace

    @cached_property
    def choices(self) -> Genomes:
        """Return the number of choices for every gene."""
        return np.array([len(choices) for choices in self._choices])

    def encode(self, architectures: Sequence[SubnetArchitecture]) -> Genomes:
        """Convert architectures to genomes; raise ArchitectureError if one is not in the space."""
        fields = dict.fromkeys(genes.field for genes in self.space.genes)
        genomes = np.empty((len(architectures), len(self._choices)), np.int64)
        for genome, architecture in zip(genomes, architectures, strict=True):
            self.space.validate(architecture)
            values = [value for field in fields for value in architecture.values(field)]
            genome[:] = [c.index(v) for c, v in zip(self._choices, values, strict=True)]
        return genomes

    def decode(self, genome: Genomes) -> SubnetArchitecture:
        """Convert one genome to an architecture."""
        return self.space.assemble(
            [choices[index] for choices, index in zip(self._choices, genome, strict=True)]
        )

    def indices(self, genomes: npt.NDArray[Scalar], field: str) -> npt.NDArray[Scalar]:
        """Return the genes (N, entries) of one of LISTS; (N, 0) if the space does not have it."""
        return genomes[:, self._columns[field]]

    def kernels(self, genomes: Genomes) -> Genomes:
        """Return the indices of kernel sizes, (N, blocks)."""
        return self.indices(genomes, 'ks')

    def expands(self, genomes: Genomes) -> Genomes:
        """Return the indices of expand ratios, (N, blocks)."""
        return self.indices(genomes, 'e')

    def resolutions(self, genomes: Genomes) -> Genomes:
        """Return the resolutions in pixels, (N,)."""
        pixels: Genomes = np.asarray(self.space.resolutions)[genomes[:, -1]]
        return pixels

    def active(self, genomes: Genomes) -> npt.NDArray[np.bool_]:
        """Return which blocks are active, (N, blocks)."""
        depths = self._depths[np.arange(len(self._depths)), self.indices(genomes, 'd')]
        return self.space.active_blocks(depths)

    def canonical(self, genomes: Genomes) -> Genomes:
        """Return the same networks with the genes of inactive blocks set to 0.

        Two genomes of the same network have equal canonical forms.
        """
        result: Genomes = genomes.copy()
        unused = ~self.active(genomes)
        for field in BLOCK_LISTS:
            genes = self.indices(result, field)  # a view; no columns if the space has no such list
            genes[unused[:, : genes.shape[1]]] = 0
        return result

    def sample(self, rng: np.random.Generator, count: int) -> Genomes:
        """Draw canonical genomes; every gene is uniform and independent."""
        choices = self.choices
        return self.canonical(rng.integers(0, choices, (count, len(choices))))

    def features(self, genomes: Genomes) -> npt.NDArray[np.float32]:
        """Return one-hot features (N, F) float32, the input of predictors for this space.

        These are kernel size and expand ratio of every block, all zeros for an inactive block
        (OFA's encoding, Cai et al. 2020). So the depths of the stages need no features of their
        own. Further features encode other depths, widths and the resolution.
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
        """Return the gene, and the choice of the gene, that every feature encodes."""
        stage_depths = self._columns['d'].stop - np.arange(len(self.space.stage_blocks)) - 1
        columns = np.setdiff1d(np.arange(len(self.choices)), stage_depths)
        choices = self.choices[columns]
        return np.repeat(columns, choices), np.concatenate([np.arange(n) for n in choices])

    @cached_property
    def _choices(self) -> tuple[tuple[float, ...], ...]:
        return tuple(genes.choices for genes in self.space.genes for _ in range(genes.count))

    @cached_property
    def _columns(self) -> dict[str, slice]:
        """Return the columns of each of LISTS; an empty slice if the space has no such list."""
        fields = [genes.field for genes in self.space.genes for _ in range(genes.count)]
        return {
            name: slice(fields.index(name), fields.index(name) + fields.count(name))
            if name in fields
            else slice(0, 0)
            for name in LISTS
        }

    @cached_property
    def _depths(self) -> Genomes:
        """Return the depth for every index, (entries of `d`, most choices)."""
        choices = self._choices[self._columns['d']]
        most = max(len(c) for c in choices)
        return np.array([[*c, *[-1] * (most - len(c))] for c in choices], np.int64)
