"""Read and preprocess images in parallel, a few batches ahead of the network."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.offline.data.datasets import (
    WORKER_DIED,
    ImageDataset,
    end_with_parent,
    starting_workers,
)
from dynamic_ofa_ros.runtime.host import usable_cpus
from dynamic_ofa_ros.runtime.image import preprocess

Float32Array = npt.NDArray[np.float32]

# Starting a process takes about a second, as long as reading some hundreds of images.
FEWEST_IMAGES_FOR_PROCESSES = 2000


@dataclass(frozen=True)
class Chunk:
    """Some images of a dataset as network input.

    `kept` are the indices of the readable images; `pixels` contains them by resolution, (kept, 3,
    r, r) float32; `damaged` contains an error message for every other index.
    """

    kept: tuple[int, ...]
    pixels: dict[int, Float32Array]
    damaged: dict[int, str]


@dataclass(frozen=True)
class Task:
    """The dataset and its preprocessing; sent once per worker, because file lists can be long."""

    dataset: ImageDataset
    preprocessing: Preprocessing

    def prepare(self, indices: Sequence[int], resolutions: Sequence[int]) -> Chunk:
        """Read and preprocess some images; errors of damaged images are returned."""
        kept: list[int] = []
        damaged: dict[int, str] = {}
        pixels = {r: np.empty((len(indices), 3, r, r), np.float32) for r in resolutions}
        for index in indices:
            try:
                image = self.dataset.image(index)
            except DatasetError as error:
                damaged[index] = str(error)
                continue
            for resolution, into in pixels.items():
                into[len(kept)] = preprocess(image, resolution, self.preprocessing)[0]
            kept.append(index)
        return Chunk(tuple(kept), {r: into[: len(kept)] for r, into in pixels.items()}, damaged)


class Loader:
    """Prepares chunks of images in order, in threads or, for many images, in processes.

    Only a few chunks are in memory at any time.
    """

    def __init__(self, task: Task, workers: int | None = None) -> None:
        self._task = task
        self._workers = workers or usable_cpus()
        self._in_processes = (
            len(task.dataset) >= FEWEST_IMAGES_FOR_PROCESSES
            and self._workers > 1
            # A daemon, such as a worker of the evaluation pool, cannot have children.
            and not multiprocessing.current_process().daemon
        )
        self._executor: Executor | None = None

    def load(self, parts: Iterable[Sequence[int]], resolutions: Sequence[int]) -> Iterator[Chunk]:
        """Yield a chunk for each part, in order; raise DatasetError if a process dies."""
        executor = self._start()
        ahead: deque[Future[Chunk]] = deque()
        waiting = iter(parts)
        try:
            while True:
                while len(ahead) < self._workers + 2 and (part := next(waiting, None)) is not None:
                    if self._in_processes:
                        with starting_workers():
                            future = executor.submit(_prepare, tuple(part), tuple(resolutions))
                        ahead.append(future)
                    else:
                        ahead.append(executor.submit(self._task.prepare, part, resolutions))
                if not ahead:
                    return
                yield ahead.popleft().result()
        except BrokenProcessPool:
            self._executor = None
            raise DatasetError(WORKER_DIED) from None
        finally:
            for future in ahead:
                future.cancel()

    def _start(self) -> Executor:
        if self._executor is None:
            if self._in_processes:
                self._executor = ProcessPoolExecutor(
                    self._workers,
                    # Spawned, because the threads of torch do not survive a fork.
                    mp_context=multiprocessing.get_context('spawn'),
                    initializer=_start_worker,
                    initargs=(self._task,),
                )
            else:
                # OpenCV decodes and resizes without holding the interpreter's lock.
                self._executor = ThreadPoolExecutor(self._workers)
        return self._executor


# The task of a worker process; set once by `_start_worker`.
_worker_task: Task | None = None


def _start_worker(task: Task) -> None:
    global _worker_task
    _worker_task = task
    cv2.setNumThreads(1)
    end_with_parent()


def _prepare(indices: tuple[int, ...], resolutions: tuple[int, ...]) -> Chunk:
    assert _worker_task is not None
    return _worker_task.prepare(indices, resolutions)
