"""Populations: many architectures as one integer array, so that predictors work on all at once.

A genome is a row of indices into the search space's choices: `ks` of every block, `e` of every
block, `d` of every stage, and the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.architecture import SearchSpace, SubnetArchitecture

Genomes = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Genetics:
    """How a search space maps to genomes: (N, 2 * blocks + stages + 1) int64."""

    space: SearchSpace

    @property
    def choices(self) -> Genomes:
        """Return the number of choices of every gene."""
        space = self.space
        return np.array(
            [len(space.kernel_sizes)] * space.blocks
            + [len(space.expand_ratios)] * space.blocks
            + [len(space.depths)] * space.stages
            + [len(space.resolutions)]
        )

    def encode(self, architectures: Sequence[SubnetArchitecture]) -> Genomes:
        """Turn architectures into genomes; raise ArchitectureError outside the space."""
        space = self.space
        for architecture in architectures:
            space.validate(architecture)
        return np.array(
            [
                [space.kernel_sizes.index(k) for k in a.ks]
                + [space.expand_ratios.index(e) for e in a.e]
                + [space.depths.index(d) for d in a.d]
                + [space.resolutions.index(a.r)]
                for a in architectures
            ],
            np.int64,
        )

    def decode(self, genome: Genomes) -> SubnetArchitecture:
        """Turn one genome into an architecture."""
        space, blocks = self.space, self.space.blocks
        kernels, expands, depths = np.split(genome[:-1], [blocks, 2 * blocks])
        return SubnetArchitecture(
            ks=tuple(space.kernel_sizes[i] for i in kernels),
            e=tuple(space.expand_ratios[i] for i in expands),
            d=tuple(space.depths[i] for i in depths),
            r=space.resolutions[genome[-1]],
        )

    def kernels(self, genomes: Genomes) -> Genomes:
        """Return (N, blocks) indices of kernel sizes."""
        return genomes[:, : self.space.blocks]

    def expands(self, genomes: Genomes) -> Genomes:
        """Return (N, blocks) indices of expand ratios."""
        return genomes[:, self.space.blocks : 2 * self.space.blocks]

    def resolutions(self, genomes: Genomes) -> Genomes:
        """Return (N,) resolutions in pixels."""
        pixels: Genomes = np.asarray(self.space.resolutions)[genomes[:, -1]]
        return pixels

    def active(self, genomes: Genomes) -> npt.NDArray[np.bool_]:
        """Return (N, blocks): whether a block lies within its stage's depth."""
        space = self.space
        depths = np.asarray(space.depths)[genomes[:, 2 * space.blocks : -1]]
        return (np.arange(space.blocks_per_stage) < depths[..., None]).reshape(
            len(genomes), space.blocks
        )

    def canonical(self, genomes: Genomes) -> Genomes:
        """Return the same networks with the genes of unused blocks at 0: equal ones are equal."""
        result: Genomes = genomes.copy()
        unused = ~self.active(genomes)
        self.kernels(result)[unused] = 0
        self.expands(result)[unused] = 0
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
