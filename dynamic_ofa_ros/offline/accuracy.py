"""Accuracy of sub-networks: batch norm recalculated, top-1 measured on held-out images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.architecture import SubnetArchitecture
from dynamic_ofa_ros.backbone.batch_norm import DEFAULT_IMAGES, recalculate
from dynamic_ofa_ros.backbone.supernet import extract_subnet
from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.offline.datasets import ImageDataset, Subset
from dynamic_ofa_ros.runtime.image import preprocess

BATCH = 100
# Preprocessed images of one split are kept in memory up to this size, else made anew each time.
LARGEST_CACHE_BYTES = 2 << 30

Float32Array = npt.NDArray[np.float32]


class PreparedImages:
    """A dataset as the network's input, preprocessed exactly as on the robot.

    Where they fit into memory, all `resolutions` are prepared in one pass at the first use:
    decoding or rendering an image takes longer than resizing it a few times.
    """

    def __init__(
        self, dataset: ImageDataset, preprocessing: Preprocessing, resolutions: Sequence[int]
    ) -> None:
        if len(dataset) == 0:
            raise DatasetError('there are no images to measure with')
        self._dataset, self._preprocessing = dataset, preprocessing
        self._resolutions = tuple(sorted(set(resolutions)))
        self._cache: dict[int, Float32Array] = {}
        self.labels = np.array([dataset.label(i) for i in range(len(dataset))], np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, resolution: int, device: torch.device | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (N, 3, r, r) float32 images and (N,) int64 labels, in order."""
        fits = sum(12 * r * r for r in self._resolutions) * len(self) <= LARGEST_CACHE_BYTES
        if fits and not self._cache:
            self._cache = self._prepare(range(len(self)), self._resolutions)
        for start in range(0, len(self), BATCH):
            stop = min(start + BATCH, len(self))
            if resolution in self._cache:
                pixels = self._cache[resolution][start:stop]
            else:
                pixels = self._prepare(range(start, stop), (resolution,))[resolution]
            yield (
                torch.from_numpy(pixels).to(device),
                torch.from_numpy(self.labels[start:stop]).to(device),
            )

    def _prepare(
        self, indices: Sequence[int], resolutions: Sequence[int]
    ) -> dict[int, Float32Array]:
        prepared = {r: np.empty((len(indices), 3, r, r), np.float32) for r in resolutions}

        def prepare(position: int) -> None:
            image = self._dataset.image(indices[position])
            for resolution, pixels in prepared.items():
                pixels[position] = preprocess(image, resolution, self._preprocessing)[0]

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # OpenCV works without the GIL
            list(pool.map(prepare, range(len(indices))))
        return prepared


@dataclass(frozen=True)
class Judged:
    """A sub-network with its own batch-norm statistics, and its top-1 as a fraction."""

    subnet: nn.Module
    top1: float


class Evaluator:
    """Extracts sub-networks of a supernet, recalculates their batch norm, measures top-1."""

    def __init__(
        self, supernet: nn.Module, calibration: PreparedImages, held_out: PreparedImages
    ) -> None:
        self._supernet = supernet
        self._calibration, self._held_out = calibration, held_out
        self._device = next(supernet.parameters()).device

    def judge(self, architecture: SubnetArchitecture) -> Judged:
        """Extract, calibrate and measure one architecture."""
        subnet = extract_subnet(self._supernet, architecture)
        recalculate(
            subnet,
            (images for images, _ in self._calibration.batches(architecture.r, self._device)),
        )
        return Judged(subnet, top1(subnet, architecture.r, self._held_out, self._device))


def top1(
    network: nn.Module,
    resolution: int,
    images: PreparedImages,
    device: torch.device | None = None,
) -> float:
    """Return the share of images whose highest logit is their label's."""
    right = 0
    with torch.inference_mode():
        for batch, labels in images.batches(resolution, device):
            right += int((network(batch).argmax(1) == labels).sum())
    return right / len(images)


def calibration_subset(
    training: ImageDataset, images: int = DEFAULT_IMAGES, seed: int = 1
) -> ImageDataset:
    """Return some images of the training split, the same for the same seed."""
    order = np.random.default_rng(seed).permutation(len(training))[:images]
    return Subset(training, tuple(int(i) for i in order))


def halves(held_out: ImageDataset, seed: int = 2) -> tuple[ImageDataset, ImageDataset]:
    """Split held-out images in two: one half to choose levels by, the other to report.

    The best of many candidates is partly the luckiest on the images it was chosen by: an accuracy
    reported on those would be too high.
    """
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(held_out))]
    middle = len(order) // 2
    return Subset(held_out, tuple(order[:middle])), Subset(held_out, tuple(order[middle:]))
