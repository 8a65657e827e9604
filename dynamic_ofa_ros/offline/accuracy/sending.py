"""The input of workers on other machines, as data instead of file names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.files import printable
from dynamic_ofa_ros.offline.accuracy.evaluation_pool import Assignment
from dynamic_ofa_ros.offline.data.datasets import (
    ClassFolder,
    ImageDataset,
    ImageStore,
    Subset,
    UInt8,
    decoded,
)
from dynamic_ofa_ros.supernet.network import build_supernet
from dynamic_ofa_ros.supernet.weights import load_state

logger = logging.getLogger(__name__)

LARGEST_SENT_BYTES = 2 << 30
"""Larger sets of image files must exist on every machine, at the same paths."""


@dataclass(frozen=True)
class SentAssignment(Assignment):
    """An assignment that contains the weights of the backbone."""

    weights: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)

    def supernet(self) -> nn.Module:
        """Return the backbone with the sent weights."""
        supernet = build_supernet(self.trained.backbone)
        # Copied, because arrays from Ray's object store are read-only.
        load_state(supernet, {n: torch.from_numpy(w.copy()) for n, w in self.weights.items()})
        return supernet.eval()


@dataclass(frozen=True)
class SentFiles:
    """Encoded image files of a class folder; `names` are for messages."""

    classes: tuple[str, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    contents: tuple[bytes, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """Return the label of image `index`."""
        return self.labels[index]

    def image(self, index: int) -> UInt8:
        """Decode image `index` as (H, W, 3) uint8, RGB; raise DatasetError if it is damaged."""
        return decoded(self.contents[index], self.names[index])


def sent(assignment: Assignment) -> SentAssignment:
    """Return an assignment that needs no files of this machine, unless there are many images."""
    weights = {name: value.numpy() for name, value in assignment.supernet().state_dict().items()}
    halves = {n: w.astype(np.float16) if w.dtype.kind == 'f' else w for n, w in weights.items()}
    values = {f.name: getattr(assignment, f.name) for f in fields(assignment)}
    for name in ('calibration', 'held_out'):
        values[name] = _sent_images(values[name])
    return SentAssignment(**values, weights=halves)


def _sent_images(dataset: ImageDataset) -> ImageDataset:
    whole, indices = dataset, list(range(len(dataset)))
    while isinstance(whole, Subset):
        indices = [whole.indices[i] for i in indices]
        whole = whole.dataset
    if isinstance(whole, ImageStore):  # a mapped array would be pickled as a file name
        images = np.asarray(whole.images)
        is_whole = indices == list(range(len(images)))
        return ImageStore(
            whole.classes, images if is_whole else images[indices], whole.labels[indices]
        )
    if not isinstance(whole, ClassFolder):
        return dataset  # rendered by each worker
    files = [whole.files[i] for i in indices]
    size = sum(path.stat().st_size for path, _ in files if path.is_file())
    if size > LARGEST_SENT_BYTES:
        logger.warning(
            '%d images of %s are too large to be sent to workers (%.1f GB): they must exist at '
            'the same path on every machine, for instance on a shared file system',
            len(files),
            whole.root,
            size / 1e9,
        )
        return dataset
    return SentFiles(
        whole.classes,
        tuple(label for _, label in files),
        tuple(printable(path) for path, _ in files),
        tuple(path.read_bytes() if path.is_file() else b'' for path, _ in files),
    )
