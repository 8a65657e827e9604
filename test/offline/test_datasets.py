from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import png_header, write_flat_colours, write_image

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.offline.data.datasets import (
    ClassFolder,
    RenderedSigns,
    Subset,
    check_classes,
    fingerprint,
    open_splits,
    read_image,
)
from dynamic_ofa_ros.offline.data.folders import IMAGE_SUFFIXES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_flat_colours(tmp_path / 'data')


def test_class_folders_have_sorted_labels_and_rgb_images(folder: Path) -> None:
    dataset = ClassFolder.open(folder)
    assert dataset.classes == ('apple', 'cat', 'dog')
    assert len(dataset) == 12
    for index in range(len(dataset)):
        assert int(dataset.image(index).mean((0, 1)).argmax()) == dataset.label(index)


def test_splits_by_hash_are_stable_disjoint_and_complete(folder: Path) -> None:
    train, held_out = open_splits(folder, held_out_share=0.4)
    again, _ = open_splits(folder, held_out_share=0.4)
    assert train == again
    assert isinstance(train, Subset)
    assert isinstance(held_out, Subset)
    assert len(train) + len(held_out) == 12
    assert not set(train.indices) & set(held_out.indices)


@pytest.mark.parametrize(('images', 'held_out_images'), [(2, 1), (5, 1), (17, 2), (40, 4)])
def test_every_class_is_split_in_the_same_proportion(
    tmp_path: Path, images: int, held_out_images: int
) -> None:
    for name in range(20):
        (tmp_path / str(name)).mkdir()
        for index in range(images):
            (tmp_path / str(name) / f'{index}.jpg').touch()
    for split, count in zip(
        open_splits(tmp_path), (images - held_out_images, held_out_images), strict=True
    ):
        labels = [split.label(index) for index in range(len(split))]
        assert [labels.count(label) for label in range(20)] == [count] * 20


def test_a_class_too_small_to_split_is_named(folder: Path) -> None:
    (folder / 'elk').mkdir()
    (folder / 'elk' / '0.jpg').touch()
    with pytest.raises(DatasetError, match='classes with only one image: elk; each requires'):
        open_splits(folder)


def test_a_single_class_is_rejected(folder: Path) -> None:
    for name in ('cat', 'dog'):
        (folder / name).rename(folder / f'.{name}')
    with pytest.raises(DatasetError, match='only one class, apple'):
        open_splits(folder)


def test_a_class_without_held_out_images_is_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / 'root' / 'val' / 'dog').mkdir(parents=True)
    (tmp_path / 'root' / 'unlabelled').mkdir()
    (folder / 'dog' / '0.jpg').rename(tmp_path / 'root' / 'val' / 'dog' / '0.jpg')
    folder.rename(tmp_path / 'root' / 'train')
    open_splits(tmp_path / 'root')
    assert 'has no images of apple, cat: the accuracy does not include them' in caplog.text
    assert 'only train and val are used, not unlabelled' in caplog.text


def test_ignored_files_are_counted_and_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / 'dog' / 'phone.heic').touch()
    (folder / 'beside.JPG').touch()
    (folder / 'dog' / '._0.jpg').touch()
    assert len(ClassFolder.open(folder)) == 12
    assert '2 files are ignored' in caplog.text
    assert '1 .txt, 1 .heic' in caplog.text
    assert 'cat/notes.txt, dog/phone.heic' in caplog.text
    assert '1 images are not in a class folder and are ignored: beside.JPG' in caplog.text


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


def test_invalid_folders_are_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='is not a directory'):
        ClassFolder.open(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DatasetError, match=r'contains no images: expected empty/<class>/<image>'):
        ClassFolder.open(tmp_path / 'empty')
    with pytest.raises(DatasetError, match='dog is not one of the labels'):
        ClassFolder.open(folder, ('apple', 'cat'))
    (folder / 'zebra').mkdir()
    with pytest.raises(DatasetError, match='without images: zebra'):
        ClassFolder.open(folder)


@pytest.mark.parametrize(
    'data', [b'', b'garbage', b'\xff\xd8\xff\xe0 cut off', png_header(40_000, 40_000)]
)
def test_damaged_images_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / 'bad.jpg'
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r'bad\.jpg'):
        read_image(path)


@pytest.mark.parametrize(
    ('suffix', 'dtype', 'brightest'),
    [
        ('.png', 'uint16', 4095),
        ('.tiff', 'uint16', 4095),
        ('.pgm', 'uint16', 4095),
        ('.pfm', 'float32', 1),
    ],
)
def test_images_that_become_nearly_black_are_rejected(
    tmp_path: Path, suffix: str, dtype: str, brightest: int
) -> None:
    shades = np.linspace(0, brightest, 600).reshape(20, 30).astype(dtype)
    path = tmp_path / f'dark{suffix}'
    write_image(path, shades)
    found = f'dark{suffix} has {dtype} pixels up to {brightest}, nearly black'
    with pytest.raises(DatasetError, match=found):
        read_image(path)


@pytest.mark.parametrize(
    ('suffix', 'dtype', 'brightest'),
    [('.png', 'uint16', 65535), ('.png', 'uint8', 3), ('.png', 'uint16', 0), ('.hdr', 'f4', 1)],
)
def test_other_dark_and_deep_images_are_read(
    tmp_path: Path, suffix: str, dtype: str, brightest: int
) -> None:
    path = tmp_path / f'image{suffix}'
    write_image(path, np.full((20, 30, 3), brightest, dtype))
    expected = {65535: 255, 1: 255}.get(brightest, brightest)
    assert np.abs(read_image(path).astype(int) - expected).max() <= 1


