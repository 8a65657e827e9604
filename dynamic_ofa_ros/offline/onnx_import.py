"""Read an image classifier from an ONNX file and bring it into the form a family keeps.

In that form there is one input, `input`, float32 (1, 3, side, side) RGB, and one output,
`logits`, float32 (1, classes). What a file has instead is adapted by operators in the graph.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.onnx_safety import (
    DEFAULT_SIDE_PX,
    MAX_FILE_BYTES,
    check_network,
    parse,
    shortened,
    type_name,
)
from dynamic_ofa_ros.onnx_shapes import count_macs, count_parameters, infer, messages

INPUT = 'input'
OUTPUT = 'logits'
SIDE = 'side'
LAYOUTS = ('nchw', 'nhwc')
CHANNEL_ORDERS = ('rgb', 'bgr')
LABELS_KEY = 'dynamic_ofa.labels'
PREPROCESSING_KEY = 'dynamic_ofa.preprocessing'
PREPROCESSING_FACTS = ('mean', 'std', 'crop_fraction', 'interpolation')

OLDEST_OPSET = 7
IR_VERSIONS = (8, 10)
"""What every ONNX Runtime of the last years reads; newer versions add nothing needed here."""

MAX_METADATA_CHARACTERS = 2**20
NOISE_INPUTS = 3
SUM_TOLERANCE = 0.01
SMALLEST_PROBABILITY = 1e-30

ULTRALYTICS = {'mean': [0.0] * 3, 'std': [1.0] * 3, 'crop_fraction': 1.0}
"""Its classifiers see values in [0, 1] of the whole shorter side."""

RAW_VALUES = {'mean': [0.0] * 3, 'std': [1 / 255] * 3}
"""Values as they are in the image, 0 to 255, in terms of a family's preprocessing."""

OTHER_FORMATS = (
    (0, b'PK\x03\x04', 'a zip archive, as PyTorch (.pt, .pth, TorchScript) and Keras write'),
    (0, b'\x80', 'a pickle, as older PyTorch checkpoints are'),
    (0, b'\x89HDF', 'an HDF5 file, as Keras writes'),
    (4, b'TFL3', 'a TensorFlow Lite file'),
    (4, b'ORTM', 'in the ORT format of ONNX Runtime'),
    (8, b'{"', 'a safetensors file: weights without a network'),
    (0, b'ptrt', 'a TensorRT engine'),
    (0, b'ftrt', 'a TensorRT engine'),
    (0, b'<?xml', 'an XML file, as OpenVINO writes'),
    (0, b'version https://git-lfs', 'a Git LFS pointer (git lfs pull fetches the file)'),
    (0, b'<', 'a web page or another text'),
)

Images = NDArray[np.float32]


@dataclass(frozen=True)
class ImportedNetwork:
    """A classifier in a family's form; `resolution` is None where the input size is free.

    `preprocessing` holds what the file says of a family's preprocessing (some or all of
    PREPROCESSING_FACTS); `notes` say what was adapted, for the user.
    """

    name: str
    model: bytes = field(repr=False)
    resolution: int | None
    classes: int
    labels: tuple[str, ...] = field(repr=False)
    preprocessing: Mapping[str, Any]
    parameters: int
    notes: tuple[str, ...]

    def macs_at(self, resolution: int) -> int:
        """Return the multiply-accumulates of one image; the network is not run."""
        model = parse(self.model, self.name)
        return count_macs(model, infer(model, resolution))


