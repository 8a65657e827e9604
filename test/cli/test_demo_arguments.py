"""Arguments of the demo: found wrong before anything starts."""

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
    """Return a family that tells colours apart."""
    return make_colour_family(tmp_path_factory.mktemp('colours'))


def test_class_folders_are_the_truth(family: Family, tmp_path: Path) -> None:
    photos = colour_folders(tmp_path / 'photos')
    (photos / 'crimson').rename(photos / 'Crimson')
    assert camera_labels(str(photos), family) == ('crimson', 'emerald', 'navy')


def test_what_the_family_does_not_know_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(DemoError, match='give --source, a folder of photographs'):
        camera_labels('', family)
    with pytest.raises(SourceError, match='there is no folder'):
        camera_labels(str(tmp_path / 'nowhere'), family)
    photos = colour_folders(tmp_path / 'photos')
    with pytest.raises(DemoError, match='nobody knows what is right'):
        camera_labels(str(photos / 'navy'), family)
    (photos / 'crimson').rename(photos / 'pink')
    with pytest.raises(DemoError, match='class folder pink is no label of family family'):
        camera_labels(str(photos), family)


def test_a_new_or_an_empty_folder_will_do(tmp_path: Path) -> None:
    folder = prepare_output(str(tmp_path / 'a' / 'b'))
    assert folder == tmp_path / 'a' / 'b'
    assert prepare_output(str(folder)) == folder
    assert list(folder.iterdir()) == []


def test_results_of_another_demo_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'frames.csv').write_text('precious')
    with pytest.raises(DemoError, match=r'not empty \(it holds frames.csv\).*--output'):
        prepare_output(str(tmp_path))


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    path.write_text('')
    for chosen in (path, path / 'below'):
        with pytest.raises(DemoError, match=r'cannot be written: (File exists|Not a directory)'):
            prepare_output(str(chosen))
    with pytest.raises(DemoError, match='cannot be written'):
        prepare_output('/proc/no/such/place')


def test_each_demo_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {prepare_output('') for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.parent == tmp_path / 'demo_output' for folder in folders)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--seconds', '1'], '--seconds is 1; it takes 15 to 3600'),
        (['--rate-hz', '0'], '--rate-hz is 0; it takes 1 to 240'),
        (['--prepare-timeout-s', '0'], '--prepare-timeout-s is 0'),
        (['--family', '/nowhere'], 'there is no family at /nowhere'),
        (['--output', '/proc/nothing'], 'cannot be written'),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['demo', *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_messages_that_are_not_built_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'dynamic_ofa_ros.msg', None)
    assert main(['demo']) == 2
    error = capsys.readouterr().err
    assert error.startswith('dynamic-ofa: the demo runs ROS 2 nodes, and dynamic_ofa_ros.msg')
    assert 'colcon build' in error