@pytest.mark.parametrize('white', [1, 15, 100, 255, 256, 1000, 4095, 65535])
@pytest.mark.parametrize(
    ('header', 'channels'),
    [
        ('P2\n3 2\n', 1),
        ('P3 # 8 bits\n3 2 ', 3),
        ('P5\n# camera 1\n3 2\n', 1),
        ('P6 3 2\n# white:\n', 3),
        ('P7\nWIDTH 3\nHEIGHT 2\nDEPTH 3\nMAXVAL ', 3),
    ],
)
def test_images_that_state_their_white_have_full_brightness(
    tmp_path: Path, header: str, channels: int, white: int
) -> None:
    dark, bright = 0, white
    values = [dark, white // 2, bright] * 2
    end = '\nTUPLTYPE RGB\nENDHDR\n' if header.startswith('P7') else '\n'
    pixels = np.repeat(values, channels)
    contents = (
        (' '.join(map(str, pixels)) + '\n').encode()
        if header[:2] in ('P2', 'P3')
        else pixels.astype('>u2' if white > 255 else 'u1').tobytes()
    )
    path = tmp_path / 'image.pnm'
    path.write_bytes(f'{header}{white}{end}'.encode() + contents)
    expected = np.round(np.array(values).reshape(2, 3, 1) * (255 / white))
    assert np.abs(read_image(path).astype(int) - expected).max() <= 1


def test_a_grey_image_of_floats_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'image.pfm'
    path.write_bytes(b'Pf\n3 2\n-1.0\n' + np.full(6, 200, '<f4').tobytes())
    assert np.array_equal(read_image(path), np.full((2, 3, 3), 200))


@pytest.mark.parametrize('dtype', ['int8', 'int16'])
def test_pixels_with_a_sign_are_rejected(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / 'image.tiff'
    write_image(path, np.full((20, 30, 3), 100, dtype))
    with pytest.raises(DatasetError, match=rf'image\.tiff has {dtype} pixels: convert them'):
        read_image(path)


@pytest.mark.parametrize('suffix', [s for s in IMAGE_SUFFIXES if s not in ('.jfif', '.pxm')])
def test_images_of_every_format_are_read(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((20, 30, 3), (200, 20, 20), np.uint8)
    if suffix in ('.pbm', '.pgm'):
        pixels = pixels[..., 0]
    is_float = suffix in ('.hdr', '.pfm', '.pic')
    try:
        is_written, data = cv2.imencode(suffix, pixels.astype(np.float32) if is_float else pixels)
    except cv2.error:
        is_written = False
    if not is_written:
        pytest.skip('this OpenCV does not write it')
    (tmp_path / 'cat').mkdir()
    (tmp_path / 'cat' / f'image{suffix.upper()}').write_bytes(data.tobytes())
    image = ClassFolder.open(tmp_path).image(0)
    assert (image.shape, image.dtype) == ((20, 30, 3), np.uint8)


def test_names_that_are_not_utf_8_are_hashed_and_printed(folder: Path) -> None:
    for index in range(20):
        name = os.fsdecode(b'caf\xe9-%d.png' % index)
        (folder / 'cat' / name).write_bytes(b'damaged')
    train, held_out = open_splits(folder)
    assert len(train) + len(held_out) == 32
    fingerprint(train).encode()
    with pytest.raises(DatasetError, match=r'caf\\xe9') as caught:
        read_image(folder / 'cat' / name)
    str(caught.value).encode()


def test_different_datasets_have_different_fingerprints(folder: Path, tmp_path: Path) -> None:
    def seen() -> str:
        return fingerprint(ClassFolder.open(folder))

    first = seen()
    shutil.copytree(folder, tmp_path / 'copy')
    assert fingerprint(ClassFolder.open(tmp_path / 'copy')) == first
    for source, target in (('dog', 'x'), ('cat', 'dog'), ('x', 'cat')):
        (folder / source).rename(folder / target)
    swapped = seen()
    (folder / 'cat').rename(folder / 'cow')
    renamed = seen()
    (folder / 'cow' / '0.jpg').rename(folder / 'cow' / '9.jpg')
    moved = seen()
    (folder / 'cow' / '9.jpg').unlink()
    assert len({first, swapped, renamed, moved, seen()}) == 5


def test_rendered_signs_differ_between_splits_and_repeat_by_seed() -> None:
    train = RenderedSigns(4, split='train', height=60)
    assert np.array_equal(train.image(1), RenderedSigns(4, split='train', height=60).image(1))
    other = RenderedSigns(4, split='held_out', height=60)
    assert not np.array_equal(train.image(1), other.image(1))
    assert [train.label(i) for i in range(3)] == [0, 1, 2]


def test_classes_of_another_backbone_are_named() -> None:
    check_classes(('a', 'b'), ['a', 'b'], 'training')
    with pytest.raises(DatasetError, match=r'training data has 2 classes \(a, b.*trained on 3'):
        check_classes(('a', 'b', 'c'), ('a', 'b'), 'training')
    with pytest.raises(DatasetError, match="calls class 1 'x', the backbone was trained with 'b'"):
        check_classes(('a', 'b'), ('a', 'x'), 'held-out')
