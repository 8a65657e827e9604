"""Check an untrusted ONNX network before ONNX Runtime loads it.

While it loads a network, ONNX Runtime reads the files that tensors refer to and computes all
results that depend on constants only. So a network of a few bytes can read files outside its
folder or use up the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import FamilyError, MissingPackageError
from dynamic_ofa_ros.family.onnx_shapes import (
    ITEM_BYTES,
    QUANTISED,
    Value,
    count_macs,
    infer,
    messages,
)

OLDEST_ONNX = (1, 17)
MAX_FILE_BYTES = 512 * 2**20
MAX_NODES = 20_000
MAX_VALUE_BYTES = 2**30
"""Memory of one intermediate result; a network for 224 px takes some 10 MiB at most."""

MAX_SUM_BYTES = 2**33
"""Memory of all intermediate results together; an ordinary network needs few of them at once."""

MAX_MACS = 10**12
DEFAULT_SIDE_PX = 224
DOMAINS = ('', 'ai.onnx')
QUANTISED_DOMAIN = 'com.microsoft'


def check_network(data: bytes, name: str, *, side: int = DEFAULT_SIDE_PX) -> None:
    """Raise FamilyError unless the network is self-contained and its memory use is bounded.

    Only the operators of ONNX and the quantised operators of ONNX Runtime are allowed: no control
    flow, functions, external files or custom operators. `side` is the height and width in px for
    which memory is computed if the input size of the network is variable.
    """
    requirements.check('onnx', reason=f'{name} is an ONNX network')
    _check_version()
    if len(data) > MAX_FILE_BYTES:
        raise FamilyError(
            f'{name} has {len(data) / 2**20:.0f} MiB; at most {MAX_FILE_BYTES // 2**20} MiB are '
            'allowed'
        )
    model = parse(data, name)
    if not model.graph.node:
        raise FamilyError(f'{name} has no operators; the file is empty, truncated or damaged')
    if model.ByteSize() != len(data):
        raise FamilyError(
            f'{name} has contents that the installed onnx does not know; build the family again '
            'with dynamic-ofa family from-onnx, or update onnx'
        )
    _check_parts(model, name)
    _check_tensors(model, name)
    _check_operators(model, name)
    _check_size(model, name, side)


def _check_version() -> None:
    import onnx

    if tuple(int(part) for part in onnx.__version__.split('.')[:2]) < OLDEST_ONNX:
        raise MissingPackageError(
            f'onnx {onnx.__version__} cannot check networks; '
            f'{".".join(map(str, OLDEST_ONNX))} or later is required: pip install -U onnx'
        )


def parse(data: bytes, name: str) -> Any:
    """Parse a ModelProto and discard unknown fields; raise FamilyError if it is not valid."""
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's DecodeError; protobuf is not a dependency of this package
        raise FamilyError(f'{name} is truncated, damaged or not an ONNX file') from None
    model.DiscardUnknownFields()
    if not all(isinstance(text, str) for text in _names(model.graph)):
        raise FamilyError(f'{name} is damaged: it has names that are not UTF-8 text')
    return model


def _names(graph: Any) -> Iterator[str | bytes]:
    """Yield all names that the main graph uses; bytes where they are not UTF-8."""
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
    yield from (tensor.name for tensor in graph.initializer)
    for info in (*graph.input, *graph.output):
        yield from (info.name, *(d.dim_param for d in info.type.tensor_type.shape.dim))


def _check_parts(model: Any, name: str) -> None:
    for part, text in (
        (model.functions, 'custom functions'),
        (model.training_info, 'training information'),
        (model.graph.sparse_initializer, 'sparse weights'),
    ):
        if part:
            raise FamilyError(f'{name} has {text}, which are not allowed in a family')
    if len(model.graph.node) > MAX_NODES:
        raise FamilyError(
            f'{name} has {len(model.graph.node)} operators; at most {MAX_NODES} are allowed'
        )


def _check_tensors(model: Any, name: str) -> None:
    for tensor in messages(model, 'TensorProto'):
        where = f'{name}: tensor {tensor.name or "(without a name)"!r}'
        if tensor.data_location or tensor.external_data:
            raise FamilyError(
                f'{where} refers to another file; each network of a family must be one file'
            )
        if tensor.data_type not in ITEM_BYTES:
            raise FamilyError(
                f'{where} is of type {type_name(tensor.data_type)}, which is not allowed'
            )
        if tensor.HasField('segment') or min(tensor.dims, default=0) < 0:
            raise FamilyError(
                f'{where} has a negative dimension ({list(tensor.dims)}) or is split in segments'
            )
        _check_contents(tensor, where)


def _check_contents(tensor: Any, where: str) -> None:
    expected = Value(tensor.data_type, tuple(tensor.dims)).size_bytes or 0
    typed = ('float_data', 'int32_data', 'int64_data', 'double_data', 'uint64_data')
    found = len(tensor.raw_data)
    if not tensor.HasField('raw_data'):
        found = sum(len(getattr(tensor, field)) for field in typed)
        found *= ITEM_BYTES[tensor.data_type]
    if found != expected:
        raise FamilyError(
            f'{where} has {found} bytes, but its shape {list(tensor.dims)} requires {expected}; '
            'the file is damaged'
        )


def _check_operators(model: Any, name: str) -> None:
    for node in model.graph.node:
        operator = f'{node.domain}.{node.op_type}' if node.domain else node.op_type
        where = f'{name}: operator {operator} ({node.name or "without a name"})'
        quantised = node.domain == QUANTISED_DOMAIN and node.op_type in QUANTISED
        if node.domain not in DOMAINS and not quantised:
            raise FamilyError(
                f'{where} is not an ONNX operator; export the network without custom or fused '
                'operators'
            )
        for attribute in node.attribute:
            if attribute.HasField('g') or attribute.graphs:
                raise FamilyError(
                    f'{where} is a loop or a branch, which is not allowed; export the network in '
                    'evaluation mode and with a fixed size'
                )
            if attribute.HasField('sparse_tensor') or attribute.sparse_tensors:
                raise FamilyError(f'{where} has sparse values, which are not allowed')


def _check_size(model: Any, name: str, side: int) -> None:
    values = _inferred(model, name, side)
    produced = {output: node for node in model.graph.node for output in node.output if output}
    total = 0
    for output, node in produced.items():
        size = values[output].size_bytes
        where = f'{name}: the result of operator {node.op_type} ({node.name or output})'
        if size is None:
            raise FamilyError(
                f'{where} has a size that does not depend on the input size alone; export the '
                'network with a fixed size, or simplify it'
            )
        total += size
        if size > MAX_VALUE_BYTES:
            raise FamilyError(
                f'{where} takes {size / 2**20:.0f} MiB at {side} px; at most '
                f'{MAX_VALUE_BYTES // 2**20} MiB are allowed'
            )
    macs = count_macs(model, values)
    for found, limit, unit, divisor in (
        (total, MAX_SUM_BYTES, 'MiB of intermediate results', 2**20),
        (macs, MAX_MACS, 'million MACs', 10**6),
    ):
        if found > limit:
            raise FamilyError(
                f'{name} requires {found // divisor} {unit} at {side} px; at most '
                f'{limit // divisor} are allowed'
            )


def _inferred(model: Any, name: str, side: int) -> dict[str, Value]:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in DOMAINS and opset.version > newest:
            raise FamilyError(
                f'{name} has opset {opset.version}, but the installed onnx {onnx.__version__} '
                f'supports opsets up to {newest}: export with a lower opset, or update onnx'
            )
    try:
        return infer(model, side)
    except ValueError as error:
        raise FamilyError(f'{name} cannot run at {side} px: {shortened(str(error))}') from error


def type_name(data_type: int) -> str:
    """Return the name of a TensorProto.DataType, in lower case."""
    from onnx import TensorProto

    known = data_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type).lower() if known else f'number {data_type}'


def shortened(text: str, limit: int = 200) -> str:
    """Return a text on one line, shortened to at most `limit` characters."""
    text = ' '.join(text.split())
    return text if len(text) <= limit else f'{text[: limit - 3]}...'
