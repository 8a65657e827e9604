from __future__ import annotations

import numpy as np
import onnx
import onnx_models
import pytest
from onnx import TensorProto, helper

from dynamic_ofa_ros.family.onnx_shapes import Value, count_macs, count_parameters, infer, messages

node = helper.make_node
SIDE = 12
INT64 = np.int64


def macs_of(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], side: int = SIDE) -> int:
    model = onnx_models.of_nodes(nodes, stored, (1, 3, 'side', 'side'))
    return count_macs(model, infer(model, side))


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_shapes_equal_those_that_onnx_infers() -> None:
    model = onnx_models.branching((1, 3, 16, 16))
    expected = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    values = infer(model, 99)
    assert len(expected) > 10
    for info in expected:
        shape = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
        assert values[info.name] == Value(TensorProto.FLOAT, shape)
    assert values['logits'].size_bytes == 4 * onnx_models.CLASSES


def test_sizes_computed_in_the_graph_are_evaluated() -> None:
    nodes = [
        node('Shape', ['input'], ['shape']),
        node('Gather', ['shape', 'two'], ['side'], axis=0),
        node('Constant', [], ['four'], value_int=4),
        node('Div', ['side', 'four'], ['cells']),
        node('Range', ['zero', 'cells', 'one'], ['positions']),
        node('Cast', ['positions'], ['table'], to=TensorProto.FLOAT),
        node('Unsqueeze', ['cells', 'axes'], ['length']),
        node('Concat', ['rest', 'length'], ['target'], axis=0),
        node('Reshape', ['input', 'target'], ['rows']),
        node('Add', ['rows', 'table'], ['logits']),
    ]
    numbers = {'two': 2, 'zero': 0, 'one': 1, 'axes': [0], 'rest': [-1]}
    stored = {name: np.array(value, INT64) for name, value in numbers.items()}
    model = onnx_models.of_nodes(nodes, stored, (1, 3, 'side', 'side'))
    for side in (8, 20):
        assert infer(model, side)['logits'].shape == (3 * side * 4, side // 4)


@pytest.mark.parametrize('opset', [11, 17])
def test_operators_are_interpreted_according_to_the_opset(opset: int) -> None:
    axes = {'axes': [0]} if opset < 13 else {}
    more = [] if opset < 13 else ['zero']
    nodes = [
        node('Unsqueeze', ['numbers', *more], ['row'], **axes),
        node('Squeeze', ['row', *more], ['shape'], **axes),
        node('ConstantOfShape', ['shape'], ['logits']),
    ]
    stored = {'numbers': np.array([1, 5], INT64), 'zero': np.array([0], INT64)}
    model = onnx_models.of_nodes(nodes, stored, opset=opset)
    assert infer(model, 8)['logits'].shape == (1, 5)


def test_macs_of_convolutions_and_matrix_products() -> None:
    pixels = SIDE * SIDE
    assert macs_of([node('Conv', ['input', 'k'], ['logits'])], {'k': ones(8, 3, 1, 1)}) == (
        pixels * 8 * 3
    )
    grouped = node('Conv', ['input', 'k'], ['logits'], group=3, pads=[1] * 4)
    assert macs_of([grouped], {'k': ones(3, 1, 3, 3)}) == pixels * 3 * 9
    transposed = node('ConvTranspose', ['input', 'k'], ['logits'], strides=[2, 2])
    assert macs_of([transposed], {'k': ones(3, 5, 2, 2)}) == pixels * 3 * 5 * 4
    product = node('MatMul', ['input', 'w'], ['logits'])
    assert macs_of([product], {'w': ones(SIDE, 7)}) == 3 * pixels * 7
    flat = node('Flatten', ['input'], ['flat'])
    linear = node('Gemm', ['flat', 'w'], ['logits'], transB=1)
    assert macs_of([flat, linear], {'w': ones(7, 3 * pixels)}) == 3 * pixels * 7
    transposed = node('Gemm', ['w', 'w'], ['logits'], transA=1)
    assert macs_of([transposed], {'w': ones(6, 4)}) == 4 * 4 * 6


def test_parameters_include_weights_but_not_sizes() -> None:
    constant = helper.make_tensor('c', TensorProto.FLOAT, (4,), [1.0] * 4)
    nodes = [
        node('Constant', [], ['c'], value=constant),
        node('Reshape', ['c', 'shape'], ['logits']),
    ]
    model = onnx_models.of_nodes(nodes, {'shape': np.array([2, 2], INT64), 'w': ones(3)})
    assert count_parameters(model) == 7
    assert len(list(messages(model, 'TensorProto'))) == 3


def test_the_operator_of_an_inconsistent_graph_is_named() -> None:
    wrong = onnx_models.of_nodes(
        [node('Add', ['input', 'w'], ['logits'], name='sum')], {'w': ones(5)}
    )
    with pytest.raises(ValueError, match=r'operator Add \(sum\)'):
        infer(wrong, 8)
