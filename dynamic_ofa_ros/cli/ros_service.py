"""`dynamic-ofa ros service`."""

from __future__ import annotations

import argparse

from dynamic_ofa_ros.cli.ros_support import (
    RosCommandError,
    absolute,
    call_service,
    command_node,
    is_hidden,
    service_type,
    suggestion,
)
from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.message_yaml import fill, parse


def service_list(args: argparse.Namespace) -> int:
    """List services."""
    with command_node() as node:
        entries = [
            (name, types)
            for name, types in node.get_service_names_and_types()
            if args.include_hidden_services or not is_hidden(name)
        ]
    if args.count_services:
        print(len(entries))
        return 0
    for name, types in entries:
        print(f'{name} [{", ".join(types)}]' if args.show_types else name)
    return 0


def service_call(args: argparse.Namespace) -> int:
    """Call a service and show its response."""
    kind = service_type(args.type)
    request = kind.Request()
    try:
        fill(request, parse(args.values))
    except ValueError as error:
        raise RosCommandError(f'The request does not fit: {error}') from error
    name = absolute(args.service)
    with command_node() as node:
        servers = node.context.graph.tokens([wire.SERVICE], name)
        if servers and all(server.type_name != kind.TYPE_NAME for server in servers):
            raise RosCommandError(
                f"The service '{name}' is of type {servers[0].type_name}, not {kind.TYPE_NAME}."
            )
        if not servers:
            known = [entry for entry, _ in node.get_service_names_and_types()]
            raise RosCommandError(f"The service '{name}' does not exist{suggestion(name, known)}")
        print(f'requester: making request: {request!r}\n', flush=True)
        response = call_service(node, kind, name, request, args.timeout)
    print(f'response:\n{response!r}\n')
    return 0
