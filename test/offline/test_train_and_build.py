"""A very small training and build on class folders: files, messages, and resuming."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from image_files import write_hues
from offline.fake_device import profile_quickly
from programs import wait_until

from dynamic_ofa_ros.cli.main import _parser, main
from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.files import locked
from dynamic_ofa_ros.offline.training import train as training
from dynamic_ofa_ros.supernet.trained import open_backbone

TRAIN = [
    'train', '--width-mult', '0.1', '--resolutions', '32,48', '--batch-size', '16',
    '--largest-only-epochs', '1', '--threads', '1', '--device', 'cpu',
]  # fmt: skip
BUILD = ['--levels', '3', '--candidates', '5', '--calibration-images', '32', '--engine', 'pytorch']
KILL_DEADLINE_S = 60.0


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three easy classes by hue, 60 training and 24 held-out JPEGs."""
    root = tmp_path_factory.mktemp('photos')
    write_hues(root / 'train', 20)
    write_hues(root / 'val', 8, seed=2)
    return root


@pytest.fixture(scope='module')
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp('run') / 'run'
    assert main([*TRAIN, '--data', str(photos), '--output', str(output), '--epochs', '4']) == 0
    return output


def test_training_writes_the_input_of_build(run: Path) -> None:
    trained = open_backbone(run)
    assert trained.labels == ('blue', 'green', 'red')
    assert trained.resolutions == (32, 48)
    assert torch.isfinite(trained.load()(torch.zeros(1, 3, 32, 32))).all()
    rows = list(csv.DictReader((run / 'metrics.csv').read_text().splitlines()))
    assert [float(row['epoch']) for row in rows] == [1.0, 2.0, 3.0, 4.0]
    assert float(rows[-1]['loss_largest']) < float(rows[0]['loss_largest'])
    assert rows[0]['loss_smallest'] == '', 'the largest was trained alone'


def test_repeating_a_finished_training_does_nothing(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / 'metrics.csv').read_text()
    assert main([*TRAIN, '--data', str(photos), '--output', str(run), '--epochs', '4']) == 0
    assert (run / 'metrics.csv').read_text() == before
    assert 'dynamic-ofa build' in capsys.readouterr().out


def test_a_checkpoint_of_other_settings_is_rejected(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TRAIN, '--data', str(photos), '--output', str(run), '--epochs', '4']
    assert main([*arguments, '--mixup', '0.2']) == 2
    assert 'other settings: mixup was 0.0, now 0.2' in capsys.readouterr().err


