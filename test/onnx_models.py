"""Tiny ONNX classifiers for tests, in all forms written by exporters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 4
FEATURES = 5


def classifier(
    shape: Sequence[int | str | None] = (1, 3, 8, 8),
    *,
    element: int = TensorProto.FLOAT,
    pool: bool = True,
    end: Sequence[str] = (),
    metadata: dict[str, str] | None = None,
    opset: int = 17,
    names: tuple[str, str] = ('x', 'y'),
) -> onnx.ModelProto:
    """Return a network with a convolution, a pooling and a linear layer, with random weights.

    Without `pool`, only inputs of 8 px are supported. end: operators after the scores.
    """
    nhwc = shape[-1] == 3
    half = element == TensorProto.FLOAT16
    random = np.random.default_rng(1)
    features = FEATURES * (1 if pool else 64)
    weights = {
        'kernel': random.normal(size=(FEATURES, 3, 3, 3)),
        'linear': random.normal(size=(features, CLASSES)),
        'bias': random.normal(size=CLASSES),
    }
    kind = np.float16 if half else np.float32
    stored = [numpy_helper.from_array(v.astype(kind), n) for n, v in weights.items()]
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if element == TensorProto.UINT8:
        steps.append(('Cast', [], {'to': TensorProto.FLOAT}))
    if nhwc:
        steps.append(('Transpose', [], {'perm': (0, 3, 1, 2)}))
    steps.append(('Conv', ['kernel'], {'pads': (1, 1, 1, 1)}))
    steps.append(('Relu', [], {}))
    if pool:
        steps.append(('GlobalAveragePool', [], {}))
    steps += [('Flatten', [], {}), ('Gemm', ['linear', 'bias'], {})]
    steps += [(operator, [], {}) for operator in end]
    nodes, current = [], names[0]
    for index, (operator, more, attributes) in enumerate(steps):
        result = names[1] if index == len(steps) - 1 else f'{operator}_{index}'
        nodes.append(helper.make_node(operator, [current, *more], [result], **attributes))
        current = result
    output = helper.make_tensor_value_info(names[1], element if half else TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes,
        'tiny',
        [helper.make_tensor_value_info(names[0], element, shape)],
        [output],
        stored,
    )
    return finished(graph, metadata, opset)


def finished(
    graph: onnx.GraphProto, metadata: dict[str, str] | None = None, opset: int = 17
) -> onnx.ModelProto:
    """Return the model with a graph."""
    opsets = [helper.make_opsetid('', opset), helper.make_opsetid('com.microsoft', 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


def of_nodes(
    nodes: Sequence[onnx.NodeProto],
    stored: dict[str, np.ndarray] | None = None,
    shape: Sequence[int | str] = (1, 3, 8, 8),
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a model from input `input` to output `logits` of the given operators."""
    graph = helper.make_graph(
        nodes,
        'nodes',
        [helper.make_tensor_value_info('input', TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (stored or {}).items()],
    )
    return finished(graph, opset=opset)


def branching(shape: Sequence[int | str] = (1, 3, 8, 8)) -> onnx.ModelProto:
    """Return a network of operators that have quantised variants in ONNX Runtime."""
    random = np.random.default_rng(2)
    stored = {
        'k0': random.normal(size=(8, 3, 3, 3)),
        'k1': random.normal(size=(8, 8, 1, 1)),
        'w': random.normal(size=(16, CLASSES)),
        'm': random.normal(size=(CLASSES, CLASSES)) / 10,
    }
    make = helper.make_node
    nodes = [
        make('Conv', ['input', 'k0'], ['stem'], pads=[1] * 4),
        make('LeakyRelu', ['stem'], ['a']),
        make('Sigmoid', ['a'], ['gate']),
        make('Mul', ['a', 'gate'], ['gated']),
        make('Conv', ['gated', 'k1'], ['b']),
        make('Add', ['b', 'a'], ['sum']),
        make('Concat', ['sum', 'a'], ['both'], axis=1),
        make('AveragePool', ['both'], ['pooled'], kernel_shape=[2, 2], strides=[2, 2]),
        make('MaxPool', ['pooled'], ['most'], kernel_shape=[2, 2]),
        make('GlobalAveragePool', ['most'], ['one']),
        make('Flatten', ['one'], ['flat']),
        make('Gemm', ['flat', 'w'], ['scores']),
        make('MatMul', ['scores', 'm'], ['more']),
        make('Softmax', ['more'], ['logits']),
    ]
    return of_nodes(nodes, {n: v.astype(np.float32) for n, v in stored.items()}, shape)


def deep(side: int | str, *, layers: int, weights: int) -> onnx.ModelProto:
    """Return a network with many layers, for tests of its size in memory."""
    stored = {f'w{i}': np.full((weights // 25, 1, 5, 5), 0.1, np.float32) for i in range(layers)}
    channels = weights // 25
    stored['stem'] = np.ones((channels, 3, 1, 1), np.float32)
    nodes = [helper.make_node('Conv', ['input', 'stem'], ['r0'])]
    for i in range(layers):
        nodes.append(
            helper.make_node('Conv', [f'r{i}', f'w{i}'], [f'c{i}'], group=channels, pads=[2] * 4)
        )
        nodes.append(helper.make_node('Relu', [f'c{i}'], [f'r{i + 1}']))
    nodes.append(helper.make_node('GlobalAveragePool', [f'r{layers}'], ['p']))
    nodes.append(helper.make_node('Flatten', ['p'], ['logits']))
    return of_nodes(nodes, stored, (1, 3, side, side))
