"""The demo on a folder of photographs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from onnx_networks import COLOURS, colour_folders, colour_network

from dynamic_ofa_ros.cli.demo import _source
from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.demo.recording import read_frames
from dynamic_ofa_ros.demo.scenario import ScenarioError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.nodes.camera_sources import SourceError


@pytest.fixture(scope='module')
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Return a family that tells colours apart, at three input sizes."""
    folder = tmp_path_factory.mktemp('colours')
    network = str(colour_network(folder / 'net.onnx', depth=6))
    (folder / 'labels.txt').write_text('\n'.join(COLOURS), encoding='utf-8')
    (folder / 'list.yaml').write_text(
        json.dumps(
            {
                'networks': [
                    {
                        'file': network,
                        'values': 'unit',
                        'resolutions': [32, 128, 256],
                        'accuracy': 0.9,
                    }
                ]
            }
        ).replace('0.9', '{32: 0.8, 128: 0.9, 256: 0.95}'),
        encoding='utf-8',
    )
    options = ['--labels', str(folder / 'labels.txt'), '--output', str(folder / 'family')]
    assert main(['family', 'from-onnx', str(folder / 'list.yaml'), *options]) == 0
    return Family.load(folder / 'family')


def test_class_folders_are_the_truth(family: Family, tmp_path: Path) -> None:
    photos = colour_folders(tmp_path / 'photos')
    (photos / 'crimson').rename(photos / 'Crimson')
    source, labels = _source(str(photos), family)
    assert source == str(photos)
    assert labels == {'Crimson': 'crimson', 'emerald': 'emerald', 'navy': 'navy'}


def test_without_class_folders_nobody_knows_the_truth(family: Family, tmp_path: Path) -> None:
    photos = colour_folders(tmp_path / 'photos') / 'crimson'
    assert _source(str(photos), family) == (str(photos), {})


def test_what_the_family_does_not_know_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match='give --source, a folder of photographs'):
        _source('', family)
    with pytest.raises(SourceError, match='there is no folder'):
        _source(str(tmp_path / 'nowhere'), family)
    photos = colour_folders(tmp_path / 'photos')
    (photos / 'crimson').rename(photos / 'pink')
    with pytest.raises(ScenarioError, match='class folder pink is no label of family family'):
        _source(str(photos), family)


@pytest.mark.long
@pytest.mark.parametrize('has_truth', [True, False])
def test_the_demo_on_photographs(family: Family, tmp_path: Path, has_truth: bool) -> None:
    photos = colour_folders(tmp_path / 'photos')
    source = photos if has_truth else photos / 'navy'
    output = tmp_path / 'out'
    command = [sys.executable, '-m', 'dynamic_ofa_ros.cli.main', 'demo', '--seconds', '6']
    command += ['--family', str(family.directory), '--source', str(source)]
    done = subprocess.run(
        [*command, '--output', str(output)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((output / 'summary.json').read_text())
    frames = read_frames(output / 'telemetry.csv')
    assert len(frames) > 50
    if has_truth:
        assert summary['whole_run']['accuracy'] > 0.95
        assert {frame.truth for frame in frames if frame.truth} == set(COLOURS)
        assert (output / 'accuracy.png').is_file()
    else:
        assert {frame.label for frame in frames if frame.label} == {'navy'}
        assert not any(frame.truth for frame in frames)
        assert not (output / 'accuracy.png').is_file()
