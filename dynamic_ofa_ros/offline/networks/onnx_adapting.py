"""Adapt the input and the output of an ONNX classifier to a family, by operators in its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import FREE_SIDE
from dynamic_ofa_ros.family import NETWORK_INPUT as INPUT
from dynamic_ofa_ros.family import NETWORK_OUTPUT as OUTPUT
from dynamic_ofa_ros.family.onnx_safety import DOMAINS, type_name

LAYOUTS = ('nchw', 'nhwc')

OLDEST_OPSET = 7
FLOAT = 1
UINT8 = 2
INPUT_TYPES = (FLOAT, UINT8, 10, 11, 16)
"""float, uint8, float16, double and bfloat16 of TensorProto.DataType."""

SUM_TOLERANCE = 0.01
SMALLEST_PROBABILITY = 1e-30
MAX_DESCRIBED = 8

Scores = NDArray[Any]


@dataclass(frozen=True)
class _Step:
    """An operator of a chain, with an optional constant as its second input."""

    operator: str
    constant: NDArray[Any] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def adapt_input(model: Any, name: str, layout: str | None) -> tuple[int | None, bool, list[str]]:
    """Make `input` the only input: float32 (1, 3, side, side).

    Return its fixed height and width in px (None: variable), whether the network expects raw
    values (0 to 255), and notes.
    """
    from onnx.helper import make_tensor_value_info

    graph = model.graph
    image = _only_input(model, name)
    kind = image.type.tensor_type
    what = f'the input of {name}, {_described([image])},'
    if kind.elem_type not in INPUT_TYPES:
        raise FamilyError(f'{what} is not an image: float32, float16 or uint8 values are required')
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    nhwc, resolution = _understood(dims, what, layout)

    steps, notes = [], []
    if kind.elem_type == UINT8:
        steps.append(_Step('Add', np.array(0.5, np.float32)))  # the cast rounds down
    if kind.elem_type != FLOAT:
        steps.append(_Step('Cast', attributes={'to': kind.elem_type}))
        notes.append(f'input {type_name(kind.elem_type)}: values cast')
    if nhwc:
        steps.append(_Step('Transpose', attributes={'perm': (0, 2, 3, 1)}))
        notes.append('input NHWC: transposed')
    old = _set_aside(graph, image.name, INPUT)
    nodes = [*_chain(graph, steps, INPUT, old), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.input[:]
    side = resolution or FREE_SIDE
    graph.input.append(make_tensor_value_info(INPUT, FLOAT, (1, 3, side, side)))
    return resolution, kind.elem_type == UINT8, notes


def adapt_output(model: Any, name: str, scores: Sequence[Scores]) -> list[str]:
    """Make `logits`, float32 (1, classes), of the only output; return notes.

    `scores` are outputs for some images; they determine shape, type and meaning of the output.
    """
    from onnx.helper import make_tensor_value_info

    graph, shape, kind = model.graph, scores[0].shape, scores[0].dtype
    _check_scores(scores[0], f'the output of {name}, {graph.output[0].name} {kind} {shape},')
    steps, notes = [], []
    if len(shape) > 2:
        steps.append(_Step('Flatten', attributes={'axis': 1}))
        notes.append(f'output {shape}: flattened')
    if kind != np.float32:
        steps.append(_Step('Cast', attributes={'to': FLOAT}))
        notes.append(f'output {kind}: cast to float32')
    if _are_probabilities(scores):
        steps.append(_Step('Add', np.array(SMALLEST_PROBABILITY, np.float32)))
        steps.append(_Step('Log'))
        notes.append('output probabilities: logarithm appended')
    elif all(0 <= values.min() < values.max() <= 1 for values in scores):
        notes.append(
            'the scores are in [0, 1] but their sum is not 1 (a sigmoid?): the order of classes '
            'is correct, but the confidences are not'
        )
    old = _set_aside(graph, graph.output[0].name, OUTPUT)
    graph.node.extend(_chain(graph, steps, old, OUTPUT))
    del graph.output[:]
    graph.output.append(make_tensor_value_info(OUTPUT, FLOAT, (1, scores[0].size)))
    return notes


def _only_input(model: Any, name: str) -> Any:
    """Return the only input of a network with one output and a supported opset."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in stored]
    if len(inputs) != 1:
        raise FamilyError(
            f'{name} has {len(inputs)} inputs ({_described(inputs)}); an image classifier has one'
        )
    if len(graph.output) != 1:
        raise FamilyError(
            f'{name} has {len(graph.output)} outputs ({_described(graph.output)}); a classifier '
            'has one, the scores of the classes: export the network in evaluation mode, with that '
            'output only'
        )
    opset = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=0)
    if opset < OLDEST_OPSET:
        raise FamilyError(
            f'{name} has opset {opset}; at least {OLDEST_OPSET} is required: export it again, or '
            'convert it with onnx.version_converter'
        )
    return inputs[0]


