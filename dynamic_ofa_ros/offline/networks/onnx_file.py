"""Read an ONNX file in any form: with external weights, functions and descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family.onnx_safety import MAX_FILE_BYTES, parse, shortened
from dynamic_ofa_ros.family.onnx_shapes import messages

IR_VERSIONS = (8, 10)
"""Readable by every ONNX Runtime since 2024; features of later versions are not used here."""

DESCRIPTIONS = ('metadata_props', 'doc_string', 'device_configurations', 'configuration')
CLAIMS = ('value_info', 'quantization_annotation')

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
    (0, b'version https://git-lfs', 'a pointer of Git LFS (git lfs pull fetches the file)'),
    (0, b'<', 'a web page or another text'),
)
"""Position, first bytes and description of files that are mistaken for ONNX."""


def read_model(path: Path) -> tuple[Any, list[str]]:
    """Return the ModelProto with all weights and without functions, and notes."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FamilyError(
                f'{path} has {size / 2**20:.0f} MiB; at most {MAX_FILE_BYTES // 2**20} MiB are '
                'allowed'
            )
        data = path.read_bytes()
    except OSError as error:
        raise FamilyError(f'{path} cannot be read: {error.strerror or error}') from error
    model = _parsed(data, path.name)
    notes = _take_in_weights(model, path)
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    return model, notes


def _parsed(data: bytes, name: str) -> Any:
    try:
        model = parse(data, name)
    except FamilyError:
        model = None
    if model is not None and model.graph.node:
        return model
    for position, start, what in OTHER_FORMATS:
        if data[position:].startswith(start):
            raise FamilyError(f'{name} is not an ONNX file but {what}: export the network to ONNX')
    raise FamilyError(
        f'{name} ({len(data)} bytes) is truncated, empty or not ONNX: export or copy it again'
    )


def _take_in_weights(model: Any, path: Path) -> list[str]:
    """Load external tensors from files in the model's folder into the model."""
    room = MAX_FILE_BYTES
    locations = set()
    for tensor in messages(model, 'TensorProto'):
        if not tensor.data_location and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get('location', '')
        file = _beside(path, location)
        where = f'{path.name} has weights in another file, {location!r},'
        try:
            offset = int(entries.get('offset', 0))
            length = int(entries.get('length', file.stat().st_size - offset))
            room -= length
            if min(offset, length) < 0 or room < 0:
                raise FamilyError(
                    f'{where} which is damaged or has more than {MAX_FILE_BYTES // 2**20} MiB'
                )
            with file.open('rb') as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(length)
        except (OSError, ValueError) as error:
            raise FamilyError(
                f'{where} which cannot be read ({shortened(str(error))}): put it beside the '
                'model, or export with external_data=False'
            ) from error
        if len(tensor.raw_data) != length:
            raise FamilyError(f'{where} which is truncated: export or copy it again')
        tensor.ClearField('external_data')
        tensor.ClearField('data_location')
        locations.add(location)
    return [f'weights of {location} taken into the model' for location in sorted(locations)]


def _beside(path: Path, location: str) -> Path:
    """Return a file of the model's folder; links may lead to the folder of the model itself."""
    file = (path.parent / location).resolve()
    folders = (path.parent.resolve(), path.resolve().parent)
    if Path(location).name != location or file.parent not in folders:
        raise FamilyError(
            f'{path.name} has weights in another file outside its folder, {location!r}: export '
            'the network as one file'
        )
    return file


def strip(model: Any) -> list[str]:
    """Remove descriptions, which may contain paths, and lower the IR version; return notes."""
    for kind in ('ModelProto', 'GraphProto', 'NodeProto', 'TensorProto', 'ValueInfoProto'):
        for message in messages(model, kind):
            for described in DESCRIPTIONS:
                if described in message.DESCRIPTOR.fields_by_name:
                    message.ClearField(described)
    for claims in CLAIMS:
        model.graph.ClearField(claims)
    used = {'', 'ai.onnx', *(node.domain for node in model.graph.node)}
    for index in reversed(range(len(model.opset_import))):
        if model.opset_import[index].domain not in used:
            del model.opset_import[index]
    lowest, highest = IR_VERSIONS
    found = model.ir_version
    model.ir_version = min(max(found, lowest), highest)
    return [f'IR version {found} lowered to {highest}'] if found > highest else []
