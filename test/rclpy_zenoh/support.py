"""Skips the tests about the stand-ins where a real ROS 2 serves; helpers for those tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0

if importlib.util.find_spec('zenoh') is None:
    pytest.skip('eclipse-zenoh is not installed', allow_module_level=True)

from dynamic_ofa_ros.rclpy_zenoh import install  # noqa: E402

if not install():
    pytest.skip('a real rclpy is importable: the stand-ins do not serve', allow_module_level=True)

import rclpy  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402

# What a process of a test starts with.
PROLOGUE = """
import sys, time
from dynamic_ofa_ros.rclpy_zenoh import install
install()
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
def say(text):
    print(text, flush=True)
"""


def wait_until(condition, deadline_s=DEADLINE_S, what='the condition'):
    """Wait for a condition without spinning anything."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f'{what} did not come true within {deadline_s} s'
        time.sleep(0.005)


def spin_until(node, condition, deadline_s=DEADLINE_S, what='the condition'):
    """Run a node's callbacks until a condition holds."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f'{what} did not come true within {deadline_s} s'
        rclpy.spin_once(node, timeout_sec=0.02)


@contextlib.contextmanager
def ros(args=(), domain_id=None):
    """Yield a private context that is shut down at the end."""
    context = Context()
    context.init(list(args), domain_id=domain_id)
    try:
        yield context
    finally:
        context.try_shutdown()


@contextlib.contextmanager
def spinning(*nodes):
    """Spin nodes of one context in another thread."""
    executor = SingleThreadedExecutor(context=nodes[0].context)
    for node in nodes:
        executor.add_node(node)
    failures = []

    def run():
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield executor
    finally:
        executor.shutdown()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        assert not failures


class Process:
    """A Python process of a test, whose lines of output can be waited for."""

    def __init__(self, code, environment, *arguments):
        self._process = subprocess.Popen(
            [sys.executable, '-c', PROLOGUE + textwrap.dedent(code), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, 'PYTHONPATH': str(REPOSITORY)},
            cwd=REPOSITORY,
        )
        self.lines = []
        self.errors = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in (
                (self._process.stdout, self.lines),
                (self._process.stderr, self.errors),
            )
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines):
        for line in stream:
            lines.append(line.rstrip('\n'))

    def wait_for(self, text, deadline_s=DEADLINE_S):
        """Wait for a line of output that contains a text, and return it."""
        wait_until(
            lambda: any(text in line for line in self.lines) or self._process.poll() is not None,
            deadline_s,
            f'the line {text!r}',
        )
        self._drain_if_ended()
        found = [line for line in self.lines if text in line]
        assert found, f'ended without {text!r}: {self.lines} {self.errors}'
        return found[0]

    def wait_for_error(self, text, deadline_s=DEADLINE_S):
        """Wait for a line on stderr that contains a text."""
        wait_until(lambda: any(text in line for line in self.errors), deadline_s, repr(text))

    def _drain_if_ended(self):
        if self._process.poll() is not None:
            for reader in self._readers:
                reader.join(5.0)

    def signal(self, number):
        self._process.send_signal(number)

    def wait(self, deadline_s=DEADLINE_S):
        """Wait for the end and return the exit status."""
        status = self._process.wait(deadline_s)
        self._drain_if_ended()
        return status

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(5.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()


def environment_for(router):
    """Return the environment of a process that uses a router."""
    return {**os.environ, 'DYNAMIC_OFA_ROUTER': router.endpoint}


__all__ = [
    'DEADLINE_S',
    'Node',
    'Process',
    'environment_for',
    'ros',
    'spin_until',
    'spinning',
    'wait_until',
]
