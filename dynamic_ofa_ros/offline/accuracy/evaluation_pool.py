"""Measure the accuracy of many sub-networks: in this process, in several, or on a Ray cluster.

Each worker loads the backbone and prepares the images once, and then evaluates one architecture at
a time. The results do not depend on the number of workers.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Protocol

import cv2
import torch
from torch import nn

from dynamic_ofa_ros.errors import DynamicOfaError, EvaluationError
from dynamic_ofa_ros.offline.accuracy.evaluation import (
    LARGEST_CACHE_BYTES,
    Evaluator,
    PreparedImages,
    load_as_stored,
)
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, end_with_parent, starting_workers
from dynamic_ofa_ros.runtime.host import usable_cpus
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

logger = logging.getLogger(__name__)

CLOSING_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Assignment:
    """The input of a worker on this machine, which reads files by name.

    threads: for torch and for reading images; None keeps the current setting of torch.
    """

    trained: TrainedBackbone
    calibration: ImageDataset
    held_out: ImageDataset
    device: str = 'cpu'
    threads: int | None = None
    cache_bytes: int = LARGEST_CACHE_BYTES

    def supernet(self) -> nn.Module:
        """Return the backbone with its weights."""
        return load_as_stored(self.trained)

    def evaluator(self, worker: int = 0) -> Evaluator:
        """Load the backbone; with device `cuda`, workers are distributed over all GPUs."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
            cv2.setNumThreads(1)
        device = self.device
        if device == 'cuda':
            device = f'cuda:{worker % max(1, torch.cuda.device_count())}'
        supernet = self.supernet().to(device)
        calibration, held_out = (
            PreparedImages(
                images,
                self.trained.preprocessing,
                self.trained.resolutions,
                workers=self.threads,
                cache_bytes=self.cache_bytes,
            )
            for images in (self.calibration, self.held_out)
        )
        return Evaluator(supernet, calibration, held_out)


class EvaluationWorker:
    """Evaluates architectures in a worker; errors are returned, to be raised by the caller."""

    def __init__(self, assignment: Assignment, worker: int) -> None:
        self._assignment, self._worker = assignment, worker
        self._evaluator: Evaluator | None = None

    def answer(self, architecture: SubnetArchitecture) -> float | DynamicOfaError:
        """Return the top-1 of an architecture, or the error; the first call loads the backbone."""
        try:
            if self._evaluator is None:
                self._evaluator = self._assignment.evaluator(self._worker)
            return self._evaluator.evaluate(architecture).top1
        except DynamicOfaError as error:
            return error
        except Exception as error:  # the caller would otherwise wait without end
            return EvaluationError(
                f'a worker could not evaluate {architecture.to_mapping()}: '
                f'{type(error).__name__}: {error}'
            )


class Workers(Protocol):
    """Evaluates architectures in one or more workers."""

    def evaluate_many(
        self, architectures: Sequence[SubnetArchitecture]
    ) -> Iterator[tuple[int, float]]:
        """Yield (position, top-1) in the order of completion."""

    def close(self) -> None:
        """End the workers."""


class EvaluationPool:
    """Evaluates many architectures on the same images: calibrates batch norms, measures top-1.

    workers: 1 = this process, more = that many processes on this machine. With `ray_address`
    ('local', 'auto' or host:port) they run on a Ray cluster; 0 = one per core. Use it as a context
    manager, which ends the workers.
    """

    def __init__(
        self,
        trained: TrainedBackbone,
        calibration: ImageDataset,
        held_out: ImageDataset,
        *,
        workers: int = 1,
        ray_address: str = '',
        device: str = 'cpu',
        threads: int | None = None,
    ) -> None:
        if workers < (0 if ray_address else 1):
            raise EvaluationError(f'--workers is {workers}; give 1 or more')
        assignment = Assignment(trained, calibration, held_out, device, threads)
        self._workers: Workers
        if ray_address:
            from dynamic_ofa_ros.offline.accuracy.evaluation_ray import RayWorkers

            self._workers = RayWorkers(assignment, ray_address, workers)
        elif workers == 1:
            self._workers = _ThisProcess(assignment)
        else:
            self._workers = _LocalProcesses(assignment, workers)

    def __enter__(self) -> EvaluationPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def evaluate_many(
        self, architectures: Sequence[SubnetArchitecture]
    ) -> Iterator[tuple[int, float]]:
        """Yield (position in `architectures`, top-1) in the order of completion.

        Raise the errors of workers, and EvaluationError if two workers died while evaluating the
        same architecture.
        """
        return self._workers.evaluate_many(architectures)

    def close(self) -> None:
        """End the workers."""
        self._workers.close()


