"""Random augmentation of training images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.offline.training.augmentation import DISTORTIONS, Augmentation, Batch


def test_crops_have_the_requested_size_and_light() -> None:
    columns = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    image = np.dstack([columns] * 3)
    rng = np.random.default_rng(0)
    plain_crops = Augmentation(mirror=False, smallest_crop=0.81)
    crops = [plain_crops.draw(image, 40, rng) for _ in range(50)]
    spans = [int(crop.pixels[20, -1, 0]) - int(crop.pixels[20, 0, 0]) for crop in crops]
    assert min(spans) > 0.9 * 200 - 10
    assert max(spans) < 200
    plain = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    lit = Batch.of([replace(crops[0], gain=2.0, offset=-10.0)]).network_input(plain)
    expected = np.clip(crops[0].pixels.astype(np.float32) * 2.0 - 10.0, 0.0, 255.0) / 255.0
    torch.testing.assert_close(lit[0].permute(1, 2, 0), torch.from_numpy(expected))


@pytest.mark.parametrize('distortion', DISTORTIONS)
def test_distortions_increase_with_their_strength(distortion) -> None:
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    before = image.copy()
    assert np.array_equal(distortion(image, 0.0), image)
    weak, strong = (
        np.abs(distortion(image, strength).astype(int) - image).mean() for strength in (0.3, 1.0)
    )
    assert 0 < weak <= strong
    assert np.array_equal(image, before), 'the original must not change'
    for strength in (-1.0, 1.0):
        assert distortion(image, strength).shape == image.shape
        assert distortion(image, strength).dtype == np.uint8


def test_strong_augmentation_depends_only_on_the_seed() -> None:
    image = np.random.default_rng(1).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    strong = Augmentation(is_strong=True)
    first, again, other = (
        strong.draw(image, 32, np.random.default_rng(seed)).pixels for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
