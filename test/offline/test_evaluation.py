from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import write_noise

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.offline.accuracy import evaluation
from dynamic_ofa_ros.offline.accuracy.evaluation import (
    PreparedImages,
    calibration_subset,
    halves,
    top1,
)
from dynamic_ofa_ros.offline.data import loading
from dynamic_ofa_ros.offline.data.datasets import ClassFolder, ImageStore
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
    monkeypatch.setattr(evaluation, 'LARGEST_CACHE_BYTES', cache_bytes)
    dataset = store()
    batches = list(PreparedImages(dataset, PREPROCESSING, (32, 40)).batches(32))
    images = torch.cat([b[0] for b in batches]).numpy()
    labels = torch.cat([b[1] for b in batches]).numpy()
    assert labels.tolist() == dataset.labels.tolist()
    for index in (0, 101, 249):
        expected = preprocess(dataset.image(index), 32, PREPROCESSING)[0]
        assert np.array_equal(images[index], expected)


def test_top1_is_the_fraction_of_correct_answers() -> None:
    dataset = store(20)
    dataset.images[:, :, :, :] = 0
    dataset.images[:15] = 255
    prepared = PreparedImages(dataset, PREPROCESSING, (32, 40))
    # Images 0-14 are classified as 1, others as 0: correct are odd ones below 15, even ones above.
    assert top1(FirstPixelIsBright(), 32, prepared) == (7 + 2) / 20


def test_no_images_is_an_error() -> None:
    with pytest.raises(DatasetError, match='no images'):
        PreparedImages(store(0), PREPROCESSING, (32,))


def test_halves_are_disjoint_and_complete() -> None:
    first, second = halves(store(101))
    assert len(first) + len(second) == 101
    assert not set(first.indices) & set(second.indices)


def test_calibration_uses_all_images_if_there_are_few() -> None:
    assert len(calibration_subset(store(50), 20)) == 20
    assert len(calibration_subset(store(50), 2000)) == 50


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with 60 photographs each, two of them damaged."""
    root = write_noise(tmp_path / 'val', ('cat', 'dog'), 60, suffix='.jpg')
    (root / 'cat' / '03.jpg').write_bytes(b'')
    (root / 'dog' / '59.jpg').write_bytes(b'\xff\xd8\xff\xe0 cut off')
    return root


@pytest.mark.parametrize('cache_bytes', [1 << 30, 0])
def test_damaged_images_are_skipped_and_listed(
    photos: Path, caplog: pytest.LogCaptureFixture, cache_bytes: int
) -> None:
    dataset = ClassFolder.open(photos)
    prepared = PreparedImages(dataset, PREPROCESSING, (32,), cache_bytes=cache_bytes)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            batches = list(prepared.batches(32))
    assert caplog.text.count('2 of 120 images are damaged and skipped') == 1, (
        'once, not in every pass'
    )
    assert 'cat/03.jpg' in caplog.text
    assert 'dog/59.jpg' in caplog.text
    assert len(prepared.damaged) == 2
    kept = [i for i in range(120) if i not in (3, 119)]
    assert torch.cat([labels for _, labels in batches]).tolist() == [i // 60 for i in kept]
    images = torch.cat([pixels for pixels, _ in batches]).numpy()
    for position in (0, 3, 117):
        expected = preprocess(dataset.image(kept[position]), 32, PREPROCESSING)[0]
        assert np.array_equal(images[position], expected)
    # Batches are equal with and without the cache, because batch norms depend on them.
    assert [len(labels) for _, labels in batches] == [99, 19]
    assert top1(AlwaysFirst(), 32, prepared) == 59 / 118


class AlwaysFirst(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)


@pytest.mark.parametrize('cache_bytes', [1 << 30, 0])
def test_only_damaged_images_is_an_error(photos: Path, cache_bytes: int) -> None:
    for path in photos.rglob('*.jpg'):
        path.write_bytes(b'damaged')
    prepared = PreparedImages(
        ClassFolder.open(photos), PREPROCESSING, (32,), cache_bytes=cache_bytes
    )
    with pytest.raises(DatasetError, match=r'all 120 images are damaged, first: .*cat/00\.jpg'):
        top1(AlwaysFirst(), 32, prepared)


def test_several_processes_read_the_same_images_as_one(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, 'FEWEST_IMAGES_FOR_PROCESSES', 100)
    dataset = ClassFolder.open(photos)
    streamed = PreparedImages(dataset, PREPROCESSING, (32,), workers=2, cache_bytes=0)
    assert streamed._loader._in_processes
    kept = PreparedImages(dataset, PREPROCESSING, (32,), workers=1)
    for (one, label), (other, other_label) in zip(
        streamed.batches(32), kept.batches(32), strict=True
    ):
        assert torch.equal(one, other)
        assert torch.equal(label, other_label)
    assert streamed.damaged == kept.damaged


def test_images_beyond_the_cache_size_are_not_kept_in_memory() -> None:
    images = np.zeros((1, 40, 40, 3), np.uint8)
    dataset = ImageStore(('a',), np.broadcast_to(images, (1500, 40, 40, 3)), np.zeros(1500, int))
    prepared = PreparedImages(dataset, PREPROCESSING, (64, 80), workers=2, cache_bytes=1 << 20)
    tracemalloc.start()
    try:
        assert sum(len(labels) for _, labels in prepared.batches(80)) == 1500
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All images have 115 MB at 80 px; a batch has 7.7 MB.
    assert peak_bytes < 35e6