class Attempts:
    """Limits the attempts per architecture: the second worker that dies is an error."""

    def __init__(self, architectures: Sequence[SubnetArchitecture]) -> None:
        self._architectures = architectures
        self._ended: set[int] = set()

    def record(self, index: int, how: str) -> None:
        """Log that a worker died; raise EvaluationError if it is the second for `index`."""
        if index in self._ended:
            raise EvaluationError(
                'two workers died while evaluating '
                f'{self._architectures[index].to_mapping()}, '
                f'the second {how}; use fewer workers if memory is short'
            )
        self._ended.add(index)
        logger.warning('a worker died %s; its architecture is evaluated again', how)


class _ThisProcess:
    def __init__(self, assignment: Assignment) -> None:
        self._worker = EvaluationWorker(assignment, 0)

    def evaluate_many(
        self, architectures: Sequence[SubnetArchitecture]
    ) -> Iterator[tuple[int, float]]:
        for index, architecture in enumerate(architectures):
            yield index, value_of(self._worker.answer(architecture))

    def close(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class _Process:
    process: BaseProcess
    connection: Connection

    def end(self) -> None:
        """Ask the process to end; kill it after a deadline."""
        with suppress(OSError):
            self.connection.send(None)
        self.process.join(CLOSING_DEADLINE_S)
        self.kill()

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


class _LocalProcesses:
    def __init__(self, assignment: Assignment, count: int) -> None:
        threads = assignment.threads or max(1, usable_cpus() // count)
        # All processes together use no more memory for images than one.
        self._assignment = replace(
            assignment, threads=threads, cache_bytes=assignment.cache_bytes // count
        )
        self._count, self._started = count, 0
        self._idle: list[_Process] = []

    def evaluate_many(
        self, architectures: Sequence[SubnetArchitecture]
    ) -> Iterator[tuple[int, float]]:
        waiting = deque(range(len(architectures)))
        attempts = Attempts(architectures)
        busy: dict[Connection, tuple[_Process, int]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self._count:
                    worker = self._idle.pop() if self._idle else self._start()
                    index = waiting.popleft()
                    # The death of an idle worker is detected below, when its pipe is closed.
                    with suppress(OSError):
                        worker.connection.send(architectures[index])
                    busy[worker.connection] = worker, index
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    worker, index = busy.pop(connection)
                    try:
                        answer = connection.recv()
                    except (EOFError, OSError):
                        worker.process.join()
                        attempts.record(index, _how(worker.process.exitcode))
                        worker.kill()
                        waiting.appendleft(index)
                        continue
                    self._idle.append(worker)
                    yield index, value_of(answer)
        finally:
            for worker, _ in busy.values():  # the next caller must not receive their answers
                worker.kill()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def _start(self) -> _Process:
        # Spawned, because the threads of torch do not survive a fork.
        spawn = multiprocessing.get_context('spawn')
        mine, theirs = spawn.Pipe()
        process = spawn.Process(
            target=_work, args=(self._assignment, self._started, theirs), daemon=True
        )
        with starting_workers():
            process.start()
        theirs.close()  # so that `mine` ends when the process dies
        self._started += 1
        return _Process(process, mine)


def value_of(answer: float | DynamicOfaError) -> float:
    """Return the top-1 of an answer, or raise its error."""
    if isinstance(answer, DynamicOfaError):
        raise answer
    return answer


def _work(assignment: Assignment, number: int, connection: Connection) -> None:
    """Evaluate architectures until the parent sends None or ends."""
    end_with_parent()
    worker = EvaluationWorker(assignment, number)
    with suppress(EOFError):
        while (architecture := connection.recv()) is not None:
            connection.send(worker.answer(architecture))


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = ', often because of too little memory' if name == 'SIGKILL' else ''
        return f'by signal {name} (exit code {exit_code}{memory})'
    return f'with exit code {exit_code}'