def read_classifier(
    path: Path,
    *,
    layout: str | None = None,
    channel_order: str = 'rgb',
    side: int = DEFAULT_SIDE_PX,
) -> ImportedNetwork:
    """Return the classifier of an ONNX file; raise FamilyError with what was found and to do.

    `layout` (LAYOUTS) is needed only where the shape of the input does not tell. With
    `channel_order` 'bgr' the network's own input is BGR. A network with a free input size is
    tried at `side` px.
    """
    requirements.check('onnx', 'onnxruntime', reason='ONNX networks are to be read')
    name = path.name
    model, notes = _read(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    _check_task(metadata, name)
    preprocessing = _preprocessing(metadata, name)
    _strip(model, notes)
    resolution, raw = _adapt_input(model, name, layout, channel_order, notes)
    if raw:
        preprocessing.update(RAW_VALUES)
    data = model.SerializeToString()
    check_network(data, name, side=side)
    scores = _run_on_noise(data, name, resolution or side, 255 if raw else 1)
    _adapt_output(model, name, scores, notes)
    data = model.SerializeToString()
    check_network(data, name, side=side)
    classes = scores[0].size
    return ImportedNetwork(
        name=name,
        model=data,
        resolution=resolution,
        classes=classes,
        labels=_labels(metadata, classes, name, notes),
        preprocessing=preprocessing,
        parameters=count_parameters(model),
        notes=tuple(notes),
    )


def check_resolution(network: ImportedNetwork, resolution: int) -> None:
    """Raise FamilyError unless the network runs at a size and gives finite logits there."""
    choose_resolutions(network, (resolution,))
    try:
        check_network(network.model, network.name, side=resolution)
        scores = _run_on_noise(network.model, network.name, resolution, 1)
        if scores[0].shape != (1, network.classes):
            raise FamilyError(f'{network.name} gives {scores[0].shape} at {resolution} px')
    except FamilyError as error:
        raise FamilyError(
            f'{error}; export it with global pooling and a free size, or leave {resolution} out'
        ) from error


def choose_resolutions(
    network: ImportedNetwork, resolutions: Sequence[int] = ()
) -> tuple[int, ...]:
    """Return the input sizes of a network's levels; raise FamilyError where they do not fit it."""
    if network.resolution is None:
        if not resolutions:
            raise FamilyError(
                f'{network.name} has a free input size: give --resolutions, such as '
                '--resolutions 96,128,160,192,224; each becomes a level'
            )
        return tuple(resolutions)
    for resolution in resolutions:
        if resolution != network.resolution:
            raise FamilyError(
                f'{network.name} has the fixed input size {network.resolution} px and cannot run '
                f'at {resolution} px: export it with a free height and width, or leave '
                f'{resolution} out'
            )
    return (network.resolution,)


def _read(path: Path) -> tuple[Any, list[str]]:
    """Return the model with all weights in it and without functions, and notes."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FamilyError(
                f'{path} has {size / 2**20:.0f} MiB; at most {MAX_FILE_BYTES // 2**20} are allowed'
            )
        data = path.read_bytes()
    except OSError as error:
        raise FamilyError(f'{path} cannot be read: {error.strerror or error}') from error
    try:
        model = parse(data, path.name)
        known = bool(model.graph.node)
    except FamilyError:
        known = False
    if not known:
        for offset, magic, what in OTHER_FORMATS:
            if data[offset:].startswith(magic):
                raise FamilyError(f'{path.name} is no ONNX file but {what}: export it to ONNX')
        raise FamilyError(
            f'{path.name} ({len(data)} bytes) is truncated, empty or no ONNX file: export again'
        )
    notes: list[str] = []
    _embed_weights(model, path, notes)
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    return model, notes


def _embed_weights(model: Any, path: Path, notes: list[str]) -> None:
    """Load tensors that lie in other files of the model's folder into the model."""
    folders = (path.parent.resolve(), path.resolve().parent)
    room = MAX_FILE_BYTES
    names = set()
    for tensor in messages(model, 'TensorProto'):
        if not tensor.data_location and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get('location', '')
        file = (path.parent / location).resolve()
        where = f'{path.name} keeps weights in another file, {location!r},'
        if Path(location).name != location or file.parent not in folders:
            raise FamilyError(f'{where} outside its folder: export the network as one file')
        try:
            offset = int(entries.get('offset', 0))
            length = int(entries.get('length', file.stat().st_size - offset))
            room -= length
            if offset < 0 or length < 0 or room < 0:
                raise FamilyError(
                    f'{where} which is damaged or has more than {MAX_FILE_BYTES // 2**20} MiB'
                )
            with file.open('rb') as stream:
                stream.seek(offset)
                contents = stream.read(length)
        except (OSError, ValueError) as error:
            raise FamilyError(
                f'{where} which cannot be read ({shortened(error)}): put it beside the model, or '
                'export with external_data=False'
            ) from error
        if len(contents) != length:
            raise FamilyError(f'{where} which is truncated: copy or export it again')
        tensor.raw_data = contents
        tensor.ClearField('external_data')
        tensor.ClearField('data_location')
        names.add(location)
    notes.extend(f'weights of {name} taken into the model' for name in sorted(names))


def _check_task(metadata: Mapping[str, str], name: str) -> None:
    task = metadata.get('task', 'classify')
    if task != 'classify':
        raise FamilyError(
            f"{name} is made for '{task}', not for classification; with Ultralytics, export a "
            "classification model ('-cls')"
        )


def _strip(model: Any, notes: list[str]) -> None:
    """Remove what only describes (it can hold paths), and lower the IR version."""
    from onnx.helper import make_opsetid

    for kind in ('ModelProto', 'GraphProto', 'NodeProto', 'TensorProto', 'ValueInfoProto'):
        for message in messages(model, kind):
            for described in ('metadata_props', 'doc_string', 'device_configurations'):
                if described in message.DESCRIPTOR.fields_by_name:
                    message.ClearField(described)
    for claims in ('value_info', 'quantization_annotation'):
        model.graph.ClearField(claims)
    if 'configuration' in model.DESCRIPTOR.fields_by_name:
        model.ClearField('configuration')
    used = {node.domain for node in model.graph.node}
    kept = [o for o in model.opset_import if o.domain in ('', 'ai.onnx') or o.domain in used]
    kept = [make_opsetid(o.domain, o.version) for o in kept]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    lowest, highest = IR_VERSIONS
    if model.ir_version > highest:
        notes.append(f'IR version {model.ir_version} lowered to {highest}')
    model.ir_version = min(max(model.ir_version, lowest), highest)


def _adapt_input(
    model: Any, name: str, layout: str | None, channel_order: str, notes: list[str]
) -> tuple[int | None, bool]:
    """Make `input` the only input; return its fixed size, and whether it takes raw values."""
    from onnx.helper import make_node, make_tensor, make_tensor_value_info

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
            'has one, the scores of the classes: export the network in evaluation mode, and with '
            'that output only'
        )
    what = f'the input of {name}, {_described(inputs)},'
    kind = inputs[0].type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    if kind.elem_type not in (1, 2, 10, 11, 16):
        raise FamilyError(f'{what} is no image: float32, float16 or uint8 values are expected')
    nhwc, resolution = _understood(dims, what, layout)
    opsets = [opset.version for opset in model.opset_import if opset.domain in ('', 'ai.onnx')]
    if min(opsets, default=0) < OLDEST_OPSET:
        raise FamilyError(f'{name} has opset {opsets}; {OLDEST_OPSET} or later is needed')

    old = inputs[0].name
    if old != INPUT:
        _rename(graph, INPUT, f'{INPUT}_of_the_file')
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if channel_order == 'bgr':
        graph.initializer.append(make_tensor('dynamic_ofa_bgr', 7, (3,), (2, 1, 0)))
        steps.append(('Gather', ['dynamic_ofa_bgr'], {'axis': 1}))
        notes.append('input BGR: channels exchanged')
    raw = kind.elem_type == 2
    if raw:
        graph.initializer.append(make_tensor('dynamic_ofa_half', 1, (), (0.5,)))
        steps.append(('Add', ['dynamic_ofa_half'], {}))
    if kind.elem_type != 1:
        steps.append(('Cast', [], {'to': kind.elem_type}))
        notes.append(f'input {type_name(kind.elem_type)}: values cast')
    if nhwc:
        steps.append(('Transpose', [], {'perm': (0, 2, 3, 1)}))
        notes.append('input NHWC: transposed')
    if steps:
        _rename(graph, old, f'{INPUT}_of_the_file')
        old = f'{INPUT}_of_the_file'
    else:
        _rename(graph, old, INPUT)
    nodes, current = [], INPUT
    for index, (operator, more, attributes) in enumerate(steps):
        result = old if index == len(steps) - 1 else f'dynamic_ofa_{operator.lower()}'
        nodes.append(make_node(operator, [current, *more], [result], result, **attributes))
        current = result
    kept = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.input[:]
    graph.input.append(
        make_tensor_value_info(INPUT, 1, (1, 3, resolution or SIDE, resolution or SIDE))
    )
    return resolution, raw


