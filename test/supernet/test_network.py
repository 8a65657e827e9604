from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from families import randomise
from reference import reference_file

from dynamic_ofa_ros.errors import ArchitectureError, BackboneError
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.spaces import search_space
from dynamic_ofa_ros.supernet.network import (
    PUBLISHED,
    build_supernet,
    extract_subnet,
    published_backbone,
    set_active,
)
from dynamic_ofa_ros.supernet.ofa_package import import_ofa

# At 72 px, the last stages of a ResNet-50 have odd input sizes.
RESOLUTIONS = (32, 48, 72)
TOLERANCE = 1e-5
SMALL = {
    kind: BackboneSpec('small', kind, width_mult, 10)
    for kind, width_mult in (
        ('ofa_mobilenetv3', 0.35),
        ('ofa_proxyless', 0.35),
        ('efficientnet_lite', 0.35),
        ('ofa_resnet50', 0.2),
    )
}


@dataclass(frozen=True)
class Supernet:
    backbone: BackboneSpec
    space: SearchSpace
    network: torch.nn.Module


@pytest.fixture(scope='module', params=list(SMALL))
def supernet(request: pytest.FixtureRequest) -> Supernet:
    backbone = SMALL[request.param]
    network = build_supernet(backbone)
    randomise(network, torch.Generator().manual_seed(3))
    return Supernet(backbone, search_space(backbone.kind, RESOLUTIONS), network.eval())


def count_with_hooks(network: torch.nn.Module, resolution: int) -> int:
    macs = 0

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(module, torch.nn.Conv2d):
            per_output = module.weight[0].numel()
        else:
            per_output = module.in_features
        macs += per_output * output.numel()

    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, resolution, resolution))
    return macs


@pytest.mark.parametrize('seed', range(3))
def test_extracted_network_equals_the_supernet(supernet: Supernet, seed: int) -> None:
    architecture = supernet.space.sample(np.random.default_rng(seed))
    subnet = extract_subnet(supernet.network, architecture)
    images = torch.from_numpy(
        np.random.default_rng(seed).normal(size=(4, 3, architecture.r, architecture.r))
    ).float()
    with torch.inference_mode():
        set_active(supernet.network, architecture)
        expected = supernet.network(images)
        found = subnet(images)
    scale = float(expected.std(0).mean())
    assert scale > 100 * TOLERANCE, 'the logits must differ'
    torch.testing.assert_close(found / scale, expected / scale, rtol=TOLERANCE, atol=TOLERANCE)


def test_another_architecture_has_other_outputs(supernet: Supernet) -> None:
    """Every list of an architecture changes the extracted network."""
    space = supernet.space.at_resolution(32)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    largest = space.largest().to_mapping()
    answers = []
    for field in ('none', *(name for name in largest if name != 'r')):
        smaller = {field: space.smallest().to_mapping()[field]} if field != 'none' else {}
        architecture = SubnetArchitecture.from_mapping({**largest, **smaller})
        with torch.inference_mode():
            answers.append(extract_subnet(supernet.network, architecture)(images))
    for first, second in itertools.combinations(answers, 2):
        assert float((first - second).abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize('seed', range(3))
def test_cost_equals_the_count_of_hooks(supernet: Supernet, seed: int) -> None:
    architecture = supernet.space.sample(np.random.default_rng(100 + seed))
    subnet = extract_subnet(supernet.network, architecture)
    backbone = supernet.backbone
    cost = supernet.space.count_cost(architecture, backbone.width_mult, backbone.classes)
    assert cost.parameters == sum(p.numel() for p in subnet.parameters())
    assert cost.macs == count_with_hooks(subnet, architecture.r)


@pytest.mark.parametrize('name', PUBLISHED)
def test_cost_of_published_backbones_equals_the_count_of_hooks(name: str) -> None:
    backbone = published_backbone(name)
    space = search_space(backbone.kind)
    with torch.device('meta'):  # shapes only, which is fast even for a ResNet-50
        supernet = build_supernet(backbone)
        architecture = space.sample(np.random.default_rng(1))
        subnet = extract_subnet(supernet, architecture)
        cost = space.count_cost(architecture, backbone.width_mult, backbone.classes)
        assert cost.parameters == sum(p.numel() for p in subnet.parameters())
        assert cost.macs == count_with_hooks(subnet, architecture.r)


def test_cost_of_a_published_level_equals_the_count_of_hooks() -> None:
    level = json.loads(reference_file('levels_xavier_nx.json').read_text())['gpu'][0]
    with torch.device('meta'):
        supernet = build_supernet(published_backbone('ofa_mbv3_d234_e346_k357_w1.2'))
        subnet = extract_subnet(supernet, SubnetArchitecture.from_mapping(level))
        assert count_with_hooks(subnet, level['r']) == level['macs']
    assert sum(p.numel() for p in subnet.parameters()) == level['params']


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_backbones_equal_those_of_ofa(name: str) -> None:
    """Tensor names and shapes equal those of the network built by `ofa.model_zoo`."""
    with torch.device('meta'):
        ours = build_supernet(published_backbone(name))
        theirs = import_ofa('model_zoo').ofa_net(name, pretrained=False)
    shapes = [
        {key: tuple(value.shape) for key, value in network.state_dict().items()}
        for network in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert ours.get_bn_param() == theirs.get_bn_param()


def test_extraction_copies_the_weights(supernet: Supernet) -> None:
    network = supernet.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    subnet = extract_subnet(network, supernet.space.smallest())
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_an_architecture_outside_the_space_is_rejected(supernet: Supernet) -> None:
    wrong = {**supernet.space.smallest().to_mapping(), 'e': [9] * supernet.space.blocks}
    with pytest.raises(ArchitectureError, match=r'e\[0\] is 9'):
        extract_subnet(supernet.network, SubnetArchitecture.from_mapping(wrong))


def test_an_architecture_of_another_kind_is_rejected(supernet: Supernet) -> None:
    for kind in SMALL.keys() - {supernet.backbone.kind}:
        with pytest.raises(ArchitectureError, match='values; this search space requires'):
            extract_subnet(supernet.network, search_space(kind).smallest())


def test_a_resnet_that_is_too_narrow_is_rejected() -> None:
    with pytest.raises(BackboneError, match=r'width 0.05; a ResNet-50 requires at least 0.1'):
        build_supernet(BackboneSpec('x', 'ofa_resnet50', 0.05, 10))


def test_unknown_backbones_are_rejected() -> None:
    with pytest.raises(BackboneError, match="unknown kind 'vit'"):
        build_supernet(BackboneSpec('x', 'vit', 1.0, 10))
    with pytest.raises(BackboneError, match='known are ofa_mbv3'):
        published_backbone('ofa_huge')


def test_importing_ofa_leaves_no_placeholder_modules() -> None:
    code = (
        'import sys\n'
        'from dynamic_ofa_ros.supernet.ofa_package import import_ofa\n'
        "import_ofa('imagenet_classification.elastic_nn.networks')\n"
        "left = [n for n, m in sys.modules.items() if n.startswith(('torchvision', 'gdown'))\n"
        "        and type(m).__name__ == '_Empty']\n"
        'sys.exit(repr(left) if left else 0)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
