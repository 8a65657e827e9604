"""`rclpy.signals`: SIGINT and SIGTERM shut the contexts down."""

from __future__ import annotations

import signal
import threading
from enum import IntEnum
from types import FrameType
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.context import Context


class SignalHandlerOptions(IntEnum):
    """Which signals `rclpy.init` takes over."""

    NO = 0
    SIGINT = 1
    SIGTERM = 2
    ALL = 3


_previous: dict[int, Any] = {}
_contexts: list[Context] = []


def install_signal_handlers(
    options: SignalHandlerOptions = SignalHandlerOptions.ALL, context: Context | None = None
) -> None:
    """Take over signals for a context; only the main thread can, so elsewhere nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        return
    if context is not None and context not in _contexts:
        _contexts.append(context)
    for bit, number in ((1, signal.SIGINT), (2, signal.SIGTERM)):
        if options & bit and number not in _previous:
            _previous[number] = signal.signal(number, _on_signal)


def uninstall_signal_handlers() -> None:
    """Give the signals back."""
    if threading.current_thread() is not threading.main_thread():
        return
    _contexts.clear()
    for number in list(_previous):
        signal.signal(number, _previous.pop(number) or signal.SIG_DFL)


def get_current_signal_handlers_options() -> SignalHandlerOptions:
    """Return which signals are taken over."""
    taken = (signal.SIGINT in _previous) | (signal.SIGTERM in _previous) << 1
    return SignalHandlerOptions(taken)


def _on_signal(number: int, frame: FrameType | None) -> None:
    for context in list(_contexts):
        context.interrupt()
    previous = _previous.get(number)
    if callable(previous):
        previous(number, frame)  # Python's own SIGINT handler raises KeyboardInterrupt
    elif number == signal.SIGINT:
        # A shell starts background processes with SIGINT ignored; rclpy interrupts them all the
        # same. SIGTERM raises nothing: spinning answers it with ExternalShutdownException.
        raise KeyboardInterrupt
