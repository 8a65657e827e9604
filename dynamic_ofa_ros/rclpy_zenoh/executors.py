"""`rclpy.executors`: one thread that runs the callbacks of its nodes, one after the other."""

from __future__ import annotations

import contextlib
import inspect
import queue
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.context import Context
from dynamic_ofa_ros.rclpy_zenoh.exceptions import (
    ConditionReachedException,
    ExternalShutdownException,
    MissingFeatureError,
    ShutdownException,
    TimeoutException,
)
from dynamic_ofa_ros.rclpy_zenoh.task import Future
from dynamic_ofa_ros.rclpy_zenoh.utilities import get_default_context

__all__ = [
    'ConditionReachedException',
    'Executor',
    'ExternalShutdownException',
    'MultiThreadedExecutor',
    'ShutdownException',
    'SingleThreadedExecutor',
    'TimeoutException',
]


class Executor:
    """Base of executors: which nodes, and waiting for what is ready."""

    def __init__(self, *, context: Context | None = None) -> None:
        self._context = get_default_context() if context is None else context
        self._nodes: list[Any] = []
        self._is_shutdown = False
        # put() of a SimpleQueue may be called in a signal handler, whatever the thread was doing.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_woken = False
        self._ready: deque[Any] = deque()
        self._context.track_executor(self)

    @property
    def context(self) -> Context:
        """Return the context that ends the executor."""
        return self._context

    def add_node(self, node: Any) -> bool:
        """Add a node; False if it is here already."""
        if node in self._nodes:
            return False
        if node.executor is not None and node.executor is not self:
            node.executor.remove_node(node)
        self._nodes.append(node)
        node.executor = self
        self.wake()
        return True

    def remove_node(self, node: Any) -> None:
        """Remove a node."""
        if node in self._nodes:
            self._nodes.remove(node)
            node.executor = None
        self.wake()

    def get_nodes(self) -> list[Any]:
        """Return the nodes."""
        return list(self._nodes)

    def wake(self) -> None:
        """Make a waiting executor look again; safe from any thread and from signal handlers."""
        if not self._is_woken:
            self._is_woken = True
            self._wakes.put(None)

    def create_task(self, *_: Any, **__: Any) -> Any:
        """Not available."""
        raise MissingFeatureError('Executor.create_task')

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop spinning and release the nodes."""
        self._is_shutdown = True
        for node in list(self._nodes):
            self.remove_node(node)
        self.wake()
        return True

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def _collect_ready(self) -> None:
        for node in list(self._nodes):
            for entity in node.entities():
                if entity.is_ready():
                    self._ready.append(entity)

    def _time_until_timer_s(self) -> float | None:
        waits = [
            remaining_ns / 1e9
            for node in list(self._nodes)
            for timer in list(node.timers)
            if timer.follows_wall_time
            and (remaining_ns := timer.time_until_next_call()) is not None
        ]
        return max(min(waits), 0.0) if waits else None

    def _next_ready(
        self, timeout_sec: float | None, condition: Callable[[], bool] = lambda: False
    ) -> Any:
        """Wait for a callback to run and return its entity.

        Raises TimeoutException, ShutdownException, ExternalShutdownException or
        ConditionReachedException.
        """
        forever = timeout_sec is None or timeout_sec < 0
        deadline_s = None if forever else time.monotonic() + (timeout_sec or 0.0)
        while True:
            if self._is_shutdown:
                raise ShutdownException
            if not self._context.ok():
                raise ExternalShutdownException
            if condition():
                raise ConditionReachedException
            # Cleared before looking: what arrives afterwards wakes the wait below.
            self._is_woken = False
            if not self._ready:
                self._collect_ready()
            while self._ready:
                entity = self._ready.popleft()
                if entity.is_ready():
                    return entity
            waits = [wait for wait in (self._time_until_timer_s(),) if wait is not None]
            if deadline_s is not None:
                remaining_s = deadline_s - time.monotonic()
                if remaining_s <= 0:
                    raise TimeoutException
                waits.append(remaining_s)
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=min(waits) if waits else None)

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback, waiting for it up to a timeout."""
        raise NotImplementedError

    def spin(self) -> None:
        """Run callbacks until the context or the executor is shut down."""
        while self._context.ok() and not self._is_shutdown:
            self.spin_once()

    def spin_once_until_future_complete(
        self, future: Future, timeout_sec: float | None = None
    ) -> None:
        """Run one callback unless the future is done."""
        raise NotImplementedError

    def spin_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Run callbacks until the future is done or a timeout has passed."""
        forever = timeout_sec is None or timeout_sec < 0
        deadline_s = None if forever else time.monotonic() + (timeout_sec or 0.0)
        future.add_done_callback(lambda _: self.wake())
        while self._context.ok() and not future.done() and not self._is_shutdown:
            remaining_s = None if deadline_s is None else deadline_s - time.monotonic()
            if remaining_s is not None and remaining_s <= 0:
                return
            self.spin_once_until_future_complete(future, remaining_s)


class SingleThreadedExecutor(Executor):
    """Runs callbacks in the thread that spins."""

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback, waiting for it up to a timeout (None: for ever).

        ExternalShutdownException if something else has shut the context down.
        """
        with contextlib.suppress(TimeoutException, ShutdownException):
            self._execute(self._next_ready(timeout_sec))

    def spin_once_until_future_complete(
        self, future: Future, timeout_sec: float | None = None
    ) -> None:
        """Run one callback unless the future is done."""
        with contextlib.suppress(TimeoutException, ShutdownException, ConditionReachedException):
            self._execute(self._next_ready(timeout_sec, future.done))

    def _execute(self, entity: Any) -> None:
        if inspect.iscoroutinefunction(getattr(entity, 'callback', None)):
            raise MissingFeatureError('A coroutine as callback')
        entity.execute()


class MultiThreadedExecutor:
    """Not available: callbacks run in one thread."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise MissingFeatureError('rclpy.executors.MultiThreadedExecutor')
