"""Class folders whose images are labelled as a network's outputs are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.offline.datasets import (
    HELD_OUT_FOLDERS,
    ClassFolder,
    ImageDataset,
    random_subset,
)

SHOWN = 5
"""Names that an error message lists."""


def held_out_folder(root: str | Path) -> Path:
    """Return where the class folders of held-out images are: `root` itself, or its val/ or test/.

    Raises DatasetError where there is no such folder.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DatasetError(f'{root} is not a directory; give a folder with one folder per class')
    return next((root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()), root)


def open_labelled(
    root: str | Path,
    labels: Sequence[str],
    synonyms: Mapping[str, int] | None = None,
    most: int = 0,
) -> ImageDataset:
    """Open class folders of held-out images, or some of the images, where `most` is not 0.

    A folder belongs to the label of its name (case, spaces, hyphens and underscores do not
    matter), to the label that `synonyms` gives its name, or, where all names are numbers, to the
    output of that number. Classes without a folder are allowed. Raises DatasetError for folders
    that belong to no label.
    """
    if most < 0:
        raise DatasetError(f'{most} images were asked for; give 0 for all, or more')
    root = held_out_folder(root)
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    outputs = _outputs(names, labels, synonyms or {})
    strangers = [name for name in names if name not in outputs]
    if strangers:
        raise DatasetError(
            f'{root} has folders that are no label: {_some(strangers)}; the labels are '
            f'{_some(labels)}. Name each folder as its label, or by the number of its output'
        )
    classes = list(labels)
    taken: dict[int, str] = {}
    for name, output in outputs.items():
        if output in taken:
            raise DatasetError(
                f'{root}: the folders {taken[output]} and {name} are both of the label '
                f'{labels[output]!r}; merge them'
            )
        taken[output] = name
        classes[output] = name
    images = ClassFolder.open(root, classes)
    return random_subset(images, most) if 0 < most < len(images) else images


def _outputs(
    names: Sequence[str], labels: Sequence[str], synonyms: Mapping[str, int]
) -> dict[str, int]:
    """Return the output that each folder belongs to."""
    known = {_plain(label): output for output, label in enumerate(labels)}
    known.update({_plain(name): output for name, output in synonyms.items()})
    found = {name: known[_plain(name)] for name in names if _plain(name) in known}
    if not found and names and all(name.isdecimal() for name in names):
        return {name: int(name) for name in names if int(name) < len(labels)}
    return found


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]+', ' ', name.strip().casefold())


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (f', ... ({len(names)})' if len(names) > SHOWN else '')
