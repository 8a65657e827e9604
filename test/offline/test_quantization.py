from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from dynamic_ofa_ros.family import NETWORK_INPUT
from dynamic_ofa_ros.offline.networks.quantization import quantize
from dynamic_ofa_ros.supernet.onnx_export import write_onnx

SIDE, CLASSES = 24, 5


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    ).eval()
    path = tmp_path / 'network.onnx'
    write_onnx(layers, torch.zeros(1, 3, SIDE, SIDE), str(path))
    return path


def images(count: int, seed: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield random.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)


def answers(path: Path, seed: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return np.concatenate([session.run(None, {NETWORK_INPUT: x})[0] for x in images(20, seed)])


def test_an_int8_network_has_almost_the_same_outputs(network: Path, tmp_path: Path) -> None:
    target = tmp_path / 'int8.onnx'
    quantize(network, images(32, 1), target)
    exact, found = answers(network, 2), answers(target, 2)
    difference = float(np.abs(found - exact).max()) / float(np.ptp(exact))
    assert 1e-5 < difference < 0.1
    operators = {node.op_type for node in onnx.load(target).graph.node}
    assert {'QuantizeLinear', 'DequantizeLinear'} <= operators
    weights = [
        tensor
        for tensor in onnx.load(target).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert len(weights) == 2  # both convolutions


def test_quantisation_leaves_no_partial_file_and_logs_nothing(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield from images(2, 1)
        raise OSError('a damaged image')

    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match='a damaged image'):
        quantize(network, failing(), tmp_path / 'int8.onnx')
    assert sorted(tmp_path.iterdir()) == before
    with caplog.at_level(logging.WARNING):
        quantize(network, images(4, 1), tmp_path / 'int8.onnx')
    assert 'pre-processing' not in caplog.text
