"""The demo rejects invalid arguments before any process starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from families import make_colour_family
from onnx_networks import colour_folders

from dynamic_ofa_ros.cli.demo import DemoError, camera_labels, prepare_output
from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.nodes.camera_sources import SourceError


@pytest.fixture(scope='module')
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Return a family that classifies colours."""
    return make_colour_family(tmp_path_factory.mktemp('colours'))


def test_class_folders_give_the_ground_truth(family: Family, tmp_path: Path) -> None:
    photos = colour_folders(tmp_path / 'photos')
    (photos / 'crimson').rename(photos / 'Crimson')
    assert camera_labels(str(photos), family) == ('crimson', 'emerald', 'navy')


def test_classes_that_the_family_lacks_are_rejected(family: Family, tmp_path: Path) -> None:
    with pytest.raises(DemoError, match='give --source, a folder of photographs'):
        camera_labels('', family)
    with pytest.raises(SourceError, match='there is no folder'):
        camera_labels(str(tmp_path / 'nowhere'), family)
    photos = colour_folders(tmp_path / 'photos')
    with pytest.raises(DemoError, match='the correct answers are unknown'):
        camera_labels(str(photos / 'navy'), family)
    (photos / 'crimson').rename(photos / 'pink')
    with pytest.raises(DemoError, match='class folder pink is not a label of family family'):
        camera_labels(str(photos), family)


def test_new_and_empty_folders_are_accepted(tmp_path: Path) -> None:
    folder = prepare_output(str(tmp_path / 'a' / 'b'))
    assert folder == tmp_path / 'a' / 'b'
    assert prepare_output(str(folder)) == folder
    assert list(folder.iterdir()) == []


def test_results_of_another_demo_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'frames.csv').write_text('precious')
    with pytest.raises(DemoError, match=r'not empty \(it contains frames.csv\).*--output'):
        prepare_output(str(tmp_path))


def test_an_unwritable_folder_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    path.write_text('')
    for chosen in (path, path / 'below'):
        with pytest.raises(DemoError, match=r'cannot be written: (File exists|Not a directory)'):
            prepare_output(str(chosen))
    with pytest.raises(DemoError, match='cannot be written'):
        prepare_output('/proc/no/such/place')


def test_each_demo_gets_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {prepare_output('') for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.parent == tmp_path / 'demo_output' for folder in folders)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--family', '/nowhere'], 'there is no family at /nowhere'),
        (['--output', '/proc/nothing'], 'cannot be written'),
    ],
)
def test_bad_arguments_are_reported(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['demo', *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_missing_message_definitions_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'dynamic_ofa_ros.msg', None)
    assert main(['demo']) == 2
    error = capsys.readouterr().err
    assert error.startswith('dynamic-ofa: the demo runs ROS 2 nodes, and dynamic_ofa_ros.msg')
    assert 'colcon build' in error
