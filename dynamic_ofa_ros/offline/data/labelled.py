"""Class folders whose images get the labels of a network's outputs."""

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
    """Open class folders of held-out images, or `most` of the images if it is not 0.

    For the names of folders, see `outputs_of`. Classes without a folder are allowed. Raise
    DatasetError if a folder does not belong to a label.
    """
    if most < 0:
        raise DatasetError(f'the number of images is {most}; give 0 for all, or more')
    root = held_out_folder(root)
    names = [folder.name for folder in class_folders(root)]
    outputs = outputs_of(names, labels)
    strangers = [name for name in names if name not in outputs]
    if strangers:
        raise DatasetError(
            f'{printable(root)} has folders that are not labels: {some(strangers)}; the labels '
            f'are {some(labels)}. Name each folder by its label, or by the number of its output'
        )
    classes = list(labels)
    taken: dict[int, str] = {}
    for name, output in outputs.items():
        if output in taken:
            raise DatasetError(
                f'{printable(root)}: the folders {taken[output]} and {name} have the same label '
                f'{labels[output]!r}; merge them'
            )
        taken[output] = name
        classes[output] = name
    images = ClassFolder.open(root, classes)
    return random_subset(images, most) if 0 < most < len(images) else images


def outputs_of(names: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """Return the output of the network for each class folder; unknown folders are omitted.

    A folder has the name of its label (ignoring case, spaces, hyphens and underscores), its
    WordNet id if the labels are those of ImageNet, or, if all names are numbers, the number of its
    output.
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
