"""Labelled images: class folders, rendered signs, and a compact store of either for training."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.files import replacing
from dynamic_ofa_ros.offline.data.signs import render_scene, sample_scene, sign_names

logger = logging.getLogger(__name__)

UInt8 = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
TRAINING_FOLDERS = ('train', 'training')
HELD_OUT_FOLDERS = ('val', 'valid', 'validation', 'test')
SPLITS = ('train', 'held_out')

WORKER_DIED = (
    'a process that reads images was ended from outside, most likely for want of memory; free '
    'some and run the same command again'
)


class ImageDataset(Protocol):
    """Images with one label each."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""

    def __len__(self) -> int:
        """Return the number of images."""

    def label(self, index: int) -> int:
        """Return the label of image `index`."""

    def image(self, index: int) -> UInt8:
        """Return image `index` as (H, W, 3) uint8, RGB; raise DatasetError if it is damaged."""


@dataclass(frozen=True)
class RenderedSigns:
    """Rendered scenes, one sign each, classes in turn; the same by seed and split.

    Splits never share a scene: the split is part of every scene's seed.
    """

    count: int
    seed: int = 1
    split: str = 'train'
    height: int = 480

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their label."""
        return sign_names()

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        """Return the label of scene `index`."""
        return index % len(self.classes)

    def image(self, index: int) -> UInt8:
        """Render scene `index`, (height, height * 4 / 3, 3) uint8, RGB."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        scene = sample_scene(rng, self.label(index))
        return render_scene(scene, self.height * 4 // 3, self.height)


@dataclass(frozen=True)
class ClassFolder:
    """Images in one folder per class, as in ImageNet; class names are the folders', sorted."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int], ...] = field(repr=False)

    @classmethod
    def open(cls, root: str | Path, classes: Sequence[str] | None = None) -> ClassFolder:
        """List the images below `root`; raise DatasetError when there are none.

        Give `classes` to read a split with the labels of another: folders it does not name are an
        error, classes without a folder are allowed.
        """
        root = Path(root).expanduser()
        if not root.is_dir():
            raise DatasetError(
                f'{root} is not a directory; give a folder with one folder per class'
            )
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
        names = tuple(classes) if classes is not None else tuple(f.name for f in folders)
        labels = {name: label for label, name in enumerate(names)}
        files: list[tuple[Path, int]] = []
        for folder in folders:
            images = sorted(p for p in folder.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES)
            if images and folder.name not in labels:
                raise DatasetError(
                    f'{folder} is a class the labels do not have; they are '
                    f'{", ".join(names[:8])}{", ..." if len(names) > 8 else ""}'
                )
            files += [(path, labels[folder.name]) for path in images]
        if not files:
            raise DatasetError(
                f'{root} holds no images: expected {root.name}/<class>/<image> with '
                f'{", ".join(IMAGE_SUFFIXES)}'
            )
        empty = sorted(set(names) - {names[label] for _, label in files})
        if classes is None and empty:
            raise DatasetError(
                f'{root}: class folders without a single image: {", ".join(empty[:8])}; '
                'remove them or add images'
            )
        return cls(root, names, tuple(files))

    def __len__(self) -> int:
        return len(self.files)

    def label(self, index: int) -> int:
        """Return the label of file `index`."""
        return self.files[index][1]

    def image(self, index: int) -> UInt8:
        """Decode file `index`."""
        return read_image(self.files[index][0])


@dataclass(frozen=True)
class Subset:
    """Some images of a dataset, in the order of `indices`."""

    dataset: ImageDataset
    indices: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the whole dataset."""
        return self.dataset.classes

    def __len__(self) -> int:
        return len(self.indices)

    def label(self, index: int) -> int:
        """Return the label of the subset's image `index`."""
        return self.dataset.label(self.indices[index])

    def image(self, index: int) -> UInt8:
        """Return the subset's image `index`."""
        return self.dataset.image(self.indices[index])


@dataclass(frozen=True)
class ImageStore:
    """Square images in memory or mapped from a file: (N, side, side, 3) uint8 and (N,) labels."""

    classes: tuple[str, ...]
    images: UInt8
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """Return the label of image `index`."""
        return int(self.labels[index])

    def image(self, index: int) -> UInt8:
        """Return image `index`, (side, side, 3) uint8, RGB."""
        image: UInt8 = self.images[index]
        return image

    def __reduce__(self) -> tuple[Callable[..., ImageStore], tuple[object, ...]]:
        """Hand another process the name of a mapped file instead of all its images."""
        if isinstance(self.images, np.memmap) and self.images.filename is not None:
            whole = np.load(self.images.filename, mmap_mode='r')
            if whole.shape == self.images.shape:
                return _open_store, (self.classes, str(self.images.filename), self.labels)
        return ImageStore, (self.classes, np.asarray(self.images), self.labels)


def _open_store(classes: tuple[str, ...], path: str, labels: npt.NDArray[np.int64]) -> ImageStore:
    return ImageStore(classes, np.load(path, mmap_mode='r'), labels)


def read_image(path: Path) -> UInt8:
    """Decode a JPEG or PNG as (H, W, 3) uint8, RGB; raise DatasetError when it is damaged."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DatasetError(f'{path} cannot be read: {error.strerror or error}') from None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise DatasetError(f'{path} is not a JPEG or PNG image, or it is damaged')
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def open_splits(
    root: str | Path, held_out_share: float = 0.1
) -> tuple[ImageDataset, ImageDataset]:
    """Open a user's class folders; return the training and the held-out split.

    `root` holds train/ and val/ (or test/), or class folders directly: then a share of each file,
    by a hash of its name and so the same every time, is held out.
    """
    root = Path(root).expanduser()
    training = next((root / n for n in TRAINING_FOLDERS if (root / n).is_dir()), None)
    held_out = next((root / n for n in HELD_OUT_FOLDERS if (root / n).is_dir()), None)
    if training is not None and held_out is not None:
        train = ClassFolder.open(training)
        return train, ClassFolder.open(held_out, train.classes)
    whole = ClassFolder.open(training or root)
    indices: tuple[list[int], list[int]] = ([], [])
    for index, (path, _) in enumerate(whole.files):
        digest = hashlib.sha256(path.relative_to(whole.root).as_posix().encode()).digest()
        indices[int.from_bytes(digest[:4], 'big') < held_out_share * 2**32].append(index)
    if not indices[0] or not indices[1]:
        raise DatasetError(
            f'{whole.root} has {len(whole)} images, too few to hold out {held_out_share:.0%}'
        )
    return Subset(whole, tuple(indices[0])), Subset(whole, tuple(indices[1]))


def check_classes(expected: Sequence[str], found: Sequence[str], split: str) -> None:
    """Raise DatasetError unless a split's classes are, in order, those of a backbone."""
    if tuple(expected) == tuple(found):
        return
    if len(expected) != len(found):
        raise DatasetError(
            f'the {split} data has {len(found)} classes ({", ".join(found[:3])}, ...); '
            f'the backbone was trained on {len(expected)} ({", ".join(expected[:3])}, ...): '
            'give the data it was trained on'
        )
    pairs = list(zip(expected, found, strict=True))
    label = next(i for i, (one, other) in enumerate(pairs) if one != other)
    raise DatasetError(
        f'the {split} data calls class {label} {found[label]!r}, the backbone was trained with '
        f'{expected[label]!r} there: give the data it was trained on, or rename the class folders'
    )


def random_subset(dataset: ImageDataset, images: int, seed: int = 1) -> Subset:
    """Return some images of a dataset, in random order, the same for the same seed."""
    order = np.random.default_rng(seed).permutation(len(dataset))[:images]
    return Subset(dataset, tuple(int(i) for i in order))


def fingerprint(dataset: ImageDataset) -> str:
    """Return a digest of which images a dataset holds: by name, size and label, not contents."""
    indices: Sequence[int] = range(len(dataset))
    while isinstance(dataset, Subset):
        indices = [dataset.indices[i] for i in indices]
        dataset = dataset.dataset
    digest = hashlib.sha256()
    if isinstance(dataset, ClassFolder):
        for index in indices:
            path, label = dataset.files[index]
            size = path.stat().st_size
            digest.update(f'{path.relative_to(dataset.root)} {label} {size}\n'.encode())
    else:
        labels = [dataset.label(i) for i in indices]
        digest.update(f'{dataset!r} {list(indices)} {labels}'.encode())
    return digest.hexdigest()[:16]


def centre_square(image: UInt8, side: int) -> UInt8:
    """Cut the centre square out of an image and resize it to (side, side, 3)."""
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = image[top : top + edge, left : left + edge]
    interpolation = cv2.INTER_AREA if edge > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (side, side), interpolation=interpolation), np.uint8)


