"""The ONNX networks of levels compute what the networks of `ofa` compute."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from families import make_random_family

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime.engine import probe_input
from dynamic_ofa_ros.supernet.batch_norm import save_statistics
from dynamic_ofa_ros.supernet.network import load_level, load_supernet
from dynamic_ofa_ros.supernet.onnx_levels import LevelWriter
from dynamic_ofa_ros.tensor_file import read_arrays, write_arrays

# The first block of the narrowest MobileNetV3 has a shortcut, that of Proxyless has none.
WIDTHS = {
    'ofa_mobilenetv3': (0.2, 0.5),
    'ofa_proxyless': (0.2, 0.5),
    'efficientnet_lite': (0.35,),
    'ofa_resnet50': (0.2,),
}
KINDS = [(kind, width) for kind, widths in WIDTHS.items() for width in widths]


@pytest.fixture(scope='module', params=KINDS, ids=str)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    kind, width = request.param
    directory = tmp_path_factory.mktemp(kind) / 'family'
    make_random_family(directory, levels=5, kind=kind, width_mult=width)
    return Family.load(directory)


def test_every_level_equals_the_network_of_ofa(family: Family) -> None:
    writer, supernet = LevelWriter(family), load_supernet(family)
    for level in family.levels:
        network = writer.network(level)
        onnx.checker.check_model(network, full_check=True)
        image = probe_input(level.resolution)
        session = onnxruntime.InferenceSession(network.SerializeToString())
        (found,) = session.run(None, {'input': image})
        with torch.inference_mode():
            expected = load_level(family, level.index, supernet)(torch.from_numpy(image)).numpy()
        assert found.shape == expected.shape
        # Random networks amplify rounding errors of float32; real errors are at least 0.1.
        assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)
        assert np.ptp(expected) > 0.1


def test_the_shipped_family_is_written_with_fused_activations_and_norms() -> None:
    family = Family.load('signs')
    level = family.levels[-1]
    network = LevelWriter(family).network(level)
    session = onnxruntime.InferenceSession(network.SerializeToString())
    (found,) = session.run(None, {'input': probe_input(level.resolution)})
    expected = read_arrays(family.reference_path)[f'level_{level.index}']
    assert np.abs(found[0] - expected).max() <= 1e-5 * np.ptp(expected)
    kinds = Counter(node.op_type for node in network.graph.node)
    assert kinds['HardSwish'] > 20
    assert not kinds.keys() & {'BatchNormalization', 'Div', 'Identity', 'Constant'}
    assert (network.ir_version, network.opset_import[0].version) == (8, 17)


def test_writing_imports_no_pytorch() -> None:
    program = (
        'import sys\n'
        'from dynamic_ofa_ros.supernet.onnx_levels import LevelWriter\n'
        'from dynamic_ofa_ros.family import Family\n'
        "family = Family.load('signs')\n"
        'LevelWriter(family).network(family.levels[0])\n'
        "print([name for name in ('torch', 'ofa', 'torchvision') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, '-c', program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == '[]'


def test_statistics_of_another_network_are_rejected(family: Family, tmp_path: Path) -> None:
    statistics = read_arrays(family.batch_norm_path)
    target = tmp_path / 'family'
    target.mkdir()
    for file in family.directory.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    level = family.levels[0]
    name = next(n for n in sorted(statistics) if n.startswith('level_1/blocks.'))
    del statistics[name]
    write_arrays(statistics, target / family.batch_norm_path.name)
    damaged = Family(**{**vars(family), 'directory': target})
    with pytest.raises(CheckpointError, match=r'do not match level 1: there is no tensor'):
        LevelWriter(damaged).network(level)
    save_statistics({}, target / family.batch_norm_path.name)
    with pytest.raises(CheckpointError, match='do not match level 1'):
        LevelWriter(damaged).network(level)
