"""Read an image classifier from an ONNX file and convert it to the form of a family.

This form has one input, `input`, float32 (1, 3, side, side), and one output, `logits`, float32
(1, classes). Other inputs and outputs are adapted by operators in the graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import NETWORK_INPUT
from dynamic_ofa_ros.family.onnx_safety import DEFAULT_SIDE_PX, check_network, parse, shortened
from dynamic_ofa_ros.family.onnx_shapes import count_macs, count_parameters, infer, is_quantised
from dynamic_ofa_ros.offline.networks.onnx_adapting import adapt_input, adapt_output
from dynamic_ofa_ros.offline.networks.onnx_file import read_model, strip
from dynamic_ofa_ros.offline.networks.onnx_metadata import (
    check_task,
    read_labels,
    read_preprocessing,
)

RAW_VALUES = {'mean': [0.0] * 3, 'std': [1 / 255] * 3}
"""Preprocessing for pixel values from 0 to 255."""

NOISE_IMAGES = 3
SILENT = 4  # log level of ONNX Runtime; its errors are in the exceptions


@dataclass(frozen=True)
class ImportedNetwork:
    """A classifier in the form of a family; `resolution` is None if the input size is variable.

    `preprocessing` contains the fields of `family.Preprocessing` that the file states; `notes`
    describe the adaptations for the user.
    """

    name: str
    model: bytes = field(repr=False)
    resolution: int | None
    classes: int
    labels: tuple[str, ...] = field(repr=False)
    preprocessing: Mapping[str, Any]
    parameters: int
    notes: tuple[str, ...]
    precision: str = 'fp32'

    def macs_at(self, resolution: int) -> int:
        """Return the multiply-accumulates for one image, without running the network."""
        model = parse(self.model, self.name)
        return count_macs(model, infer(model, resolution))


def read_classifier(
    path: Path,
    *,
    layout: str | None = None,
    side: int = DEFAULT_SIDE_PX,
) -> ImportedNetwork:
    """Return the classifier in an ONNX file; raise FamilyError if it is not supported.

    `layout`, 'nchw' or 'nhwc', is required only if the shape of the input does not show it. A
    network with a variable input size is tested at `side` px.
    """
    requirements.check('onnx', 'onnxruntime', reason='ONNX networks are to be read')
    name = path.name
    model, notes = read_model(path)
    entries = ((entry.key, entry.value) for entry in model.metadata_props)
    metadata = {key: value for key, value in entries if isinstance(value, str)}
    check_task(metadata, name)
    preprocessing = read_preprocessing(metadata, name)
    notes += strip(model)
    resolution, is_raw, changes = adapt_input(model, name, layout)
    side = resolution or side
    notes += changes
    if is_raw:
        preprocessing.update(RAW_VALUES)
    data = model.SerializeToString()
    check_network(data, name, side=side)
    scores = _answers_to_noise(data, name, side, 255 if is_raw else 1)
    notes += adapt_output(model, name, scores)
    data = model.SerializeToString()
    check_network(data, name, side=side)
    classes = scores[0].size
    labels, remarks = read_labels(metadata, classes)
    if 'license' in metadata:
        notes.append(f'license stated in the file: {shortened(metadata["license"])}')
    return ImportedNetwork(
        name=name,
        model=data,
        resolution=resolution,
        classes=classes,
        labels=labels,
        preprocessing=preprocessing,
        parameters=count_parameters(model),
        notes=(*notes, *remarks),
        precision='int8' if any(map(is_quantised, model.graph.node)) else 'fp32',
    )


def check_resolution(network: ImportedNetwork, resolution: int) -> None:
    """Raise FamilyError unless the network runs at this size with finite logits."""
    if network.resolution not in (None, resolution):
        raise FamilyError(
            f'{network.name} has the fixed input size {network.resolution} px and cannot run at '
            f'{resolution} px: export it with variable height and width, or omit {resolution}'
        )
    try:
        check_network(network.model, network.name, side=resolution)
        scores = _answers_to_noise(network.model, network.name, resolution, 1)
        if scores[0].shape != (1, network.classes):
            raise FamilyError(
                f'{network.name} has scores of shape {scores[0].shape} at {resolution} px, not '
                f'{(1, network.classes)}'
            )
    except FamilyError as error:
        raise FamilyError(
            f'{error}; export it for any size (global pooling, no fixed positions), or leave '
            f'{resolution} out'
        ) from error


def _answers_to_noise(data: bytes, name: str, side: int, largest: float) -> list[NDArray[Any]]:
    """Return the outputs of the network for a few images of noise from 0 to at most `largest`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = 1
    random = np.random.default_rng(0)
    images = [
        random.random((1, 3, side, side), np.float32) * np.float32(largest / 2**index)
        for index in range(NOISE_IMAGES)
    ]
    try:
        session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
        scores = [session.run(None, {NETWORK_INPUT: image})[0] for image in images]
    except Exception as error:  # the exceptions of ONNX Runtime have no common base
        raise FamilyError(
            f'{name} cannot run at {side} px: onnxruntime {onnxruntime.__version__} says: '
            f'{_reason(error)}'
        ) from error
    if not all(np.isfinite(values).all() for values in scores):
        raise FamilyError(
            f'{name} has scores that are not finite at {side} px: export it in float32, and '
            'check its weights'
        )
    return scores


def _reason(error: Exception) -> str:
    """Return the message of ONNX Runtime without its codes and source paths."""
    text = re.sub(r'^\[ONNXRuntimeError\] : \d+ : \w+ : ', '', str(error))
    text = re.sub(r'/\S+\.(cc|h):\d+ [^(]*\(.*?\) (?=\w)', '', text)
    newest = re.search(r'till opset (\d+)', text)
    if newest:
        return f'its newest opset is {newest[1]}: export with a lower opset, or update onnxruntime'
    return shortened(text)