def test_more_epochs_extend_a_finished_training_and_fewer_are_rejected(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extended = Path(shutil.copytree(run, tmp_path / 'run'))
    arguments = [*TRAIN, '--data', str(photos), '--output', str(extended), '--epochs']
    assert main([*arguments, '5']) == 0
    before, after = ((path / 'metrics.csv').read_text() for path in (run, extended))
    assert after.startswith(before)
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    events = accumulator.EventAccumulator(str(extended / 'tensorboard')).Reload()
    steps = [event.step for event in events.Scalars('held_out_top1_largest')]
    assert steps == sorted(set(steps)), 'no step occurs twice'
    assert len(steps) == 5
    assert [float(row['epoch']) for row in csv.DictReader(after.splitlines())] == [1, 2, 3, 4, 5]
    capsys.readouterr()
    assert main([*arguments, '2']) == 2
    assert 'has been trained for 5 epochs; --epochs 2 is less' in capsys.readouterr().err


def test_training_stops_without_progress_and_keeps_the_best_epoch(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter((0.5, 0.7, 0.6, 0.6, 0.6, 0.6))
    monkeypatch.setattr(training._HeldOut, 'top1', lambda *_: (next(accuracies),) * 2)
    arguments = [*TRAIN, '--data', str(photos), '--output', str(tmp_path), '--epochs', '9']
    assert main([*arguments, '--patience', '2']) == 0
    rows = list(csv.DictReader((tmp_path / 'metrics.csv').read_text().splitlines()))
    assert len(rows) == 4, 'two epochs after the best one'
    kept = open_backbone(tmp_path).training
    assert (kept['weights'], kept['epochs']) == ('averaged', 2.0)
    assert kept['held_out_top1_largest'] == 0.7


def test_an_extended_training_does_not_replace_better_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter((0.5, 0.9, 0.6, 0.6))  # averaged and last, for each training
    monkeypatch.setattr(training._HeldOut, 'top1', lambda *_: (next(accuracies),) * 2)
    arguments = [*TRAIN, '--data', str(photos), '--output', str(tmp_path), '--epochs']
    for epochs in ('1', '2'):
        assert main([*arguments, epochs]) == 0
        kept = open_backbone(tmp_path).training
        assert (kept['weights'], kept['epochs']) == ('last', 1.0)
        assert kept['held_out_top1_largest'] == 0.9


def test_a_run_writes_curves_and_confusion_matrices(run: Path) -> None:
    assert cv2.imread(str(run / 'curves.png')) is not None
    for name in ('smallest', 'largest'):
        assert cv2.imread(str(run / f'confusion_{name}.png')) is not None
        rows = list(csv.reader((run / f'confusion_{name}.csv').read_text().splitlines()))
        classes = rows[0][1:-1]
        assert [row[0] for row in rows[1:]] == classes
        counts = np.array([[int(cell) for cell in row[1:-1]] for row in rows[1:]])
        recalls = [float(row[-1]) for row in rows[1:]]
        assert recalls == pytest.approx(counts.diagonal() / counts.sum(axis=1), abs=1e-4)


def training_command(photos: Path, output: Path) -> list[str]:
    return [
        sys.executable, '-m', 'dynamic_ofa_ros.cli.main', *TRAIN,
        '--data', str(photos), '--output', str(output), '--epochs', '4',
    ]  # fmt: skip


def assert_same_weights(folder: Path, other_folder: Path) -> None:
    weights, others = (open_backbone(one).load().state_dict() for one in (folder, other_folder))
    assert list(weights) == list(others)
    for name, a in weights.items():
        torch.testing.assert_close(a, others[name], msg=lambda m, name=name: f'{name}: {m}')


def test_a_resumed_training_ends_with_the_same_weights(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / 'run'
    command = training_command(photos, output)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until((output / 'checkpoint.pt').is_file, 'a checkpoint')
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (output / 'checkpoint.pt').is_file()
    assert main([*command[3:]]) == 0
    assert_same_weights(output, run)


def workers_are_importing(parent: int) -> bool:
    """Return whether a child process has loaded OpenCV, which it does before it can work."""
    for child in psutil.Process(parent).children():
        with suppress(OSError):  # it has ended
            if 'cv2' in Path(f'/proc/{child.pid}/maps').read_text():
                return True
    return False


def test_ctrl_c_ends_a_training_and_its_processes_in_one_line(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    """A terminal sends SIGINT to all processes; those that decode images are still starting."""
    output = tmp_path / 'run'
    command = training_command(photos, output)
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: workers_are_importing(process.pid), 'processes that decode images')
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=KILL_DEADLINE_S)[1].splitlines()
    assert process.returncode == 130
    assert errors[-1] == 'dynamic-ofa: interrupted; run the same command again to resume'
    assert not [line for line in errors[:-1] if not line.startswith('decoding training images')]
    assert not list(output.iterdir())
    assert main(command[3:]) == 0
    assert_same_weights(output, run)


@pytest.mark.long
def test_a_training_killed_after_every_epoch_has_one_row_per_epoch(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    output, table = tmp_path / 'run', tmp_path / 'run' / 'metrics.csv'
    command = training_command(photos, output)
    for epoch in (1, 2, 3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + KILL_DEADLINE_S
        # The row is written before the checkpoint, so a kill between them leaves one row too many.
        while not (table.is_file() and table.read_text().count('\n') > epoch):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(command[3:]) == 0
    mine, uninterrupted = (
        list(csv.DictReader((folder / 'metrics.csv').read_text().splitlines()))
        for folder in (output, run)
    )
    for rows in (mine, uninterrupted):
        for row in rows:
            del row['images_per_s']
    assert mine == uninterrupted


def test_a_damaged_checkpoint_is_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'checkpoint.pt').write_bytes(b'garbage')
    arguments = [*TRAIN, '--data', str(photos), '--output', str(tmp_path), '--epochs', '1']
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert 'checkpoint.pt is damaged' in error
    assert 'delete it to start again' in error


@pytest.fixture(scope='module')
def family(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp('built') / 'colours'
    arguments = ['build', '--backbone', str(run), '--data', str(photos), '--output', str(output)]
    with pytest.MonkeyPatch.context() as patch:
        profile_quickly(patch)
        assert main([*arguments, *BUILD]) == 0
    return output


def test_build_writes_a_valid_family(family: Path) -> None:
    loaded = Family.load(family)
    assert loaded.name == 'colours'
    assert loaded.labels == ('blue', 'green', 'red')
    assert 1 <= len(loaded.levels) <= 3
    accuracies = [level.accuracy for level in loaded.levels]
    assert accuracies == sorted(accuracies)
    (profile,) = loaded.platforms.values()
    assert 'pytorch' in profile.platform
    assert list(family.parent.iterdir()) == [family], 'no other files remain'


def test_levels_prints_the_table(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['levels', str(family)]) == 0
    table = capsys.readouterr().out
    assert 'top-1 %' in table
    assert 'pytorch' in table


def test_an_existing_family_is_not_overwritten(
    run: Path, photos: Path, family: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['build', '--backbone', str(run), '--data', str(photos), '--output', str(family)]
    assert main(arguments) == 2
    assert 'exists already' in capsys.readouterr().err


def test_data_with_other_classes_is_rejected(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        'build',
        '--backbone',
        str(run),
        '--data',
        'signs',
        '--output',
        str(tmp_path / 'f'),
    ]
    assert main(arguments) == 2
    assert 'the backbone was trained on 3 (blue, green, red' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--device', 'cuda:7'], 'finds no GPU'),
        (['--batch-size', '5000'], 'fewer than one batch of 5000'),
        (['--device', 'gpu'], "--device is 'gpu'; give auto, cpu, cuda or cuda:N"),
        (['--output', '/dev/null'], '/dev/null is a file'),
    ],
)
def test_bad_training_options_are_explained(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    if 'cuda:7' in arguments and torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    base = [*TRAIN, '--data', str(photos), '--output', str(tmp_path / 'x'), '--epochs', '1']
    assert main([*base, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('where', ['mine', 'red/mine'])
def test_an_output_that_would_become_a_class_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    root = write_hues(tmp_path / 'data', 8)
    arguments = ['--data', str(root), '--output', str(root / where)]
    assert main([*TRAIN, *arguments]) == 2
    assert f'is in {root}, where it would become a class' in capsys.readouterr().err
    assert not (root / where).exists()


def test_a_training_whose_weights_diverge_saves_no_backbone(photos: Path, tmp_path: Path) -> None:
    """Its losses can be finite: they are computed before the last step."""
    output = tmp_path / 'run'
    arguments = ['--data', str(photos), '--output', str(output), '--epochs', '0.3']
    args = _parser().parse_args([*TRAIN, *arguments])
    args.weight_decay = 1e300  # the command line does not allow it
    with pytest.raises(CheckpointError, match='the training has diverged'):
        args.run(args)
    assert not (output / 'backbone.safetensors').exists()


def test_a_missing_backbone_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='not the output folder of a finished'):
        open_backbone(tmp_path)
    (tmp_path / 'backbone.yaml').write_text('labels: 3')
    with pytest.raises(CheckpointError, match=r'backbone\.yaml is damaged'):
        open_backbone(tmp_path)


def test_a_training_does_not_write_where_it_would_destroy(
    run: Path, family: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / 'backbone.safetensors').read_bytes()
    base = [*TRAIN, '--data', str(photos), '--epochs', '1', '--start-from', str(run)]
    assert main([*base, '--output', str(family)]) == 2
    assert 'is a family: the training would replace its weights' in capsys.readouterr().err
    assert main([*base, '--output', str(run)]) == 2
    assert '--output and --start-from are the same folder' in capsys.readouterr().err
    assert (run / 'backbone.safetensors').read_bytes() == before


def test_two_trainings_cannot_share_a_folder(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TRAIN, '--data', str(photos), '--output', str(tmp_path)]
    (tmp_path / '.train-60.npy.of_a_killed_run.partial').touch()
    with locked(tmp_path, AssertionError()):
        assert main(arguments) == 2
    assert 'another process trains in' in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1
    torch.save([1], tmp_path / 'checkpoint.pt')
    assert main(arguments) == 2
    assert 'by another version of this package' in capsys.readouterr().err
    assert not list(tmp_path.glob('.*.partial')), 'it could fill the disk'


def test_two_builds_cannot_share_an_output(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / '.mine.build').mkdir()
    (tmp_path / '.mine.build' / '.written.now.partial').touch()
    arguments = ['--backbone', str(run), '--data', str(photos), '--output', str(tmp_path / 'mine')]
    with locked(tmp_path / '.mine.build', AssertionError()):
        assert main(['build', *arguments]) == 2
    assert 'another process uses' in capsys.readouterr().err
    assert (tmp_path / '.mine.build' / '.written.now.partial').exists()
