"""Start a node as a program; where something cannot be imported, say so in one sentence."""

from __future__ import annotations

import importlib
import sys

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


def start(name: str) -> int:
    """Run the node of a module; return its exit status, or 2 where a package is missing."""
    try:
        requirements.check(*requirements.NODE)
    except MissingPackageError as error:
        sys.stderr.write(f'{name}: {error}\n')
        return EXIT_BAD_INPUT
    status: int = importlib.import_module(f'dynamic_ofa_ros.nodes.{name}').main()
    return status