def build_store(
    dataset: ImageDataset,
    path: Path,
    side: int,
    processes: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> ImageStore:
    """Decode a dataset once into `path` (memory-mapped .npy); reuse it if complete.

    Damaged images are left out, counted and listed in the log. `on_progress` gets the images done.
    """
    labels_path = path.with_suffix('.labels.npy')
    if path.is_file() and labels_path.is_file():
        images, labels = np.load(path, mmap_mode='r'), np.load(labels_path)
        if images.shape == (len(labels), side, side, 3) and len(labels) <= len(dataset):
            return ImageStore(dataset.classes, images, labels)
    damaged: dict[int, str] = {}
    with replacing(path) as temporary:
        images = np.lib.format.open_memmap(
            temporary, mode='w+', dtype=np.uint8, shape=(len(dataset), side, side, 3)
        )
        _allocate(temporary, path)
        # Not forked: the parent may run threads of torch, which do not survive a fork.
        spawn = multiprocessing.get_context('spawn')
        # Each worker gets the dataset once: its list of files is long.
        with ProcessPoolExecutor(
            processes,
            mp_context=spawn,
            initializer=_start_worker,
            initargs=(dataset, temporary),
        ) as pool:
            sentences = pool.map(_store_square, range(len(dataset)), chunksize=64)
            try:
                for index, sentence in enumerate(sentences):
                    if sentence:
                        damaged[index] = sentence
                    if on_progress is not None:
                        on_progress(index + 1)
            except BrokenProcessPool:
                raise DatasetError(WORKER_DIED) from None
        kept = [index for index in range(len(dataset)) if index not in damaged]
        if damaged:
            report_damaged(tuple(damaged.values()), len(dataset))
            for place, index in enumerate(kept):
                images[place] = images[index]
            np.save(temporary.with_suffix('.cut.npy'), images[: len(kept)])
            temporary.with_suffix('.cut.npy').replace(temporary)
        labels = np.array([dataset.label(index) for index in kept], np.int64)
        with replacing(labels_path) as temporary_labels, temporary_labels.open('wb') as file:
            np.save(file, labels)
    return ImageStore(dataset.classes, np.load(path, mmap_mode='r'), labels)


def report_damaged(sentences: Sequence[str], total: int) -> None:
    """Warn of images that were left out; raise DatasetError when none is left."""
    if len(sentences) == total:
        raise DatasetError(f'all {total} images are damaged, first: {sentences[0]}')
    logger.warning(
        '%d of %d images are damaged and left out: %s%s',
        len(sentences),
        total,
        '; '.join(sentences[:10]),
        '; ...' if len(sentences) > 10 else '',
    )


# What a worker process decodes, and into what; set once by `_start_worker`.
_worker_task: tuple[ImageDataset, UInt8] | None = None


def _start_worker(dataset: ImageDataset, store: Path) -> None:
    global _worker_task
    _worker_task = dataset, np.load(store, mmap_mode='r+')
    cv2.setNumThreads(1)
    end_with_parent()


def end_with_parent() -> None:
    """End this process as soon as its parent is gone, even by SIGKILL; return at once.

    Without it the workers of a killed command would wait for tasks for ever.
    """

    def watch(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def _allocate(file: Path, target: Path) -> None:
    """Claim the disk space of a sparse file; raise OSError naming `target` when it is short.

    Writing through a memory map to a full disk kills the process without a word (SIGBUS).
    """
    with file.open('rb+') as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(target)) from None


def _store_square(index: int) -> str:
    """Decode an image into its place in the store; return what is wrong with it, or nothing."""
    assert _worker_task is not None
    dataset, images = _worker_task
    try:
        images[index] = centre_square(dataset.image(index), images.shape[1])
    except DatasetError as error:
        return str(error)
    return ''
