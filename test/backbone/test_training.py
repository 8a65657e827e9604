"""The parts of a training step that can be seen by themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic_ofa_ros.backbone.training import Trainer, TrainingSettings
from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
from dynamic_ofa_ros.offline.datasets import ImageStore

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
