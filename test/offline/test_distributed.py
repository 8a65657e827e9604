"""Training in two processes of torchrun gives the result of one process."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import HUES, write_hues
from offline.distributed_training import step

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import BackboneError, DatasetError
from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
from dynamic_ofa_ros.offline.data.datasets import ImageStore
from dynamic_ofa_ros.offline.training.distributed import World, started_world
from dynamic_ofa_ros.offline.training.trainer import Trainer, TrainingSettings
from dynamic_ofa_ros.supernet.trained import open_backbone

# The order of float32 sums differs.
TOLERANCE = 1e-5
DEADLINE_S = 240.0


@pytest.fixture(scope='module')
def train(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two easy classes with 24 training and 8 held-out images; return the training command."""
    root = tmp_path_factory.mktemp('photos')
    for split, count in (('train', 12), ('val', 4)):
        write_hues(root / split, count, names=HUES[:2], seed=count)
    return [
        'train', '--data', str(root), '--width-mult', '0.1', '--resolutions', '32',
        '--batch-size', '8', '--largest-only-epochs', '0', '--threads', '1', '--device', 'cpu',
        '--epochs', '2',
    ]  # fmt: skip


@pytest.fixture(scope='module')
def folder(train: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two processes: one step for comparison, and a training in `run`."""
    folder = tmp_path_factory.mktemp('distributed')
    command = [
        sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
        str(Path(__file__).with_name('distributed_training.py')), str(folder),
        *train, '--output', str(folder / 'run'),
    ]  # fmt: skip
    repository = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (repository, os.environ.get('PYTHONPATH'))))
    done = subprocess.run(
        command,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('held-out top-1') == 1, 'one process reports'
    return folder


@pytest.mark.long
def test_a_step_of_two_processes_equals_that_of_one(folder: Path, tmp_path: Path) -> None:
    ranks = [torch.load(folder / f'step-{rank}.pt', weights_only=True) for rank in (0, 1)]
    alone = step(tmp_path, World())
    assert ranks[0].keys() == ranks[1].keys() == alone.keys()
    gradients = [name for name in alone if name.startswith('gradient/')]
    assert max(float(alone[name].abs().max()) for name in gradients) > 0.01
    for name in alone:
        assert torch.equal(ranks[0][name], ranks[1][name]), f'{name} differs between ranks'
    for name in (*gradients, 'losses'):
        torch.testing.assert_close(
            ranks[0][name], alone[name], atol=TOLERANCE, rtol=1e-3, msg=lambda m, n=name: n + m
        )


@pytest.mark.long
def test_one_process_writes_what_all_trained(folder: Path) -> None:
    run = folder / 'run'
    assert open_backbone(run).labels == ('blue', 'green')
    rows = list(csv.DictReader((run / 'metrics.csv').read_text().splitlines()))
    assert [(row['step'], row['epoch']) for row in rows] == [('3', '1.0'), ('6', '2.0')]
    assert not list(run.glob('.*')), 'no partial files remain'


@pytest.mark.long
def test_one_process_resumes_the_training_of_two(
    folder: Path, train: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / 'run'
    (run / 'backbone.yaml').unlink()
    assert main([*train, '--output', str(run)]) == 0
    assert 'held-out top-1' in capsys.readouterr().out
    assert len((run / 'metrics.csv').read_text().splitlines()) == 3, 'the training was complete'


def test_processes_share_a_batch_without_overlap(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (8, 40, 40, 3)).astype(np.uint8)
    dataset = ImageStore(('a',) * 8, images, np.arange(8))
    settings = TrainingSettings(resolutions=(32,), batch_size=4)
    backbone = BackboneSpec('tiny', 'ofa_mobilenetv3', 0.1, 8)

    def batch(world: World) -> dict[int, torch.Tensor]:
        trainer = Trainer(backbone, settings, Preprocessing(), dataset, tmp_path)
        trainer._world = world
        batch = trainer._batch()
        pixels = batch.network_input(trainer.preprocessing)
        return dict(zip(batch.labels.tolist(), pixels, strict=True))

    first, second, whole = batch(World(0, 2)), batch(World(1, 2)), batch(World())
    assert not first.keys() & second.keys()
    assert {**first, **second}.keys() == whole.keys()
    for label, pixels in {**first, **second}.items():
        assert torch.equal(pixels, whole[label]), 'the same image, augmented in the same way'


def test_a_batch_size_that_is_not_divisible_is_rejected(tmp_path: Path) -> None:
    dataset = ImageStore(('a',), np.zeros((9, 40, 40, 3), np.uint8), np.zeros(9, np.int64))
    backbone = BackboneSpec('tiny', 'ofa_mobilenetv3', 0.1, 1)
    settings = TrainingSettings(resolutions=(32,), batch_size=9)
    with pytest.raises(DatasetError, match=r'9 images does not divide among 2 .* multiple of 2'):
        Trainer(backbone, settings, Preprocessing(), dataset, tmp_path, world=World(1, 2))


def test_an_invalid_environment_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert started_world() == World()
    monkeypatch.setenv('WORLD_SIZE', 'many')
    with pytest.raises(BackboneError, match='are not those of torchrun'):
        started_world()
