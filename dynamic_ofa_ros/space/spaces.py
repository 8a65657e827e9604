"""The search spaces of all kinds of backbones, by `kind` of `BackboneSpec`.

The structures are those of the released code of Once-for-all (Cai et al., ICLR 2020): the classes
OFAMobileNetV3, OFAProxylessNASNets and OFAResNets of the `ofa` package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import BackboneError
from dynamic_ofa_ros.space.architecture import Genes, SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.cost import Cost, convolution, halved, make_divisible


@dataclass(frozen=True)
class ProxylessSpace(SearchSpace):
    """OFA-ProxylessNAS: five elastic stages, and a stage with a single block and depth 1."""

    kind: ClassVar[str] = 'ofa_proxyless'

    # Cai et al., ProxylessNAS, ICLR 2019.
    body_widths: ClassVar[tuple[int, ...]] = (32, 16, 24, 40, 80, 96, 192, 320)
    head_widths: ClassVar[tuple[int, ...]] = (1280,)
    pooled_widths: ClassVar[tuple[int, ...]] = ()
    strides: ClassVar[tuple[int, ...]] = (2, 2, 2, 1, 2, 1)
    has_squeeze: ClassVar[tuple[bool, ...]] = (False,) * 6
    activations: ClassVar[tuple[str, ...]] = ('relu6',) * 7
    head_activation: ClassVar[str] = 'relu6'
    first_block_adds: ClassVar[bool] = False
    batch_norm_epsilon: ClassVar[float] = 1e-3

    @cached_property
    def stage_blocks(self) -> tuple[int, ...]:
        """Return the maximum number of blocks of every stage."""
        return (*(max(self.depths),) * self.stages, 1)

    @cached_property
    def genes(self) -> tuple[Genes, ...]:
        """Return all genes in the order of LISTS, followed by the resolution."""
        return (
            Genes('ks', self.kernel_sizes, self.blocks),
            Genes('e', self.expand_ratios, self.blocks),
            Genes('d', self.depths, self.stages),
            Genes('d', (1,), 1),
            Genes('r', self.resolutions, 1),
        )


@dataclass(frozen=True)
class EfficientNetLiteSpace(SearchSpace):
    """EfficientNet-Lite0 and its sub-networks (Tan & Le, ICML 2019).

    The elastic dimensions are the depth of a stage, the expand ratio of a block, and the kernel
    size of a block if it is 5 in EfficientNet-Lite0.
    """

    resolutions: tuple[int, ...] = tuple(range(96, 225, 16))

    kind: ClassVar[str] = 'efficientnet_lite'
    body_widths: ClassVar[tuple[int, ...]] = (32, 16, 24, 40, 80, 112, 192, 320)
    head_widths: ClassVar[tuple[int, ...]] = (1280,)
    pooled_widths: ClassVar[tuple[int, ...]] = ()
    strides: ClassVar[tuple[int, ...]] = (2, 2, 2, 1, 2, 1)
    has_squeeze: ClassVar[tuple[bool, ...]] = (False,) * 6
    activations: ClassVar[tuple[str, ...]] = ('relu6',) * 7
    head_activation: ClassVar[str] = 'relu6'
    first_block_adds: ClassVar[bool] = False
    batch_norm_epsilon: ClassVar[float] = 1e-3
    pads_one_side: ClassVar[bool] = True

    kernel_sizes: tuple[int, ...] = (3, 5)
    stage_kernels: ClassVar[tuple[tuple[int, ...], ...]] = (
        (3,), (3, 5), (3,), (3, 5), (3, 5), (3,),
    )  # fmt: skip
    stage_depths: ClassVar[tuple[tuple[int, ...], ...]] = (
        (1, 2), (1, 2), (1, 2, 3), (1, 2, 3), (2, 3, 4), (1,),
    )  # fmt: skip

    @cached_property
    def stage_blocks(self) -> tuple[int, ...]:
        """Return the maximum number of blocks of every stage."""
        return tuple(map(max, self.stage_depths))

    @cached_property
    def genes(self) -> tuple[Genes, ...]:
        """Return all genes in the order of LISTS, followed by the resolution."""
        kernels = (tuple(k for k in ks if k in self.kernel_sizes) for ks in self.stage_kernels)
        return (
            *(Genes('ks', *stage) for stage in zip(kernels, self.stage_blocks, strict=True)),
            Genes('e', self.expand_ratios, self.blocks),
            *(Genes('d', depths, 1) for depths in self.stage_depths),
            Genes('r', self.resolutions, 1),
        )


@dataclass(frozen=True)
class ResNet50Space(SearchSpace):
    """OFA-ResNet-50: elastic depth, expand ratio and width; every kernel is 3x3.

    The first entry of `d` is 2 if the stem has a middle layer, otherwise 0; the others are the
    numbers of active blocks of each stage in excess of `least_blocks`. `w` contains indices into
    `width_mults`: for the stem's middle layer, the stem's output, and every stage.
    """

    kernel_sizes: tuple[int, ...] = ()
    expand_ratios: tuple[float, ...] = (0.2, 0.25, 0.35)
    depths: tuple[int, ...] = (0, 1, 2)
    stages: int = 4

    kind: ClassVar[str] = 'ofa_resnet50'
    width_mults: ClassVar[tuple[float, ...]] = (0.65, 0.8, 1.0)
    least_blocks: ClassVar[tuple[int, ...]] = (2, 2, 4, 2)

    # Channels of the stem and the four stages at width 1 (He et al. 2016).
    stem_width: ClassVar[int] = 64
    stage_widths: ClassVar[tuple[int, ...]] = (256, 512, 1024, 2048)
    strides: ClassVar[tuple[int, ...]] = (1, 2, 2, 2)

    @cached_property
    def stage_blocks(self) -> tuple[int, ...]:
        """Return the maximum number of blocks of every stage."""
        return tuple(least + max(self.depths) for least in self.least_blocks)

    @cached_property
    def genes(self) -> tuple[Genes, ...]:
        """Return all genes in the order of LISTS, followed by the resolution."""
        return (
            Genes('e', self.expand_ratios, self.blocks),
            Genes('d', (0, max(self.depths)), 1),
            Genes('d', self.depths, self.stages),
            Genes('w', tuple(range(len(self.width_mults))), 2 + self.stages),
            Genes('r', self.resolutions, 1),
        )

    def blocks_used(self, depths: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the numbers of active blocks (..., stages), for depths (..., entries of `d`)."""
        additional = np.asarray(depths, np.int64)[..., 1:]
        return np.asarray(additional + np.array(self.least_blocks, np.int64))

    def layers(
        self, architecture: SubnetArchitecture, width_mult: float, classes: int
    ) -> Iterator[Cost]:
        """Yield the cost of every layer with weights, in the order of the forward pass."""
        middle_width, stem_width, *stage_widths = (
            self.width_mults[index] * width_mult for index in architecture.w
        )
        middle = make_divisible(make_divisible(self.stem_width * middle_width) // 2)
        channels = make_divisible(self.stem_width * stem_width)
        side = halved(architecture.r)
        yield convolution(3, middle, 3, side)
        if architecture.d[0] == max(self.depths):
            yield convolution(middle, middle, 3, side)
        yield convolution(middle, channels, 3, side)
        side = halved(side)  # max pooling

        for stage, position in self.active_positions(architecture):
            outputs = make_divisible(self.stage_widths[stage] * stage_widths[stage])
            expanded = make_divisible(round(outputs * architecture.e[position]))
            yield convolution(channels, expanded, 1, side)
            is_first = position == self.first_block(stage)
            if is_first and self.strides[stage] == 2:
                side = halved(side)
            yield convolution(expanded, expanded, 3, side)
            yield convolution(expanded, outputs, 1, side)
            if is_first:  # the shortcut changes the number of channels
                yield convolution(channels, outputs, 1, side)
            channels = outputs

        yield convolution(channels, classes, 1, 1, norm=False, bias=True)


SPACES: dict[str, type[SearchSpace]] = {
    space.kind: space
    for space in (SearchSpace, ProxylessSpace, EfficientNetLiteSpace, ResNet50Space)
}


def search_space(kind: str, resolutions: Sequence[int] | None = None) -> SearchSpace:
    """Return the search space of a kind of backbone; raise BackboneError for an unknown kind.

    resolutions: by default, those that the published backbones were trained for.
    """
    if kind not in SPACES:
        raise BackboneError(
            f'unknown kind of backbone {kind!r}; known kinds are {", ".join(SPACES)}'
        )
    space = SPACES[kind]()
    return space if resolutions is None else replace(space, resolutions=tuple(resolutions))
