"""Image sources of the camera node; they do not depend on ROS."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from dynamic_ofa_ros.errors import DatasetError, DynamicOfaError
from dynamic_ofa_ros.offline.data.datasets import ClassFolder, UInt8, read_image
from dynamic_ofa_ros.offline.data.folders import held_out_folder, is_image, list_files
from dynamic_ofa_ros.offline.data.signs import drift, render_scene, sample_scene, sign_names

SIGNS_WIDTH, SIGNS_HEIGHT = 640, 480
STREAM_OF_CAMERA = 2
"""Second number of a scene's seed; the splits of `RenderedSigns` use 0 and 1, not 2."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0
"""Waiting time before a webcam is reopened; it doubles after each failed attempt."""


class SourceError(DynamicOfaError):
    """An image source cannot be opened, or has failed."""


@dataclass(frozen=True)
class Picture:
    """An image, (H, W, 3) uint8 RGB, with its true class; -1 if unknown.

    captured_ns: time of capture, of `time.perf_counter_ns`; None: the time of publication.
    due_s: time at which to publish it, relative to the start; None: at the node's rate.
    stamp_ns, frame_id: those of the recorded header; None: the node sets both.
    """

    rgb: UInt8
    class_id: int = -1
    captured_ns: int | None = None
    due_s: float | None = None
    stamp_ns: int | None = None
    frame_id: str = ''


class Source(Protocol):
    """A source of images, which are produced on the thread that iterates."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; empty if true classes are unknown."""

    @property
    def is_live(self) -> bool:
        """Whether the source sets the frame rate, so that only its newest image is used."""

    def pictures(self) -> Iterator[Picture]:
        """Yield the images; raise SourceError or DatasetError if the source fails."""


def _ignore(problem: str) -> None:
    """Do nothing; the default for optional callbacks."""


