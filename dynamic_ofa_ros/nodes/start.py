"""Start a node as a program; report a missing package in one line."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from typing import Any

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import MissingPackageError

EXIT_BAD_INPUT = 2


def camera_node() -> int:
    """Run camera_node; return the exit status."""
    return start('camera_node')


def classifier_node() -> int:
    """Run classifier_node; return the exit status."""
    return start('classifier_node')


def contention_node() -> int:
    """Run contention_node; return the exit status."""
    return start('contention_node')


def monitor_node() -> int:
    """Run monitor_node; return the exit status."""
    return start('monitor_node', *requirements.MONITOR)


def start(name: str, *others: str) -> int:
    """Run the node of a module; return its exit status, or 2 if a package is missing.

    others: modules that this node needs in addition to those of all nodes.
    Ctrl-C during the imports ends the process immediately with status 0, as it does for a node.
    """
    signal.signal(signal.SIGINT, _leave)
    try:
        requirements.check(*requirements.NODE, *others)
    except MissingPackageError as error:
        sys.stderr.write(f'{name}: {error}\n')
        return EXIT_BAD_INPUT
    status: int = importlib.import_module(f'dynamic_ofa_ros.nodes.{name}').main()
    if threading.active_count() > 1:
        # A thread is blocked, for example in a camera driver; Python would crash while exiting.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _leave(number: int, frame: Any) -> None:
    os._exit(0)
