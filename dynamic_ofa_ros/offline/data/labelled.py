"""Class folders whose images are labelled as a network's outputs are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.files import printable
from dynamic_ofa_ros.offline.data.datasets import ClassFolder, ImageDataset, random_subset
from dynamic_ofa_ros.offline.data.folders import class_folders, held_out_folder, some
from dynamic_ofa_ros.supernet.published.imagenet_labels import imagenet_labels, imagenet_wnids


def open_labelled(root: str | Path, labels: Sequence[str], most: int = 0) -> ImageDataset:
    """Open class folders of held-out images, or some of the images, where `most` is not 0.

    `outputs_of` says how folders are named. Classes without a folder are allowed. Raises
    DatasetError for folders that belong to no label.
    """
    if most < 0:
        raise DatasetError(f'{most} images were asked for; give 0 for all, or more')
    root = held_out_folder(root)
    names = [folder.name for folder in class_folders(root)]
    outputs = outputs_of(names, labels)
    strangers = [name for name in names if name not in outputs]
    if strangers:
        raise DatasetError(
            f'{printable(root)} has folders that are no label: {some(strangers)}; the labels are '
            f'{some(labels)}. Name each folder as its label, or by the number of its output'
        )
    classes = list(labels)
    taken: dict[int, str] = {}
    for name, output in outputs.items():
        if output in taken:
            raise DatasetError(
                f'{printable(root)}: the folders {taken[output]} and {name} are both of the label '
                f'{labels[output]!r}; merge them'
            )
        taken[output] = name
        classes[output] = name
    images = ClassFolder.open(root, classes)
    return random_subset(images, most) if 0 < most < len(images) else images


def outputs_of(names: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """Return the network's output that each class folder belongs to; strangers are left out.

    A folder is named after its label (case, spaces, hyphens and underscores do not matter), has
    its WordNet id where the labels are ImageNet's, or, where all are numbers, its output's.
    """
    known = {_plain(label): output for output, label in enumerate(labels)}
    if tuple(labels) == imagenet_labels():
        known.update({wnid: output for output, wnid in enumerate(imagenet_wnids())})
    found = {name: known[_plain(name)] for name in names if _plain(name) in known}
    if not found and names and all(name.isdecimal() for name in names):
        return {name: int(name) for name in names if int(name) < len(labels)}
    return found


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]+', ' ', name.strip().casefold())
