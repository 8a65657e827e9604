"""A Zenoh router: run one here, or start one as a process and wait until it answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dynamic_ofa_ros.errors import TransportError
from dynamic_ofa_ros.rclpy_zenoh.session import (
    DEFAULT_PORT,
    ROUTER_VARIABLE,
    router_answers,
    session_config,
    split_endpoint,
)

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class RouterProcess:
    """A router that runs as a process of its own."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        """Return the TCP port."""
        return split_endpoint(self.endpoint)[1]

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the variable that leads others to the router."""
        return {**os.environ, ROUTER_VARIABLE: self.endpoint}

    def stop(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """End the process as a crash would."""
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    """Return a TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def open_router(port: int = DEFAULT_PORT, host: str = '127.0.0.1') -> tuple[str, object]:
    """Open a router session in this process; return its endpoint and the session.

    TransportError if the port is taken or the address is not this machine's.
    """
    import zenoh

    zenoh.init_log_from_env_or('error')
    endpoint = f'tcp/{host}:{port}'
    check_port_is_free(host, port)
    config = session_config('router')
    config.insert_json5('listen/endpoints', json.dumps([endpoint]))
    try:
        return endpoint, zenoh.open(config)
    except zenoh.ZError as error:
        raise TransportError(f'The router cannot listen at {host}:{port}: {error}') from error


def check_port_is_free(host: str, port: int) -> None:
    """Raise TransportError if something listens at the address, or it cannot be bound."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip('[]'), port))
        except OSError as error:
            hint = (
                'a router may be running already; choose another port with --port'
                if isinstance(error, OSError) and error.errno in (48, 98)
                else 'choose another address with --listen'
            )
            raise TransportError(
                f'The router cannot listen at {host}:{port}: {error.strerror} ({hint}).'
            ) from error


def run_router(
    port: int = DEFAULT_PORT,
    host: str = '127.0.0.1',
    on_ready: Callable[[str], None] = lambda endpoint: None,
    keep_running: Callable[[], bool] = lambda: True,
) -> None:
    """Run a router until SIGINT or SIGTERM, or `keep_running` turns false.

    `on_ready` gets the endpoint.
    """
    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        endpoint, session = open_router(port, host)
        on_ready(endpoint)
        # Polled: Event.set() in a signal handler could find the event's own lock held.
        while not stop.wait(0.5) and keep_running():
            pass
        session.close()  # type: ignore[attr-defined]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def start_router(port: int = 0) -> Iterator[RouterProcess]:
    """Start a router as a process (port 0: a free one), wait until it answers, stop it at the end.

    Other processes reach it with `router.environment()`. TransportError if it does not start.
    """
    router = launch_router(port)
    try:
        yield router
    finally:
        router.stop()


def launch_router(port: int = 0) -> RouterProcess:
    """Start a router as a process and wait until it answers; the caller stops it."""
    port = port or free_port()
    endpoint = f'tcp/127.0.0.1:{port}'
    # Else the answer waited for below would come from whatever is there already.
    check_port_is_free('127.0.0.1', port)
    # A session of its own: Ctrl-C in the terminal reaches the nodes first, the router is stopped.
    process = subprocess.Popen(
        [sys.executable, '-m', 'dynamic_ofa_ros.rclpy_zenoh.router', str(port), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    router = RouterProcess(endpoint, process)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    try:
        while not router_answers(endpoint):
            if process.poll() is not None:
                raise TransportError(
                    f'The router at {endpoint} ended at once, status {process.returncode}.'
                )
            if time.monotonic() > deadline_s:
                raise TransportError(f'The router at {endpoint} did not answer in time.')
            time.sleep(0.02)
    except BaseException:
        router.stop()
        raise
    return router


if __name__ == '__main__':
    try:
        # A parent that was killed cannot stop its router: the router watches the parent.
        parent = int(sys.argv[2])
        run_router(int(sys.argv[1]), keep_running=lambda: os.getppid() == parent)
    except TransportError as failure:
        sys.exit(str(failure))
