"""Labelled images: class folders, rendered signs, and subsets of them."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.files import printable
from dynamic_ofa_ros.offline.data.folders import (
    IMAGE_SUFFIXES,
    Listing,
    check_level,
    class_folders,
    find_splits,
    is_image,
    list_files,
    names_of,
    some,
    warn_of_unused,
)
from dynamic_ofa_ros.offline.data.signs import render_scene, sample_scene, sign_names

logger = logging.getLogger(__name__)

UInt8 = npt.NDArray[np.uint8]

SPLITS = ('train', 'held_out')

# Bytes at the end of a file that are part of its fingerprint: there, images of equal size differ.
FINGERPRINT_BYTES = 1 << 14
FINGERPRINTED_TOGETHER = 256

# The largest value of 12 bits in a format of 16, after its reduction to 8 bits.
NEARLY_BLACK = 16

# The header of PGM, PPM and PAM images; group 1 is the value of white.
_SPACE = rb'(?:\s|#[^\n]*\n)+'
NETPBM_HEADER = re.compile(
    rb'(?:P[2356](?:%b\d+){2}%b|P7\n(?:[^\n]*\n)*?MAXVAL[ \t]+)(\d+)' % (_SPACE, _SPACE)
)
NETPBM_HEADER_BYTES = 4096

WORKER_DIED = (
    'a process that reads images was killed, probably because of too little memory; free some '
    'memory and run the same command again'
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
    """Rendered scenes with one sign each, with alternating classes, determined by seed and split.

    Different splits have different scenes, because the split is part of every scene's seed.
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
    """Images in one folder per class, as in ImageNet; classes are the sorted folder names."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int], ...] = field(repr=False)

    @classmethod
    def open(cls, root: str | Path, classes: Sequence[str] | None = None) -> ClassFolder:
        """List the images below `root`; raise DatasetError if there are none.

        `classes`: the labels of another split; folders with other names are errors, and classes
        without a folder are allowed.
        """
        root = Path(root).expanduser()
        listings = {folder: list_files(folder) for folder in class_folders(root)}
        names = tuple(classes) if classes is not None else tuple(f.name for f in listings)
        labels = {name: label for label, name in enumerate(names)}
        strangers = [f for f, listing in listings.items() if listing.images]
        strangers = [folder for folder in strangers if folder.name not in labels]
        if strangers:
            raise DatasetError(
                f'{printable(strangers[0])} is not one of the labels; they are {some(names)}'
            )
        images = {folder: listing.images for folder, listing in listings.items()}
        if classes is None:
            check_level(root, images)
        Listing.joined(listings.values()).warn_of_ignored(root)
        stray = [entry for entry in sorted(root.iterdir()) if is_image(entry)]
        if stray:
            logger.warning(
                '%s: %d images are not in a class folder and are ignored: %s',
                printable(root),
                len(stray),
                some(names_of(stray)),
            )
        files = [(path, labels[f.name]) for f, found in images.items() for path in found]
        if not files:
            raise DatasetError(
                f'{printable(root)} contains no images: expected {printable(root.name)}/<class>/'
                f'<image> with {", ".join(IMAGE_SUFFIXES)}'
            )
        empty = [folder for folder, found in images.items() if not found]
        if classes is None and empty:
            raise DatasetError(
                f'{printable(root)}: class folders without images: '
                f'{some(names_of(empty))}; remove them or add images'
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

    def identity(self, index: int) -> bytes:
        """Return what identifies file `index`: name, size and the end of its contents."""
        path, label = self.files[index]
        digest = hashlib.sha256(os.fsencode(path.relative_to(self.root)) + b'/%d' % label)
        digest.update(_ending(path))  # b'' is reported as damaged when the image is read
        return digest.digest()


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
        """Pickle the name of a mapped file instead of its images."""
        if isinstance(self.images, np.memmap) and self.images.filename is not None:
            whole = np.load(self.images.filename, mmap_mode='r')
            if whole.shape == self.images.shape:
                return _open_store, (self.classes, str(self.images.filename), self.labels)
        return ImageStore, (self.classes, np.asarray(self.images), self.labels)


def _open_store(classes: tuple[str, ...], path: str, labels: npt.NDArray[np.int64]) -> ImageStore:
    return ImageStore(classes, np.load(path, mmap_mode='r'), labels)


def read_image(path: Path) -> UInt8:
    """Decode an image as (H, W, 3) uint8, RGB; raise DatasetError if it is damaged."""
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise DatasetError(f'{printable(path)} is not a file')
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise DatasetError(f'{printable(path)} cannot be read: {error.strerror}') from None
    return decoded(contents, printable(path))


def decoded(contents: bytes, name: str) -> UInt8:
    """Decode the contents of a file like `read_image`; `name` is for the message."""
    contents, white = _with_full_range(contents)
    try:
        encoded = np.frombuffer(contents, np.uint8)
        exact = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if contents else None
        is_float = exact is not None and exact.dtype.kind == 'f'
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if is_float else exact
    except cv2.error as error:  # a size or format that OpenCV rejects
        raise DatasetError(f'{name} is rejected by OpenCV: {error.err}') from None
    if exact is None or image is None:
        raise DatasetError(f'{name} is damaged, or not an image that this OpenCV can read')
    if image.dtype.kind != 'u':
        raise DatasetError(f'{name} has {image.dtype} pixels: convert them to 8 bits a channel')
    if image.dtype == np.uint16 or white:
        white = white or 65535
        image = np.minimum(np.rint(image * (255.0 / white)), 255.0).astype(np.uint8)
    if exact.dtype != np.uint8 and image.max() <= NEARLY_BLACK and exact.max() > 0:
        raise DatasetError(
            f'{name} has {exact.dtype} pixels up to {exact.max():g}, nearly black with 8 bits: '
            'scale its values to 8 bits a channel'
        )
    if image.ndim == 2:  # OpenCV does not convert a grey image in the format PFM
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _with_full_range(contents: bytes) -> tuple[bytes, int]:
    """Return a Netpbm image with a header for all values, and its own white; 0: as it was.

    OpenCV ignores the white that the header states, except in text with 8 bits.
    """
    header = NETPBM_HEADER.match(contents[:NETPBM_HEADER_BYTES])
    white = int(header[1]) if header else 0
    if header is None or not 0 < white < 2**16 or white in (255, 65535):
        return contents, 0
    full = b'255' if white < 256 else b'65535'
    return contents[: header.start(1)] + full + contents[header.end(1) :], white


def open_splits(
    root: str | Path, held_out_share: float = 0.1
) -> tuple[ImageDataset, ImageDataset]:
    """Open the class folders of a user; return the training and the held-out split.

    `root` contains train/ and val/ (or test/), or class folders. In the latter case, a fraction of
    each class is held out, chosen by a hash of the file names.
    """
    splits = find_splits(root)
    root = Path(root).expanduser()
    if splits.held_out is not None and splits.training is None:
        raise DatasetError(
            f'{printable(root)} contains {splits.held_out.name}/, but no train/ with class '
            'folders: move the class folders for training into train/'
        )
    warn_of_unused(root, splits)
    whole = ClassFolder.open(splits.training or root)
    if len(whole.classes) < 2:
        raise DatasetError(
            f'{printable(whole.root)} contains only one class, {whole.classes[0]}: a classifier '
            'requires at least two class folders'
        )
    if splits.held_out is None:
        training, rest = _split(whole, held_out_share)
        _warn_of_copies(*([whole.files[i][0] for i in part.indices] for part in (training, rest)))
        return training, rest
    held_out = ClassFolder.open(splits.held_out, whole.classes)
    missing = set(range(len(whole.classes))) - {label for _, label in held_out.files}
    if missing:
        logger.warning(
            '%s has no images of %s: the accuracy does not include them',
            printable(held_out.root),
            some([whole.classes[label] for label in sorted(missing)]),
        )
    _warn_of_copies(*([path for path, _ in part.files] for part in (whole, held_out)))
    return whole, held_out


def _warn_of_copies(training: Sequence[Path], held_out: Sequence[Path]) -> None:
    """Log the held-out files that are also training files, under any name.

    Files are compared by size and the last 16 KiB. Only files of equal size are read.
    """
    sizes = {size for size in map(_size, held_out) if size}
    known = {_digest(path) for path in training if _size(path) in sizes}
    copies = [path for path in held_out if _size(path) and _digest(path) in known] if known else []
    if copies:
        logger.warning(
            '%d of %d held-out images are copies of training images, so the accuracy is too high: '
            '%s; remove them from one of the splits',
            len(copies),
            len(held_out),
            some([printable(Path(path.parent.name, path.name)) for path in copies]),
        )


def _digest(path: Path) -> bytes:
    return hashlib.sha256(_ending(path)).digest()


def _size(path: Path) -> int:
    """Return the size of a file; 0 if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _ending(path: Path) -> bytes:
    """Return the size of a file and the end of its contents; b'' if it cannot be read."""
    try:
        with path.open('rb') as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - FINGERPRINT_BYTES))
            return b'%d ' % size + file.read()
    except OSError:
        return b''


