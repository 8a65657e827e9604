"""`rclpy.utilities`: the default context and its state."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from dynamic_ofa_ros.rclpy_zenoh import arguments
from dynamic_ofa_ros.rclpy_zenoh.context import Context
from dynamic_ofa_ros.rclpy_zenoh.signals import uninstall_signal_handlers

_default: Context | None = None
_lock = threading.Lock()


def get_default_context(*, shutting_down: bool = False) -> Context:
    """Return the default context; with `shutting_down` a later call gets a new one."""
    global _default
    with _lock:
        if _default is None:
            _default = Context()
        context = _default
        if shutting_down:
            _default = None
        return context


def ok(*, context: Context | None = None) -> bool:
    """Return whether the context is initialised and not shut down."""
    return (get_default_context() if context is None else context).ok()


def shutdown(*, context: Context | None = None) -> None:
    """Shut the context down; RuntimeError if it was not running."""
    if context is not None:
        context.shutdown()
        return
    current = get_default_context(shutting_down=True)
    # Ended even where a signal has marked it already: the session is still to be closed.
    was_ok = current.ok()
    current.try_shutdown()
    uninstall_signal_handlers()
    if not was_ok:
        raise RuntimeError('Context must be initialized before it can be shutdown')


def try_shutdown(*, context: Context | None = None) -> None:
    """Shut the context down if it is running."""
    if context is not None:
        context.try_shutdown()
        return
    get_default_context(shutting_down=True).try_shutdown()
    uninstall_signal_handlers()


def remove_ros_args(args: Sequence[str] | None = None) -> list[str]:
    """Return the arguments (default: the program's) without those of ROS."""
    return list(arguments.parse(sys.argv if args is None else args).remaining)


def get_rmw_implementation_identifier() -> str:
    """Return the name of the middleware."""
    return 'rclpy_zenoh'


def timeout_sec_to_nsec(timeout_sec: float | None) -> int:
    """Return nanoseconds; -1 (for ever) for None or a negative timeout."""
    return -1 if timeout_sec is None or timeout_sec < 0 else int(timeout_sec * 1e9)