@dataclass(frozen=True)
class SignsSource:
    """Rendered scenes, distributed like the held-out split; each moves for some frames."""

    seed: int = 1
    frames_per_scene: int = 60
    width: int = SIGNS_WIDTH
    height: int = SIGNS_HEIGHT
    is_live: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the signs."""
        return sign_names()

    def pictures(self) -> Iterator[Picture]:
        """Yield scenes without end; each round shows every class once, in random order."""
        classes = len(self.labels)
        scenes = 0
        while True:
            round_rng = np.random.default_rng([self.seed, STREAM_OF_CAMERA, scenes])
            for class_id in round_rng.permutation(classes):
                rng = np.random.default_rng([self.seed, STREAM_OF_CAMERA, scenes, 1])
                scene = sample_scene(rng, int(class_id))
                scenes += 1
                for _ in range(self.frames_per_scene):
                    yield Picture(render_scene(scene, self.width, self.height), int(class_id))
                    scene = drift(scene, rng)


class FolderSource:
    """Images of class folders or their val/ (shuffled), or of any folder (sorted, no classes)."""

    is_live = False

    def __init__(
        self,
        path: str,
        *,
        width: int = 0,
        height: int = 0,
        seed: int = 1,
        loop: bool = True,
        on_problem: Callable[[str], None] = _ignore,
    ) -> None:
        self._root = _given(path, 'a folder of images')
        self._size = (width, height)
        self._loop = loop
        self._on_problem = on_problem
        self.labels: tuple[str, ...] = ()
        self._files = self._list(seed)

    def _list(self, seed: int) -> list[tuple[Path, int]]:
        if not self._root.is_dir():
            raise SourceError(f'there is no folder {self._root}; set path to a folder of images')
        if any(is_image(entry) for entry in self._root.iterdir()):
            listing = list_files(self._root)
            listing.warn_of_ignored(self._root)
            return [(file, -1) for file in listing.images]
        dataset = ClassFolder.open(held_out_folder(self._root))
        self.labels = dataset.classes
        order = np.random.default_rng(seed).permutation(len(dataset))
        return [dataset.files[index] for index in order]

    def __len__(self) -> int:
        return len(self._files)

    def pictures(self) -> Iterator[Picture]:
        """Yield the decoded images; damaged files are reported to `on_problem` and left out."""
        while True:
            is_any_good = False
            for file, class_id in self._files:
                try:
                    rgb = read_image(file)
                except DatasetError as error:
                    self._on_problem(str(error))
                    continue
                is_any_good = True
                yield Picture(resized(rgb, *self._size), class_id)
            if not is_any_good:
                raise SourceError(
                    f'none of the {len(self._files)} images in {self._root} can be decoded'
                )
            if not self._loop:
                return


class VideoSource:
    """Frames of a video file."""

    is_live = False
    labels: tuple[str, ...] = ()

    def __init__(self, path: str, *, width: int = 0, height: int = 0, loop: bool = True) -> None:
        self._path = _given(path, 'a video file')
        self._size = (width, height)
        self._loop = loop
        if not self._path.is_file():
            raise SourceError(f'there is no file {self._path}; set path to a video file')
        _open_capture(str(self._path)).release()

    def pictures(self) -> Iterator[Picture]:
        """Yield the decoded frames."""
        while True:
            capture = _open_capture(str(self._path))
            frames = 0
            try:
                while (rgb := _read_frame(capture)) is not None:
                    frames += 1
                    yield Picture(resized(rgb, *self._size))
            finally:
                capture.release()
            if not frames:
                raise SourceError(f'no frame of {self._path} can be decoded')
            if not self._loop:
                return


class WebcamSource:
    """A camera for OpenCV: an index, or a path such as /dev/video0 or a link to it.

    The camera must be available at the start. If it stops delivering images later, it is reopened
    repeatedly until it works or `closing` is set. A link is resolved each time because the number
    of the device may have changed. on_outage, on_return: called with a message at the start and
    at the end of each outage, on the thread that iterates.
    """

    is_live = True
    labels: tuple[str, ...] = ()

    def __init__(
        self,
        path: str,
        *,
        width: int = 0,
        height: int = 0,
        rate_hz: float = 30.0,
        closing: threading.Event | None = None,
        on_outage: Callable[[str], None] = _ignore,
        on_return: Callable[[str], None] = _ignore,
    ) -> None:
        self._name = path.strip() or '0'
        self._size = (width, height)
        self._rate_hz = rate_hz
        self._closing = closing or threading.Event()
        self._on_outage, self._on_return = on_outage, on_return
        self._capture = self._open()

    def _open(self) -> Any:
        capture = _open_capture(_webcam_target(self._name), f'webcam {self._name}')
        width, height = self._size
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, width),
            (cv2.CAP_PROP_FRAME_HEIGHT, height),
            (cv2.CAP_PROP_FPS, self._rate_hz),
        ):
            if value:
                capture.set(key, value)
        return capture

    def pictures(self) -> Iterator[Picture]:
        """Yield the captured images until `closing` is set."""
        wait_s = 0.0  # above 0 during an outage
        try:
            while not self._closing.is_set():
                rgb = _read_frame(self._capture)
                if rgb is not None:
                    if wait_s:
                        self._on_return(f'webcam {self._name} delivers images again')
                    wait_s = 0.0
                    yield Picture(resized(rgb, *self._size), captured_ns=time.perf_counter_ns())
                    continue
                if not wait_s:
                    self._on_outage(
                        f'webcam {self._name} delivers no images and is being reopened: check its '
                        'cable, and whether another program uses it'
                    )
                wait_s = min(2.0 * wait_s, LONGEST_WAIT_S) or FIRST_WAIT_S
                self._reopen(wait_s)
        finally:
            self._capture.release()

    def _reopen(self, wait_s: float) -> None:
        """Close the camera, wait, and try to open it; if that fails, the next read fails."""
        self._capture.release()
        if not self._closing.wait(wait_s):
            with contextlib.suppress(SourceError):
                self._capture = self._open()


def _given(path: str, expected: str) -> Path:
    """Return the path; raise SourceError if it is empty."""
    if not path.strip():
        raise SourceError(f'path is empty; set it to {expected}')
    return Path(path).expanduser()


def _webcam_target(name: str) -> int | str:
    """Return the target for OpenCV: an index if possible, as not every backend accepts paths."""
    if name.isdecimal():
        return int(name)
    if not name.startswith('/'):
        raise SourceError(
            f'path is {name!r}; for a webcam, it must be an index or a /dev/... path'
        )
    try:
        device = str(Path(name).resolve(strict=True))
    except (OSError, RuntimeError):  # RuntimeError: a circular link, before Python 3.13
        raise SourceError(
            f'there is no webcam {name}; set path to an index or a /dev/... path'
        ) from None
    index = re.fullmatch(r'/dev/video(\d+)', device)
    return int(index[1]) if index else device


def resized(rgb: UInt8, width: int, height: int) -> UInt8:
    """Resize an image; a side of 0 keeps the aspect ratio, and 0x0 returns the image unchanged."""
    own_height, own_width = rgb.shape[:2]
    width = width or (round(own_width * height / own_height) if height else own_width)
    height = height or round(own_height * width / own_width)
    if (width, height) == (own_width, own_height):
        return rgb
    is_smaller = width * height < own_width * own_height
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    return np.asarray(
        cv2.resize(rgb, (max(1, width), max(1, height)), interpolation=method), np.uint8
    )


def _open_capture(target: str | int, name: str = '') -> Any:
    capture = cv2.VideoCapture(target)
    if not capture.isOpened():
        capture.release()
        raise SourceError(f'OpenCV cannot open {name or target}')
    return capture


def _read_frame(capture: Any) -> UInt8 | None:
    is_good, bgr = capture.read()  # fails for a released capture
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8) if is_good else None


@dataclass
class Prefetcher:
    """Reads images from a source in advance, on a separate thread.

    depth: maximum number of images in the queue; for a live source, only the newest is kept.
    failure: the exception that ended the source; None while it runs and after a normal end.
    """

    source: Source
    depth: int = 4
    failure: Exception | None = None
    _ready: deque[Picture] = field(default_factory=deque)
    _condition: threading.Condition = field(default_factory=threading.Condition)
    _is_closed: bool = False
    _is_exhausted: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name='prefetcher', daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether the source has ended and all its images were taken."""
        with self._condition:
            return self._is_exhausted and not self._ready

    def take(self, timeout_s: float = 0.0) -> Picture | None:
        """Return the next image; None if none is ready within the timeout."""
        with self._condition:
            self._condition.wait_for(lambda: self._ready or self._is_exhausted, timeout_s)
            if not self._ready:
                return None
            self._condition.notify_all()
            return self._ready.popleft()

    def close(self, timeout_s: float = 2.0) -> None:
        """End the thread; wait for it up to the timeout."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            for picture in self.source.pictures():
                if not self._put(picture):
                    break
        except Exception as error:  # the node raises it on its own thread
            self.failure = error
        with self._condition:
            self._is_exhausted = True
            self._condition.notify_all()

    def _put(self, picture: Picture) -> bool:
        with self._condition:
            if self.source.is_live:
                self._ready.clear()
            self._condition.wait_for(lambda: len(self._ready) < self.depth or self._is_closed)
            self._ready.append(picture)
            self._condition.notify_all()
            return not self._is_closed
