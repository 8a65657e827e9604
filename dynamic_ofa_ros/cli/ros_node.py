"""`dynamic-ofa ros node`."""

from __future__ import annotations

import argparse

from dynamic_ofa_ros.cli.ros_support import (
    RosCommandError,
    absolute,
    command_node,
    is_hidden,
    suggestion,
)
from dynamic_ofa_ros.rclpy_zenoh.node import Node


def visible_nodes(node: Node, *, with_hidden: bool = False) -> list[str]:
    """Return the sorted, fully qualified names of the nodes."""
    names = set(node.get_fully_qualified_node_names()) - {node.get_fully_qualified_name()}
    return sorted(name for name in names if with_hidden or not is_hidden(name))


def existing_node(node: Node, name: str) -> str:
    """Return the full name of a node; RosCommandError with the nearest name if there is none."""
    full = absolute(name)
    known = visible_nodes(node, with_hidden=True)
    if full not in known:
        raise RosCommandError(f"The node '{full}' does not exist{suggestion(full, known)}")
    return full


def node_list(args: argparse.Namespace) -> int:
    """List nodes."""
    with command_node() as node:
        names = visible_nodes(node, with_hidden=args.all)
    if args.count_nodes:
        print(len(names))
    else:
        for name in names:
            print(name)
    return 0


def node_info(args: argparse.Namespace) -> int:
    """Show the topics and services of a node."""
    with command_node() as node:
        full = existing_node(node, args.node)
        namespace, _, name = full.rpartition('/')
        place = (name, namespace or '/')
        sections = {
            'Subscribers': node.get_subscriber_names_and_types_by_node(*place),
            'Publishers': node.get_publisher_names_and_types_by_node(*place),
            'Service Servers': node.get_service_names_and_types_by_node(*place),
            'Service Clients': node.get_client_names_and_types_by_node(*place),
            'Action Servers': [],
            'Action Clients': [],
        }
    print(full)
    for title, entries in sections.items():
        print(f'  {title}:')
        for entry, types in entries:
            if args.include_hidden or not is_hidden(entry):
                print(f'    {entry}: {", ".join(types)}')
    return 0
