"""The hidden node of a `dynamic-ofa ros` command."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions, uninstall_signal_handlers

from dynamic_ofa_ros.cli.ros import RosCommandError

POLL_S = 0.05
DISCOVERY_S = 5.0  # Fast DDS announces a process every 3 s; an announcement may be lost
RESEND_S = 3.0
ANSWER_S = 20.0  # long enough for a busy node
MORE_S = 0.5  # time for further discoveries after the first one


class CommandNode(Node):  # type: ignore[misc]  # rclpy is untyped
    """A hidden node that spins until something is found, answered or received."""

    def __init__(self, context: Any) -> None:
        name = f'_dynamic_ofa_cli_{os.getpid()}'
        super().__init__(name, context=context, start_parameter_services=False)
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float = math.inf) -> bool:
        """Spin until a condition holds; return whether it does."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if (left_s := deadline_s - time.monotonic()) <= 0:
                return False
            self._spinner.spin_once(timeout_sec=min(left_s, POLL_S))
        return True

    def spin_for(self, duration_s: float) -> None:
        """Spin for `duration_s`."""
        self.spin_until(lambda: False, duration_s)

    def discover(self, is_found: Callable[[], bool]) -> bool:
        """Spin until something is found, then for MORE_S; return whether it was found."""
        found = self.spin_until(is_found, DISCOVERY_S)
        self.spin_for(MORE_S if found else 0.0)
        return found

    def nodes(self, *, hidden: bool = False) -> list[str]:
        """Return the sorted full names of the other nodes."""
        pairs = self.get_node_names_and_namespaces()
        names = {f'{namespace.rstrip("/")}/{name}' for name, namespace in pairs}
        names.discard(self.get_fully_qualified_name())
        return sorted(name for name in names if hidden or '/_' not in name)

    def response(self, client: Any, request: Any, timeout_s: float = math.inf) -> Any:
        """Return the response of a service that is ready.

        A server that has not discovered this client yet cannot answer, so the request is sent
        again. A change of state is sent only once, because repeating it could change it twice.

        Raises RosCommandError if there is no response in time.
        """
        future = client.call_async(request)
        deadline_s = time.monotonic() + timeout_s
        while not self.spin_until(future.done, RESEND_S):
            if time.monotonic() > deadline_s:
                raise RosCommandError(f"No response from '{client.srv_name}' in {timeout_s:g} s")
            if not client.srv_name.endswith('change_state'):
                future = client.call_async(request)
        return future.result()


@contextlib.contextmanager
def command_node() -> Iterator[CommandNode]:
    """Yield a node in its own context; raise KeyboardInterrupt if a signal ends the context."""
    context, node = rclpy.context.Context(), None
    with contextlib.ExitStack() as stack:
        try:
            # rclpy's handler works even if the process was started with SIGINT ignored.
            rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.ALL)
            stack.callback(context.try_shutdown)
            node = CommandNode(context)
            stack.callback(node.destroy_node)
            # First of all, because it joins the thread in which rclpy shuts down after a signal.
            stack.callback(uninstall_signal_handlers)
            yield node
        except Exception as error:
            uninstall_signal_handlers()
            if node and not context.ok():
                raise KeyboardInterrupt from None
            if isinstance(error, (RuntimeError, ValueError)):  # no middleware, invalid name
                raise RosCommandError(str(error)) from error
            raise
