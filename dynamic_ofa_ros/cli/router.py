"""`dynamic-ofa router`: the Zenoh router through which nodes find each other without ROS 2."""

from __future__ import annotations

import argparse

from dynamic_ofa_ros.errors import TransportError

DEFAULT_PORT = 7447


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb's arguments."""
    parser = subparsers.add_parser(
        'router',
        help='run a Zenoh router for nodes on machines without ROS 2',
        description='Run a Zenoh router until Ctrl-C. Nodes reach it at 127.0.0.1:7447, or at the '
        'address in the environment variable DYNAMIC_OFA_ROUTER.',
    )
    parser.add_argument('--port', type=int, default=DEFAULT_PORT, help='TCP port (default: 7447)')
    parser.add_argument(
        '--listen',
        default='127.0.0.1',
        metavar='ADDRESS',
        help='address to listen at; 0.0.0.0 admits every machine on the network '
        '(default: 127.0.0.1, this machine only)',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the router until SIGINT or SIGTERM."""
    if not 1 <= args.port <= 65535:
        raise TransportError(f'--port {args.port}: a TCP port is a number from 1 to 65535.')
    from dynamic_ofa_ros.rclpy_zenoh.router import run_router

    def announce(endpoint: str) -> None:
        print(f'Router ready at {endpoint.partition("/")[2]}. Ctrl-C ends it.', flush=True)

    run_router(args.port, args.listen, announce)
    return 0
