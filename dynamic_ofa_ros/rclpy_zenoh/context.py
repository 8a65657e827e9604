"""`rclpy.context`: arguments, domain, and the Zenoh session that its nodes share."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh import arguments, logging
from dynamic_ofa_ros.rclpy_zenoh.exceptions import (
    ExternalShutdownException,
    NotInitializedException,
)
from dynamic_ofa_ros.rclpy_zenoh.graph import Graph
from dynamic_ofa_ros.rclpy_zenoh.session import (
    check_domain_id,
    domain_id_from_environment,
    open_session_retrying,
    router_endpoint,
)

_contexts: weakref.WeakSet[Context] = weakref.WeakSet()


class Context:
    """One participation in ROS: `init`, nodes, `shutdown`. It cannot be initialised twice."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._session: Any = None
        self._graph: Graph | None = None
        self._is_initialized = False
        self._is_ok = False
        self._domain_id = 0
        self._endpoint = ''
        self._node_ids = itertools.count()
        self._entity_ids = itertools.count()
        self._on_shutdown: list[Callable[[], None]] = []
        self._nodes: weakref.WeakSet[Any] = weakref.WeakSet()
        self._executors: weakref.WeakSet[Any] = weakref.WeakSet()
        self.arguments = arguments.RosArguments()

    def init(
        self,
        args: Sequence[str] | None = None,
        *,
        initialize_logging: bool = True,
        domain_id: int | None = None,
    ) -> None:
        """Parse arguments (default: the program's); the session opens with the first node.

        Raises RuntimeError the second time, UnknownROSArgsError or ValueError for bad arguments.
        """
        with self._lock:
            if self._is_initialized:
                raise RuntimeError('Context.init() must only be called once')
            self.arguments = arguments.parse(sys.argv if args is None else args)
            self._domain_id = (
                domain_id_from_environment() if domain_id is None else check_domain_id(domain_id)
            )
            self._endpoint = router_endpoint()
            if initialize_logging:
                self._initialize_logging()
            self._is_initialized = True
            self._is_ok = True
            _contexts.add(self)

    def _initialize_logging(self) -> None:
        logging.enable_console(self.arguments.stdout_enabled)
        for name, level in self.arguments.log_levels.items():
            try:
                logging.set_logger_level(name, logging.get_logging_severity_from_string(level))
            except RuntimeError:
                raise ValueError(
                    f"Couldn't parse '--log-level {level}'. "
                    'Expected one of debug, info, warn, error, fatal.'
                ) from None

    def ok(self) -> bool:
        """Return whether the context is initialised and not shut down."""
        return self._is_ok

    def get_domain_id(self) -> int:
        """Return the ROS domain; NotInitializedException before `init`."""
        if not self._is_initialized:
            raise NotInitializedException
        return self._domain_id

    @property
    def session(self) -> Any:
        """Return the Zenoh session, opening it when first asked for.

        Waits for the router, saying so every few seconds; ExternalShutdownException if the context
        is shut down meanwhile.
        """
        with self._lock:
            if not self._is_ok:
                raise NotInitializedException
            if self._session is None:
                self._session = open_session_retrying(self._endpoint, self.ok)
                if self._session is None:
                    raise ExternalShutdownException
                self._graph = Graph(self._session, self._domain_id)
            return self._session

    @property
    def graph(self) -> Graph:
        """Return what is known of other nodes and endpoints."""
        _ = self.session
        assert self._graph is not None
        return self._graph

    def next_node_id(self) -> int:
        """Return a number for a node, unique in the session."""
        return next(self._node_ids)

    def next_entity_id(self) -> int:
        """Return a number for an endpoint, unique in the session."""
        return next(self._entity_ids)

    def track_node(self, node: Any) -> None:
        """Remember a node: it is woken at shutdown."""
        self._nodes.add(node)

    def untrack_node(self, node: Any) -> None:
        """Forget a node."""
        self._nodes.discard(node)

    def track_executor(self, executor: Any) -> None:
        """Remember an executor: it is woken at shutdown."""
        self._executors.add(executor)

    def on_shutdown(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the context is shut down."""
        if not callable(callback):
            raise TypeError(f'callback should be a callable, got {type(callback)}')
        self._on_shutdown.append(callback)

    def interrupt(self) -> None:
        """Mark the context as shut down and wake its executors; safe in a signal handler."""
        self._is_ok = False
        for executor in list(self._executors):
            executor.wake()

    def shutdown(self) -> None:
        """End the context; RuntimeError if it was not initialised or has ended already."""
        if not self._is_ok:
            raise RuntimeError('Context must be initialized before it can be shutdown')
        self.try_shutdown()

    def try_shutdown(self) -> None:
        """End the context if it has not ended: callbacks, then the session."""
        if not self._is_initialized:
            return
        self.interrupt()
        with self._lock:
            callbacks, self._on_shutdown = self._on_shutdown, []
            session, self._session = self._session, None
            graph, self._graph = self._graph, None
        for callback in callbacks:
            callback()
        if graph is not None:
            with contextlib.suppress(Exception):
                graph.close()
        if session is not None:
            for node in list(self._nodes):
                node.forget_logging()
            with contextlib.suppress(Exception):
                session.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.try_shutdown()


@atexit.register
def _close_all() -> None:
    # A Zenoh thread that calls into an interpreter that is being torn down can hang it.
    for context in list(_contexts):
        context.try_shutdown()
