"""Run a node as a process: start, spin and stop it, and report errors in one line."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.signals import uninstall_signal_handlers
from rclpy.utilities import remove_ros_args

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.files import problem_of
from dynamic_ofa_ros.nodes.executors import NodeExecutor
from dynamic_ofa_ros.nodes.parameter_table import reject_unknown_types, warn_of_unknown

EXIT_BAD_INPUT = 2
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PACKAGE_LOGGER = 'dynamic_ofa_ros'
LOG_REMEDY = 'set ROS_LOG_DIR to a folder that can be written'
ARGUMENTS_REMEDY = 'write, for example: --ros-args -p NAME:=VALUE -r FROM:=TO'

RclError = rclpy_implementation.RCLError


class ClosableNode(Protocol):
    """A node with resources to free before it is destroyed."""

    def start(self) -> None:
        """Start threads and processes; called once, after the node was added to its executor.

        The constructor must not start them, because they would not be stopped if it failed.
        """

    def close(self) -> None:
        """Stop threads and processes; called once, for every cause of the end."""

    def destroy_node(self) -> None:
        """Destroy the node."""


class NodeFinished(Exception):  # noqa: N818 - not an error
    """The node has completed its task; raise this in a callback to end with status 0."""


def run(
    name: str,
    create: Callable[[], ClosableNode],
    args: Sequence[str] | None = None,
    executor: Callable[[], Any] = NodeExecutor,
) -> int:
    """Run a node until SIGINT, SIGTERM or NodeFinished; return the exit status.

    The status is 0 after a normal end and 2 after an error that the user can fix, which is logged
    in one line. Other exceptions are raised. Signal handlers only record the signal, so that no
    operation is interrupted; spinning ends after the current callback. Further signals during the
    shutdown have no effect, and both signals are ignored afterwards.
    """
    signals: list[int] = []
    for number in ENDING_SIGNALS:
        _handle(number, lambda number, frame: signals.append(number))
    try:
        try:
            rclpy.init(args=args)
        except Exception as error:  # of many types; all concern arguments or environment
            remedy = f'; {LOG_REMEDY}' if 'initialize logging' in str(error) else ''
            return 0 if signals else _report(name, f'{_plain(error)}{remedy}')
        if unknown := remove_ros_args(args)[1:]:
            problem = f'unknown arguments: {" ".join(unknown)}; {ARGUMENTS_REMEDY}'
            return 0 if signals else _report(name, problem)
        return 0 if signals else _run(name, create, executor, signals)
    finally:
        uninstall_signal_handlers()  # if the node was not created
        rclpy.try_shutdown()
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
        warn_of_unknown(node)
        reject_unknown_types(node)
        executor.add_node(node)
        node.start()
        # On a signal, rclpy's handler wakes the executor; without it, the next callback does.
        while rclpy.ok() and not signals:
            executor.spin_once()
    except (KeyboardInterrupt, ExternalShutdownException, NodeFinished):
        pass
    except Exception as error:
        # A signal invalidates entities that are being created.
        if signals or not rclpy.ok():
            logging.getLogger(__name__).debug('interrupted by a signal: %s', error)
        elif isinstance(error, DynamicOfaError):
            return _report(name, str(error), node)
        elif node is None and isinstance(error, (ParameterException, RclError)):
            return _report(name, _plain(error))
        elif problem := problem_of(error):
            return _report(name, problem, node)
        else:
            raise
    finally:
        # This joins the thread in which rclpy shuts down after a signal. The process could crash
        # if this thread, or that of a second signal, ran while the node is destroyed.
        uninstall_signal_handlers()
        if node is not None:
            node.close()
            executor.shutdown()
            node.destroy_node()
    return 0


def _plain(error: Exception) -> str:
    """Return the message of an error of rclpy, without the places in the source code of rcl."""
    if isinstance(error, rclpy_implementation.UnknownROSArgsError):
        return f'unknown arguments after --ros-args: {error}; {ARGUMENTS_REMEDY}'
    return re.sub(r',? at /\S+:\d+|Error: error not set', '', str(error))


def _handle(number: int, handler: Any) -> None:
    """Set a signal handler, if this is the main thread; other threads cannot set any."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _report(name: str, error: str, node: Any = None) -> int:
    text = ' '.join(error.split())
    if rclpy.ok():
        (get_logger(name) if node is None else node.get_logger()).fatal(text)
    else:
        sys.stderr.write(f'{name}: {text}\n')
    return EXIT_BAD_INPUT


class LogForwarder(logging.Handler):
    """Forwards the package's `logging` records to a node's logger, and thus to /rosout.

    If several nodes of a process forward, only the first one does, so that each record appears
    once.
    """

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with the node's logger."""
        if _forwarders()[:1] != [self]:
            return
        text = self.format(record)
        # One call per severity, because rclpy does not permit a call to change its severity.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def forward_logging(node: Any) -> LogForwarder:
    """Forward log records to a node; pass the result to `stop_forwarding` at the end."""
    logger, forwarder = logging.getLogger(PACKAGE_LOGGER), LogForwarder(node)
    logger.addHandler(forwarder)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)  # the level of the node's logger applies
    return forwarder


def stop_forwarding(forwarder: LogForwarder) -> None:
    """Stop forwarding log records."""
    logger = logging.getLogger(PACKAGE_LOGGER)
    logger.removeHandler(forwarder)
    logger.propagate = not _forwarders()


def _forwarders() -> list[logging.Handler]:
    """Return the handlers of this process that forward to nodes, oldest first."""
    handlers = logging.getLogger(PACKAGE_LOGGER).handlers
    return [handler for handler in handlers if isinstance(handler, LogForwarder)]


class Throttle:
    """Limits how often messages are logged, separately for each kind of message."""

    def __init__(self, period_s: float = 5.0) -> None:
        self._period_s = period_s
        self._last_s: dict[str, float] = {}

    def passes(self, kind: str) -> bool:
        """Return whether the period since the last message of this kind is over."""
        now_s = time.monotonic()
        if now_s - self._last_s.get(kind, float('-inf')) < self._period_s:
            return False
        self._last_s[kind] = now_s
        return True
