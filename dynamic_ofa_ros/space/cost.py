"""The cost of a forward pass of a network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

# OFA rounds every channel count to a multiple of this (Cai et al., ICLR 2020, released code).
CHANNEL_DIVISOR = 8


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one forward pass, batch 1, and learnable parameters."""

    macs: int
    parameters: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.parameters + other.parameters)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    side: int,
    groups: int = 1,
    norm: bool = True,
    bias: bool = False,
) -> Cost:
    """Return the cost of a convolution with an output of `side` x `side` pixels.

    For a linear layer, kernel and side are 1.
    """
    weights = inputs // groups * outputs * kernel * kernel
    return Cost(
        macs=weights * side * side,
        parameters=weights + (2 * outputs if norm else 0) + (outputs if bias else 0),
    )


def halved(side: int) -> int:
    """Return the output size of a layer with stride 2 and padding of kernel // 2."""
    return (side + 1) // 2


def make_divisible(value: float, divisor: int = CHANNEL_DIVISOR) -> int:
    """Round to a multiple of `divisor`, at least 90 % of `value` (as in MobileNet and OFA)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
