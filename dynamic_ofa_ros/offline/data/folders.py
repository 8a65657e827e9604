"""The folders of a user's images: image files, class folders and splits."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.files import printable

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    '.apng', '.avif', '.bmp', '.dib', '.gif', '.hdr', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg',
    '.pbm', '.pfm', '.pgm', '.pic', '.png', '.pnm', '.ppm', '.pxm', '.ras', '.sr', '.tif',
    '.tiff', '.webp',
)  # fmt: skip
"""Suffixes, in any letter case, of the formats that OpenCV reads in its PyPI package."""

TRAINING_FOLDERS = ('train', 'training')
HELD_OUT_FOLDERS = ('val', 'valid', 'validation', 'test', 'testing', 'eval', 'evaluation')
"""Names of splits, in any letter case; the first existing held-out folder is used."""

IGNORED_FOLDERS = ('__macosx', '@eadir', '$recycle.bin', 'system volume information', 'lost+found')
"""Folders of operating systems, which are ignored like hidden ones."""

SHOWN = 5
"""Maximum number of names in a message."""


@dataclass(frozen=True)
class Listing:
    """The contents of a folder at any depth, without hidden entries.

    images: files with the suffix of an image; others: other files; not_files: links to folders or
    to nothing, pipes, sockets and devices, which are never opened.
    """

    images: tuple[Path, ...]
    others: tuple[Path, ...]
    not_files: tuple[Path, ...] = ()

    @classmethod
    def joined(cls, listings: Iterable[Listing]) -> Listing:
        """Return everything in several listings."""
        parts = list(listings)
        return cls(
            tuple(chain.from_iterable(part.images for part in parts)),
            tuple(chain.from_iterable(part.others for part in parts)),
            tuple(chain.from_iterable(part.not_files for part in parts)),
        )

    def warn_of_ignored(self, root: Path) -> None:
        """Log the number and the names of everything except images."""
        if self.not_files:
            logger.warning(
                '%s: ignored, because only files and links to files are read (%d): %s',
                printable(root),
                len(self.not_files),
                some([printable(entry.relative_to(root)) for entry in self.not_files]),
            )
        if self.others:
            suffixes = Counter(file.suffix.lower() or 'no suffix' for file in self.others)
            logger.warning(
                '%s: %d files are ignored, because OpenCV does not read their format (%s): %s',
                printable(root),
                len(self.others),
                ', '.join(f'{count} {suffix}' for suffix, count in suffixes.most_common(SHOWN)),
                some([printable(file.relative_to(root)) for file in self.others]),
            )


@dataclass(frozen=True)
class Splits:
    """The folders of the training and the held-out class folders; None if there are no splits."""

    training: Path | None
    held_out: Path | None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return the folders that exist."""
        return tuple(folder for folder in (self.training, self.held_out) if folder is not None)


