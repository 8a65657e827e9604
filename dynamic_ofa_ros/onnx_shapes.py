"""Shapes, multiply-accumulates and parameters of an ONNX graph, without running it.

Models are `onnx.ModelProto`; `onnx` itself is imported where it is needed only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

KNOWN_CONTENTS = 1024
"""Tensors of more elements hold weights: their shape matters, not what is in them."""

ITEM_BYTES = {
    1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2,
}  # fmt: skip
"""Bytes an element, by TensorProto.DataType: floats, integers and bool."""

QUANTISED: dict[str, tuple[str, tuple[int, ...] | slice]] = {
    'DequantizeLinear': ('DequantizeLinear', (0, 1, 2)),
    'DynamicQuantizeMatMul': ('MatMul', (0, 1)),
    'MatMulIntegerToFloat': ('MatMul', (0, 1)),
    'QGemm': ('Gemm', (0, 3)),
    'QLinearAdd': ('Add', (0, 3)),
    'QLinearAveragePool': ('AveragePool', (0,)),
    'QLinearConcat': ('Concat', slice(2, None, 3)),
    'QLinearGlobalAveragePool': ('GlobalAveragePool', (0,)),
    'QLinearLeakyRelu': ('Identity', (0,)),
    'QLinearMul': ('Mul', (0, 3)),
    'QLinearSigmoid': ('Identity', (0,)),
    'QLinearSoftmax': ('Identity', (0,)),
    'QuantizeLinear': ('QuantizeLinear', (0, 1, 2)),
}
"""ONNX Runtime's quantised operators: the ONNX operator and inputs that give the same shape."""

_LEFT_OUT = ('channels_last', 'opset')


@dataclass(frozen=True)
class Value:
    """Type (a TensorProto.DataType) and shape of a tensor; None where they cannot be known."""

    type: int | None
    shape: tuple[int, ...] | None

    @property
    def size_bytes(self) -> int | None:
        """Return the memory the tensor takes; None where it is unknown."""
        if self.shape is None or self.type not in ITEM_BYTES:
            return None
        return prod(self.shape) * ITEM_BYTES[self.type]


def messages(message: Any, kind: str) -> Iterator[Any]:
    """Yield every message of type `kind` (such as 'TensorProto') anywhere inside `message`."""
    if message.DESCRIPTOR.name == kind:
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, 'DESCRIPTOR') else value:
                yield from messages(part, kind)


def infer(model: Any, side: int) -> dict[str, Value]:
    """Return every tensor of the main graph, with free dimensions of the input set to `side`.

    Shapes that the file itself states for intermediates are not believed. Raises what `onnx`
    raises on graphs that contradict themselves.
    """
    import onnx

    small = _without_weights(model, side)
    inferred = onnx.shape_inference.infer_shapes(small, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred)
    graph = inferred.graph
    values = {t.name: Value(t.data_type, tuple(t.dims)) for t in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        values[info.name] = _value(info.type)
    for node in graph.node:
        for name in node.output:
            values.setdefault(name, Value(None, None))
    return values


def _without_weights(model: Any, side: int) -> Any:
    """Return a copy for shape inference: no large contents, no claims, no special operators."""
    from onnx import ModelProto
    from onnx.helper import make_tensor_value_info

    small = ModelProto(ir_version=model.ir_version)
    small.opset_import.extend(model.opset_import)
    graph = small.graph
    graph.name = 'shapes'

    def add_tensor(tensor: Any, name: str) -> None:
        if prod(tensor.dims) > KNOWN_CONTENTS:
            graph.input.append(make_tensor_value_info(name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = name

    constants = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        if info.name not in constants:
            dims = info.type.tensor_type.shape.dim
            shape = [d.dim_value if d.HasField('dim_value') else side for d in dims]
            element = info.type.tensor_type.elem_type
            graph.input.append(make_tensor_value_info(info.name, element, shape))
    for tensor in model.graph.initializer:
        add_tensor(tensor, tensor.name)
    for info in model.graph.output:
        graph.output.append(
            make_tensor_value_info(info.name, info.type.tensor_type.elem_type, None)
        )
    for node in model.graph.node:
        if node.op_type == 'Constant' and node.attribute and node.attribute[0].HasField('t'):
            add_tensor(node.attribute[0].t, node.output[0])
        else:
            _add_node(graph.node.add(), node)
    return small


def _add_node(copy: Any, node: Any) -> None:
    copy.CopyFrom(node)
    if node.domain != 'com.microsoft' or node.op_type not in QUANTISED:
        return
    copy.op_type, chosen = QUANTISED[node.op_type]
    copy.domain = ''
    del copy.input[:]
    if isinstance(chosen, slice):
        copy.input.extend(node.input[chosen])
    else:
        copy.input.extend(node.input[i] for i in chosen if i < len(node.input))
    for index in reversed(range(len(copy.attribute))):
        if copy.attribute[index].name in _LEFT_OUT:
            del copy.attribute[index]


def _value(kind: Any) -> Value:
    if not kind.HasField('tensor_type'):
        return Value(None, None)
    tensor = kind.tensor_type
    if not tensor.HasField('shape') or not all(d.HasField('dim_value') for d in tensor.shape.dim):
        return Value(tensor.elem_type or None, None)
    return Value(tensor.elem_type or None, tuple(d.dim_value for d in tensor.shape.dim))


def count_macs(model: Any, values: Mapping[str, Value]) -> int:
    """Return the multiply-accumulates of convolutions and matrix products, quantised ones too."""

    def shape(name: str) -> tuple[int, ...]:
        value = values.get(name)
        return (value and value.shape) or ()

    total = 0
    for node in model.graph.node:
        operator, first = node.op_type, shape(node.input[0]) if node.input else ()
        if operator in ('Conv', 'ConvInteger', 'QLinearConv'):
            weight = shape(node.input[3 if operator == 'QLinearConv' else 1])
            total += prod(shape(node.output[0])) * prod(weight[1:])
        elif operator == 'ConvTranspose':
            total += prod(first) * prod(shape(node.input[1])[1:])
        elif operator in ('Gemm', 'QGemm'):
            transposed = any(a.name == 'transA' and a.i for a in node.attribute)
            total += prod(shape(node.output[0])) * (first or (0, 0))[0 if transposed else -1]
        elif 'MatMul' in operator:
            total += prod(shape(node.output[0])) * (first or (0,))[-1]
    return total


def count_parameters(model: Any) -> int:
    """Return the number of weights: elements of all stored tensors but integers for shapes."""
    tensors = messages(model.graph, 'TensorProto')
    return sum(prod(tensor.dims) for tensor in tensors if tensor.data_type != 7)