def _split(whole: ClassFolder, held_out_share: float) -> tuple[Subset, Subset]:
    """Hold out a fraction of every class, at least one image, and keep at least one."""
    of_class: list[list[int]] = [[] for _ in whole.classes]
    for index, (_, label) in enumerate(whole.files):
        of_class[label].append(index)
    small = [whole.classes[label] for label, indices in enumerate(of_class) if len(indices) < 2]
    if small:
        raise DatasetError(
            f'{printable(whole.root)}: classes with only one image: {some(small)}; each requires '
            'at least two, one of them to be held out'
        )

    def order(index: int) -> bytes:
        name = whole.files[index][0].relative_to(whole.root)
        return hashlib.sha256(os.fsencode(name.as_posix())).digest()

    held_out: set[int] = set()
    for indices in of_class:
        count = min(len(indices) - 1, max(1, round(held_out_share * len(indices))))
        held_out.update(sorted(indices, key=order)[:count])
    return (
        Subset(whole, tuple(i for i in range(len(whole)) if i not in held_out)),
        Subset(whole, tuple(sorted(held_out))),
    )


def check_classes(expected: Sequence[str], found: Sequence[str], split: str) -> None:
    """Raise DatasetError unless the classes are those of a backbone, in the same order."""
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
    """Return a random subset of a dataset in random order, which depends only on the seed."""
    order = np.random.default_rng(seed).permutation(len(dataset))[:images]
    return Subset(dataset, tuple(int(i) for i in order))


