"""A separate ROS graph: an unused domain, visible on this host only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from dynamic_ofa_ros.files import share_directory

DOMAIN_VARIABLE = 'ROS_DOMAIN_ID'
PROFILES_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
"""Fast DDS reads the first one up to Jazzy; from Kilted, the second, and warns about the first."""

RCLPY_OF_KILTED = 9


@contextlib.contextmanager
def own_domain() -> Iterator[int]:
    """Reserve a domain id and set it for this process and its children.

    Discovery is limited to this host, and Fast DDS gets the package's profile unless the user has
    set one. On exit, the environment is restored and the shared memory of killed processes is
    removed.
    """
    from domain_coordinator import domain_id

    with domain_id() as number, contextlib.ExitStack() as stack:
        stack.callback(clean_shared_memory)
        _set_variable(stack, DOMAIN_VARIABLE, str(number))
        _set_variable(stack, 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        if not any(variable in os.environ for variable in PROFILES_VARIABLES):
            is_new = int(metadata.version('rclpy').split('.')[0]) >= RCLPY_OF_KILTED
            profile = str(share_directory() / 'config' / 'fastdds.xml')
            _set_variable(stack, PROFILES_VARIABLES[is_new], profile)
        yield int(number)


def _set_variable(stack: contextlib.ExitStack, name: str, value: str) -> None:
    before = os.environ.get(name)
    os.environ[name] = value
    if before is None:
        stack.callback(os.environ.pop, name, None)
    else:
        stack.callback(os.environ.__setitem__, name, before)


def clean_shared_memory() -> None:
    """Remove the shared memory that killed processes left (Fast DDS keeps memory in use).

    Does nothing if the command `fastdds` is not installed.
    """
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get('PATH', '')))
    command = shutil.which('fastdds', path=places)
    if command is not None:
        subprocess.run(
            [command, 'shm', 'clean'],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30.0,
            check=False,
        )
