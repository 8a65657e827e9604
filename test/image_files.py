"""Image files that tests share."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

HUES = ('blue', 'green', 'red')


def png_header(width: int, height: int) -> bytes:
    """Return a small PNG that claims a size and holds hardly a pixel of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    size = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        chunk(kind, data) for kind, data in ((b'IHDR', size), (b'IDAT', pixels), (b'IEND', b''))
    )


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a BGR image; unlike `cv2.imwrite`, under any name, UTF-8 or not."""
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def write_noise(
    root: Path, names: Sequence[str], images: int, *, suffix: str = '.png', seed: int = 1
) -> Path:
    """Write images of noise, so many for each class, into folders of `root`; return it."""
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(images):
            image = rng.integers(0, 255, (40, 52, 3)).astype(np.uint8)
            write_image(root / name / f'{index:02}{suffix}', image)
    return root


def write_hues(root: Path, images: int, *, names: Sequence[str] = HUES, seed: int = 1) -> Path:
    """Write easy classes by hue, so many JPEGs each, into folders of `root`; return it."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(images):
            image = rng.integers(0, 90, (40, 52, 3)).astype(np.uint8)
            image[..., label] += 150
            write_image(root / name / f'{index}.jpg', image)
    return root


def write_flat_colours(root: Path) -> Path:
    """Write three classes with four flat images each, and a file that is none; return `root`."""
    for label, name in enumerate(('apple', 'cat', 'dog')):
        (root / name).mkdir(parents=True)
        for index in range(4):
            image = np.zeros((20, 30, 3), np.uint8)
            image[..., 2 - label] = 200  # OpenCV writes BGR: class 0 is red
            write_image(root / name / f'{index}.{"png" if index % 2 else "jpg"}', image)
    (root / 'cat' / 'notes.txt').write_text('not an image')
    return root
