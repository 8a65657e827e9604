"""Measure the top-1 of sub-networks on held-out images after recalculating their batch norms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.offline.data.datasets import (
    ImageDataset,
    Subset,
    random_subset,
    report_damaged,
)
from dynamic_ofa_ros.offline.data.loading import Chunk, Loader, Task
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.supernet.batch_norm import DEFAULT_IMAGES, recalculate
from dynamic_ofa_ros.supernet.network import extract_subnet
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

BATCH = 100
# Images that a worker reads at a time.
CHUNK = 25
CHUNKS_PER_BATCH = BATCH // CHUNK
# Preprocessed images of a split are kept in memory up to this size.
LARGEST_CACHE_BYTES = 2 << 30

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


class PreparedImages:
    """A dataset as network input, preprocessed exactly as on the robot.

    If they fit into `cache_bytes`, the images are prepared at all `resolutions` at the first use,
    because decoding takes longer than resizing. Otherwise they are read again in each pass, in
    parallel and a few batches ahead of the network. Damaged images are skipped; their number and
    names are logged after the first complete pass.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        preprocessing: Preprocessing,
        resolutions: Sequence[int],
        *,
        workers: int | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise DatasetError('the dataset contains no images')
        self.dataset = dataset
        self._resolutions = tuple(sorted(set(resolutions)))
        self._loader = Loader(Task(dataset, preprocessing), workers)
        size = sum(12 * r * r for r in self._resolutions) * len(dataset)
        self._fits = size <= (LARGEST_CACHE_BYTES if cache_bytes is None else cache_bytes)
        self._cache: dict[int, Float32Array] = {}
        self._damaged: dict[int, str] | None = None
        self.labels = np.array([dataset.label(i) for i in range(len(dataset))], np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Return the error of every damaged image, after the first complete pass."""
        return tuple((self._damaged or {}).values())

    def batches(
        self, resolution: int, device: torch.device | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (N, 3, r, r) float32 images and (N,) int64 labels, in order."""
        if self._fits and not self._cache:
            self._cache = self._prepare_all()
        stored = self._cache.get(resolution)
        for chunk in self._stream(resolution) if stored is None else self._cut(stored):
            pixels, labels = chunk
            if len(labels):
                yield torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device)

    def _cut(self, stored: Float32Array) -> Iterator[tuple[Float32Array, Int64Array]]:
        readable = np.ones(len(self), bool)
        readable[list(self._damaged or ())] = False
        for start in range(0, len(self), BATCH):
            batch = slice(start, start + BATCH)
            chosen = readable[batch]
            whole = bool(chosen.all())  # a view avoids the copy
            yield (
                stored[batch] if whole else stored[batch][chosen],
                self.labels[batch] if whole else self.labels[batch][chosen],
            )

    def _stream(self, resolution: int) -> Iterator[tuple[Float32Array, Int64Array]]:
        parts: list[Chunk] = []
        damaged: dict[int, str] = {}
        for done, chunk in enumerate(self._load((resolution,)), start=1):
            parts.append(chunk)
            damaged.update(chunk.damaged)
            if len(parts) == CHUNKS_PER_BATCH or done * CHUNK >= len(self):
                kept = [index for part in parts for index in part.kept]
                pixels = np.concatenate([part.pixels[resolution] for part in parts])
                parts.clear()
                yield pixels, self.labels[kept]
        self._remember(damaged)

    def _prepare_all(self) -> dict[int, Float32Array]:
        prepared = {r: np.zeros((len(self), 3, r, r), np.float32) for r in self._resolutions}
        damaged: dict[int, str] = {}
        for chunk in self._load(self._resolutions):
            for resolution, pixels in chunk.pixels.items():
                prepared[resolution][list(chunk.kept)] = pixels
            damaged.update(chunk.damaged)
        self._remember(damaged)
        return prepared

    def _load(self, resolutions: Sequence[int]) -> Iterator[Chunk]:
        starts = range(0, len(self), CHUNK)
        parts = (range(start, min(start + CHUNK, len(self))) for start in starts)
        return self._loader.load(parts, resolutions)

    def _remember(self, damaged: dict[int, str]) -> None:
        if damaged and damaged != self._damaged:
            report_damaged(tuple(damaged.values()), len(self))
        self._damaged = damaged


@dataclass(frozen=True)
class Evaluation:
    """A sub-network with its own batch-norm statistics, and its top-1 as a fraction."""

    subnet: nn.Module
    top1: float


class Evaluator:
    """Extracts sub-networks, recalculates their batch norms and measures their top-1."""

    def __init__(
        self, supernet: nn.Module, calibration: PreparedImages, held_out: PreparedImages
    ) -> None:
        self._supernet = supernet
        self._calibration, self._held_out = calibration, held_out
        self._device = next(supernet.parameters()).device

    def calibrated(self, architecture: SubnetArchitecture) -> nn.Module:
        """Extract one architecture and recalculate its batch norm."""
        subnet = extract_subnet(self._supernet, architecture)
        recalculate(
            subnet,
            (images for images, _ in self._calibration.batches(architecture.r, self._device)),
        )
        return subnet

    def evaluate(self, architecture: SubnetArchitecture) -> Evaluation:
        """Extract, calibrate and measure one architecture."""
        subnet = self.calibrated(architecture)
        return Evaluation(subnet, top1(subnet, architecture.r, self._held_out, self._device))


def top1(
    network: nn.Module,
    resolution: int,
    images: PreparedImages,
    device: torch.device | None = None,
) -> float:
    """Return the fraction of readable images whose label has the highest logit."""
    right = total = 0
    with torch.inference_mode():
        for batch, labels in images.batches(resolution, device):
            right += int((network(batch).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def confusion_matrix(
    network: nn.Module, resolution: int, images: PreparedImages, classes: int
) -> Int64Array:
    """Return (classes, classes) counts of readable images: rows true, columns predicted."""
    device = next(network.parameters()).device
    counts = torch.zeros(classes * classes, dtype=torch.int64)
    with torch.inference_mode():
        for batch, labels in images.batches(resolution, device):
            pairs = (labels * classes + network(batch).argmax(1)).cpu()
            counts += torch.bincount(pairs, minlength=classes * classes)
    return counts.reshape(classes, classes).numpy()


def calibration_subset(
    training: ImageDataset, images: int = DEFAULT_IMAGES, seed: int = 1
) -> ImageDataset:
    """Return a random part of the training split, which depends only on the seed."""
    return random_subset(training, images, seed)


def halves(held_out: ImageDataset, seed: int = 2) -> tuple[ImageDataset, ImageDataset]:
    """Split held-out images into two halves: for the choice of levels, and for their accuracies.

    The accuracy of the best of many candidates is too high on the images by which it was chosen.
    """
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(held_out))]
    middle = len(order) // 2
    return Subset(held_out, tuple(order[:middle])), Subset(held_out, tuple(order[middle:]))


def load_as_stored(trained: TrainedBackbone) -> nn.Module:
    """Load a supernet with weights rounded to the precision of a family's file (float16)."""
    supernet = trained.load()
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    return supernet
