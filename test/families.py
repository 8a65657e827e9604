"""Small random families for tests, whose levels have clearly different logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture

CLASSES = 16


def make_random_family(
    directory: Path,
    *,
    levels: int = 3,
    classes: int = CLASSES,
    width_mult: float = 0.35,
    seed: int = 0,
    name: str = 'random',
    kind: str = 'ofa_mobilenetv3',
) -> Path:
    """Write a family with random weights and random batch-norm statistics; return its directory.

    With the weights initialised by `ofa`, all logits can be 0. So all batch norms are also random,
    in ranges that prevent this, and each level has its own statistics.
    """
    import torch

    from dynamic_ofa_ros.family import (
        BackboneSpec,
        Level,
        Preprocessing,
        write_family,
    )
    from dynamic_ofa_ros.space.spaces import search_space
    from dynamic_ofa_ros.supernet.batch_norm import recalculate, save_statistics, statistics_of
    from dynamic_ofa_ros.supernet.network import build_supernet, extract_subnet
    from dynamic_ofa_ros.supernet.weights import save_tensors

    directory.mkdir(parents=True, exist_ok=True)
    backbone = BackboneSpec(name, kind, width_mult, classes)
    generator = torch.Generator().manual_seed(seed)
    supernet = build_supernet(backbone).eval()
    randomise(supernet, generator)
    save_tensors(supernet.state_dict(), directory / 'backbone.safetensors')
    random = np.random.default_rng(seed)
    statistics, members = {}, []
    for index in range(1, levels + 1):
        share = (index - 1) / max(1, levels - 1)
        space = search_space(kind, (32 + 16 * round(share * 2),))
        architecture = _architecture(space, share, random)
        subnet = extract_subnet(supernet, architecture)
        images = torch.randn(8, 3, architecture.r, architecture.r, generator=generator)
        recalculate(subnet, [images])
        statistics[index] = statistics_of(subnet)
        cost = space.count_cost(architecture, width_mult, classes)
        members.append(
            Level(
                index=index,
                name=f'level {index}',
                network=architecture,
                accuracy=0.5 + 0.4 * share,
                macs=cost.macs,
                parameters=cost.parameters,
            )
        )
    save_statistics(statistics, directory / 'batch_norm.safetensors')
    write_family(
        directory,
        name=name,
        source=backbone,
        preprocessing=Preprocessing(),
        levels=members,
        labels=[f'class {i}' for i in range(classes)],
    )
    return directory


def _architecture(
    space: SearchSpace, share: float, random: np.random.Generator
) -> SubnetArchitecture:
    """Return random kernel sizes; all other choices are at `share` of their range."""
    values: list[float] = []
    for genes in space.genes:
        if genes.field == 'ks':
            values += random.choice(genes.choices, genes.count).tolist()
        else:
            values += [genes.choices[round(share * (len(genes.choices) - 1))]] * genes.count
    return space.assemble(values)


def make_random_backbone(folder: Path, classes: Sequence[str], *, seed: int = 1) -> Path:
    """Write a tiny backbone whose sub-networks differ clearly; return its folder."""
    import torch

    from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
    from dynamic_ofa_ros.supernet.network import build_supernet
    from dynamic_ofa_ros.supernet.trained import TrainedBackbone

    spec = BackboneSpec('tiny', 'ofa_mobilenetv3', 0.1, len(classes))
    supernet = build_supernet(spec).eval()
    randomise(supernet, torch.Generator().manual_seed(seed))
    folder.mkdir()
    TrainedBackbone(folder, spec, Preprocessing(), tuple(classes), (32, 48), {}).save(supernet)
    return folder


def randomise(module: object, generator: object) -> None:
    """Set random batch norms, and weights of a suitable size.

    All values are set, because the initial ones depend on the state of the random generator.
    """
    import torch
    from torch import nn

    assert isinstance(module, nn.Module)
    assert isinstance(generator, torch.Generator)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                count = layer.num_features
                layer.weight.copy_(0.7 + 0.6 * torch.rand(count, generator=generator))
                layer.bias.copy_(0.3 * torch.randn(count, generator=generator))
                layer.running_mean.copy_(0.1 * torch.randn(count, generator=generator))
                layer.running_var.copy_(0.5 + torch.rand(count, generator=generator))
            elif isinstance(layer, nn.Linear):
                layer.weight.copy_(
                    torch.randn(layer.weight.shape, generator=generator)
                    * (1.0 / layer.in_features**0.5)
                )
            elif isinstance(layer, nn.Conv2d):
                fan_in = layer.weight[0].numel()
                layer.weight.copy_(
                    torch.randn(layer.weight.shape, generator=generator) * (2.0 / fan_in) ** 0.5
                )
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None:
                layer.bias.zero_()


def make_colour_family(folder: Path) -> Family:
    """Build a family that classifies the colours of `onnx_networks.colour_folders`."""
    from onnx_networks import COLOURS, colour_network

    from dynamic_ofa_ros.cli.main import main
    from dynamic_ofa_ros.family import Family

    folder.mkdir(parents=True, exist_ok=True)
    accuracies = {32: 0.8, 128: 0.9, 256: 0.95}
    network = {
        'file': str(colour_network(folder / 'net.onnx', depth=6)),
        'values': 'unit',
        'resolutions': list(accuracies),
        'accuracy': accuracies,
    }
    (folder / 'labels.txt').write_text('\n'.join(COLOURS), encoding='utf-8')
    (folder / 'list.yaml').write_text(yaml.safe_dump({'networks': [network]}), encoding='utf-8')
    options = ['--labels', str(folder / 'labels.txt'), '--output', str(folder / 'family')]
    assert main(['family', 'from-onnx', str(folder / 'list.yaml'), *options]) == 0
    return Family.load(folder / 'family')
