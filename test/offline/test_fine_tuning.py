"""Trainings that start from the weights of a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import make_random_family
from image_files import HUES, write_hues

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.offline.training.fine_tuning import NEW_CLASSES_BODY_RATE, start_of
from dynamic_ofa_ros.supernet.trained import backbone_of, open_backbone

WIDTH = 0.2


@pytest.fixture(scope='module')
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    directory = tmp_path_factory.mktemp('start') / 'family'
    make_random_family(directory, levels=2, classes=5, width_mult=WIDTH, kind='efficientnet_lite')
    return Family.load(directory)


@pytest.fixture(scope='module')
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('photographs')
    write_hues(root / 'train', 12)
    write_hues(root / 'val', 4, seed=2)
    return root


def test_missing_settings_are_filled_by_defaults() -> None:
    start = start_of(None)
    assert (start.kind, start.width_mult) == ('ofa_mobilenetv3', 0.35)
    assert start.resolutions == (32, 40, 48, 56, 64)
    assert start.body_rate(('a', 'b')) == 1.0
    assert start.weights(('a', 'b')) is None


def test_other_classes_get_a_new_classifier_and_keep_everything_else(family: Family) -> None:
    backbone = backbone_of(family)
    start = start_of(backbone)
    assert (start.kind, start.width_mult) == ('efficientnet_lite', WIDTH)
    assert start.resolutions == backbone.resolutions
    assert start.preprocessing == family.preprocessing
    assert start.body_rate(('a', 'b')) == NEW_CLASSES_BODY_RATE
    state, weights = backbone.load().state_dict(), start.weights(('a', 'b'))
    assert weights is not None
    assert state.keys() - weights.keys() == {'classifier.linear.weight', 'classifier.linear.bias'}
    same = start.weights(backbone.labels)
    assert same is not None
    assert same.keys() == state.keys()
    assert start.body_rate(backbone.labels) == 1.0


def test_a_network_other_than_the_backbone_is_rejected(family: Family) -> None:
    with pytest.raises(CheckpointError, match=r'of width 0.2, not .*width 0.5'):
        start_of(backbone_of(family), width_mult=0.5)


@pytest.mark.parametrize('body_rate', [0.0, 0.5])
def test_a_backbone_is_fine_tuned_for_other_classes(
    family: Family,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    body_rate: float,
) -> None:
    output = tmp_path / 'run'
    arguments = [
        'train', '--start-from', str(family.directory), '--data', str(photographs),
        '--output', str(output), '--epochs', '3', '--largest-only-epochs', '1',
        '--batch-size', '12', '--threads', '1', '--device', 'cpu', '--body-rate', str(body_rate),
    ]  # fmt: skip
    assert main(arguments) == 0, capsys.readouterr().err
    trained = open_backbone(output)
    assert trained.backbone.kind == 'efficientnet_lite'
    assert (trained.labels, trained.resolutions) == (HUES, (32, 64))
    before, after = backbone_of(family).load(), trained.load()
    moved = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not name.startswith('classifier') and not torch.equal(old, new)
    }
    assert bool(moved) == (body_rate > 0.0)
    assert after.classifier.linear.weight.shape[0] == 3
    # The checkpoint contains the initial weights' checksum.
    assert main([*arguments[:-1], '1.0']) == 2
    assert 'body_rate' in capsys.readouterr().err
