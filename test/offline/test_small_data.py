"""Training with few or damaged photographs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from full_disk import files_up_to
from image_files import png_header, write_hues

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.offline.training import curves, trainer
from dynamic_ofa_ros.offline.training import train as training
from dynamic_ofa_ros.supernet.trained import open_backbone

TRAIN = [
    'train', '--width-mult', '0.1', '--resolutions', '32', '--batch-size', '16',
    '--threads', '1', '--device', 'cpu',
]  # fmt: skip
LEAST_LARGEST, LEAST_SMALLEST = 0.95, 0.8


@pytest.mark.long
@pytest.mark.parametrize('kept', ['either', 'last'])
def test_a_few_photographs_are_enough_for_easy_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    """After 80 steps, the last weights are kept if the average is worse."""
    if kept == 'last':
        monkeypatch.setattr(trainer, '_moving_average', lambda _: lambda *_: None)
    data = write_hues(tmp_path / 'photographs', 60)
    output = tmp_path / 'run'
    arguments = ['--data', str(data), '--output', str(output), '--epochs', '8']
    assert main([*TRAIN, *arguments, '--largest-only-epochs', '2']) == 0
    trained = open_backbone(output)
    if kept == 'last':
        assert trained.training['weights'] == 'last'
    assert trained.training['held_out_top1_largest'] >= LEAST_LARGEST
    words = capsys.readouterr().out.split()
    smallest = float(words[words.index('smallest') + 1].rstrip('%,')) / 100
    assert smallest >= LEAST_SMALLEST


@pytest.mark.parametrize('is_stored', [True, False])
def test_damaged_files_do_not_end_a_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    is_stored: bool,
) -> None:
    monkeypatch.setattr(training, '_room_for_store', lambda _: float(is_stored) * 1e9)
    data = write_hues(tmp_path / os.fsdecode(b'caf\xe9'), 12)
    (data / 'red' / os.fsdecode(b'\xe9.png')).write_bytes(png_header(40_000, 40_000))
    (data / 'red' / 'empty.webp').touch()
    output = tmp_path / 'run'
    arguments = ['--data', str(data), '--output', str(output), '--epochs', '1']
    assert main([*TRAIN, *arguments]) == 0
    assert r'\xe9.png is rejected by OpenCV' in caplog.text
    assert 'empty.webp is damaged' in caplog.text
    assert (output / 'held_out.npy').is_file() == is_stored
    assert open_backbone(output).labels == ('blue', 'green', 'red')
    assert '--output FAMILY' in capsys.readouterr().out, 'the line with the folder is printed'


def test_a_checkpoint_of_other_images_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_hues(tmp_path / 'photographs', 8)
    arguments = [*TRAIN, '--data', str(data), '--output', str(tmp_path / 'run'), '--epochs', '1']
    assert main(arguments) == 0
    (data / 'blue').rename(data / 'x')
    (data / 'green').rename(data / 'blue')
    (data / 'x').rename(data / 'green')
    assert main(arguments) == 2
    assert 'with other images: it had 21, now there are 21' in capsys.readouterr().err
    (tmp_path / 'run' / 'checkpoint.pt').unlink()
    assert main(arguments) == 0
    store = np.load(tmp_path / 'run' / 'train-40.npy', mmap_mode='r')
    assert store[0].mean((0, 1)).argmax() == 1, 'the first class, blue, contains green images'


def test_a_full_disk_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is a link to a device that is always full."""
    full = Path('/dev/full')
    if not full.exists():
        pytest.skip('this system has no /dev/full')
    data = write_hues(tmp_path / 'photographs', 8)
    output = tmp_path / 'run'
    output.mkdir()
    arguments = [*TRAIN, '--data', str(data), '--output', str(output), '--epochs', '1']
    append = curves.append_metrics

    def append_in_vain(directory: Path, row: dict[str, object]) -> None:
        (directory / 'metrics.csv').symlink_to(full)
        append(directory, row)

    monkeypatch.setattr(curves, 'append_metrics', append_in_vain)
    assert main(arguments) == 2
    assert f'{output}: No space left on device' in capsys.readouterr().err
    (output / 'metrics.csv').unlink()
    monkeypatch.setattr(curves, 'append_metrics', append)

    with files_up_to(2_000_000):  # enough for the backbone
        assert main(arguments) == 2
    assert f'{output / "checkpoint.pt"}: File too large' in capsys.readouterr().err
    assert not list(output.glob('.*')), 'no partial files remain'
