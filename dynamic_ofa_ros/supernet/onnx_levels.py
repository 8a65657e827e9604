"""Write the levels of a supernet family as ONNX networks without PyTorch, in milliseconds.

A level is extracted from the supernet in the same way as by `ofa` (Cai et al., Once-for-all, ICLR
2020): it has the first channels of every layer, and smaller kernels are computed with learnt
matrices. Batch norms, with the statistics of the level, are folded into the convolutions. An
activation is a single operator, whereas PyTorch's exporter writes five; inference in ONNX Runtime
takes 50 to 80 % of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import NETWORK_INPUT, NETWORK_OUTPUT, Family, Level
from dynamic_ofa_ros.space.architecture import SQUEEZE_REDUCTION, SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.cost import make_divisible
from dynamic_ofa_ros.space.spaces import ResNet50Space, search_space
from dynamic_ofa_ros.tensor_file import read_arrays

OPSET, IR_VERSION = 17, 8
"""Versions that the oldest supported releases of all engines can read."""

Array = npt.NDArray[Any]


class LevelWriter:
    """Writes the levels of a family; reads the family's files once."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._space = search_space(family.backbone.kind)
        self._weights = read_arrays(family.weights_path)
        self._statistics = read_arrays(family.batch_norm_path)

    def network(self, level: Level) -> onnx.ModelProto:
        """Return the network of a level.

        Its input is (1, 3, side, side) float32, its output are logits, (1, classes) float32. Raise
        CheckpointError if the family's files do not match the level.
        """
        prefix = f'level_{level.index}/'
        statistics = {
            name[len(prefix) :]: value
            for name, value in self._statistics.items()
            if name.startswith(prefix)
        }
        graph = _Graph(self._weights, statistics, self._space)
        try:
            if isinstance(self._space, ResNet50Space):
                _resnet(graph, self._space, level.architecture)
            else:
                _mobile(graph, self._space, level.architecture)
        except (LookupError, ValueError) as error:
            raise CheckpointError(
                f'{self._family.weights_path} and {self._family.batch_norm_path.name} do not '
                f'match level {level.index}: {error}'
            ) from None
        return graph.finished(level.resolution, self._family.backbone.classes)


