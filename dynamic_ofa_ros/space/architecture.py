"""Architectures and the search space that they belong to.

`SearchSpace` is the search space of OFA-MobileNetV3. The spaces of other backbones are derived
from it (`spaces.py`) and override what differs: the choices, the depths of stages and the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import ArchitectureError
from dynamic_ofa_ros.space.cost import Cost, convolution, halved, make_divisible

# The lists of an architecture; those in BLOCK_LISTS have one entry per block, active or not.
LISTS = ('ks', 'e', 'd', 'w')
BLOCK_LISTS = ('ks', 'e')

SQUEEZE_REDUCTION = 4


@dataclass(frozen=True)
class Genes:
    """Consecutive genes of an architecture that have the same choices.

    field: the list that they belong to, or `r`; choices: allowed values, in ascending order;
    count: the number of genes.
    """

    field: str
    choices: tuple[float, ...]
    count: int


@dataclass(frozen=True)
class SearchSpace:
    """The choices for every gene of an architecture; by default those of OFA-MobileNetV3.

    `depths` are the numbers of active blocks in a stage. Every stage has entries in `ks` and `e`
    for the largest depth; the entries of blocks beyond the stage's depth are ignored.
    """

    kernel_sizes: tuple[int, ...] = (3, 5, 7)
    expand_ratios: tuple[float, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)
    resolutions: tuple[int, ...] = tuple(range(128, 225, 4))
    stages: int = 5

    kind: ClassVar[str] = 'ofa_mobilenetv3'

    # Channels of MobileNetV3-Large (Howard et al. 2019): stem, first block and stages; layers of
    # the head before global pooling; layers of the head after global pooling.
    body_widths: ClassVar[tuple[int, ...]] = (16, 16, 24, 40, 80, 112, 160)
    head_widths: ClassVar[tuple[int, ...]] = (960,)
    pooled_widths: ClassVar[tuple[int, ...]] = (1280,)
    strides: ClassVar[tuple[int, ...]] = (2, 2, 2, 1, 2)
    has_squeeze: ClassVar[tuple[bool, ...]] = (False, True, False, True, True)
    # Activations of the first block and the stages; activation of stem and head.
    activations: ClassVar[tuple[str, ...]] = (*('relu',) * 3, *('h_swish',) * 3)
    head_activation: ClassVar[str] = 'h_swish'
    first_block_adds: ClassVar[bool] = True  # has a shortcut if input and output have equal width
    batch_norm_epsilon: ClassVar[float] = 1e-5
    pads_one_side: ClassVar[bool] = False  # TensorFlow's padding of strided convolutions

    @cached_property
    def stage_blocks(self) -> tuple[int, ...]:
        """Return the maximum number of blocks of every stage."""
        return (max(self.depths),) * self.stages

    @cached_property
    def genes(self) -> tuple[Genes, ...]:
        """Return all genes in the order of LISTS, followed by the resolution."""
        return (
            Genes('ks', self.kernel_sizes, self.blocks),
            Genes('e', self.expand_ratios, self.blocks),
            Genes('d', self.depths, self.stages),
            Genes('r', self.resolutions, 1),
        )

    def blocks_used(self, depths: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the numbers of active blocks (..., stages), for depths (..., entries of `d`)."""
        return np.asarray(depths, np.int64)

    def count_cost(
        self, architecture: SubnetArchitecture, width_mult: float, classes: int
    ) -> Cost:
        """Count MACs and parameters of a sub-network.

        MACs are those of convolutions and linear layers, including squeeze-and-excitation;
        parameters are learnable ones only. Both equal the counts of forward hooks on the extracted
        network.
        """
        return sum(self.layers(architecture, width_mult, classes), Cost(0, 0))

    def layers(
        self, architecture: SubnetArchitecture, width_mult: float, classes: int
    ) -> Iterator[Cost]:
        """Yield the cost of every layer with weights, in the order of the forward pass."""

        def widths(base_widths: Sequence[int]) -> list[int]:
            return [make_divisible(width * width_mult) for width in base_widths]

        stem, channels, *stages = widths(self.body_widths)
        side = halved(architecture.r)
        yield convolution(3, stem, 3, side)
        yield convolution(stem, stem, 3, side, groups=stem)
        yield convolution(stem, channels, 1, side)

        for stage, position in self.active_positions(architecture):
            expanded = make_divisible(round(channels * architecture.e[position]))
            yield convolution(channels, expanded, 1, side)
            if position == self.first_block(stage) and self.strides[stage] == 2:
                side = halved(side)
            yield convolution(expanded, expanded, architecture.ks[position], side, groups=expanded)
            if self.has_squeeze[stage]:
                squeezed = make_divisible(expanded // SQUEEZE_REDUCTION)
                yield convolution(expanded, squeezed, 1, 1, norm=False, bias=True)
                yield convolution(squeezed, expanded, 1, 1, norm=False, bias=True)
            yield convolution(expanded, stages[stage], 1, side)
            channels = stages[stage]

        for width in widths(self.head_widths):
            yield convolution(channels, width, 1, side)
            channels = width
        for width in widths(self.pooled_widths):
            yield convolution(channels, width, 1, 1, norm=False)
            channels = width
        yield convolution(channels, classes, 1, 1, norm=False, bias=True)

    # The rest of the class is the same in every space.

    @property
    def blocks(self) -> int:
        """Return the number of elastic blocks, which is the length of `e`."""
        return sum(self.stage_blocks)

    @cached_property
    def block_places(self) -> tuple[tuple[int, int], ...]:
        """Return the stage of every block and its position in the stage, both 0-based."""
        return tuple(
            (stage, place) for stage, room in enumerate(self.stage_blocks) for place in range(room)
        )

    def first_block(self, stage: int) -> int:
        """Return the index of a stage's first block."""
        return sum(self.stage_blocks[:stage])

    def active_blocks(self, depths: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return which blocks are active: (..., blocks) bool, for depths (..., entries of `d`)."""
        stages, places = self._stages_and_places
        return np.asarray(places < self.blocks_used(depths)[..., stages])

    def active_positions(self, architecture: SubnetArchitecture) -> list[tuple[int, int]]:
        """Return (stage, index of the block) of every active block, in order."""
        active = self.active_blocks(architecture.d)
        return [(self.block_places[i][0], int(i)) for i in np.flatnonzero(active)]

    def smallest(self) -> SubnetArchitecture:
        """Return the cheapest architecture."""
        return self._assemble(lambda genes: (min(genes.choices),) * genes.count)

    def largest(self) -> SubnetArchitecture:
        """Return the most expensive architecture: the whole supernet."""
        return self._assemble(lambda genes: (max(genes.choices),) * genes.count)

    def at_resolution(self, resolution: int) -> SearchSpace:
        """Return this space with a single resolution."""
        return replace(self, resolutions=(resolution,))

    def sample(
        self, rng: np.random.Generator, resolution: int | None = None
    ) -> SubnetArchitecture:
        """Draw an architecture; every gene is uniform and independent."""

        def draw(genes: Genes) -> tuple[float, ...]:
            if genes.field == 'r' and resolution is not None:
                return (resolution,)
            drawn = rng.integers(len(genes.choices), size=genes.count)
            return tuple(genes.choices[i] for i in drawn)

        return self._assemble(draw)

    def sample_leaning(self, rng: np.random.Generator, lean: float) -> SubnetArchitecture:
        """Draw an architecture with a bias to large (`lean` > 0) or small (`lean` < 0) choices.

        A choice is exp(lean) times as likely as the next smaller one. Uniform samples all have
        about the average cost; samples with different values of `lean` cover the range of costs.
        """

        def draw(genes: Genes) -> tuple[float, ...]:
            weights = np.exp(lean * np.arange(len(genes.choices)))
            drawn = rng.choice(len(weights), genes.count, p=weights / weights.sum())
            return tuple(genes.choices[i] for i in drawn)

        return self._assemble(draw)

    def validate(self, architecture: SubnetArchitecture) -> None:
        """Raise ArchitectureError unless `architecture` is in this search space."""
        for name in (*LISTS, 'r'):
            values = architecture.values(name)
            allowed = [
                genes.choices
                for genes in self.genes
                if genes.field == name
                for _ in range(genes.count)
            ]
            if len(values) != len(allowed):
                raise ArchitectureError(
                    f'{name} has {len(values)} values; this search space requires {len(allowed)}'
                )
            for position, (value, choices) in enumerate(zip(values, allowed, strict=True)):
                if value not in choices:
                    where = name if name == 'r' else f'{name}[{position}]'
                    raise ArchitectureError(
                        f'{where} is {value}; this search space allows {_enumerate(choices)}'
                    )

    def assemble(self, values: Sequence[float]) -> SubnetArchitecture:
        """Return the architecture with the given values of all genes, in the order of `genes`."""
        rest = iter(values)
        return self._assemble(lambda genes: tuple(next(rest) for _ in range(genes.count)))

    @cached_property
    def _stages_and_places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        stages, places = zip(*self.block_places, strict=True)
        return np.array(stages, np.int64), np.array(places, np.int64)

    def _assemble(self, choose: Callable[[Genes], tuple[float, ...]]) -> SubnetArchitecture:
        fields: dict[str, tuple[Any, ...]] = {}
        for genes in self.genes:
            fields[genes.field] = fields.get(genes.field, ()) + choose(genes)
        (resolution,) = fields.pop('r')
        return SubnetArchitecture(**{'ks': (), **fields}, r=resolution)


@dataclass(frozen=True)
class SubnetArchitecture:
    """One point of a search space.

    ks: kernel size of each block, stage by stage; empty if it is fixed (ResNet-50).
    e: expand ratio of each block.
    d: depths. MobileNetV3, Proxyless: active blocks of each stage. ResNet-50: 2 if the stem has a
    middle layer, otherwise 0; then the active blocks of each stage in excess of `least_blocks`.
    r: input height and width in pixels.
    w: indices of the width multipliers of stem and stages; empty if the widths are fixed.
    """

    ks: tuple[int, ...]
    e: tuple[float, ...]
    d: tuple[int, ...]
    r: int
    w: tuple[int, ...] = ()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> SubnetArchitecture:
        """Read `{ks, e, d, r}` or `{e, d, w, r}`; raise ArchitectureError if it is invalid.

        `e` may contain fractions; all other values are integers.
        """
        lists = ('e', 'd', 'w') if isinstance(mapping, Mapping) and 'w' in mapping else LISTS[:3]
        try:
            values = {key: mapping[key] for key in (*lists, 'r')}
        except (KeyError, TypeError) as error:
            raise ArchitectureError(
                f'an architecture needs {", ".join(lists)} and r; {error} is missing'
            ) from None
        if 'ks' in mapping:
            values['ks'] = mapping['ks']
        for key, listed in values.items():
            is_list = isinstance(listed, Sequence) and not isinstance(listed, str)
            if key != 'r' and not is_list:
                raise ArchitectureError(f'{key} must be a list of numbers, not {listed!r}')
        return cls(
            ks=tuple(_whole('ks', k) for k in values.get('ks', ())),
            e=tuple(_number('e', e) for e in values['e']),
            d=tuple(_whole('d', d) for d in values['d']),
            r=_whole('r', values['r']),
            w=tuple(_whole('w', w) for w in values.get('w', ())),
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the non-empty lists and `r` as plain numbers, for YAML and JSON."""
        lists = {name: list(self.values(name)) for name in LISTS if self.values(name)}
        return {**lists, 'r': self.r}

    def values(self, field: str) -> tuple[float, ...]:
        """Return one of LISTS, or the resolution as a tuple with one element."""
        if field == 'r':
            return (self.r,)
        values: tuple[float, ...] = getattr(self, field)
        return values

    def canonical(self, space: SearchSpace) -> SubnetArchitecture:
        """Return the same network with the smallest choices for blocks that are not active.

        Two architectures of the same network have equal canonical forms.
        """
        active = space.active_blocks(self.d)
        smallest = space.smallest()

        def kept(name: str) -> tuple[Any, ...]:
            ours, others = self.values(name), smallest.values(name)
            return tuple(
                value if used else other
                for value, other, used in zip(ours, others, active[: len(ours)], strict=True)
            )

        return replace(self, ks=kept('ks'), e=kept('e'))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ArchitectureError(f'{name} holds {value!r}, which is not an integer')
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ArchitectureError(f'{name} holds {value!r}, which is not a number')
    # Whole numbers become integers, so that 3 and 3.0 are printed in the same way.
    return int(value) if float(value).is_integer() else float(value)


def _enumerate(values: Sequence[float]) -> str:
    if len(values) > 6:
        return f'{values[0]}, {values[1]}, ... {values[-1]}'
    return ', '.join(str(value) for value in values)
