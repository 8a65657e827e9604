"""Compute shapes, multiply-accumulates and parameters of an ONNX graph without running it.

Models are of type `onnx.ModelProto`. `onnx` is imported inside the functions that need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

KNOWN_CONTENTS = 1024
"""Contents are tracked for tensors of at most this many elements; larger ones are weights."""

FLOAT = 1
INT64 = 7
ITEM_BYTES = {
    1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2,
}  # fmt: skip
"""Bytes per element, by TensorProto.DataType: floats, integers and bool."""

QUANTISED: dict[str, tuple[str, slice, int | None]] = {
    'DequantizeLinear': ('Identity', slice(1), None),
    'DynamicQuantizeMatMul': ('MatMul', slice(2), None),
    'MatMulIntegerToFloat': ('MatMul', slice(2), None),
    'QGemm': ('Gemm', slice(0, 4, 3), 8),
    'QLinearAdd': ('Add', slice(0, 4, 3), 0),
    'QLinearAveragePool': ('AveragePool', slice(1), 0),
    'QLinearConcat': ('Concat', slice(2, None, 3), 2),
    'QLinearGlobalAveragePool': ('GlobalAveragePool', slice(1), 0),
    'QLinearLeakyRelu': ('Identity', slice(1), 0),
    'QLinearMul': ('Mul', slice(0, 4, 3), 0),
    'QLinearSigmoid': ('Identity', slice(1), 0),
    'QLinearSoftmax': ('Identity', slice(1), 0),
    'QuantizeLinear': ('Identity', slice(1), 2),
}
"""ONNX Runtime's quantised operators. For each: the ONNX operator whose result has the same shape,
the inputs to pass to it, and the input that has the type of the result (None: float)."""

SIZE_ARITHMETIC = frozenset({
    'Abs', 'Add', 'And', 'Cast', 'Ceil', 'Clip', 'Concat', 'Constant', 'ConstantOfShape', 'Div',
    'Equal', 'Expand', 'Floor', 'Gather', 'Greater', 'GreaterOrEqual', 'Identity', 'Less',
    'LessOrEqual', 'Max', 'Min', 'Mod', 'Mul', 'Neg', 'Not', 'Or', 'Pow', 'Range', 'ReduceMax',
    'ReduceMin', 'ReduceProd', 'ReduceSum', 'Reshape', 'Round', 'ScatterND', 'Slice', 'Split',
    'Sqrt', 'Squeeze', 'Sub', 'Tile', 'Transpose', 'Unsqueeze', 'Where',
})  # fmt: skip
"""Operators that graphs use to compute sizes."""

NORMALISATIONS = ('GroupNormalization', 'MeanVarianceNormalization')
"""Operators whose result has the shape of the input; `onnx` does not infer it."""


@dataclass(frozen=True)
class Value:
    """Type (a TensorProto.DataType) and shape of a tensor; None if unknown."""

    type: int | None
    shape: tuple[int, ...] | None

    @property
    def size_bytes(self) -> int | None:
        """Return the memory that the tensor requires; None if unknown."""
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
    """Return every tensor of the main graph, with variable dimensions of the input set to `side`.

    Shapes that the file states for intermediate results are ignored. Raise ValueError if the graph
    is inconsistent.
    """
    from onnx.helper import make_tensor_type_proto

    known = _Known(model)
    for tensor in model.graph.initializer:
        known.add_tensor(tensor, tensor.name)
    for info in model.graph.input:
        if info.name not in known.types:
            kind = info.type.tensor_type
            shape = [d.dim_value if d.HasField('dim_value') else side for d in kind.shape.dim]
            known.types[info.name] = make_tensor_type_proto(kind.elem_type, shape)
    for node in model.graph.node:
        try:
            known.add_results(node)
        except Exception as error:  # a damaged or malicious graph can cause any exception
            name = node.name or ', '.join(node.output)
            raise ValueError(f'operator {node.op_type} ({name}): {error}') from error
    return {name: _value(kind) for name, kind in known.types.items()}


class _Known:
    """Types of the tensors so far, and the contents of small tensors, which may define sizes.

    `onnx.shape_inference.infer_shapes` with `data_prop` is not used: it does not evaluate
    divisions, comparisons and ranges, and uses up the memory if a tensor is doubled many times.
    """

    def __init__(self, model: Any) -> None:
        self.types: dict[str, Any] = {}
        self._contents: dict[str, Any] = {}
        self._opsets = model.opset_import
        self._opset = max(o.version for o in self._opsets if o.domain in ('', 'ai.onnx'))

    def add_tensor(self, tensor: Any, name: str) -> None:
        """Add a stored tensor."""
        from onnx.helper import make_tensor_type_proto

        self.types[name] = make_tensor_type_proto(tensor.data_type, tensor.dims)
        if prod(tensor.dims) <= KNOWN_CONTENTS:
            self._contents[name] = type(tensor)()
            self._contents[name].CopyFrom(tensor)
            self._contents[name].name = name

    def add_results(self, node: Any) -> None:
        """Add the results of an operator."""
        import onnx

        repeated = [name for name in node.output if name in self.types]
        unknown = [name for name in node.input if name and name not in self.types]
        if repeated or unknown:
            raise ValueError(f'{repeated} defined twice, {unknown} used before their definition')
        if node.op_type == 'Constant' and node.attribute and node.attribute[0].HasField('t'):
            self.add_tensor(node.attribute[0].t, node.output[0])
            return
        equivalent, typed_by = _with_known_shape(node)
        types = {name: self.types[name] for name in equivalent.input if name}
        if equivalent is not node:
            types = {name: _with_type(kind, FLOAT) for name, kind in types.items()}
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(equivalent.op_type, self._opset),
            equivalent,
            types,
            {name: self._contents[name] for name in equivalent.input if name in self._contents},
            opset_imports=self._opsets,
        )
        for name in filter(None, node.output):
            self.types[name] = found.get(name) or onnx.TypeProto()
        if typed_by is not None and len(node.input) > typed_by and node.input[typed_by]:
            result, model = node.output[0], self.types[node.input[typed_by]]
            self.types[result] = _with_type(self.types[result], model.tensor_type.elem_type)
        self._compute(node)

    def _compute(self, node: Any) -> None:
        """Add the contents of small results that can be computed from known contents."""
        import numpy as np
        from onnx import ModelProto, numpy_helper
        from onnx.reference import ReferenceEvaluator

        outputs = [_value(self.types[name]).shape for name in node.output if name]
        source = _value(self.types[node.input[0]]).shape if node.op_type == 'Shape' else None
        results: Any = ()
        if source is not None:
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            results = [np.array(source[ends.get('start') : ends.get('end')], np.int64)]
        elif (
            node.op_type in SIZE_ARITHMETIC
            and all(name in self._contents for name in node.input if name)
            and all(shape is not None and prod(shape) <= KNOWN_CONTENTS for shape in outputs)
        ):
            model = ModelProto(opset_import=self._opsets)
            model.graph.node.append(node)
            model.graph.initializer.extend(self._contents[name] for name in node.input if name)
            for name in node.output:
                model.graph.output.add().name = name
            results = ReferenceEvaluator(model).run(None, {})
        for name, result in zip(node.output, results, strict=False):
            self._contents[name] = numpy_helper.from_array(np.asarray(result), name)


def _with_known_shape(node: Any) -> tuple[Any, int | None]:
    """Return the node, or else an ONNX operator on floats whose result has the same shape.

    Also return which input of the node has the type of the result; None if `onnx` infers the type.
    """
    if node.domain == 'com.microsoft':
        operator, chosen, typed_by = QUANTISED[node.op_type]
    elif node.op_type in NORMALISATIONS:
        operator, chosen, typed_by = 'Identity', slice(1), 0
    else:
        return node, None
    if any(attribute.name == 'channels_last' and attribute.i for attribute in node.attribute):
        raise ValueError('the attribute channels_last is not supported')
    kept = [] if operator == 'Identity' else node.attribute
    attributes = [attribute for attribute in kept if attribute.name != 'channels_last']
    inputs = node.input[chosen]
    equivalent = type(node)(
        op_type=operator, input=inputs, output=node.output, attribute=attributes
    )
    return equivalent, typed_by


def _with_type(kind: Any, element: int) -> Any:
    copy = type(kind)()
    copy.CopyFrom(kind)
    copy.tensor_type.elem_type = element
    return copy


def _value(kind: Any) -> Value:
    if not kind.HasField('tensor_type'):
        return Value(None, None)
    tensor = kind.tensor_type
    dims = [d.dim_value if d.HasField('dim_value') else -1 for d in tensor.shape.dim]
    known = tensor.HasField('shape') and min(dims, default=0) >= 0
    return Value(tensor.elem_type or None, tuple(dims) if known else None)


def count_macs(model: Any, values: Mapping[str, Value]) -> int:
    """Return the multiply-accumulates of convolutions and matrix products, also quantised ones."""

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


def is_quantised(node: Any) -> bool:
    """Return whether an operator computes with 8-bit integers or converts to or from them."""
    return node.domain == 'com.microsoft' or node.op_type in (
        'ConvInteger',
        'DequantizeLinear',
        'MatMulInteger',
        'QLinearConv',
        'QLinearMatMul',
        'QuantizeLinear',
    )


def count_parameters(model: Any) -> int:
    """Return the number of weights: the elements of all stored tensors except int64 tensors."""
    tensors = messages(model.graph, 'TensorProto')
    return sum(prod(tensor.dims) for tensor in tensors if tensor.data_type != INT64)
