"""The functions of the module `rclpy` itself."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.context import Context
from dynamic_ofa_ros.rclpy_zenoh.executors import Executor, SingleThreadedExecutor
from dynamic_ofa_ros.rclpy_zenoh.node import Node
from dynamic_ofa_ros.rclpy_zenoh.signals import SignalHandlerOptions, install_signal_handlers
from dynamic_ofa_ros.rclpy_zenoh.task import Future
from dynamic_ofa_ros.rclpy_zenoh.utilities import (
    get_default_context,
    get_rmw_implementation_identifier,
    ok,
    shutdown,
    try_shutdown,
)

__all__ = [
    'Context',
    'Future',
    'InitContextManager',
    'Node',
    'Parameter',
    'create_node',
    'get_default_context',
    'get_global_executor',
    'get_rmw_implementation_identifier',
    'init',
    'ok',
    'shutdown',
    'spin',
    'spin_once',
    'spin_until_future_complete',
    'try_shutdown',
]

from dynamic_ofa_ros.rclpy_zenoh.parameter import Parameter

_global_executor: Executor | None = None


class InitContextManager:
    """What `init` returns: shuts the context down at the end of a `with`."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def __enter__(self) -> InitContextManager:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.context is get_default_context():
            try_shutdown()
        else:
            self.context.try_shutdown()


def init(
    *,
    args: Sequence[str] | None = None,
    context: Context | None = None,
    domain_id: int | None = None,
    signal_handler_options: SignalHandlerOptions | None = None,
) -> InitContextManager:
    """Initialise a context; the default one also takes over SIGINT and SIGTERM."""
    target = get_default_context() if context is None else context
    if signal_handler_options is None:
        signal_handler_options = (
            SignalHandlerOptions.ALL if context is None else SignalHandlerOptions.NO
        )
    target.init(args, domain_id=domain_id)
    if signal_handler_options != SignalHandlerOptions.NO:
        install_signal_handlers(signal_handler_options, target)
    return InitContextManager(target)


def get_global_executor() -> Executor:
    """Return the executor that `spin` uses by default."""
    global _global_executor
    context = get_default_context()
    if _global_executor is None or _global_executor.context is not context:
        _global_executor = SingleThreadedExecutor(context=context)
    return _global_executor


def create_node(node_name: str, **kwargs: Any) -> Node:
    """Create a node."""
    return Node(node_name, **kwargs)


def _executor_for(node: Node, executor: Executor | None) -> Executor:
    if executor is not None:
        return executor
    if node.executor is not None:
        current: Executor = node.executor
        return current
    if node.context is not get_default_context():
        # A private context's shutdown must end the spinning, so its executor is its own.
        return SingleThreadedExecutor(context=node.context)
    return get_global_executor()


@contextlib.contextmanager
def _spinning(node: Node, executor: Executor | None) -> Any:
    """Yield an executor that has the node for the time of the block."""
    chosen = _executor_for(node, executor)
    added = chosen.add_node(node)
    try:
        yield chosen
    finally:
        if added:
            chosen.remove_node(node)


def spin(node: Node, executor: Executor | None = None) -> None:
    """Run a node's callbacks until the context is shut down.

    KeyboardInterrupt on SIGINT; ExternalShutdownException when something else shuts it down.
    """
    with _spinning(node, executor) as chosen:
        while chosen.context.ok():
            chosen.spin_once()


def spin_once(
    node: Node, *, executor: Executor | None = None, timeout_sec: float | None = None
) -> None:
    """Run one callback of a node, waiting for it up to a timeout."""
    with _spinning(node, executor) as chosen:
        chosen.spin_once(timeout_sec=timeout_sec)


def spin_until_future_complete(
    node: Node,
    future: Future,
    executor: Executor | None = None,
    timeout_sec: float | None = None,
) -> None:
    """Run a node's callbacks until a future is done or a timeout has passed."""
    with _spinning(node, executor) as chosen:
        chosen.spin_until_future_complete(future, timeout_sec)