class _Graph:
    """A network under construction: operators are appended after the value `last`.

    channels: the number of channels of `last`. Layers have the names of the supernet; a tensor of
    an elastic layer can also be called `conv.conv.weight`, because `ofa` wraps such layers. The
    `statistics` use the layer names of the static sub-network, in which inactive blocks are not
    counted; methods take this name as an argument if it can differ.
    """

    def __init__(
        self, weights: Mapping[str, Array], statistics: Mapping[str, Array], space: SearchSpace
    ) -> None:
        self._weights, self._statistics, self._space = weights, statistics, space
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.last, self.channels = NETWORK_INPUT, 3

    def finished(self, side: int, classes: int) -> onnx.ModelProto:
        """Return the completed network."""
        self._nodes[-1].output[0] = NETWORK_OUTPUT
        values = ((NETWORK_INPUT, (1, 3, side, side)), (NETWORK_OUTPUT, (1, classes)))
        inputs, outputs = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
            for name, shape in values
        )
        return helper.make_model(
            helper.make_graph(self._nodes, 'level', inputs, outputs, self._constants),
            opset_imports=[helper.make_opsetid('', OPSET)],
            ir_version=IR_VERSION,
            producer_name='dynamic_ofa_ros',
        )

    def add(self, operator: str, *others: str, **attributes: Any) -> str:
        """Append an operator with the inputs `last` and `others`; return its result's name."""
        inputs, self.last = (self.last, *others), f'value_{len(self._nodes)}'
        self._nodes.append(helper.make_node(operator, inputs, [self.last], **attributes))
        return self.last

    def constant(self, value: npt.ArrayLike) -> str:
        """Add a constant as float32; return its name."""
        name = f'constant_{len(self._constants)}'
        array = np.ascontiguousarray(value, np.float32)
        self._constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def normed(
        self,
        layer: str,
        activation: str,
        static: str = '',
        *,
        stride: int = 1,
        depthwise_kernel: int = 0,
    ) -> None:
        """Append a convolution with folded batch norm, and an activation.

        static: the layer's name in the static sub-network, if it differs from `layer`.
        depthwise_kernel: the kernel size of a depthwise convolution; 0 if it is not depthwise.
        """
        mean = self._statistic(f'{static or layer}.bn.running_mean')
        variance = self._statistic(f'{static or layer}.bn.running_var')
        outputs = len(mean)
        filters = self.tensor(f'{layer}.conv', 'weight')[:outputs]
        groups = 1
        if depthwise_kernel:
            filters, groups = self._smaller(layer, filters, depthwise_kernel), self.channels
        else:
            filters = filters[:, : self.channels]
        deviation = np.sqrt(variance + self._space.batch_norm_epsilon)
        scale = self.tensor(f'{layer}.bn', 'weight')[:outputs] / deviation
        bias = self.tensor(f'{layer}.bn', 'bias')[:outputs] - mean * scale
        self.convolution(filters * scale[:, None, None, None], bias, stride, groups)
        self.activate(activation)

    def convolution(
        self, filters: Array, bias: Array | None = None, stride: int = 1, groups: int = 1
    ) -> None:
        """Append a convolution with a padding of kernel // 2, or with TensorFlow's padding."""
        outputs, inputs, kernel, _ = filters.shape
        if inputs * groups != self.channels:
            raise ValueError(
                f'a layer expects {inputs * groups} channels, but its input has {self.channels}'
            )
        others = [self.constant(filters)] + ([] if bias is None else [self.constant(bias)])
        padding: dict[str, Any] = {'pads': [kernel // 2] * 4}
        if stride > 1 and self._space.pads_one_side:
            padding = {'auto_pad': 'SAME_UPPER'}
        shape = {'kernel_shape': [kernel] * 2, 'strides': [stride] * 2}
        self.add('Conv', *others, group=groups, **shape, **padding)
        self.channels = outputs

    def activate(self, activation: str) -> None:
        """Append `relu`, `relu6`, `h_swish` or `h_sigmoid`; nothing if `activation` is empty."""
        if activation == 'relu':
            self.add('Relu')
        elif activation == 'relu6':
            self.add('Clip', self.constant(0.0), self.constant(6.0))
        elif activation == 'h_swish':
            self.add('HardSwish')
        elif activation:
            self.add('HardSigmoid', alpha=1.0 / 6.0, beta=0.5)

    def squeeze(self, layer: str) -> None:
        """Append squeeze-and-excitation."""
        before, channels = self.last, self.channels
        squeezed = make_divisible(channels // SQUEEZE_REDUCTION)
        self.add('GlobalAveragePool')
        for name, outputs, activation in (
            ('reduce', squeezed, 'relu'),
            ('expand', channels, 'h_sigmoid'),
        ):
            filters = self.tensor(f'{layer}.fc.{name}', 'weight')[:outputs, : self.channels]
            self.convolution(filters, self.tensor(f'{layer}.fc.{name}', 'bias')[:outputs])
            self.activate(activation)
        self.add('Mul', before)

    def classify(self) -> None:
        """Append the classifier."""
        self.add('Flatten')
        weight = self.tensor('classifier.linear', 'weight')[:, : self.channels]
        bias = self.tensor('classifier.linear', 'bias')
        self.add('Gemm', self.constant(weight), self.constant(bias), transB=1)

    def tensor(self, module: str, name: str) -> Array:
        """Return a tensor of the supernet as float64; raise LookupError if there is none."""
        wrapped = f'{module}.{module.rpartition(".")[2]}.{name}'
        found = self._weights.get(f'{module}.{name}', self._weights.get(wrapped))
        if found is None:
            raise LookupError(f'there is no tensor {module}.{name}')
        return found.astype(np.float64)

    def mark(self) -> tuple[str, int]:
        """Return the current end of the network, for `back_to`."""
        return self.last, self.channels

    def back_to(self, mark: tuple[str, int]) -> None:
        """Continue after an earlier value."""
        self.last, self.channels = mark

    def has(self, module: str) -> bool:
        """Return whether the supernet has an elastic layer of this name."""
        return f'{module}.conv.conv.weight' in self._weights

    def _statistic(self, name: str) -> Array:
        try:
            return self._statistics[name].astype(np.float64)
        except KeyError:
            raise LookupError(f'there is no tensor {name}') from None

    def _smaller(self, layer: str, filters: Array, kernel: int) -> Array:
        """Reduce depthwise filters (channels, 1, k, k) to the size `kernel`."""
        size = filters.shape[-1]
        while size > kernel:
            middle = filters[:, :, 1:-1, 1:-1].reshape(len(filters), -1)
            matrix = self.tensor(f'{layer}.conv', f'{size}to{size - 2}_matrix')
            size -= 2
            filters = (middle @ matrix.T).reshape(len(filters), 1, size, size)
        return filters


def _mobile(graph: _Graph, space: SearchSpace, architecture: SubnetArchitecture) -> None:
    """Append a sub-network of OFAMobileNetV3, OFAProxylessNASNets or OFAEfficientNetLite."""
    graph.normed('first_conv', space.head_activation, stride=2)
    before, channels = graph.last, graph.channels
    _mobile_block(graph, 'blocks.0', 'blocks.0', space.activations[0], kernel=3)
    if space.first_block_adds and graph.channels == channels:
        graph.add('Add', before)
    for index, (stage, position) in enumerate(space.active_positions(architecture), 1):
        before, channels = graph.last, graph.channels
        stride = space.strides[stage] if position == space.first_block(stage) else 1
        _mobile_block(
            graph,
            f'blocks.{position + 1}',
            f'blocks.{index}',
            space.activations[stage + 1],
            kernel=architecture.ks[position],
            stride=stride,
            has_squeeze=space.has_squeeze[stage],
        )
        if stride == 1 and graph.channels == channels:
            graph.add('Add', before)
    last_layers = ['final_expand_layer', 'feature_mix_layer'][-1 - len(space.pooled_widths) :]
    graph.normed(last_layers[0], space.head_activation)
    graph.add('GlobalAveragePool')
    for layer in last_layers[1:]:
        graph.convolution(graph.tensor(f'{layer}.conv', 'weight'))
        graph.activate(space.head_activation)
    graph.classify()


def _mobile_block(
    graph: _Graph,
    block: str,
    static: str,
    activation: str,
    *,
    kernel: int,
    stride: int = 1,
    has_squeeze: bool = False,
) -> None:
    if graph.has(f'{block}.conv.inverted_bottleneck'):
        name = 'conv.inverted_bottleneck'
        graph.normed(f'{block}.{name}', activation, f'{static}.{name}')
    name = 'conv.depth_conv'
    graph.normed(
        f'{block}.{name}', activation, f'{static}.{name}', stride=stride, depthwise_kernel=kernel
    )
    if has_squeeze:
        graph.squeeze(f'{block}.{name}.se')
    graph.normed(f'{block}.conv.point_linear', '', f'{static}.conv.point_linear')


def _resnet(graph: _Graph, space: ResNet50Space, architecture: SubnetArchitecture) -> None:
    """Append a sub-network of OFAResNets."""
    graph.normed('input_stem.0', 'relu', stride=2)
    has_middle = architecture.d[0] == max(space.depths)
    if has_middle:
        before = graph.last
        graph.normed('input_stem.1.conv', 'relu')
        graph.add('Add', before)
    graph.normed('input_stem.2', 'relu', f'input_stem.{1 + has_middle}')
    graph.add('MaxPool', kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    for index, (stage, position) in enumerate(space.active_positions(architecture)):
        is_first = position == space.first_block(stage)
        stride = space.strides[stage] if is_first else 1
        block, static = f'blocks.{position}', f'blocks.{index}'
        start = graph.mark()
        if is_first:
            if stride > 1:
                square = [stride] * 2
                graph.add('AveragePool', ceil_mode=1, kernel_shape=square, strides=square)
            graph.normed(f'{block}.downsample', '', f'{static}.downsample')
        shortcut = graph.last
        graph.back_to(start)
        graph.normed(f'{block}.conv1', 'relu', f'{static}.conv1')
        graph.normed(f'{block}.conv2', 'relu', f'{static}.conv2', stride=stride)
        graph.normed(f'{block}.conv3', '', f'{static}.conv3')
        graph.add('Add', shortcut)
        graph.activate('relu')
    graph.add('GlobalAveragePool')
    graph.classify()
