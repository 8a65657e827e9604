"""What publishers, subscriptions, services and clients have in common: a token in the graph."""

from __future__ import annotations

import contextlib
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.exceptions import InvalidHandle
from dynamic_ofa_ros.rclpy_zenoh.qos import QoSProfile
from dynamic_ofa_ros.rclpy_zenoh.typestore import catalogue


class Endpoint:
    """An endpoint of a node: its key expression, its liveliness token, its Zenoh objects."""

    KIND = ''

    def __init__(self, node: Any, name: str, type_name: str, qos: QoSProfile) -> None:
        self.node = node
        self.context = node.context
        self.qos_profile = qos
        self.type_name = type_name
        self._name = name
        type_hash = catalogue().type_hash(type_name)
        self.key = wire.data_key(self.context.get_domain_id(), name, type_name, type_hash)
        self._token_key = node.identity.endpoint_token_key(
            entity_id=self.context.next_entity_id(),
            kind=self.KIND,
            name=name,
            type_name=type_name,
            type_hash=type_hash,
            qos=qos.encode(),
        )
        self.gid = wire.gid_of(self._token_key)
        self._declared: list[Any] = []

    def keep(self, declared: Any) -> Any:
        """Remember a Zenoh object that ends with the endpoint."""
        self._declared.append(declared)
        return declared

    def announce(self) -> None:
        """Declare the liveliness token: from now on the graph shows the endpoint."""
        self.keep(self.context.session.liveliness().declare_token(self._token_key))

    def check_alive(self) -> None:
        """Raise InvalidHandle if the endpoint was destroyed."""
        if not self._declared:
            raise InvalidHandle(f"cannot use '{self._name}': it was destroyed")

    def undeclare(self) -> None:
        """Leave the graph; the token goes first so that nobody sees a dead endpoint."""
        for declared in reversed(self._declared):
            # The session may be closed already, which has undeclared everything.
            with contextlib.suppress(Exception):
                declared.undeclare()
        self._declared.clear()