def fingerprint(dataset: ImageDataset) -> str:
    """Return a digest of the images of a dataset, with their labels and order.

    Files are identified by name, size and the last 16 KiB, so a copy has the same digest.
    """
    indices: Sequence[int] = range(len(dataset))
    while isinstance(dataset, Subset):
        indices = [dataset.indices[i] for i in indices]
        dataset = dataset.dataset
    digest = hashlib.sha256(repr(dataset.classes).encode('utf-8', 'backslashreplace'))
    if isinstance(dataset, ClassFolder):
        for identities in _in_threads(dataset.identity, indices):
            digest.update(identities)
    else:
        labels = [dataset.label(i) for i in indices]
        digest.update(f'{dataset!r} {list(indices)} {labels}'.encode())
    if isinstance(dataset, ImageStore):
        digest.update(np.ascontiguousarray(dataset.images).data)
    return digest.hexdigest()[:16]


def _in_threads(function: Callable[[int], bytes], indices: Sequence[int]) -> Iterator[bytes]:
    """Yield the joined results, in order, of a function that mostly waits for files."""

    def joined(start: int) -> bytes:
        return b''.join(function(i) for i in indices[start : start + FINGERPRINTED_TOGETHER])

    with ThreadPoolExecutor() as pool:
        yield from pool.map(joined, range(0, len(indices), FINGERPRINTED_TOGETHER))


def report_damaged(sentences: Sequence[str], total: int) -> None:
    """Warn of damaged images, which were skipped; raise DatasetError if all are damaged."""
    if len(sentences) == total:
        raise DatasetError(f'all {total} images are damaged, first: {sentences[0]}')
    logger.warning(
        '%d of %d images are damaged and skipped: %s%s',
        len(sentences),
        total,
        '; '.join(sentences[:10]),
        '; ...' if len(sentences) > 10 else '',
    )


@contextmanager
def starting_workers() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which the terminal sends to them, too.

    They inherit the blocked signal, so that they print no traceback even while they import. In
    this process, a Ctrl-C takes effect at the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process as soon as its parent ends, even by SIGKILL; return immediately.

    Otherwise the workers of a killed command would wait for tasks without end.
    """

    def watch(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
