"""The Zenoh session of a context: where the router is, how to reach it, how to wait for it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from dynamic_ofa_ros.errors import TransportError

ROUTER_VARIABLE = 'DYNAMIC_OFA_ROUTER'
DOMAIN_VARIABLE = 'ROS_DOMAIN_ID'
DEFAULT_PORT = 7447
DEFAULT_ENDPOINT = f'tcp/127.0.0.1:{DEFAULT_PORT}'
RETRY_PERIOD_S = 3.0
PROBE_TIMEOUT_S = 1.0
DOMAIN_MAX = 232
# How long a full transmit queue may hold up a publisher before a sample is dropped. rmw_zenoh uses
# 1 ms; on a busy machine the router is often not scheduled for longer than that.
WAIT_BEFORE_DROP_US = 50_000


def router_endpoint() -> str:
    """Return the router's Zenoh endpoint: DYNAMIC_OFA_ROUTER (`host:port` will do) or the default.

    Raises TransportError for a value that is no endpoint.
    """
    value = os.environ.get(ROUTER_VARIABLE, '').strip() or DEFAULT_ENDPOINT
    endpoint = value if '/' in value else f'tcp/{value}'
    split_endpoint(endpoint)
    return endpoint


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Return host and port of `tcp/host:port`; TransportError if it is none."""
    protocol, _, address = endpoint.partition('/')
    host, _, port = address.rpartition(':')
    if protocol != 'tcp' or not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise TransportError(
            f"'{endpoint}' is no router address: expected host:port, such as 127.0.0.1:7447 (set "
            f'by the environment variable {ROUTER_VARIABLE}).'
        )
    return host.strip('[]'), int(port)


def domain_id_from_environment() -> int:
    """Return ROS_DOMAIN_ID, 0 if unset; TransportError if it is no domain."""
    return check_domain_id(os.environ.get(DOMAIN_VARIABLE, '').strip() or '0')


def check_domain_id(value: str | int) -> int:
    """Return a domain as an integer; TransportError if it is none."""
    try:
        domain_id = int(value)
    except ValueError:
        domain_id = -1
    if not 0 <= domain_id <= DOMAIN_MAX:
        raise TransportError(
            f"'{value}' is no ROS domain: {DOMAIN_VARIABLE} must be an integer from 0 to "
            f'{DOMAIN_MAX}.'
        )
    return domain_id


def session_config(mode: str) -> Any:
    """Return a Zenoh configuration with what router and clients have in common."""
    import zenoh

    config = zenoh.Config()
    for key, value in {
        'mode': mode,
        'scouting/multicast/enabled': False,
        'scouting/gossip/enabled': mode == 'router',
        # Unused by loopback TCP, and its watchdog complains on a busy machine.
        'transport/shared_memory/enabled': False,
        # As rmw_zenoh: the caches for late joiners are ordered by timestamp.
        'timestamping/enabled': True,
        'transport/link/tx/queue/congestion_control/drop/wait_before_drop': WAIT_BEFORE_DROP_US,
    }.items():
        config.insert_json5(key, json.dumps(value))
    return config


def router_answers(endpoint: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether something accepts connections at the endpoint."""
    try:
        with socket.create_connection(split_endpoint(endpoint), timeout=timeout_s):
            return True
    except OSError:
        return False


def open_session(endpoint: str) -> Any:
    """Open a client session; TransportError if there is no router at the endpoint."""
    import zenoh

    # Zenoh logs to stderr from Rust; RUST_LOG decides, and by default only faults are shown.
    zenoh.init_log_from_env_or('error')
    # Probed first: the attempt inside Zenoh cannot be interrupted by Ctrl-C.
    if not router_answers(endpoint):
        raise TransportError(no_router_message(endpoint))
    config = session_config('client')
    config.insert_json5('connect/endpoints', json.dumps([endpoint]))
    config.insert_json5('connect/timeout_ms', '5000')
    try:
        return zenoh.open(config)
    except zenoh.ZError as error:
        raise TransportError(f'{no_router_message(endpoint)} ({error})') from error


def direct(callback: Callable[[Any], None]) -> Any:
    """Return a Zenoh handler that calls back on the network's thread.

    Zenoh's default starts a Python thread for every subscription, queryable and query; those of a
    session that nobody closed keep the interpreter from ending. Callbacks must be short.
    """
    from zenoh.handlers import Callback

    return Callback(callback, indirect=False)


def no_router_message(endpoint: str) -> str:
    """Return the sentence for a user whose router is missing."""
    host, port = split_endpoint(endpoint)
    return (
        f'No Zenoh router answers at {host}:{port}. Start one with '
        f"'dynamic-ofa router{'' if port == DEFAULT_PORT else f' --port {port}'}'."
    )


def open_session_retrying(
    endpoint: str,
    keep_trying: Callable[[], bool],
    report: Callable[[str], None] | None = None,
) -> Any:
    """Open a client session, waiting for the router and saying so every few seconds.

    Returns None when `keep_trying` turns false. Ctrl-C ends the wait with KeyboardInterrupt.
    """
    say = report or _report
    next_report_s = 0.0
    while keep_trying():
        try:
            return open_session(endpoint)
        except TransportError as error:
            now_s = time.monotonic()
            if now_s >= next_report_s:
                say(f'{error} Trying again...')
                next_report_s = now_s + RETRY_PERIOD_S
            time.sleep(0.2)
    return None


def _report(message: str) -> None:
    from dynamic_ofa_ros.rclpy_zenoh.logging import get_logger

    get_logger('rclpy_zenoh').warning(message)
    sys.stderr.flush()
