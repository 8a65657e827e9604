"""Parts of a training step."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic_ofa_ros.errors import CheckpointError, DatasetError
from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
from dynamic_ofa_ros.offline.data.datasets import ImageStore
from dynamic_ofa_ros.offline.training.run_folder import (
    METRICS_FILE,
    append_metrics,
    forget_metrics_after,
    read_metrics,
)
from dynamic_ofa_ros.offline.training.trainer import Trainer, TrainingSettings

SETTINGS = TrainingSettings(resolutions=(32,), batch_size=4, largest_only_epochs=0.0)
BACKBONE = BackboneSpec('tiny', 'ofa_mobilenetv3', 0.1, 3)


def make_trainer(folder: Path, settings: TrainingSettings = SETTINGS) -> Trainer:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 40, 40, 3)).astype(np.uint8)
    dataset = ImageStore(('a', 'b', 'c'), images, rng.integers(0, 3, 12))
    return Trainer(BACKBONE, settings, Preprocessing(), dataset, folder)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return make_trainer(tmp_path)


def test_a_short_training_does_not_average_the_initial_weights(trainer: Trainer) -> None:
    """With a constant decay of 0.998, the average would keep 99 % of the initial weights."""

    def weights(network: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten().clone() for p in network.parameters()])

    first = weights(trainer.averaged)
    for _ in trainer.steps_until(5):
        pass
    moved = (weights(trainer._supernet) - first).norm()
    left_behind = (weights(trainer._supernet) - weights(trainer.averaged)).norm()
    assert moved > 0
    assert left_behind < 0.6 * moved


def test_a_long_training_averages_over_the_given_steps(trainer: Trainer) -> None:
    trainer._average.n_averaged.fill_(100_000)
    with torch.no_grad():
        for averaged, current in zip(
            trainer.averaged.parameters(), trainer._supernet.parameters(), strict=True
        ):
            averaged.zero_()
            current.fill_(1.0)
    trainer._average.update_parameters(trainer._supernet)
    share = next(trainer.averaged.parameters()).flatten()[0].item()
    assert share == pytest.approx(1.0 - SETTINGS.averaging, rel=1e-3)


def test_prefetched_batches_belong_to_their_steps(trainer: Trainer) -> None:
    for step in (0, 1, 2):
        trainer.step = step
        assert torch.equal(trainer._batch().pixels, trainer._prepare(step).pixels)
    assert 2 not in trainer._ahead, 'a batch is kept only until it is used'


def test_damaged_images_are_replaced_and_logged(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = ImageStore.image

    def image(self: ImageStore, index: int) -> object:
        if index in (3, 4):
            raise DatasetError(f'image {index} is damaged')
        return good(self, index)

    monkeypatch.setattr(ImageStore, 'image', image)
    assert len(list(trainer.steps_until(2 * trainer.steps_per_epoch))) == 6
    trainer.report_damaged()
    assert '2 of 12 images are damaged and skipped: image' in caplog.text
    caplog.clear()
    trainer.report_damaged()
    assert not caplog.text, 'each is logged once'


def test_a_training_without_readable_images_ends(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def image(self: ImageStore, index: int) -> None:
        raise DatasetError(f'image {index} is damaged')

    monkeypatch.setattr(ImageStore, 'image', image)
    with pytest.raises(DatasetError, match='all 12 images are damaged, the first: image'):
        list(trainer.steps_until(1))


def test_a_short_training_also_trains_other_sub_networks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(SETTINGS, epochs=2.0, largest_only_epochs=4.0)
    dataset = ImageStore(('a',), np.zeros((12, 40, 40, 3), np.uint8), np.zeros(12, np.int64))
    trainer = Trainer(BACKBONE, settings, Preprocessing(), dataset, tmp_path)
    losses = list(trainer.steps_until(6))
    assert '--largest-only-epochs 4 is not less than --epochs 2' in caplog.text
    assert 'alone for 1 of 6 steps' in caplog.text
    assert [math.isnan(smallest) for _, smallest in losses] == [True] + 5 * [False]


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('classes', ('a', 'b', 'd'), 'with other classes: c gone, d new'),
        ('fingerprint', 'other', r'with other images: it had 12, now there are 12.*or changed'),
        ('images', 13, 'it had 12, now there are 13'),
    ],
)
def test_a_checkpoint_of_other_data_is_rejected(
    trainer: Trainer, tmp_path: Path, name: str, value: object, message: str
) -> None:
    trainer.save()
    assert trainer.resume()
    trainer._data = replace(trainer._data, **{name: value})
    with pytest.raises(CheckpointError, match=f'{message}.*delete the checkpoint'):
        trainer.resume()


def test_rows_of_a_killed_run_are_not_duplicated(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        append_metrics(tmp_path, {'step': step, 'top1': 0.5})
    before = (tmp_path / METRICS_FILE).read_text()
    forget_metrics_after(tmp_path, 9)
    assert (tmp_path / METRICS_FILE).read_text() == before
    with (tmp_path / METRICS_FILE).open('a') as file:
        file.write('1')  # an incomplete 12
    forget_metrics_after(tmp_path, 6)
    append_metrics(tmp_path, {'step': 9, 'top1': 0.5})
    assert (tmp_path / METRICS_FILE).read_text() == before
    forget_metrics_after(tmp_path, 0)
    assert not (tmp_path / METRICS_FILE).exists(), 'a new training has no rows'


@pytest.mark.parametrize(
    'text',
    [b'step;epoch\n3;1,0\n', b'step,epoch\n3,one\n', b'step,epoch\n3,1.0,2,3\n', b'st\xe9p\n3\n'],
)
def test_changed_metrics_are_explained(tmp_path: Path, text: bytes) -> None:
    """A spreadsheet program may have written the file again, with other separators."""
    (tmp_path / METRICS_FILE).write_bytes(text)
    forget_metrics_after(tmp_path, 9)
    (tmp_path / METRICS_FILE).write_bytes(text)
    with pytest.raises(CheckpointError, match=r'metrics\.csv was changed and cannot be read'):
        read_metrics(tmp_path)


def test_balanced_training_draws_all_classes_equally_often(tmp_path: Path) -> None:
    labels = np.array([0] * 90 + [1] * 10)
    dataset = ImageStore(('many', 'few'), np.zeros((100, 40, 40, 3), np.uint8), labels)
    drawn = {}
    for is_balanced in (False, True):
        settings = replace(SETTINGS, is_balanced=is_balanced)
        trainer = Trainer(BACKBONE, settings, Preprocessing(), dataset, tmp_path)
        orders = np.concatenate([trainer._order(epoch) for epoch in range(20)])
        drawn[is_balanced] = labels[orders].mean()
    assert drawn[False] == pytest.approx(0.1)
    assert drawn[True] == pytest.approx(0.5, abs=0.05)


def test_mixup_mixes_images_and_their_labels(tmp_path: Path) -> None:
    losses = {
        alpha: next(make_trainer(tmp_path, replace(SETTINGS, mixup=alpha)).steps_until(1))
        for alpha in (0.0, 0.4)
    }
    assert np.isfinite(losses[0.4]).all()
    assert losses[0.4] != losses[0.0]
