"""Random augmentation of training images, and batches of them.

OpenCV releases the interpreter's lock, so threads can prepare batches in parallel; they share one
memory-mapped store without copies. benchmarks/fine_tuning.py compares them with the worker
processes of `torch.utils.data`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dynamic_ofa_ros.family import Preprocessing

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Augmented:
    """A random crop, (side, side, 3) uint8, and random light, which is applied on the device."""

    pixels: UInt8
    gain: float
    offset: float


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training images.

    mirror: flip left to right at random; smallest_crop: minimum fraction of the area in a random
    crop; is_strong: distort each image twice in addition (RandAugment, Cubuk et al., 2020).
    """

    mirror: bool = True
    smallest_crop: float = 0.7
    is_strong: bool = False

    def draw(self, image: UInt8, side: int, rng: np.random.Generator) -> Augmented:
        """Return a random variant of an (H, W, 3) image, resized to a square of `side` pixels."""
        height, width = image.shape[:2]
        least = math.sqrt(self.smallest_crop)
        crop_h, crop_w = (
            max(1, round(edge * rng.uniform(least, 1.0))) for edge in (height, width)
        )
        top, left = rng.integers(height - crop_h + 1), rng.integers(width - crop_w + 1)
        crop = image[top : top + crop_h, left : left + crop_w]
        interpolation = cv2.INTER_AREA if crop_h > side else cv2.INTER_LINEAR
        pixels = np.asarray(cv2.resize(crop, (side, side), interpolation=interpolation), np.uint8)
        if self.mirror and rng.random() < 0.5:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        if self.is_strong:
            for index in rng.choice(len(DISTORTIONS), DISTORTIONS_AN_IMAGE, replace=False):
                pixels = DISTORTIONS[index](pixels, rng.uniform(-1.0, 1.0))
        return Augmented(pixels, rng.uniform(0.75, 1.25), rng.uniform(-20.0, 20.0))


def _warp(pixels: UInt8, matrix: Sequence[Sequence[float]]) -> UInt8:
    """Map (H, W, 3) pixels by a 2x3 matrix about the centre; reflect at the border."""
    side = pixels.shape[0]
    linear = np.array(matrix, np.float64)
    centre = np.array([side / 2, side / 2])
    linear[:, 2] = linear[:, 2] * side + centre - linear[:, :2] @ centre
    warped = cv2.warpAffine(pixels, linear, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped, np.uint8)


def _rotate(pixels: UInt8, strength: float) -> UInt8:
    cos, sin = math.cos(math.radians(20.0 * strength)), math.sin(math.radians(20.0 * strength))
    return _warp(pixels, ((cos, -sin, 0.0), (sin, cos, 0.0)))


def _shear(pixels: UInt8, strength: float) -> UInt8:
    return _warp(pixels, ((1.0, 0.25 * strength, 0.0), (0.0, 1.0, 0.0)))


def _shift_x(pixels: UInt8, strength: float) -> UInt8:
    return _warp(pixels, ((1.0, 0.0, 0.15 * strength), (0.0, 1.0, 0.0)))


def _shift_y(pixels: UInt8, strength: float) -> UInt8:
    return _warp(pixels, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.15 * strength)))


def _blend(pixels: UInt8, other: npt.NDArray[Any], strength: float) -> UInt8:
    """Move pixels towards (negative strength) or away from another image."""
    mixed = other + (1.0 + 0.7 * strength) * (pixels.astype(np.float32) - other)
    return np.asarray(np.clip(mixed, 0.0, 255.0), np.uint8)


def _contrast(pixels: UInt8, strength: float) -> UInt8:
    return _blend(pixels, np.float32(pixels.mean()), strength)


def _saturation(pixels: UInt8, strength: float) -> UInt8:
    return _blend(pixels, pixels.mean(axis=2, keepdims=True, dtype=np.float32), strength)


def _sharpness(pixels: UInt8, strength: float) -> UInt8:
    return _blend(pixels, np.asarray(cv2.GaussianBlur(pixels, (5, 5), 1.5), np.float32), strength)


def _posterise(pixels: UInt8, strength: float) -> UInt8:
    return np.asarray(pixels & (0xFF << round(4 * abs(strength)) & 0xFF), np.uint8)


def _solarise(pixels: UInt8, strength: float) -> UInt8:
    return np.where(pixels > 255 - 127 * abs(strength), 255 - pixels, pixels)


DISTORTIONS: tuple[Callable[[UInt8, float], UInt8], ...] = (
    _rotate, _shear, _shift_x, _shift_y, _contrast, _saturation, _sharpness, _posterise, _solarise,
)  # fmt: skip
DISTORTIONS_AN_IMAGE = 2


@dataclass(frozen=True)
class Batch:
    """Augmented images for the device: (N, r, r, 3) uint8, (N, 2) light, (N,) labels."""

    pixels: torch.Tensor
    light: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, images: Sequence[Augmented], labels: Sequence[int] = ()) -> Batch:
        """Combine images into a batch."""
        return cls(
            torch.from_numpy(np.stack([image.pixels for image in images])),
            torch.tensor([(image.gain, image.offset) for image in images]),
            torch.tensor(labels),
        )

    def pinned(self) -> Batch:
        """Return a copy in pinned memory, which is transferred while the GPU computes."""
        return Batch(self.pixels.pin_memory(), self.light.pin_memory(), self.labels.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device."""
        return Batch(
            *(t.to(device, non_blocking=True) for t in (self.pixels, self.light, self.labels))
        )

    def network_input(self, preprocessing: Preprocessing) -> torch.Tensor:
        """Return (N, 3, r, r) float32: the normalised images in their light."""
        # NHWC in memory as an NCHW view is the channels_last format; nothing is transposed.
        images = self.pixels.permute(0, 3, 1, 2).float()
        gain, offset = self.light[:, :, None, None, None].unbind(1)
        lit = (images * gain + offset).clamp_(0.0, 255.0)
        mean, std = (
            torch.tensor(values, device=lit.device).view(3, 1, 1) * 255.0
            for values in (preprocessing.mean, preprocessing.std)
        )
        return (lit - mean) / std
