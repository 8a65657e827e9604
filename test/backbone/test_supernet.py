from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from families import randomise
from reference import reference_file

from dynamic_ofa_ros.architecture import SearchSpace, SubnetArchitecture, count_cost
from dynamic_ofa_ros.backbone.supernet import (
    MOBILENET_V3,
    build_supernet,
    extract_subnet,
    published_backbone,
    set_active,
)
from dynamic_ofa_ros.errors import ArchitectureError, BackboneError
from dynamic_ofa_ros.family import BackboneSpec

SPACE = SearchSpace(resolutions=(32, 48, 64))
TOLERANCE = 1e-5
BACKBONE = BackboneSpec('small', MOBILENET_V3, 0.35, 10)


@pytest.fixture(scope='module')
def supernet() -> torch.nn.Module:
    network = build_supernet(BACKBONE)
    randomise(network, torch.Generator().manual_seed(3))
    return network.eval()


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


@pytest.mark.parametrize('seed', range(4))
def test_extracted_network_equals_the_supernet(supernet: torch.nn.Module, seed: int) -> None:
    architecture = SPACE.sample(np.random.default_rng(seed))
    subnet = extract_subnet(supernet, architecture)
    images = torch.from_numpy(
        np.random.default_rng(seed).normal(size=(4, 3, architecture.r, architecture.r))
    ).float()
    with torch.inference_mode():
        set_active(supernet, architecture)
        expected = supernet(images)
        found = subnet(images)
    assert float(expected.std(0).mean()) > 100 * TOLERANCE, 'the logits must differ'
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize('seed', range(4))
def test_cost_equals_what_hooks_count(supernet: torch.nn.Module, seed: int) -> None:
    architecture = SPACE.sample(np.random.default_rng(100 + seed))
    subnet = extract_subnet(supernet, architecture)
    cost = count_cost(architecture, BACKBONE.width_mult, BACKBONE.classes)
    assert cost.parameters == sum(p.numel() for p in subnet.parameters())
    assert cost.macs == count_with_hooks(subnet, architecture.r)


def test_published_level_costs_what_hooks_count() -> None:
    level = json.loads(reference_file('levels_xavier_nx.json').read_text())['gpu'][0]
    supernet = build_supernet(published_backbone('ofa_mbv3_d234_e346_k357_w1.2'))
    subnet = extract_subnet(supernet, SubnetArchitecture.from_mapping(level))
    assert count_with_hooks(subnet, level['r']) == level['macs']
    assert sum(p.numel() for p in subnet.parameters()) == level['params']


def test_extraction_copies_the_weights(supernet: torch.nn.Module) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    subnet = extract_subnet(supernet, SPACE.smallest())
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())


def test_an_architecture_outside_the_space_is_refused(supernet: torch.nn.Module) -> None:
    wrong = SubnetArchitecture((9,) * 20, (3,) * 20, (2,) * 5, 32)
    with pytest.raises(ArchitectureError, match=r'ks\[0\] is 9'):
        extract_subnet(supernet, wrong)


def test_unknown_backbones_are_named() -> None:
    with pytest.raises(BackboneError, match="kind 'vit'"):
        build_supernet(BackboneSpec('x', 'vit', 1.0, 10))
    with pytest.raises(BackboneError, match='known are ofa_mbv3'):
        published_backbone('ofa_huge')


def test_importing_ofa_leaves_no_stand_in_behind() -> None:
    code = (
        'import sys\n'
        'from dynamic_ofa_ros.backbone.ofa_package import import_ofa\n'
        "import_ofa('imagenet_classification.elastic_nn.networks')\n"
        "left = [n for n, m in sys.modules.items() if n.startswith(('torchvision', 'gdown'))\n"
        "        and type(m).__name__ == '_Empty']\n"
        'sys.exit(repr(left) if left else 0)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
