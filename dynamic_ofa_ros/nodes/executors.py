"""The executors of the nodes; two for the lifecycle node, so that transitions hold up nothing."""

from __future__ import annotations

from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.service import Service


def is_transition(entity: Any) -> bool:
    """Return whether this is the service that changes the lifecycle state."""
    return isinstance(entity, Service) and entity.srv_type is ChangeState


class NodeExecutor(SingleThreadedExecutor):  # type: ignore[misc]  # rclpy is untyped
    """Runs every callback of its nodes, one after the other."""

    # rclpy's destructor reads it, also of an executor that a signal kept from being made.
    _sigint_gc: Any = None


class MainExecutor(NodeExecutor):
    """Runs every callback of its nodes but the service that changes the lifecycle state."""

    def can_execute(self, entity: Any) -> bool:
        """Return whether a callback is one of this executor's, and may run now."""
        return not is_transition(entity) and bool(super().can_execute(entity))


class TransitionExecutor(NodeExecutor):
    """Runs the service that changes the lifecycle state, for a node of a MainExecutor.

    rclpy's MultiThreadedExecutor could do both, but it took 63 % of a core and lost half of the
    images at 640x480 and 30 Hz, where one single-threaded executor takes 8 % and loses none.
    """

    def __init__(self, node: Any) -> None:
        super().__init__(context=node.context)
        self._node = node

    def get_nodes(self) -> list[Any]:
        """Return the node; it stays in the other executor."""
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        """Return whether a callback is one of this executor's, and may run now."""
        return is_transition(entity) and bool(super().can_execute(entity))
