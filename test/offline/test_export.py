from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from families import make_random_family

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.offline.networks.onnx_import import read_classifier
from dynamic_ofa_ros.runtime.engine import create_engine

TOLERANCE = 1e-3


@pytest.fixture(scope='module')
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp('family') / 'random'
    return Family.load(make_random_family(folder, levels=3, width_mult=0.1))


def test_an_exported_level_has_metadata_and_the_outputs_of_the_family(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['export', str(family.directory), '--output', str(tmp_path / 'out')]
    assert main([*command, '--levels', '1,3', '--json']) == 0
    files = [Path(name) for name in json.loads(capsys.readouterr().out)['files']]
    levels = [family.level(1), family.level(3)]
    assert [f.name for f in files] == [f'level_{v.index}_{v.resolution}px.onnx' for v in levels]
    engine = create_engine(family, device='cpu', engine='pytorch')
    for file, level in zip(files, levels, strict=True):
        network = read_classifier(file)
        assert network.labels == family.labels
        assert network.resolution == level.resolution
        assert tuple(network.preprocessing['mean']) == family.preprocessing.mean
        session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
        about = json.loads(session.get_modelmeta().custom_metadata_map['dynamic_ofa.level'])
        assert about['accuracy'] == level.accuracy
        assert about['checksum'] == family.checksum
        image = np.random.default_rng(level.index).normal(size=(1, 3, *[level.resolution] * 2))
        (logits,) = session.run(None, {'input': image.astype(np.float32)})
        expected = engine.infer(level.index, image.astype(np.float32))
        np.testing.assert_allclose(logits.ravel(), expected.ravel(), atol=TOLERANCE)
    engine.close()


def test_invalid_exports_are_explained(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['export', str(family.directory), '--output', str(tmp_path / 'out'), '--levels']
    assert main([*command, '9']) == 2
    assert 'has levels 1 to 3, not 9' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*command[:-1]]) == 0
    assert main([*command[:-1]]) == 2
    assert 'exists already' in capsys.readouterr().err


@pytest.mark.parametrize(
    'command',
    [
        ['export', '{family}', '--output', '{family}/new'],
        ['train', '--data', 'signs', '--output', '{family}/new'],
        ['family', 'imagenet', '--output', '{family}/deep/new'],
        ['calibrate', '--family', '{family}', '--data', 'signs', '--output', '{link}/new'],
    ],
)
def test_nothing_is_written_into_a_family(
    family: Family, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'link').symlink_to(family.directory)
    places = {'family': family.directory, 'link': tmp_path / 'link'}
    before = sorted(family.directory.rglob('*'))
    assert main([word.format(**places) for word in command]) == 2
    assert f'would be part of the family {family.directory}' in capsys.readouterr().err
    assert sorted(family.directory.rglob('*')) == before
