from __future__ import annotations

import logging
import pickle
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.offline.data.datasets import (
    ClassFolder,
    ImageStore,
    RenderedSigns,
    build_store,
    centre_square,
    check_classes,
    open_splits,
    read_image,
)
from dynamic_ofa_ros.offline.training.train import _stored, held_out_side


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with four images each; red, green and blue differ."""
    for label, name in enumerate(('apple', 'cat', 'dog')):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for index in range(4):
            image = np.zeros((20, 30, 3), np.uint8)
            image[..., 2 - label] = 200  # OpenCV writes BGR: class 0 is red
            suffix = 'png' if index % 2 else 'jpg'
            cv2.imwrite(str(tmp_path / 'data' / name / f'{index}.{suffix}'), image)
    (tmp_path / 'data' / 'cat' / 'notes.txt').write_text('not an image')
    return tmp_path / 'data'


def test_class_folders_give_sorted_labels_and_rgb(folder: Path) -> None:
    dataset = ClassFolder.open(folder)
    assert dataset.classes == ('apple', 'cat', 'dog')
    assert len(dataset) == 12
    for index in range(len(dataset)):
        assert int(dataset.image(index).mean((0, 1)).argmax()) == dataset.label(index)


def test_splits_by_hash_are_stable_disjoint_and_complete(folder: Path) -> None:
    train, held_out = open_splits(folder, held_out_share=0.4)
    again, _ = open_splits(folder, held_out_share=0.4)
    assert train == again
    assert len(train) + len(held_out) == 12
    assert not set(train.indices) & set(held_out.indices)


def test_train_and_val_folders_are_used(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / 'root'
    root.mkdir()
    folder.rename(root / 'train')
    (root / 'val' / 'dog').mkdir(parents=True)
    (root / 'train' / 'dog' / '0.jpg').rename(root / 'val' / 'dog' / '0.jpg')
    train, held_out = open_splits(root)
    assert len(train) == 11
    assert held_out.classes == ('apple', 'cat', 'dog')
    assert held_out.label(0) == 2


def test_folders_that_do_not_fit_are_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='is not a directory'):
        ClassFolder.open(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DatasetError, match=r'holds no images: expected empty/<class>/<image>'):
        ClassFolder.open(tmp_path / 'empty')
    with pytest.raises(DatasetError, match='dog is a class the labels do not have'):
        ClassFolder.open(folder, ('apple', 'cat'))
    (folder / 'zebra').mkdir()
    with pytest.raises(DatasetError, match='without a single image: zebra'):
        ClassFolder.open(folder)


@pytest.mark.parametrize('data', [b'', b'garbage', b'\xff\xd8\xff\xe0 cut off'])
def test_damaged_images_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / 'bad.jpg'
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r'bad\.jpg'):
        read_image(path)


def test_store_leaves_damaged_images_out_and_says_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / 'apple' / '1.png').write_bytes(b'broken')
    done: list[int] = []
    with caplog.at_level(logging.WARNING):
        store = build_store(ClassFolder.open(folder), tmp_path / 's.npy', 16, 1, done.append)
    assert store.images.shape == (11, 16, 16, 3)
    assert done == list(range(1, 13))
    assert '1 of 12 images are damaged' in caplog.text
    assert '1.png' in caplog.text
    for index in range(len(store)):
        assert int(store.image(index).mean((0, 1)).argmax()) == store.label(index)
    assert [p.name for p in sorted(tmp_path.glob('s.*'))] == ['s.labels.npy', 's.npy']


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
def test_a_store_is_built_where_disk_and_memory_have_room(
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


def test_rendered_signs_differ_between_splits_and_repeat_by_seed() -> None:
    train = RenderedSigns(4, split='train', height=60)
    assert np.array_equal(train.image(1), RenderedSigns(4, split='train', height=60).image(1))
    other = RenderedSigns(4, split='held_out', height=60)
    assert not np.array_equal(train.image(1), other.image(1))
    assert [train.label(i) for i in range(3)] == [0, 1, 2]


def test_centre_square_cuts_the_longer_side() -> None:
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
    assert not list(tmp_path.glob('*s.npy*')), 'nothing half-written stays'


def test_classes_that_are_not_the_backbones_are_named() -> None:
    check_classes(('a', 'b'), ['a', 'b'], 'training')
    with pytest.raises(DatasetError, match=r'training data has 2 classes \(a, b.*trained on 3'):
        check_classes(('a', 'b', 'c'), ('a', 'b'), 'training')
    with pytest.raises(DatasetError, match="calls class 1 'x', the backbone was trained with 'b'"):
        check_classes(('a', 'b'), ('a', 'x'), 'held-out')


def test_another_process_gets_the_name_of_a_store_not_its_images(
    folder: Path, tmp_path: Path
) -> None:
    store = build_store(ClassFolder.open(folder), tmp_path / 's.npy', 64)
    sent = pickle.dumps(store)
    assert len(sent) < 4000 < store.images.nbytes
    again = pickle.loads(sent)
    assert np.array_equal(again.images, store.images)
    assert again.classes == store.classes


@pytest.mark.parametrize(('largest', 'side'), [(96, 192), (288, 480), (512, 512)])
def test_held_out_images_are_not_stored_larger_than_they_are(largest: int, side: int) -> None:
    assert held_out_side((48, largest)) == side
