"""Stores: datasets that are decoded once into squares in a memory-mapped file."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.files import replacing, write_text_atomically
from dynamic_ofa_ros.offline.data.datasets import (
    WORKER_DIED,
    ImageDataset,
    ImageStore,
    Subset,
    UInt8,
    end_with_parent,
    fingerprint,
    report_damaged,
    starting_workers,
)


def centre_square(image: UInt8, side: int) -> UInt8:
    """Crop the central square of an image and resize it to (side, side, 3)."""
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = image[top : top + edge, left : left + edge]
    interpolation = cv2.INTER_AREA if edge > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (side, side), interpolation=interpolation), np.uint8)


def open_store(dataset: ImageDataset, path: Path, side: int) -> ImageDataset | None:
    """Return the images of `dataset` that `build_store` wrote to `path`; None if it has others.

    Damaged images are skipped and logged, as when they were decoded.
    """
    try:
        facts: dict[str, Any] = json.loads(_facts_file(path).read_text(encoding='utf-8'))
        images = np.load(path, mmap_mode='r')
        stored, damaged = facts['images'], {int(i): s for i, s in facts['damaged'].items()}
    # ValueError: a file is truncated; the others: it was not written by build_store.
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None
    is_same = stored == fingerprint(dataset)
    if not is_same or images.shape != (len(dataset), side, side, 3):
        return None
    return _readable(dataset, images, damaged)


def build_store(
    dataset: ImageDataset,
    path: Path,
    side: int,
    processes: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> ImageDataset:
    """Decode a dataset into `path` (memory-mapped .npy), unless this was done before.

    Damaged images are skipped and logged. `on_progress` is called with the number of images done.
    """
    stored = open_store(dataset, path, side)
    if stored is not None:
        return stored
    # Written last: without it, or with that of another dataset, the images are not used.
    _facts_file(path).unlink(missing_ok=True)
    facts = {'images': fingerprint(dataset)}
    with replacing(path) as temporary:
        np.lib.format.open_memmap(
            temporary, mode='w+', dtype=np.uint8, shape=(len(dataset), side, side, 3)
        )
        _allocate(temporary, path)
        damaged = _decode(dataset, temporary, processes, on_progress)
    readable = _readable(dataset, np.load(path, mmap_mode='r'), damaged)
    write_text_atomically(_facts_file(path), json.dumps({**facts, 'damaged': damaged}))
    return readable


def remove_store(path: Path) -> None:
    """Remove the files of `build_store` for `path`."""
    _facts_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _facts_file(path: Path) -> Path:
    return path.with_suffix('.json')


def _readable(dataset: ImageDataset, images: UInt8, damaged: Mapping[int, str]) -> ImageDataset:
    labels = np.array([dataset.label(index) for index in range(len(dataset))], np.int64)
    store = ImageStore(dataset.classes, images, labels)
    if not damaged:
        return store
    report_damaged(tuple(damaged.values()), len(dataset))
    return Subset(store, tuple(i for i in range(len(dataset)) if i not in damaged))


def _decode(
    dataset: ImageDataset,
    store: Path,
    processes: int,
    on_progress: Callable[[int], None] | None,
) -> dict[int, str]:
    """Decode all images into the store; return the errors of damaged ones."""
    damaged: dict[int, str] = {}
    # Sent once per worker, because the dataset contains a long list of files.
    with ProcessPoolExecutor(
        processes,
        # Spawned, because the threads of torch do not survive a fork.
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start_worker,
        initargs=(dataset, store),
    ) as pool:
        with starting_workers():
            sentences = pool.map(_store_square, range(len(dataset)), chunksize=64)
        try:
            for index, sentence in enumerate(sentences):
                if sentence:
                    damaged[index] = sentence
                if on_progress is not None:
                    on_progress(index + 1)
        except BrokenProcessPool:
            raise DatasetError(WORKER_DIED) from None
    return damaged


# The dataset and the store of a worker process; set once by `_start_worker`.
_worker_task: tuple[ImageDataset, UInt8] | None = None


def _start_worker(dataset: ImageDataset, store: Path) -> None:
    global _worker_task
    _worker_task = dataset, np.load(store, mmap_mode='r+')
    cv2.setNumThreads(1)
    end_with_parent()


def _allocate(file: Path, target: Path) -> None:
    """Allocate the disk space of a sparse file; raise OSError with `target` if it is too small.

    Otherwise, writing to a memory map on a full disk would kill the process (SIGBUS).
    """
    with file.open('rb+') as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(target)) from None


def _store_square(index: int) -> str:
    """Decode an image into the store; return the error, or ''."""
    assert _worker_task is not None
    dataset, images = _worker_task
    try:
        images[index] = centre_square(dataset.image(index), images.shape[1])
    except DatasetError as error:
        return str(error)
    return ''