def _understood(
    dims: Sequence[int | None], what: str, layout: str | None
) -> tuple[bool, int | None]:
    """Return whether the input is NHWC, and its height and width; None where they are free."""
    if len(dims) == 3:
        raise FamilyError(f'{what} has no batch dimension: export with an input (1, 3, H, W)')
    if len(dims) != 4:
        raise FamilyError(f'{what} is no image: a shape (1, 3, H, W) is expected')
    if dims[0] not in (None, 1):
        raise FamilyError(
            f'{what} takes {dims[0]} images at once: export with a batch of 1 or a free one'
        )
    if layout is None:
        found = [known for known, axis in zip(LAYOUTS, (1, 3), strict=True) if dims[axis] == 3]
        if len(found) != 1:
            if 1 in (dims[1], dims[3]):
                raise FamilyError(f'{what} has 1 channel (grey): a network for colour has 3')
            raise FamilyError(
                f'{what} does not tell which dimension is the 3 channels: give the layout, nchw '
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
        raise FamilyError(f'{what} is {width}x{height}: only square inputs are possible')
    return nhwc, height or width


def _described(infos: Sequence[Any]) -> str:
    """Return names, types and shapes, as in `x float (1, 3, ?, ?)`."""
    texts = []
    for info in list(infos)[:8]:
        kind = info.type.tensor_type
        dims = (
            str(d.dim_value) if d.dim_value > 0 else d.dim_param or '?' for d in kind.shape.dim
        )
        texts.append(f'{info.name} {type_name(kind.elem_type)} ({", ".join(dims)})')
    return '; '.join(texts) + ('; ...' if len(infos) > 8 else '')


def _rename(graph: Any, old: str, new: str) -> None:
    """Rename a tensor wherever the main graph names it."""
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for named in (*graph.initializer, *graph.input, *graph.output):
        if named.name == old:
            named.name = new


def _run_on_noise(data: bytes, name: str, side: int, scale: float) -> list[Images]:
    """Return what the network answers to a few noise images with values from 0 to `scale`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    random = np.random.default_rng(0)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
        scores = [
            session.run(None, {INPUT: random.random((1, 3, side, side), np.float32) * scale})[0]
            for scale in (scale, scale / 2, scale / 4)
        ]
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise FamilyError(
            f'{name} cannot run at {side} px: onnxruntime {onnxruntime.__version__} says '
            f'{_reason(error)}'
        ) from error
    if not all(np.isfinite(values).all() for values in scores):
        raise FamilyError(f'{name} gives values that are not finite at {side} px: export float32')
    return scores


def _reason(error: Exception) -> str:
    """Return ONNX Runtime's message without its codes and the paths of its sources."""
    text = re.sub(r'^\[ONNXRuntimeError\] : \d+ : \w+ : ', '', str(error))
    return shortened(Exception(re.sub(r'/\S+\.(cc|h):\d+ ', '', text)))


def _adapt_output(model: Any, name: str, scores: Sequence[Images], notes: list[str]) -> None:
    """Make `logits`, float32 (1, classes), the only output."""
    from onnx.helper import make_node, make_tensor, make_tensor_value_info

    graph, shape = model.graph, scores[0].shape
    what = f'the output of {name}, {graph.output[0].name} {scores[0].dtype} {shape},'
    if not np.issubdtype(scores[0].dtype, np.floating):
        raise FamilyError(f'{what} is no scores: export without the final choice of a class')
    if len(shape) < 2:
        raise FamilyError(f'{what} has no batch dimension: (1, classes) is expected')
    if shape[0] != 1 or prod(shape) != max(shape):
        kind = {3: 'boxes or features', 4: 'maps, as for segmentation'}.get(len(shape), 'values')
        raise FamilyError(
            f'{what} holds {kind}: a classifier gives (1, classes); export a network for '
            'classification'
        )
    if scores[0].size < 2:
        raise FamilyError(
            f'{what} is a single score: a classifier gives one per class, 2 at least'
        )
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if len(shape) > 2:
        steps.append(('Flatten', [], {'axis': 1}))
        notes.append(f'output {shape}: flattened')
    if scores[0].dtype != np.float32:
        steps.append(('Cast', [], {'to': 1}))
        notes.append(f'output {scores[0].dtype}: cast to float32')
    if _are_probabilities(scores):
        tiny = make_tensor('dynamic_ofa_tiny', 1, (), (SMALLEST_PROBABILITY,))
        graph.initializer.append(tiny)
        steps += [('Add', ['dynamic_ofa_tiny'], {}), ('Log', [], {})]
        notes.append('output probabilities: logarithm appended')
    elif all(values.min() >= 0 and values.max() <= 1 for values in scores):
        notes.append(
            'the scores lie in [0, 1] and do not sum to 1 (a sigmoid?): the order of the classes '
            'is right, the confidences are not'
        )
    current = graph.output[0].name
    if current != OUTPUT:
        _rename(graph, OUTPUT, f'{OUTPUT}_of_the_file')
    if steps:
        _rename(graph, current, f'{OUTPUT}_of_the_file')
        current = f'{OUTPUT}_of_the_file'
    else:
        _rename(graph, current, OUTPUT)
    for index, (operator, more, attributes) in enumerate(steps):
        last = index == len(steps) - 1
        result = OUTPUT if last else f'dynamic_ofa_{OUTPUT}_{operator.lower()}'
        graph.node.append(make_node(operator, [current, *more], [result], result, **attributes))
        current = result
    del graph.output[:]
    graph.output.append(make_tensor_value_info(OUTPUT, 1, (1, scores[0].size)))


def _are_probabilities(scores: Sequence[Images]) -> bool:
    return all(
        values.min() >= 0 and abs(values.sum(dtype=np.float64) - 1) < SUM_TOLERANCE
        for values in scores
    )


def _labels(
    metadata: Mapping[str, str], classes: int, name: str, notes: list[str]
) -> tuple[str, ...]:
    """Return the class names that the file states; none where they do not fit."""
    own, ultralytics = metadata.get(LABELS_KEY), metadata.get('names')
    text = own or ultralytics or ''
    if not text or len(text) > MAX_METADATA_CHARACTERS:
        return ()
    try:
        stated = json.loads(text) if own else ast.literal_eval(text)
        if isinstance(stated, dict):
            stated = [stated[index] for index in range(len(stated))]
        labels = tuple(str(label) for label in stated)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        notes.append(f'the class names in {name} cannot be read')
        return ()
    if len(labels) != classes:
        notes.append(f'{name} names {len(labels)} classes and has {classes}: names left out')
        return ()
    return labels


def _preprocessing(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return what the file states of a family's preprocessing."""
    text = metadata.get(PREPROCESSING_KEY)
    if text is None:
        return dict(ULTRALYTICS) if metadata.get('author') == 'Ultralytics' else {}
    try:
        facts = json.loads(text)
        unknown = sorted(set(facts) - set(PREPROCESSING_FACTS))
    except (ValueError, TypeError, RecursionError) as error:
        raise FamilyError(f'{PREPROCESSING_KEY} in {name} is no JSON mapping: {error}') from error
    if unknown or not isinstance(facts, dict):
        raise FamilyError(
            f'{PREPROCESSING_KEY} in {name} has unknown keys {unknown}; known are '
            f'{", ".join(PREPROCESSING_FACTS)}'
        )
    return facts
