"""What a user's folder of images holds: which files are images, which folders are classes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.files import printable

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    '.apng', '.avif', '.bmp', '.dib', '.gif', '.hdr', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg',
    '.pbm', '.pfm', '.pgm', '.pic', '.png', '.pnm', '.ppm', '.pxm', '.ras', '.sr', '.tif',
    '.tiff', '.webp',
)  # fmt: skip
"""Suffixes, in any letter case, of the formats that OpenCV reads as it is installed with pip."""

TRAINING_FOLDERS = ('train', 'training')
HELD_OUT_FOLDERS = ('val', 'valid', 'validation', 'test', 'testing', 'eval', 'evaluation')
"""Names of splits, in any letter case; of several held-out folders the first here is used."""

IGNORED_FOLDERS = ('__macosx', '@eadir', '$recycle.bin', 'system volume information', 'lost+found')
"""Folders that systems leave behind; like hidden ones they are never classes."""

SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Listing:
    """The files below a folder, hidden ones left out: images by their suffix, and the others."""

    images: tuple[Path, ...]
    others: tuple[Path, ...]

    def warn_of_others(self, root: Path) -> None:
        """Count and name the files that are no images."""
        if self.others:
            suffixes = Counter(file.suffix.lower() or 'no suffix' for file in self.others)
            logger.warning(
                '%s: %d files are left out, OpenCV does not read their kind (%s): %s',
                printable(root),
                len(self.others),
                ', '.join(f'{count} {suffix}' for suffix, count in suffixes.most_common(SHOWN)),
                some([printable(file.relative_to(root)) for file in self.others]),
            )


@dataclass(frozen=True)
class Splits:
    """The folders of class folders that a data set is divided into, where it is."""

    training: Path | None
    held_out: Path | None


def is_image(path: Path) -> bool:
    """Tell whether a file is an image, by its suffix, and not hidden."""
    hidden = path.name.startswith('.')
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def list_files(folder: Path) -> Listing:
    """List the files at any depth, sorted; links to folders are not followed.

    Raise DatasetError where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DatasetError(f'{printable(error.filename)} cannot be read: {error.strerror}')

    images: list[Path] = []
    others: list[Path] = []
    for parent, names, files in os.walk(folder, onerror=refuse):
        names[:] = [name for name in names if not _is_ignored(name)]
        for name in files:
            if not name.startswith('.'):
                path = Path(parent, name)
                (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
    return Listing(tuple(sorted(images)), tuple(sorted(others)))


def class_folders(root: str | Path) -> list[Path]:
    """Return the folders in `root`, sorted; hidden ones and those of systems are none.

    Raise DatasetError where `root` is no folder, or a name cannot be a label.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DatasetError(
            f'{printable(root)} is not a directory; give a folder with one folder per class'
        )
    folders = [f for f in sorted(root.iterdir()) if not _is_ignored(f.name) and f.is_dir()]
    for folder in folders:
        if printable(folder.name) != folder.name or len(folder.name.splitlines()) > 1:
            raise DatasetError(
                f'the class folder {printable(folder)!r} has a name that is not UTF-8, or of '
                'several lines; rename it'
            )
    return folders


def find_splits(root: str | Path) -> Splits:
    """Find the folders that hold training and held-out class folders.

    `val` may also be a class: a split holds folders and no images of its own.
    """
    folders = [folder for folder in class_folders(root) if _holds_folders_only(folder)]
    training = [f for f in folders if f.name.casefold() in TRAINING_FOLDERS]
    held_out = sorted(
        (f for f in folders if f.name.casefold() in HELD_OUT_FOLDERS),
        key=lambda f: HELD_OUT_FOLDERS.index(f.name.casefold()),
    )
    if len(training) > 1:
        raise DatasetError(
            f'{printable(root)} has several training folders: {some(names_of(training))}; '
            'leave one of them'
        )
    return Splits(next(iter(training), None), next(iter(held_out), None))


def held_out_folder(root: str | Path) -> Path:
    """Return where the class folders of held-out images are: `root` itself, or its val/ or test/.

    Raises DatasetError where there is no such folder.
    """
    return find_splits(root).held_out or Path(root).expanduser()


def check_level(root: Path, images: Mapping[Path, Sequence[Path]]) -> None:
    """Raise DatasetError where `root` lies one level above class folders.

    images: of every folder in `root`.
    """
    nested: dict[Path, list[str]] = {}
    for folder, files in images.items():
        if any(file.parent == folder for file in files):
            continue
        names = sorted({file.relative_to(folder).parts[0] for file in files})
        lowered = {name.casefold() for name in names}
        if lowered & set(TRAINING_FOLDERS) and lowered & set(HELD_OUT_FOLDERS):
            raise DatasetError(
                f'{printable(folder)} holds {some([f"{name}/" for name in names])}: --data is one '
                f'level too high; give {printable(folder)}'
            )
        if len(names) > 1:
            nested[folder] = names
    if nested and len(nested) == len(images):
        folder, names = next(iter(nested.items()))
        raise DatasetError(
            f'the folders in {printable(root)} hold no images, only folders of images '
            f'({some([printable(Path(folder.name, name)) for name in names])}): --data is one '
            f'level too high, give {printable(folder)}; or, if {printable(folder.name)} is a '
            'class, put its images directly into its folder'
        )
    splits = {*TRAINING_FOLDERS, *HELD_OUT_FOLDERS}
    if images and all(folder.name.casefold() in splits for folder in images):
        raise DatasetError(
            f'{printable(root)} holds {some([f"{name}/" for name in names_of(images)])} without '
            'class folders; expected for instance train/<class>/<image>'
        )


def names_of(folders: Iterable[Path]) -> list[str]:
    """Return the names of folders, as they can be printed."""
    return [printable(folder.name) for folder in folders]


def some(names: Sequence[str]) -> str:
    """Return the first few names, and how many there are."""
    return ', '.join(names[:SHOWN]) + (f', ... ({len(names)})' if len(names) > SHOWN else '')


def _is_ignored(name: str) -> bool:
    return name.startswith('.') or name.casefold() in IGNORED_FOLDERS


def _holds_folders_only(folder: Path) -> bool:
    entries = list(folder.iterdir())
    return any(e.is_dir() and not _is_ignored(e.name) for e in entries) and not any(
        is_image(e) for e in entries
    )
