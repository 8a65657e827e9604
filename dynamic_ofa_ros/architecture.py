"""Architectures: points of an OFA-MobileNetV3 search space, their encoding and exact cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import ArchitectureError

# OFA rounds every channel count to a multiple of this (Cai et al., ICLR 2020, released code).
CHANNEL_DIVISOR = 8
SQUEEZE_REDUCTION = 4

# Stem, first block, five stages, final expand layer, feature mix layer (Howard et al. 2019,
# large).
_BASE_WIDTHS = (16, 16, 24, 40, 80, 112, 160, 960, 1280)
_STAGE_STRIDES = (2, 2, 2, 1, 2)
_STAGE_HAS_SQUEEZE = (False, True, False, True, True)


@dataclass(frozen=True)
class SearchSpace:
    """The choices an architecture is made of.

    `depths` are blocks per stage; every stage has room for `max(depths)` blocks, and the `ks` and
    `e` of blocks beyond a stage's depth are carried along but unused.
    """

    kernel_sizes: tuple[int, ...] = (3, 5, 7)
    expand_ratios: tuple[int, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)
    resolutions: tuple[int, ...] = tuple(range(128, 225, 4))
    stages: int = 5

    @property
    def blocks_per_stage(self) -> int:
        """Return the room for blocks in a stage."""
        return max(self.depths)

    @property
    def blocks(self) -> int:
        """Return the number of elastic blocks: the length of `ks` and of `e`."""
        return self.stages * self.blocks_per_stage

    def smallest(self) -> SubnetArchitecture:
        """Return the cheapest architecture."""
        return self._uniform(min)

    def largest(self) -> SubnetArchitecture:
        """Return the most expensive architecture: the whole supernet."""
        return self._uniform(max)

    def sample(
        self, rng: np.random.Generator, resolution: int | None = None
    ) -> SubnetArchitecture:
        """Draw an architecture, every choice uniform and independent."""
        return SubnetArchitecture(
            ks=_draw(rng, self.kernel_sizes, self.blocks),
            e=_draw(rng, self.expand_ratios, self.blocks),
            d=_draw(rng, self.depths, self.stages),
            r=_draw(rng, self.resolutions, 1)[0] if resolution is None else resolution,
        )

    def mutate(
        self, architecture: SubnetArchitecture, rng: np.random.Generator, probability: float = 0.1
    ) -> SubnetArchitecture:
        """Redraw each choice with `probability`, independently (OFA's evolutionary search)."""
        fresh = self.sample(rng)
        return SubnetArchitecture(
            ks=_mix(architecture.ks, fresh.ks, rng, probability),
            e=_mix(architecture.e, fresh.e, rng, probability),
            d=_mix(architecture.d, fresh.d, rng, probability),
            r=_mix((architecture.r,), (fresh.r,), rng, probability)[0],
        )

    def crossover(
        self, first: SubnetArchitecture, second: SubnetArchitecture, rng: np.random.Generator
    ) -> SubnetArchitecture:
        """Take each choice from either parent with equal probability."""
        return SubnetArchitecture(
            ks=_mix(first.ks, second.ks, rng, 0.5),
            e=_mix(first.e, second.e, rng, 0.5),
            d=_mix(first.d, second.d, rng, 0.5),
            r=_mix((first.r,), (second.r,), rng, 0.5)[0],
        )

    def validate(self, architecture: SubnetArchitecture) -> None:
        """Raise ArchitectureError unless `architecture` is a point of this space."""
        for name, values, length, allowed in (
            ('ks', architecture.ks, self.blocks, self.kernel_sizes),
            ('e', architecture.e, self.blocks, self.expand_ratios),
            ('d', architecture.d, self.stages, self.depths),
            ('r', (architecture.r,), 1, self.resolutions),
        ):
            if len(values) != length:
                raise ArchitectureError(
                    f'{name} has {len(values)} values where this search space has {length}'
                )
            for position, value in enumerate(values):
                if value not in allowed:
                    where = name if name == 'r' else f'{name}[{position}]'
                    raise ArchitectureError(
                        f'{where} is {value}; this search space allows {_enumerate(allowed)}'
                    )

    def encode(self, architecture: SubnetArchitecture) -> npt.NDArray[np.float32]:
        """Encode for the accuracy predictor: (2 * blocks * 3 + resolutions,) float32, one-hot.

        Kernel sizes, then expand ratios, then the resolution; a block beyond its stage's depth is
        all zeros in both (OFA's encoding, Cai et al. 2020). The published predictor's eight
        resolution classes are `(r - 112) // 16`; for other spaces each resolution is its own
        class.
        """
        active = architecture.active_mask(self.blocks_per_stage)
        kernel = _one_hot(architecture.ks, self.kernel_sizes) * active[:, None]
        expand = _one_hot(architecture.e, self.expand_ratios) * active[:, None]
        if set(self.resolutions) <= set(range(112, 240)):
            resolution = np.zeros(8, np.float32)
            resolution[(architecture.r - 112) // 16] = 1.0
        else:
            resolution = _one_hot((architecture.r,), self.resolutions)[0]
        return np.concatenate([kernel.ravel(), expand.ravel(), resolution]).astype(np.float32)

    def _uniform(self, pick: Any) -> SubnetArchitecture:
        return SubnetArchitecture(
            ks=(pick(self.kernel_sizes),) * self.blocks,
            e=(pick(self.expand_ratios),) * self.blocks,
            d=(pick(self.depths),) * self.stages,
            r=pick(self.resolutions),
        )


@dataclass(frozen=True)
class SubnetArchitecture:
    """One point of the search space.

    ks: kernel size of each block, stage by stage; e: expand ratio of each block; d: blocks used in
    each stage; r: input height and width in pixels.
    """

    ks: tuple[int, ...]
    e: tuple[int, ...]
    d: tuple[int, ...]
    r: int

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> SubnetArchitecture:
        """Read `{ks, e, d, r}`; raise ArchitectureError on missing keys or non-integers."""
        try:
            values = {key: mapping[key] for key in ('ks', 'e', 'd', 'r')}
        except (KeyError, TypeError) as error:
            raise ArchitectureError(
                f'an architecture needs ks, e, d and r; {error} is missing'
            ) from None
        for key in ('ks', 'e', 'd'):
            if not isinstance(values[key], Sequence) or isinstance(values[key], str):
                raise ArchitectureError(f'{key} must be a list of integers, not {values[key]!r}')
        for key, items in values.items():
            for item in items if key != 'r' else (items,):
                if isinstance(item, bool) or not isinstance(item, (int, np.integer)):
                    raise ArchitectureError(f'{key} holds {item!r}, which is not an integer')
        return cls(
            ks=tuple(int(k) for k in values['ks']),
            e=tuple(int(e) for e in values['e']),
            d=tuple(int(d) for d in values['d']),
            r=int(values['r']),
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return `{ks, e, d, r}` of plain lists and integers, as YAML and JSON take them."""
        return {'ks': list(self.ks), 'e': list(self.e), 'd': list(self.d), 'r': self.r}

    def active_mask(self, blocks_per_stage: int) -> npt.NDArray[np.bool_]:
        """Return (blocks,) bool: which blocks lie within their stage's depth."""
        return np.concatenate([np.arange(blocks_per_stage) < depth for depth in self.d])

    def canonical(self, space: SearchSpace) -> SubnetArchitecture:
        """Return the same network, unused choices at their smallest: equal ones compare equal."""
        active = self.active_mask(space.blocks_per_stage)
        return SubnetArchitecture(
            ks=tuple(
                k if used else min(space.kernel_sizes)
                for k, used in zip(self.ks, active, strict=True)
            ),
            e=tuple(
                e if used else min(space.expand_ratios)
                for e, used in zip(self.e, active, strict=True)
            ),
            d=self.d,
            r=self.r,
        )


@dataclass(frozen=True)
class Cost:
    """What one forward pass of a network takes, batch 1."""

    macs: int
    parameters: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.parameters + other.parameters)


def make_divisible(value: float, divisor: int = CHANNEL_DIVISOR) -> int:
    """Round to a multiple of `divisor`, never below 90 % of `value` (as MobileNet and OFA do)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def count_cost(
    architecture: SubnetArchitecture,
    width_mult: float,
    classes: int,
    blocks_per_stage: int = 4,
) -> Cost:
    """Count MACs and parameters of an OFA-MobileNetV3 sub-network.

    MACs are those of convolutions and linear layers, squeeze-and-excitation included; parameters
    are the learnable ones. Both equal what forward hooks count on the extracted network.
    """
    return sum(_layers(architecture, width_mult, classes, blocks_per_stage), Cost(0, 0))


def _layers(
    architecture: SubnetArchitecture, width_mult: float, classes: int, blocks_per_stage: int
) -> Iterator[Cost]:
    stem, first, *stages, final_expand, mix = (
        make_divisible(width * width_mult) for width in _BASE_WIDTHS
    )
    side = _halved(architecture.r)
    yield _convolution(3, stem, 3, side)
    yield _convolution(stem, stem, 3, side, groups=stem)
    yield _convolution(stem, first, 1, side)

    channels = first
    for stage, width in enumerate(stages):
        for block in range(architecture.d[stage]):
            position = stage * blocks_per_stage + block
            expanded = make_divisible(round(channels * architecture.e[position]))
            yield _convolution(channels, expanded, 1, side)
            if block == 0 and _STAGE_STRIDES[stage] == 2:
                side = _halved(side)
            yield _convolution(
                expanded, expanded, architecture.ks[position], side, groups=expanded
            )
            if _STAGE_HAS_SQUEEZE[stage]:
                squeezed = make_divisible(expanded // SQUEEZE_REDUCTION)
                yield _convolution(expanded, squeezed, 1, 1, norm=False, bias=True)
                yield _convolution(squeezed, expanded, 1, 1, norm=False, bias=True)
            yield _convolution(expanded, width, 1, side)
            channels = width

    yield _convolution(channels, final_expand, 1, side)
    yield _convolution(final_expand, mix, 1, 1, norm=False)
    yield _convolution(mix, classes, 1, 1, norm=False, bias=True)


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    side: int,
    groups: int = 1,
    norm: bool = True,
    bias: bool = False,
) -> Cost:
    weights = inputs // groups * outputs * kernel * kernel
    return Cost(
        macs=weights * side * side,
        parameters=weights + (2 * outputs if norm else 0) + (outputs if bias else 0),
    )


def _halved(side: int) -> int:
    """Return the side after a stride-2 convolution padded with kernel // 2."""
    return (side + 1) // 2


def _draw(rng: np.random.Generator, choices: Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(int(choices[i]) for i in rng.integers(len(choices), size=count))


def _mix(
    first: tuple[int, ...], second: tuple[int, ...], rng: np.random.Generator, probability: float
) -> tuple[int, ...]:
    take_second = rng.random(len(first)) < probability
    return tuple(b if take else a for a, b, take in zip(first, second, take_second, strict=True))


def _one_hot(values: Sequence[int], choices: Sequence[int]) -> npt.NDArray[np.float32]:
    encoded: npt.NDArray[np.float32] = np.equal.outer(values, choices).astype(np.float32)
    return encoded


def _enumerate(values: Sequence[int]) -> str:
    if len(values) > 6:
        return f'{values[0]}, {values[1]}, ... {values[-1]}'
    return ', '.join(str(value) for value in values)
