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
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.qos_overriding_options import InvalidQosOverridesError

from dynamic_ofa_ros.errors import DynamicOfaError

EXIT_BAD_INPUT = 2
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PACKAGE_LOGGER = 'dynamic_ofa_ros'


class ClosableNode(Protocol):
    """A node that has something to stop before it is destroyed."""

    def start(self) -> None:
        """Start what needs an executor; called once, when the node has one."""

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
    executor: Callable[[], Any] = SingleThreadedExecutor,
) -> int:
    """Run a node until SIGINT, SIGTERM or its own end; return the exit status.

    0 after a clean end, 2 after an error that the user can mend, told in one line. What nobody
    expected is raised. Further signals change nothing of the ending once it has begun.
    """
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    try:
        rclpy.init(args=args)
    except Exception as error:  # of many types, but always about arguments or environment
        return _refuse(name, error)
    try:
        return _run(name, create, executor())
    finally:
        rclpy.try_shutdown()
        for number, handler in handlers.items():
            _handle(number, handler)


def _run(name: str, create: Callable[[], ClosableNode], executor: Any) -> int:
    node: Any = None
    try:
        node = create()
        executor.add_node(node)
        node.start()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException, NodeFinished):
        pass
    except (DynamicOfaError, InvalidQosOverridesError) as error:
        return _refuse(name, error)
    except Exception as error:
        # A signal during start-up invalidates whatever is being created just then.
        if rclpy.ok():
            raise
        logging.getLogger(__name__).debug('interrupted: %s', error)
    finally:
        for number in ENDING_SIGNALS:
            _handle(number, signal.SIG_IGN)  # an impatient second Ctrl-C
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
