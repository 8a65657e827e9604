"""The methods of `rclpy.node.Node` that look at the graph."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.qos import QoSProfile
from dynamic_ofa_ros.rclpy_zenoh.wire import Token


class TopicEndpointTypeEnum(IntEnum):
    """Kind of a topic's endpoint."""

    INVALID = 0
    PUBLISHER = 1
    SUBSCRIPTION = 2


class TopicEndpointInfo:
    """One publisher or subscription of a topic, as the graph shows it."""

    def __init__(self, token: Token) -> None:
        self.node_name = token.node_name
        self.node_namespace = token.namespace
        self.topic_type = token.type_name
        self.topic_type_hash = token.type_hash
        is_publisher = token.kind == wire.PUBLISHER
        self.endpoint_type = (
            TopicEndpointTypeEnum.PUBLISHER if is_publisher else TopicEndpointTypeEnum.SUBSCRIPTION
        )
        self.endpoint_gid = list(token.gid)
        self.qos_profile = QoSProfile.decode(token.qos)


class GraphQueries:
    """Counts, names and types of what exists in the domain."""

    context: Any
    resolve_topic_name: Any
    resolve_service_name: Any

    def _tokens(self, kind: str, name: str | None = None) -> list[Token]:
        tokens: list[Token] = self.context.graph.tokens([kind], name)
        return tokens

    def count_publishers(self, topic_name: str) -> int:
        """Return how many publishers a topic has."""
        return len(self._tokens(wire.PUBLISHER, self.resolve_topic_name(topic_name)))

    def count_subscribers(self, topic_name: str) -> int:
        """Return how many subscriptions a topic has."""
        return len(self._tokens(wire.SUBSCRIPTION, self.resolve_topic_name(topic_name)))

    def count_services(self, service_name: str) -> int:
        """Return how many servers a service has."""
        return len(self._tokens(wire.SERVICE, self.resolve_service_name(service_name)))

    def count_clients(self, service_name: str) -> int:
        """Return how many clients a service has."""
        return len(self._tokens(wire.CLIENT, self.resolve_service_name(service_name)))

    def get_publishers_info_by_topic(
        self, topic_name: str, no_mangle: bool = False
    ) -> list[TopicEndpointInfo]:
        """Return the publishers of a topic."""
        name = self.resolve_topic_name(topic_name)
        return [TopicEndpointInfo(token) for token in self._tokens(wire.PUBLISHER, name)]

    def get_subscriptions_info_by_topic(
        self, topic_name: str, no_mangle: bool = False
    ) -> list[TopicEndpointInfo]:
        """Return the subscriptions of a topic."""
        name = self.resolve_topic_name(topic_name)
        return [TopicEndpointInfo(token) for token in self._tokens(wire.SUBSCRIPTION, name)]

    def get_topic_names_and_types(self, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """Return (topic, types) of all topics."""
        names: list[tuple[str, list[str]]] = self.context.graph.names_and_types(
            (wire.PUBLISHER, wire.SUBSCRIPTION)
        )
        return names

    def get_service_names_and_types(self) -> list[tuple[str, list[str]]]:
        """Return (service, types) of all services."""
        names: list[tuple[str, list[str]]] = self.context.graph.names_and_types((wire.SERVICE,))
        return names

    def get_node_names(self) -> list[str]:
        """Return the names of all nodes."""
        return [name for name, _ in self.get_node_names_and_namespaces()]

    def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
        """Return (name, namespace) of all nodes."""
        nodes: list[tuple[str, str]] = self.context.graph.nodes()
        return nodes

    def get_fully_qualified_node_names(self) -> list[str]:
        """Return the fully qualified names of all nodes."""
        return [
            f'{namespace.rstrip("/")}/{name}'
            for name, namespace in self.get_node_names_and_namespaces()
        ]

    def _of_node(self, kind: str, name: str, namespace: str) -> list[tuple[str, list[str]]]:
        found: dict[str, set[str]] = {}
        for token in self._tokens(kind):
            if token.node_name == name and token.namespace == namespace:
                found.setdefault(token.name, set()).add(token.type_name)
        return [(name, sorted(found[name])) for name in sorted(found)]

    def get_publisher_names_and_types_by_node(
        self, node_name: str, node_namespace: str, no_demangle: bool = False
    ) -> list[tuple[str, list[str]]]:
        """Return (topic, types) that a node publishes."""
        return self._of_node(wire.PUBLISHER, node_name, node_namespace)

    def get_subscriber_names_and_types_by_node(
        self, node_name: str, node_namespace: str, no_demangle: bool = False
    ) -> list[tuple[str, list[str]]]:
        """Return (topic, types) that a node subscribes to."""
        return self._of_node(wire.SUBSCRIPTION, node_name, node_namespace)

    def get_service_names_and_types_by_node(
        self, node_name: str, node_namespace: str
    ) -> list[tuple[str, list[str]]]:
        """Return (service, types) that a node offers."""
        return self._of_node(wire.SERVICE, node_name, node_namespace)

    def get_client_names_and_types_by_node(
        self, node_name: str, node_namespace: str
    ) -> list[tuple[str, list[str]]]:
        """Return (service, types) that a node calls."""
        return self._of_node(wire.CLIENT, node_name, node_namespace)

    def wait_for_node(self, fully_qualified_node_name: str, timeout: float) -> bool:
        """Wait for a node to appear; return whether it did."""
        found: bool = self.context.graph.wait(
            lambda: fully_qualified_node_name in self.get_fully_qualified_node_names(), timeout
        )
        return found
