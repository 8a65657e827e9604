from __future__ import annotations

import numpy as np
import pytest
import torch

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.offline import accuracy
from dynamic_ofa_ros.offline.accuracy import PreparedImages, calibration_subset, halves, top1
from dynamic_ofa_ros.offline.datasets import ImageStore
from dynamic_ofa_ros.runtime.image import preprocess

PREPROCESSING = Preprocessing(crop_fraction=1.0, interpolation='area')


def store(count: int = 250) -> ImageStore:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, 40, 40, 3)).astype(np.uint8)
    return ImageStore(('a', 'b'), images, np.arange(count) % 2)


class FirstPixelIsBright(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images[:, 0, 0, 0] > 0
        return torch.stack([~bright, bright], 1).float()


@pytest.mark.parametrize('cache_bytes', [1 << 30, 0])
def test_images_are_prepared_as_on_the_robot(
    monkeypatch: pytest.MonkeyPatch, cache_bytes: int
) -> None:
    monkeypatch.setattr(accuracy, 'LARGEST_CACHE_BYTES', cache_bytes)
    dataset = store()
    batches = list(PreparedImages(dataset, PREPROCESSING, (32, 40)).batches(32))
    images = torch.cat([b[0] for b in batches]).numpy()
    labels = torch.cat([b[1] for b in batches]).numpy()
    assert labels.tolist() == dataset.labels.tolist()
    for index in (0, 101, 249):
        expected = preprocess(dataset.image(index), 32, PREPROCESSING)[0]
        assert np.array_equal(images[index], expected)


def test_top1_counts_right_answers() -> None:
    dataset = store(20)
    dataset.images[:, :, :, :] = 0
    dataset.images[:15] = 255
    prepared = PreparedImages(dataset, PREPROCESSING, (32, 40))
    # Images 0-14 are called 1, 15-19 are called 0: right are the odd below 15 and the even above.
    assert top1(FirstPixelIsBright(), 32, prepared) == (7 + 2) / 20


def test_no_images_is_an_error() -> None:
    with pytest.raises(DatasetError, match='no images'):
        PreparedImages(store(0), PREPROCESSING, (32,))


def test_halves_are_disjoint_and_complete() -> None:
    first, second = halves(store(101))
    assert len(first) + len(second) == 101
    assert not set(first.indices) & set(second.indices)


def test_calibration_takes_what_there_is() -> None:
    assert len(calibration_subset(store(50), 20)) == 20
    assert len(calibration_subset(store(50), 2000)) == 50
