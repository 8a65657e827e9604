"""Class folders, splits, and other folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.offline.data.datasets import ClassFolder, open_splits
from dynamic_ofa_ros.offline.data.folders import class_folders, held_out_folder


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def classes(root: Path, *splits: str) -> Path:
    for split in splits:
        touch(root, *(f'{split}/{name}/{i}.jpg' for name in ('cat', 'dog') for i in range(4)))
    return root


@pytest.mark.parametrize('names', [('Training', 'Testing'), ('TRAIN', 'Test'), ('train', 'val')])
def test_splits_have_names_in_any_letter_case(tmp_path: Path, names: tuple[str, str]) -> None:
    train, held_out = open_splits(classes(tmp_path, *names))
    assert isinstance(train, ClassFolder)
    assert isinstance(held_out, ClassFolder)
    assert (train.root.name, held_out.root.name) == names
    assert train.classes == ('cat', 'dog')
    assert held_out_folder(tmp_path).name == names[1]


def test_a_split_may_be_a_class(tmp_path: Path) -> None:
    """Classes may have names like train (a vehicle) or valid (an answer)."""
    root = touch(tmp_path, *(f'{name}/{i}.jpg' for name in ('bus', 'train') for i in range(4)))
    assert open_splits(root)[0].classes == ('bus', 'train')


def test_folders_of_operating_systems_are_ignored(tmp_path: Path) -> None:
    root = classes(tmp_path, 'train', 'val')
    for name in ('.ipynb_checkpoints', '__MACOSX', '@eaDir', 'cat/.ipynb_checkpoints'):
        touch(root, f'train/{name}/0.jpg', f'val/{name}/0.jpg')
    touch(root, 'train/cat/._0.jpg')
    train, held_out = open_splits(root)
    assert train.classes == ('cat', 'dog')
    assert (len(train), len(held_out)) == (8, 8)


@pytest.mark.parametrize('splits', [('mine/train', 'mine/val'), ('one', 'two'), ('mine',)])
def test_data_one_level_too_high_is_explained(tmp_path: Path, splits: tuple[str, ...]) -> None:
    level = classes(tmp_path, *splits) / Path(splits[0]).parts[0]
    with pytest.raises(DatasetError, match=f'--data is one level too high.* give {level}'):
        open_splits(tmp_path)


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (('train/0.jpg', 'test/0.jpg'), r'contains test/, train/ without class folders'),
        (('Testing/cat/0.jpg', 'cat/0.jpg'), r'contains Testing/, but no train/'),
        (('train/cat/0.jpg', 'Train/cat/0.jpg'), r'several training folders: Train, train'),
    ],
)
def test_a_missing_split_is_explained(
    tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        open_splits(touch(tmp_path, *files))


@pytest.mark.parametrize(
    'name', [b'\x1b[31mred', b'caf\xe9', b'two\nlines', 'two\u2028lines'.encode()]
)
def test_a_class_name_that_cannot_be_a_label_is_rejected(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).mkdir()
    with pytest.raises(
        DatasetError, match='a name that is not UTF-8 or contains control'
    ) as caught:
        class_folders(tmp_path)
    str(caught.value).encode()


def test_entries_that_are_not_files_are_named_and_never_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening a pipe would wait without end, and reading a device fills the memory."""
    root = classes(tmp_path / 'data', '.')
    os.mkfifo(root / 'cat' / 'pipe.jpg')
    for name, target in {
        'device.jpg': '/dev/zero',
        'nothing.jpg': 'removed.jpg',
        'itself.jpg': 'itself.jpg',
        'more': '../dog',
    }.items():
        (root / 'cat' / name).symlink_to(target)
    (root / 'cat' / 'link.jpg').symlink_to(root / 'dog' / '0.jpg')
    (root / 'bird').symlink_to(root / 'dog')
    files = [path.relative_to(root).as_posix() for path, _ in ClassFolder.open(root).files]
    assert [name for name in files if not name.endswith(('0.jpg', '1.jpg', '2.jpg', '3.jpg'))] == [
        'cat/link.jpg'
    ]
    assert len(files) == 4 + 5 + 4
    assert 'only files and links to files are read (5)' in caplog.text
    for name in ('pipe.jpg', 'device.jpg', 'nothing.jpg', 'itself.jpg', 'more'):
        assert f'cat/{name}' in caplog.text


@pytest.mark.parametrize('stray', ['train/stray.jpg', 'val/stray.jpg'])
def test_images_beside_the_class_folders_do_not_hide_a_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stray: str
) -> None:
    train, held_out = open_splits(touch(classes(tmp_path, 'train', 'val'), stray))
    assert (len(train), len(held_out)) == (8, 8)
    assert '1 images are not in a class folder and are ignored: stray.jpg' in caplog.text


def test_a_split_without_class_folders_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, held_out = open_splits(touch(classes(tmp_path, 'train'), 'test/1.jpg'))
    assert (len(train), len(held_out)) == (6, 2)
    assert 'only train is used, not test (it has no class folders)' in caplog.text


def test_copies_of_training_images_in_the_held_out_split_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = classes(tmp_path, 'train', 'val')
    open_splits(root)
    assert 'copies' not in caplog.text, 'empty files are damaged, not copies'
    for index, path in enumerate(sorted(root.glob('*/*/*.jpg'))):
        path.write_bytes(b'image %02d' % index)
    open_splits(root)
    assert 'copies' not in caplog.text
    (root / 'val/cat/1.jpg').write_bytes((root / 'train/dog/2.jpg').read_bytes())
    open_splits(root)
    assert '1 of 8 held-out images are copies of training images' in caplog.text
    assert 'too high: cat/1.jpg' in caplog.text


def test_copies_in_an_automatic_split_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in classes(tmp_path, '.').glob('*/*.jpg'):
        path.write_bytes(b'the same')
    open_splits(tmp_path)
    assert '2 of 2 held-out images are copies of training images' in caplog.text