def _understood(
    dims: Sequence[int | None], what: str, layout: str | None
) -> tuple[bool, int | None]:
    """Return whether the input is NHWC, and its height and width; None if they are variable."""
    if len(dims) == 3:
        raise FamilyError(f'{what} has no batch dimension: export with an input (1, 3, H, W)')
    if len(dims) != 4:
        raise FamilyError(f'{what} is not an image: the shape (1, 3, H, W) is required')
    if dims[0] not in (None, 1):
        raise FamilyError(
            f'{what} has batch size {dims[0]}: export with batch size 1 or a variable one'
        )
    if layout is None:
        found = [known for known, axis in zip(LAYOUTS, (1, 3), strict=True) if dims[axis] == 3]
        if not found and 1 in (dims[1], dims[3]):
            raise FamilyError(f'{what} has 1 channel (grey): a network for colour images has 3')
        if len(found) != 1:
            raise FamilyError(
                f'{what} does not show which dimension is the 3 channels: give the layout, nchw '
                'or nhwc'
            )
        layout = found[0]
    nhwc = layout == 'nhwc'
    channels, height, width = (dims[i] for i in ((3, 1, 2) if nhwc else (1, 2, 3)))
    if channels not in (None, 3):
        raise FamilyError(
            f'{what} has {channels} channels as {layout}: a network for colour images has 3'
        )
    if height and width and height != width:
        raise FamilyError(f'{what} is {width}x{height}: the input must be square')
    return nhwc, height or width


def _check_scores(scores: Scores, what: str) -> None:
    shape = scores.shape
    if not np.issubdtype(scores.dtype, np.floating):
        raise FamilyError(f'{what} contains no scores: export it without the choice of a class')
    if len(shape) < 2:
        raise FamilyError(f'{what} has no batch dimension: (1, classes) is required')
    if shape[0] != 1 or prod(shape) != max(shape):
        kind = {3: 'boxes or features', 4: 'maps, as for segmentation'}.get(len(shape), 'values')
        raise FamilyError(
            f'{what} contains {kind}: a classifier has (1, classes); export a network for '
            'classification'
        )
    if scores.size < 2:
        raise FamilyError(f'{what} is a single score: a classifier has one per class, 2 or more')


def _are_probabilities(scores: Sequence[Scores]) -> bool:
    return all(
        values.min() >= 0 and abs(values.sum(dtype=np.float64) - 1) < SUM_TOLERANCE
        for values in scores
    )


def _described(infos: Sequence[Any]) -> str:
    """Return names, types and shapes, for instance `x float (1, 3, ?, ?)`."""
    texts = []
    for info in infos[:MAX_DESCRIBED]:
        kind = info.type.tensor_type
        dims = (
            str(d.dim_value) if d.dim_value > 0 else d.dim_param or '?' for d in kind.shape.dim
        )
        texts.append(f'{info.name} {type_name(kind.elem_type)} ({", ".join(dims)})')
    return '; '.join(texts) + ('; ...' if len(infos) > MAX_DESCRIBED else '')


def _chain(graph: Any, steps: Sequence[_Step], first: str, last: str) -> list[Any]:
    """Return operators from tensor `first` to `last`; without steps, unify both tensors."""
    from onnx import numpy_helper
    from onnx.helper import make_node

    if not steps:
        inner, outer = (first, last) if last == OUTPUT else (last, first)
        _rename(graph, inner, outer)
    nodes, current = [], first
    for step in steps:
        inputs = [current]
        if step.constant is not None:
            inputs.append(_fresh(graph, f'{step.operator}_constant'))
            graph.initializer.append(numpy_helper.from_array(step.constant, inputs[1]))
        current = last if step is steps[-1] else _fresh(graph, f'{first}_{step.operator}')
        nodes.append(make_node(step.operator, inputs, [current], **step.attributes))
    return nodes


def _set_aside(graph: Any, tensor: str, name: str) -> str:
    """Rename a tensor, and any other one called `name`; return the tensor's new name."""
    fresh = _fresh(graph, f'{tensor}_of_the_file')
    _rename(graph, tensor, fresh)
    _rename(graph, name, _fresh(graph, f'{name}_inside'))
    return fresh


def _fresh(graph: Any, stem: str) -> str:
    """Return a name that is not used by a tensor."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken.update(named.name for named in (*graph.initializer, *graph.input, *graph.output))
    while stem in taken:
        stem += '_'
    return stem


def _rename(graph: Any, old: str, new: str) -> None:
    """Rename a tensor in the whole main graph."""
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for named in (*graph.initializer, *graph.input, *graph.output):
        if named.name == old:
            named.name = new