def is_image(path: Path) -> bool:
    """Return whether a path is a file with the suffix of an image, and is not hidden."""
    hidden = path.name.startswith('.')
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def list_files(folder: Path) -> Listing:
    """List the files at any depth, sorted; links to folders are not followed.

    Raise DatasetError if a folder cannot be read.
    """
    images: list[Path] = []
    others: list[Path] = []
    not_files: list[Path] = []
    folders = [folder]
    while folders:
        for entry in _entries(folders.pop()):
            if entry.name.startswith('.'):
                continue
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if not _is_ignored(entry.name):
                    folders.append(path)
            elif not _is_file(entry):
                not_files.append(path)
            else:
                (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
    return Listing(tuple(sorted(images)), tuple(sorted(others)), tuple(sorted(not_files)))


def class_folders(root: str | Path) -> list[Path]:
    """Return the folders in `root`, sorted, without hidden ones and those of operating systems.

    Raise DatasetError if `root` is not a folder, or if a name cannot be a label.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DatasetError(
            f'{printable(root)} is not a directory; give a folder with one folder per class'
        )
    folders = [f for f in sorted(root.iterdir()) if not _is_ignored(f.name) and f.is_dir()]
    for folder in folders:
        if printable(folder.name) != folder.name:
            raise DatasetError(
                f'the class folder {printable(folder)} has a name that is not UTF-8 or contains '
                'control characters; rename it'
            )
    return folders


def find_splits(root: str | Path) -> Splits:
    """Find the folders that contain training and held-out class folders.

    A class may be called `val` or `train`: at least one split contains folders and no images.
    """
    folders = [folder for folder in class_folders(root) if _holds_folders(folder)]
    training = [f for f in folders if f.name.casefold() in TRAINING_FOLDERS]
    held_out = sorted(
        (f for f in folders if f.name.casefold() in HELD_OUT_FOLDERS),
        key=lambda f: HELD_OUT_FOLDERS.index(f.name.casefold()),
    )
    if all(_holds_images(folder) for folder in (*training, *held_out)):
        return Splits(None, None)
    if len(training) > 1:
        raise DatasetError(
            f'{printable(root)} has several training folders: {some(names_of(training))}; '
            'keep one of them'
        )
    return Splits(next(iter(training), None), next(iter(held_out), None))


def warn_of_unused(root: Path, splits: Splits) -> None:
    """Log the folders beside the splits, which are not used."""
    unused = [folder for folder in class_folders(root) if folder not in splits.folders]
    if not splits.folders or not unused:
        return
    names = {*TRAINING_FOLDERS, *HELD_OUT_FOLDERS}
    logger.warning(
        '%s: only %s %s used, not %s',
        printable(root),
        ' and '.join(names_of(splits.folders)),
        'are' if len(splits.folders) > 1 else 'is',
        some(
            [
                f'{printable(folder.name)} (it has no class folders)'
                if folder.name.casefold() in names and not _holds_folders(folder)
                else printable(folder.name)
                for folder in unused
            ]
        ),
    )


def held_out_folder(root: str | Path) -> Path:
    """Return the folder of the held-out class folders: `root` itself, or its val/ or test/.

    Raise DatasetError if there is no such folder.
    """
    return find_splits(root).held_out or Path(root).expanduser()


def check_output(output: Path, data: str | Path) -> None:
    """Raise DatasetError if `output` is a file, or in a folder of classes.

    A later run would take it for a class.
    """
    if output.exists() and not output.is_dir():
        raise DatasetError(f'{printable(output)} is a file; give a folder for the output')
    root = Path(data).expanduser()
    splits = find_splits(root)
    for folder in splits.folders or (root,):
        if output.resolve().is_relative_to(folder.resolve()):
            raise DatasetError(
                f'the output folder {printable(output)} is in {printable(folder)}, where it would '
                'become a class; give a folder elsewhere'
            )


def check_level(root: Path, images: Mapping[Path, Sequence[Path]]) -> None:
    """Raise DatasetError if `root` is one level above the class folders.

    images: those of every folder in `root`.
    """
    nested: dict[Path, list[str]] = {}
    for folder, files in images.items():
        if any(file.parent == folder for file in files):
            continue
        names = sorted({file.relative_to(folder).parts[0] for file in files})
        lowered = {name.casefold() for name in names}
        if lowered & set(TRAINING_FOLDERS) and lowered & set(HELD_OUT_FOLDERS):
            raise DatasetError(
                f'{printable(folder)} contains {some([f"{name}/" for name in names])}: --data is '
                f'one level too high; give {printable(folder)}'
            )
        if len(names) > 1:
            nested[folder] = names
    if nested and len(nested) == len(images):
        folder, names = next(iter(nested.items()))
        raise DatasetError(
            f'the folders in {printable(root)} contain no images, only folders of images '
            f'({some([printable(Path(folder.name, name)) for name in names])}): if --data is one '
            f'level too high, give {printable(folder)}; if {printable(folder.name)} is a class, '
            'move its images directly into its folder; if it is a split, call it train or val'
        )
    splits = {*TRAINING_FOLDERS, *HELD_OUT_FOLDERS}
    if images and all(folder.name.casefold() in splits for folder in images):
        raise DatasetError(
            f'{printable(root)} contains {some([f"{name}/" for name in names_of(images)])} '
            'without class folders; expected for instance train/<class>/<image>'
        )


def names_of(folders: Iterable[Path]) -> list[str]:
    """Return printable names of folders."""
    return [printable(folder.name) for folder in folders]


def some(names: Sequence[str]) -> str:
    """Return the first names, and their number if there are more."""
    return ', '.join(names[:SHOWN]) + (f', ... ({len(names)})' if len(names) > SHOWN else '')


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DatasetError(f'{printable(folder)} cannot be read: {error.strerror}') from None


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a regular file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _is_ignored(name: str) -> bool:
    return name.startswith('.') or name.casefold() in IGNORED_FOLDERS


def _holds_folders(folder: Path) -> bool:
    return any(not _is_ignored(entry.name) and entry.is_dir() for entry in folder.iterdir())


def _holds_images(folder: Path) -> bool:
    return any(is_image(entry) for entry in folder.iterdir())
