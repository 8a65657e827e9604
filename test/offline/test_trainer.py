"""The parts of a training step that can be seen by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
from dynamic_ofa_ros.offline.data.datasets import ImageStore
from dynamic_ofa_ros.offline.training.trainer import Batch, Trainer, TrainingSettings, augment

SETTINGS = TrainingSettings(resolutions=(32,), batch_size=4, largest_only_epochs=0.0)
BACKBONE = BackboneSpec('tiny', 'ofa_mobilenetv3', 0.1, 3)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 40, 40, 3)).astype(np.uint8)
    return Trainer(
        BACKBONE,
        SETTINGS,
        Preprocessing(),
        ImageStore(('a', 'b', 'c'), images, rng.integers(0, 3, 12)),
        tmp_path,
    )


def test_a_short_training_is_not_judged_by_the_weights_it_started_from(trainer: Trainer) -> None:
    """A constant decay of 0.998 would leave 99 % of the start in the average after five steps."""

    def weights(network: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten().clone() for p in network.parameters()])

    first = weights(trainer.supernet)
    for _ in trainer.steps_until(5):
        pass
    moved = (weights(trainer._supernet) - first).norm()
    left_behind = (weights(trainer._supernet) - weights(trainer.supernet)).norm()
    assert moved > 0
    assert left_behind < 0.6 * moved


def test_a_long_training_averages_over_the_steps_it_was_told_to(trainer: Trainer) -> None:
    trainer._average.n_averaged.fill_(100_000)
    with torch.no_grad():
        for averaged, current in zip(
            trainer.supernet.parameters(), trainer._supernet.parameters(), strict=True
        ):
            averaged.zero_()
            current.fill_(1.0)
    trainer._average.update_parameters(trainer._supernet)
    share = next(trainer.supernet.parameters()).flatten()[0].item()
    assert share == pytest.approx(1.0 - SETTINGS.averaging, rel=1e-3)


def test_batches_prepared_ahead_are_those_of_their_steps(trainer: Trainer) -> None:
    for step in (0, 1, 2):
        trainer.step = step
        assert torch.equal(trainer._batch().pixels, trainer._prepare(step).pixels)
    assert 2 not in trainer._ahead, 'a batch is kept only until it is used'


def test_a_damaged_image_is_named_by_the_step_that_needs_it(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(self: ImageStore, index: int) -> None:
        raise DatasetError(f'image {index} is damaged')

    monkeypatch.setattr(ImageStore, 'image', damaged)
    with pytest.raises(DatasetError, match='is damaged'):
        list(trainer.steps_until(1))


def test_crops_are_as_large_as_asked_and_in_their_light() -> None:
    columns = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    image = np.dstack([columns] * 3)
    rng = np.random.default_rng(0)
    crops = [augment(image, 40, rng, False, 0.81) for _ in range(50)]
    spans = [int(crop.pixels[20, -1, 0]) - int(crop.pixels[20, 0, 0]) for crop in crops]
    assert min(spans) > 0.9 * 200 - 10
    assert max(spans) < 200
    plain = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    lit = Batch.of([replace(crops[0], gain=2.0, offset=-10.0)]).network_input(plain)
    expected = np.clip(crops[0].pixels.astype(np.float32) * 2.0 - 10.0, 0.0, 255.0) / 255.0
    torch.testing.assert_close(lit[0].permute(1, 2, 0), torch.from_numpy(expected))
