"""Run a node as a process: start, spin, stop cleanly, and turn errors into one line."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.qos_overriding_options import InvalidQosOverridesError
from rclpy.signals import uninstall_signal_handlers

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.nodes.executors import NodeExecutor

EXIT_BAD_INPUT = 2
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PACKAGE_LOGGER = 'dynamic_ofa_ros'


class ClosableNode(Protocol):
    """A node that has something to stop before it is destroyed."""

    def start(self) -> None:
        """Start threads, processes and what needs an executor; called once, when there is one.

        None of it belongs in the constructor: nobody would stop it when the constructor fails.
        """

    def close(self) -> None:
        """Stop threads and processes; called once, whatever ended the node."""

    def destroy_node(self) -> None:
        """Destroy the node."""


class NodeFinished(Exception):  # noqa: N818 - not an error
    """Raised in a callback when the node has done what it was for: the process ends with 0."""


def run(
    name: str,
    create: Callable[[], ClosableNode],
    args: Sequence[str] | None = None,
    executor: Callable[[], Any] = NodeExecutor,
) -> int:
    """Run a node until SIGINT, SIGTERM or its own end; return the exit status.

    0 after a clean end, 2 after an error that the user can mend, told in one line. What nobody
    expected is raised. A signal is noted and never raised, so that nothing is interrupted halfway;
    the spinning ends with the callback in work. Further signals change nothing of the ending, and
    afterwards both are ignored: the process is about to end.
    """
    signals: list[int] = []
    for number in ENDING_SIGNALS:
        _handle(number, lambda number, frame: signals.append(number))
    try:
        try:
            rclpy.init(args=args)
        except Exception as error:  # of many types, but always about arguments or environment
            return 0 if signals else _refuse(name, error)
        return 0 if signals else _run(name, create, executor, signals)
    finally:
        rclpy.try_shutdown()
        uninstall_signal_handlers()  # rclpy's own stay when it was a signal that shut it down
        for number in ENDING_SIGNALS:
            _handle(number, signal.SIG_IGN)


def _run(
    name: str,
    create: Callable[[], ClosableNode],
    create_executor: Callable[[], Any],
    signals: list[int],
) -> int:
    node: Any = None
    executor: Any = None
    try:
        executor = create_executor()
        node = create()
        executor.add_node(node)
        node.start()
        # rclpy's handler wakes the executor; where it is not installed the next callback does.
        while rclpy.ok() and not signals:
            executor.spin_once()
    except (KeyboardInterrupt, ExternalShutdownException, NodeFinished):
        pass
    except Exception as error:
        # A signal invalidates whatever is being created just then.
        if signals or not rclpy.ok():
            logging.getLogger(__name__).debug('interrupted: %s', error)
        elif isinstance(error, (DynamicOfaError, InvalidQosOverridesError)):
            return _refuse(name, error)
        else:
            raise
    finally:
        if node is not None:
            node.close()
            executor.shutdown()
            node.destroy_node()
    return 0


def _handle(number: int, handler: Any) -> None:
    """Set what answers a signal; only the main thread can, and others get none."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _refuse(name: str, error: Exception) -> int:
    text = ' '.join(str(error).split())
    if rclpy.ok():
        get_logger(name).fatal(text)
    else:
        sys.stderr.write(f'{name}: {text}\n')
    return EXIT_BAD_INPUT


class LogForwarder(logging.Handler):
    """Passes what the package logs through `logging` on to a node's logger, and so to /rosout."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with the node's logger."""
        text = self.format(record)
        # One call a severity: rclpy remembers the severity of each place that logs.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def forward_logging(node: Any) -> LogForwarder:
    """Log through a node from now on; hand the result to `stop_forwarding` at the end."""
    logger, forwarder = logging.getLogger(PACKAGE_LOGGER), LogForwarder(node)
    logger.addHandler(forwarder)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)  # the node's own level decides what is shown
    return forwarder


def stop_forwarding(forwarder: LogForwarder) -> None:
    """Undo `forward_logging`."""
    logger = logging.getLogger(PACKAGE_LOGGER)
    logger.removeHandler(forwarder)
    logger.propagate = True


class Throttle:
    """Lets a message of one kind through every so often; each kind has a period of its own."""

    def __init__(self, period_s: float = 5.0) -> None:
        self._period_s = period_s
        self._last_s: dict[str, float] = {}

    def passes(self, kind: str) -> bool:
        """Return whether it is time again for a message of this kind."""
        now_s = time.monotonic()
        if now_s - self._last_s.get(kind, float('-inf')) < self._period_s:
            return False
        self._last_s[kind] = now_s
        return True
