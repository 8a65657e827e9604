from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic_ofa_ros.errors import CheckpointError, DatasetError
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.offline.accuracy.evaluation import Evaluator, PreparedImages, top1
from dynamic_ofa_ros.offline.data.datasets import RenderedSigns
from dynamic_ofa_ros.space.architecture import SearchSpace
from dynamic_ofa_ros.supernet.batch_norm import (
    load_statistics,
    recalculate,
    save_statistics,
    statistics_of,
)
from dynamic_ofa_ros.supernet.network import extract_subnet, load_level, load_supernet


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()


def test_statistics_cover_all_images_for_any_batch_sizes() -> None:
    images = torch.randn(60, 3, 8, 8) * 3 + 1
    even, uneven = network(), network()
    assert recalculate(even, [images]) == 60
    assert recalculate(uneven, [images[:50], images[50:]]) == 60
    features = even[0](images)
    torch.testing.assert_close(even[1].running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(uneven[1].running_mean, even[1].running_mean)
    torch.testing.assert_close(uneven[1].running_var, even[1].running_var, rtol=0.05, atol=0.0)


def test_recalculating_changes_nothing_else() -> None:
    module = network()
    weights = [p.clone() for p in module.parameters()]
    recalculate(module, [torch.randn(8, 3, 8, 8)])
    assert not module.training
    assert not module[1].training
    assert module[1].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))


@pytest.mark.parametrize('images', [0, 1])
def test_too_few_images_are_rejected(images: int) -> None:
    with pytest.raises(DatasetError, match=f'the dataset has {images}: add images'):
        recalculate(network(), [torch.randn(images, 3, 8, 8)] if images else [])


@pytest.mark.parametrize('sizes', [(100, 1), (1, 100), (1, 1), (100, 2, 100), (1, 40, 1, 40, 1)])
def test_maps_of_one_pixel_have_statistics_for_any_batch_sizes(sizes: tuple[int, ...]) -> None:
    """The last layers of a network of 32 px: a batch of one image has no variance there."""
    images = torch.randn(sum(sizes), 3, 3, 3) * 3 + 1
    whole, parts = network(), network()
    recalculate(whole, [images])
    assert recalculate(parts, images.split(sizes)) == len(images)
    torch.testing.assert_close(parts[1].running_mean, whole[1].running_mean)
    torch.testing.assert_close(parts[1].running_var, whole[1].running_var, rtol=0.2, atol=0.0)


def test_statistics_can_be_written_and_read(tmp_path: Path) -> None:
    first, second, target = network(), network(), network()
    recalculate(first, [torch.randn(8, 3, 8, 8)])
    recalculate(second, [torch.randn(8, 3, 8, 8) + 5])
    path = tmp_path / 'bn.safetensors'
    save_statistics({1: statistics_of(first), 2: statistics_of(second)}, path)
    load_statistics(target, path, 2)
    for name, value in statistics_of(second).items():
        assert torch.equal(statistics_of(target)[name], value)


def test_statistics_of_another_level_or_network_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / 'bn.safetensors'
    save_statistics({1: statistics_of(network())}, path)
    with pytest.raises(CheckpointError, match='no batch-norm statistics for level 2'):
        load_statistics(network(), path, 2)
    deeper = torch.nn.Sequential(*network(), torch.nn.BatchNorm2d(4))
    with pytest.raises(CheckpointError, match='do not match its architecture'):
        load_statistics(deeper, path, 1)
    wider = torch.nn.Sequential(torch.nn.Conv2d(3, 9, 3), torch.nn.BatchNorm2d(9))
    with pytest.raises(CheckpointError, match='has 4 channels, the network has 9'):
        load_statistics(wider, path, 1)


def test_own_statistics_raise_the_accuracy_and_can_be_stored() -> None:
    """Lou et al. 2021: a sub-network requires its own batch-norm statistics."""
    family = Family.load(default_family())
    level = family.levels[0]
    supernet = load_supernet(family)
    size = (level.resolution,)
    held_out = PreparedImages(RenderedSigns(140, split='held_out'), family.preprocessing, size)
    calibration = PreparedImages(RenderedSigns(100, split='train'), family.preprocessing, size)

    without = top1(extract_subnet(supernet, level.architecture), level.resolution, held_out)
    stored = top1(load_level(family, level.index, supernet), level.resolution, held_out)
    in_place = Evaluator(supernet, calibration, held_out).evaluate(level.architecture).top1

    assert stored > without + 0.1
    assert abs(stored - in_place) < 0.05
    assert abs(stored - level.accuracy) < 0.08


def test_levels_load_with_finite_different_statistics() -> None:
    family = Family.load(default_family())
    supernet = load_supernet(family)
    means = [
        np.concatenate([v.numpy().ravel() for v in statistics_of(n).values()])
        for n in (load_level(family, 1, supernet), load_level(family, 2, supernet))
    ]
    assert all(np.isfinite(m).all() for m in means)
    assert means[0].shape != means[1].shape or not np.allclose(means[0], means[1])


def test_the_shipped_levels_are_in_the_published_search_space() -> None:
    for level in Family.load(default_family()).levels:
        SearchSpace(resolutions=(level.resolution,)).validate(level.architecture)
