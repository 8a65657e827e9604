"""The executors of the nodes; two for the lifecycle node, so that slow callbacks delay nothing."""

from __future__ import annotations

import time
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.service import Service

COLLECT_TRIES, COLLECT_PAUSE_S = 100, 1e-3
"""How often to collect what to wait for while another thread destroys some of it."""


class BackgroundGroup(MutuallyExclusiveCallbackGroup):  # type: ignore[misc]  # rclpy is untyped
    """Callbacks that take milliseconds: they run beside the transitions, not beside images."""


def is_transition(entity: Any) -> bool:
    """Return whether this is the service that changes the lifecycle state."""
    return isinstance(entity, Service) and entity.srv_type is ChangeState


def _is_background(entity: Any) -> bool:
    return is_transition(entity) or isinstance(entity.callback_group, BackgroundGroup)


class NodeExecutor(SingleThreadedExecutor):  # type: ignore[misc]
    """Runs every callback of its nodes, one after the other."""

    # rclpy's destructor reads it, also of an executor that a signal kept from being made.
    _sigint_gc: Any = None

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next callback that is ready.

        A transition destroys entities on another thread. rclpy raises where that happens while it
        collects what to wait for; then it must collect again, without them.
        """
        for _ in range(COLLECT_TRIES - 1):
            try:
                return super().wait_for_ready_callbacks(*args, **kwargs)
            except InvalidHandle:
                time.sleep(COLLECT_PAUSE_S)
        return super().wait_for_ready_callbacks(*args, **kwargs)


class MainExecutor(NodeExecutor):
    """Runs every callback of its nodes but transitions and those of a BackgroundGroup."""

    def can_execute(self, entity: Any) -> bool:
        """Return whether a callback is one of this executor's, and may run now."""
        return not _is_background(entity) and bool(super().can_execute(entity))


class BackgroundExecutor(NodeExecutor):
    """Runs transitions and the callbacks of a BackgroundGroup, for a node of a MainExecutor.

    `wake` it after an entity was created on another thread. rclpy's MultiThreadedExecutor could do
    all, but it took 63 % of a core and lost half of the images at 640x480 and 30 Hz, where one
    single-threaded executor takes 8 % and loses none.
    """

    def __init__(self, node: Any) -> None:
        super().__init__(context=node.context)
        self._node = node

    def get_nodes(self) -> list[Any]:
        """Return the node; it stays in the other executor."""
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        """Return whether a callback is one of this executor's, and may run now."""
        return _is_background(entity) and bool(super().can_execute(entity))
