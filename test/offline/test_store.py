"""Stores of decoded images: completeness, identity, and full disks."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from image_files import write_flat_colours

from dynamic_ofa_ros.offline.data.datasets import ClassFolder, ImageStore
from dynamic_ofa_ros.offline.data.store import build_store, centre_square, open_store
from dynamic_ofa_ros.offline.training.train import _stored, held_out_side


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_flat_colours(tmp_path / 'data')


def test_a_store_skips_and_logs_damaged_images(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / 'apple' / '1.png').write_bytes(b'broken')
    done: list[int] = []
    with caplog.at_level(logging.WARNING):
        store = build_store(ClassFolder.open(folder), tmp_path / 's.npy', 16, 1, done.append)
    assert len(store) == 11
    assert store.image(0).shape == (16, 16, 3)
    assert done == list(range(1, 13))
    assert '1 of 12 images are damaged' in caplog.text
    assert '1.png' in caplog.text
    for index in range(len(store)):
        assert int(store.image(index).mean((0, 1)).argmax()) == store.label(index)
    assert [p.name for p in sorted(tmp_path.glob('s.*'))] == ['s.json', 's.npy']


def swap(folder: Path) -> None:
    for source, target in (('dog', 'x'), ('cat', 'dog'), ('x', 'cat')):
        (folder / source).rename(folder / target)


@pytest.mark.parametrize(
    'change',
    [
        lambda folder: shutil.copytree(folder / 'cat', folder / 'aardvark'),
        lambda folder: shutil.copy(folder / 'cat' / '0.jpg', folder / 'cat' / '9.jpg'),
        lambda folder: (folder / 'cat' / '0.jpg').unlink(),
        lambda folder: (folder / 'apple').rename(folder / 'zebra'),
        swap,
    ],
    ids=['new class', 'new image', 'image gone', 'class renamed', 'classes swapped'],
)
def test_a_store_of_other_images_is_built_again(
    folder: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    path = tmp_path / 's.npy'
    build_store(ClassFolder.open(folder), path, 16)
    change(folder)
    dataset = ClassFolder.open(folder)
    assert open_store(dataset, path, 16) is None
    store = build_store(dataset, path, 16)
    assert store.classes == dataset.classes
    for index in range(len(dataset)):
        assert store.label(index) == dataset.label(index)
        assert np.array_equal(store.image(index), centre_square(dataset.image(index), 16))


def test_a_truncated_store_is_built_again(folder: Path, tmp_path: Path) -> None:
    dataset = ClassFolder.open(folder)
    build_store(dataset, tmp_path / 's.npy', 16)
    (tmp_path / 's.npy').write_bytes((tmp_path / 's.npy').read_bytes()[:1000])
    assert open_store(dataset, tmp_path / 's.npy', 16) is None
    assert len(build_store(dataset, tmp_path / 's.npy', 16)) == 12


@pytest.mark.parametrize('facts', ['', '{}', '[]', '{"images": 1, "damaged": []}'])
def test_a_store_with_unknown_facts_is_built_again(
    folder: Path, tmp_path: Path, facts: str
) -> None:
    dataset = ClassFolder.open(folder)
    build_store(dataset, tmp_path / 's.npy', 16)
    (tmp_path / 's.json').write_text(facts)
    assert open_store(dataset, tmp_path / 's.npy', 16) is None


def test_a_finished_store_is_reused(folder: Path, tmp_path: Path) -> None:
    dataset = ClassFolder.open(folder)
    build_store(dataset, tmp_path / 's.npy', 16)
    changed = (tmp_path / 's.npy').stat().st_mtime_ns
    done: list[int] = []
    build_store(dataset, tmp_path / 's.npy', 16, 1, done.append)
    assert (tmp_path / 's.npy').stat().st_mtime_ns == changed
    assert done == []
    build_store(dataset, tmp_path / 's.npy', 24)
    assert np.load(tmp_path / 's.npy').shape[1] == 24


@pytest.mark.parametrize(('free', 'is_stored'), [(12 * 20 * 20 * 3, False), (1 << 20, True)])
def test_a_store_is_built_if_disk_and_memory_are_sufficient(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    is_stored: bool,
) -> None:
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: SimpleNamespace(available=free))
    dataset = ClassFolder.open(folder)
    stored = _stored(dataset, tmp_path / 's.npy', 20, 'decoding')
    assert isinstance(stored, ImageStore) == is_stored
    assert (tmp_path / 's.npy').is_file() == is_stored
    assert (stored is dataset) != is_stored


def test_centre_square_crops_the_longer_side() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 255
    assert centre_square(image, 10).min() == 255


def test_a_full_disk_is_an_error_before_the_first_image(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.posix_fallocate', refuse)
    with pytest.raises(OSError, match='No space left on device') as caught:
        build_store(ClassFolder.open(folder), tmp_path / 's.npy', 16)
    assert caught.value.filename == str(tmp_path / 's.npy')
    assert not list(tmp_path.glob('*s.npy*')), 'no partial files remain'


def test_a_store_is_pickled_by_its_file_name(folder: Path, tmp_path: Path) -> None:
    store = build_store(ClassFolder.open(folder), tmp_path / 's.npy', 64)
    sent = pickle.dumps(store)
    assert isinstance(store, ImageStore)
    assert len(sent) < 4000 < store.images.nbytes
    again = pickle.loads(sent)
    assert np.array_equal(again.images, store.images)
    assert again.classes == store.classes


@pytest.mark.parametrize(('largest', 'side'), [(96, 192), (288, 480), (512, 512)])
def test_held_out_images_are_not_enlarged_in_the_store(largest: int, side: int) -> None:
    assert held_out_side((48, largest)) == side
