"""Tiny ONNX classifiers of the strongest colour of an image, and images for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLOURS = ('crimson', 'emerald', 'navy')


def colour_network(
    path: Path,
    side: int | str = 'side',
    *,
    depth: int = 0,
    known: int = 3,
    mean: float = 0.0,
) -> Path:
    """Write a classifier of (1, 3, side, side) RGB values 0 to 1; side: a text if variable.

    depth: number of identity convolutions, which only take time. known: number of COLOURS that it
    classifies correctly. mean: assumed middle of the input values.
    """
    identity = np.zeros((3, 3, 3, 3), np.float32)
    identity[range(3), range(3), 1, 1] = 1.0
    matrix = np.diag([10.0] * known + [0.0] * (3 - known)).astype(np.float32)
    bias = np.array([mean] * known + [-100.0] * (3 - known), np.float32)
    nodes, value = [], 'image'
    for index in range(depth):
        nodes.append(
            helper.make_node('Conv', [value, 'identity'], [f'same{index}'], pads=[1, 1, 1, 1])
        )
        value = f'same{index}'
    nodes += [
        helper.make_node('GlobalAveragePool', [value], ['pooled']),
        helper.make_node('Flatten', ['pooled'], ['flat']),
        helper.make_node('Gemm', ['flat', 'matrix', 'bias'], ['scores']),
    ]
    weights = {'matrix': matrix, 'bias': bias, **({'identity': identity} if depth else {})}
    graph = helper.make_graph(
        nodes,
        'colours',
        [helper.make_tensor_value_info('image', TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info('scores', TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.save(model, path)
    return path


def colour_folders(root: Path, images: int = 4) -> Path:
    """Write class folders of images of one colour with some noise."""
    rng = np.random.default_rng(1)
    for channel, name in enumerate(COLOURS):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(images):
            rgb = rng.integers(0, 60, (40, 48, 3)).astype(np.uint8)
            rgb[..., channel] += 150
            cv2.imwrite(str(folder / f'{index}.png'), rgb[..., ::-1])
    return root
