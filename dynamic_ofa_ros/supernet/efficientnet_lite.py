"""A supernet whose largest network is EfficientNet-Lite0, built from the elastic layers of `ofa`.

EfficientNet-Lite (Tan & Le, ICML 2019; the Lite variants have ReLU6 and no squeeze-and-excitation)
uses TensorFlow's padding of strided convolutions: if the input size is even, the padding at the
end is larger than at the start.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dynamic_ofa_ros.space.cost import make_divisible
from dynamic_ofa_ros.space.spaces import EfficientNetLiteSpace
from dynamic_ofa_ros.supernet.ofa_package import import_ofa

CLASS_NAME = 'OFAEfficientNetLite'


class SamePaddedConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding for any input size."""

    @classmethod
    def like(cls, layer: nn.Conv2d) -> SamePaddedConv2d:
        """Return a copy of a convolution without bias; the weights are shared."""
        made = cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            groups=layer.groups,
            bias=False,
        )
        made.weight = layer.weight
        return made

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Pad and convolve (N, C, H, W)."""
        padded = same_padded(image, self.kernel_size[0], self.stride[0])
        return functional.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def same_padded(image: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Pad (N, C, H, W) so that the output size is ceil(size / stride).

    If the amount of padding is odd, the end gets one zero more than the start.
    """
    padding: list[int] = []
    for size in (int(image.shape[-1]), int(image.shape[-2])):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(image, padding)


def build(classes: int, width_mult: float, dropout_rate: float, batch_norm: Any) -> nn.Module:
    """Return the supernet with random weights; `batch_norm` is (momentum, epsilon)."""
    supernet: nn.Module = _supernet_class()(classes, width_mult, dropout_rate, batch_norm)
    return supernet


@cache
def _supernet_class() -> Any:
    """Return the class, which is defined here so that `ofa` is imported only when needed."""
    layers = import_ofa('utils.layers')
    elastic = import_ofa('imagenet_classification.elastic_nn.modules.dynamic_layers')
    operators = import_ofa('imagenet_classification.elastic_nn.modules.dynamic_op')
    static = import_ofa('imagenet_classification.networks.proxyless_nets').ProxylessNASNets
    proxyless = import_ofa('imagenet_classification.elastic_nn.networks').OFAProxylessNASNets

    class ElasticDepthwise(operators.DynamicSeparableConv2d):  # type: ignore[misc, name-defined]
        def forward(self, image: torch.Tensor, kernel_size: int | None = None) -> torch.Tensor:
            size, channels = kernel_size or self.active_kernel_size, image.size(1)
            filters = self.get_active_filter(channels, size).contiguous()
            padded = same_padded(image, size, self.stride)
            return functional.conv2d(padded, filters, None, self.stride, groups=channels)

    class ElasticBlock(elastic.DynamicMBConvLayer):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, outputs: int, kernels: list[int], stride: int) -> None:
            super().__init__(
                [inputs], [outputs], kernels, list(space.expand_ratios), stride, 'relu6'
            )
            if stride > 1:
                channels = self.depth_conv.conv.max_in_channels
                self.depth_conv.conv = ElasticDepthwise(channels, kernels, stride)

        def get_active_subnet(self, in_channel: int, preserve_weight: bool = True) -> nn.Module:
            layer: Any = super().get_active_subnet(in_channel, preserve_weight)
            if self.stride > 1:
                layer.depth_conv.conv = SamePaddedConv2d.like(layer.depth_conv.conv)
            return layer  # type: ignore[no-any-return]

    class OFAEfficientNetLite(proxyless):  # type: ignore[misc, valid-type]
        def __init__(
            self, classes: int, width_mult: float, dropout_rate: float, batch_norm: Any
        ) -> None:
            stem, channels, *stages = (
                make_divisible(width * width_mult) for width in space.body_widths
            )
            (last,) = (make_divisible(width * width_mult) for width in space.head_widths)
            first = layers.ConvLayer(3, stem, kernel_size=3, stride=2, act_func='relu6')
            first.conv = SamePaddedConv2d.like(first.conv)
            block = layers.MBConvLayer(stem, channels, 3, 1, expand_ratio=1, act_func='relu6')
            blocks = [layers.ResidualBlock(block, None)]
            groups: list[list[int]] = []
            for stage, count in enumerate(space.stage_blocks):
                groups.append(list(range(len(blocks), len(blocks) + count)))
                for position in range(count):
                    outputs = stages[stage]
                    stride = 1 if position else space.strides[stage]
                    kernels = list(space.stage_kernels[stage])
                    adds = stride == 1 and channels == outputs
                    shortcut = layers.IdentityLayer(channels, outputs) if adds else None
                    elastic_block = ElasticBlock(channels, outputs, kernels, stride)
                    blocks.append(layers.ResidualBlock(elastic_block, shortcut))
                    channels = outputs
            mix = layers.ConvLayer(channels, last, kernel_size=1, act_func='relu6')
            classifier = layers.LinearLayer(last, classes, dropout_rate=dropout_rate)
            static.__init__(self, first, blocks, mix, classifier)
            self.set_bn_param(*batch_norm)
            self.block_group_info = groups
            self.runtime_depth = list(space.stage_blocks)

    space = EfficientNetLiteSpace()
    assert OFAEfficientNetLite.__name__ == CLASS_NAME
    return OFAEfficientNetLite
