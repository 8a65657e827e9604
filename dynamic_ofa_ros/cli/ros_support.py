"""What the `dynamic-ofa ros` commands have in common: a hidden node, and helpful errors."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from dynamic_ofa_ros.errors import DynamicOfaError, TransportError
from dynamic_ofa_ros.rclpy_zenoh import session
from dynamic_ofa_ros.rclpy_zenoh.api import spin_until_future_complete
from dynamic_ofa_ros.rclpy_zenoh.context import Context
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class, service_class
from dynamic_ofa_ros.rclpy_zenoh.node import Node
from dynamic_ofa_ros.rclpy_zenoh.typestore import catalogue


class RosCommandError(DynamicOfaError):
    """A name that does not exist, or a value that does not fit."""


@contextlib.contextmanager
def command_node() -> Iterator[Node]:
    """Yield a hidden node that knows the graph; TransportError at once if there is no router."""
    endpoint = session.router_endpoint()
    if not session.router_answers(endpoint):
        raise TransportError(session.no_router_message(endpoint))
    with Context() as context:
        context.init([])
        node = Node(
            f'_dynamic_ofa_cli_{os.getpid()}',
            context=context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        try:
            yield node
        finally:
            node.destroy_node()


def is_hidden(name: str) -> bool:
    """Return whether a part of a name starts with an underscore."""
    return any(part.startswith('_') for part in name.split('/'))


def absolute(name: str) -> str:
    """Return a name with a leading slash: the commands run in the root namespace."""
    return name if name.startswith('/') else f'/{name}'


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest one, or that there is none."""
    candidates = list(known)
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return '.' if candidates else ' (there are none at all).'


def message_type(name: str) -> Any:
    """Return a message class by its name; RosCommandError with the nearest name if unknown."""
    return _type(name, 'msg')


def service_type(name: str) -> Any:
    """Return a service class by its name; RosCommandError with the nearest name if unknown."""
    return _type(name, 'srv')


def _type(name: str, kind: str) -> Any:
    parts = name.split('/')
    if len(parts) == 2:  # std_msgs/String, as ros2 accepts it too
        parts.insert(1, kind)
    full = '/'.join(parts)
    if len(parts) == 3 and parts[1] == kind:
        with contextlib.suppress(KeyError):
            return message_class(full) if kind == 'msg' else service_class(full)
    store = catalogue()
    known = (
        f'{package}/{kind}/{short}'
        for package in store.packages()
        for short in store.names(package, kind)
    )
    word = 'message' if kind == 'msg' else 'service'
    raise RosCommandError(f"The {word} type '{name}' is unknown{suggestion(full, known)}")


def call_service(node: Node, kind: Any, name: str, request: Any, timeout_s: float | None) -> Any:
    """Call a service and return its response; RosCommandError if there is none in time."""
    client = node.create_client(kind, name)
    try:
        future = client.call_async(request)
        spin_until_future_complete(node, future, timeout_sec=timeout_s)
        if not future.done():
            raise RosCommandError(f"The service '{name}' did not answer within {timeout_s:g} s.")
        return future.result()
    finally:
        node.destroy_client(client)
