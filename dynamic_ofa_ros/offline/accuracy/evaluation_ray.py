"""Workers of the evaluation pool on a Ray cluster; Ray is optional and imported only here."""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dynamic_ofa_ros.errors import EvaluationError
from dynamic_ofa_ros.offline.accuracy.evaluation_pool import Assignment, Attempts, Judge, value_of
from dynamic_ofa_ros.space.architecture import SubnetArchitecture

# The address that starts a cluster of this machine alone.
LOCAL = 'local'


class RayWorkers:
    """One Ray actor a worker, each with a copy of the backbone and the prepared images.

    Every machine of the cluster needs this package installed, and the backbone's folder and the
    images at the same paths as here (a shared file system).
    """

    def __init__(self, assignment: Assignment, address: str, workers: int) -> None:
        self._ray = _import_ray()
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, address, workers)
        threads = assignment.threads or 1
        cores = int(self._ray.cluster_resources().get('CPU', 1))
        self._count = workers or max(1, cores // threads)
        machines = max(1, len(self._ray.nodes()))
        self._assignment = self._ray.put(
            replace(
                assignment,
                threads=threads,
                cache_bytes=assignment.cache_bytes * machines // max(machines, self._count),
            )
        )
        gpus = {'num_gpus': 1} if assignment.device.startswith('cuda') else {}
        # SPREAD: by default Ray fills the first machine before it uses the second.
        options = {'num_cpus': threads, 'scheduling_strategy': 'SPREAD', **gpus}
        self._actor_class = self._ray.remote(**options)(Judge)
        self._idle: list[Any] = []
        self._started = 0

    def judge_many(
        self, architectures: Sequence[SubnetArchitecture]
    ) -> Iterator[tuple[int, float]]:
        """Yield (position, top-1), in the order in which they are done."""
        waiting = deque(range(len(architectures)))
        attempts = Attempts(architectures)
        busy: dict[Any, tuple[Any, int]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self._count:
                    actor = self._idle.pop() if self._idle else self._start()
                    index = waiting.popleft()
                    busy[actor.answer.remote(architectures[index])] = actor, index
                (done, *_), _ = self._ray.wait(list(busy), num_returns=1)
                actor, index = busy.pop(done)
                try:
                    answer = self._ray.get(done)
                except self._ray.exceptions.RayError as error:
                    first_line = next(iter(str(error).splitlines()), type(error).__name__)
                    attempts.record(index, f'on the Ray cluster ({first_line})')
                    waiting.appendleft(index)
                    continue
                self._idle.append(actor)
                yield index, value_of(answer)
        finally:
            for actor, _ in busy.values():  # what they still do is wanted by no one
                self._ray.kill(actor)

    def close(self) -> None:
        """Let the workers go, and the connection if it was made here."""
        while self._idle:
            self._ray.kill(self._idle.pop())
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown()

    def _start(self) -> Any:
        self._started += 1
        return self._actor_class.remote(self._assignment, self._started - 1)


def _import_ray() -> Any:
    # Ray reports usage to its makers unless told not to.
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
        return importlib.import_module('ray')
    except ImportError as error:
        raise EvaluationError(
            f'--ray needs Ray, which cannot be imported ({error}); install it with: '
            "pip install 'dynamic_ofa_ros[ray]', or use --workers for this machine"
        ) from None


def _connect(ray: Any, address: str, workers: int) -> None:
    settings: dict[str, Any] = {'address': address}
    if address == LOCAL:
        settings |= {'include_dashboard': False, 'num_cpus': workers or None}
    try:
        ray.init(log_to_driver=False, logging_level='warning', **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise EvaluationError(
            f'no Ray cluster answers at {address} ({first_line}); start one with "ray start '
            '--head" and give its host:port, or use --ray local'
        ) from None
