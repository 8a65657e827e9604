"""Workers of the evaluation pool on a Ray cluster. Only this module imports Ray."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dynamic_ofa_ros.errors import EvaluationError
from dynamic_ofa_ros.offline.accuracy.evaluation_pool import (
    Assignment,
    Attempts,
    EvaluationWorker,
    value_of,
)
from dynamic_ofa_ros.offline.accuracy.sending import sent
from dynamic_ofa_ros.space.architecture import SubnetArchitecture

logger = logging.getLogger(__name__)

# The address that starts a cluster on this machine.
LOCAL = 'local'
# A warning names possible causes if there is no answer for this long.
PATIENCE_S = 120.0
CONNECTING_S = 10.0


class RayWorkers:
    """Ray actors, each with a copy of the backbone and the prepared images.

    Weights and images are sent to them. Every machine of the cluster must have the same versions
    of this package and of Python.
    """

    def __init__(self, assignment: Assignment, address: str, workers: int) -> None:
        self._ray = _import_ray()
        threads = assignment.threads or 1
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, address, workers * threads)
        try:
            on_gpu = assignment.device.startswith('cuda')
            nodes = [n['Resources'] for n in self._ray.nodes() if n['Alive']]
            self._count = worker_count(workers, threads, on_gpu, nodes)
            self._assignment = self._ray.put(
                replace(
                    sent(assignment),
                    # Ray makes only the GPU of the worker visible, as number 0.
                    device='cuda' if on_gpu else assignment.device,
                    threads=threads,
                    cache_bytes=assignment.cache_bytes
                    * len(nodes)
                    // max(len(nodes), self._count),
                )
            )
        except BaseException:
            self._disconnect()
            raise
        gpus = {'num_gpus': 1} if on_gpu else {}
        # SPREAD: by default Ray fills the first machine before it uses the second.
        options = {'num_cpus': threads, 'scheduling_strategy': 'SPREAD', **gpus}
        self._actor_class = self._ray.remote(**options)(EvaluationWorker)
        self._idle: list[Any] = []
        self._started = 0
        self._is_patient = True

    def evaluate_many(
        self, architectures: Sequence[SubnetArchitecture]
    ) -> Iterator[tuple[int, float]]:
        """Yield (position, top-1) in the order of completion."""
        waiting = deque(range(len(architectures)))
        attempts = Attempts(architectures)
        busy: dict[Any, tuple[Any, int]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self._count:
                    actor = self._idle.pop() if self._idle else self._start()
                    index = waiting.popleft()
                    busy[actor.answer.remote(architectures[index])] = actor, index
                done = self._wait(list(busy))
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
            for actor, _ in busy.values():  # nobody needs their results
                self._ray.kill(actor)

    def close(self) -> None:
        """End the workers, and the connection if it was opened here."""
        while self._idle:
            self._ray.kill(self._idle.pop())
        self._disconnect()

    def _disconnect(self) -> None:
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown()

    def _wait(self, answers: Sequence[Any]) -> Any:
        """Return the first available answer; warn once if it takes long."""
        while True:
            done, _ = self._ray.wait(answers, num_returns=1, timeout=PATIENCE_S)
            if done:
                return done[0]
            if self._is_patient:
                self._is_patient = False
                logger.warning(
                    'no worker of the Ray cluster has answered for %g s: check with `ray status` '
                    'whether other jobs use it; reading many images also takes long',
                    PATIENCE_S,
                )

    def _start(self) -> Any:
        self._started += 1
        return self._actor_class.remote(self._assignment, self._started - 1)


def worker_count(
    wanted: int, threads: int, on_gpu: bool, nodes: Sequence[Mapping[str, float]]
) -> int:
    """Return the number of workers that `nodes` can run at the same time.

    Further workers would wait without end. Each worker needs `threads` cores, and a GPU if
    `on_gpu`. nodes: resources of each machine, as named by Ray; wanted: 0 for the maximum. Raise
    EvaluationError if there are not enough resources for one worker.
    """
    room = 0
    for node in nodes:
        here = int(node.get('CPU', 0) // threads)
        room += min(here, int(node.get('GPU', 0))) if on_gpu else here
    if not room:
        cores = f'{threads} CPU core{"s" if threads > 1 else ""}'
        raise EvaluationError(
            f'no machine of the Ray cluster has {cores}{" and a GPU" if on_gpu else ""} for a '
            'worker; check the resources with `ray status`'
            + (', or use --device cpu' if on_gpu else '')
        )
    if wanted > room:
        logger.warning(
            'the Ray cluster can run %d of %d workers: %d are started', room, wanted, room
        )
    return min(wanted, room) if wanted else room


def _import_ray() -> Any:
    # Ray reports usage statistics to its developers by default.
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
        return importlib.import_module('ray')
    except ImportError as error:
        raise EvaluationError(
            f'--ray needs Ray, which cannot be imported ({error}); install it with: '
            "pip install 'dynamic_ofa_ros[ray]', or use --workers for this machine"
        ) from None


def _connect(ray: Any, address: str, cores: int) -> None:
    settings: dict[str, Any] = {'address': address}
    if address == LOCAL:
        settings |= {'include_dashboard': False, 'num_cpus': cores or None}
    host, separator, port = address.rpartition(':')
    try:
        if separator and '://' not in address:  # Ray tries for minutes
            socket.create_connection((host.strip('[]'), int(port)), CONNECTING_S).close()
        ray.init(log_to_driver=False, logging_level='warning', **settings)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise EvaluationError(
            f'no Ray cluster answers at {address} ({first_line}); start one with "ray start '
            '--head" and give its host:port, or use --ray local'
        ) from None
