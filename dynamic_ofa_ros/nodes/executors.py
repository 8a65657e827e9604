"""Executors of the nodes; the lifecycle node uses two, so that transitions do not delay images."""

from __future__ import annotations

import time
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.service import Service

COLLECT_TRIES, COLLECT_PAUSE_S = 100, 1e-3
"""Attempts to collect entities while another thread destroys some, and the time in between."""


class BackgroundGroup(MutuallyExclusiveCallbackGroup):  # type: ignore[misc]  # rclpy is untyped
    """Callbacks that take milliseconds; they run in the BackgroundExecutor, beside the images."""


class LifecycleGroup(ReentrantCallbackGroup):  # type: ignore[misc]
    """The lifecycle services of a node; transitions run in the BackgroundExecutor.

    The group is reentrant, so that `get_state` works during a transition.
    """


def is_transition(entity: Any) -> bool:
    """Return whether an entity is the service that changes the lifecycle state of our node."""
    return (
        isinstance(entity, Service)
        and entity.srv_type is ChangeState
        and isinstance(entity.callback_group, LifecycleGroup)
    )


def _is_background(entity: Any) -> bool:
    return is_transition(entity) or isinstance(entity.callback_group, BackgroundGroup)


class NodeExecutor(SingleThreadedExecutor):  # type: ignore[misc]
    """Runs the callbacks of its nodes on one thread."""

    # rclpy's destructor reads it, even if a signal interrupted the constructor.
    _sigint_gc: Any = None

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next callback that is ready.

        rclpy raises InvalidHandle if a transition on another thread destroys an entity while rclpy
        collects the entities to wait for; the collection is then repeated.
        """
        for _ in range(COLLECT_TRIES - 1):
            try:
                return super().wait_for_ready_callbacks(*args, **kwargs)
            except InvalidHandle:
                time.sleep(COLLECT_PAUSE_S)
        return super().wait_for_ready_callbacks(*args, **kwargs)


class MainExecutor(NodeExecutor):
    """Runs the callbacks of its nodes except transitions and callbacks of a BackgroundGroup."""

    def can_execute(self, entity: Any) -> bool:
        """Return whether the callback belongs to this executor and can run now."""
        return not _is_background(entity) and bool(super().can_execute(entity))


class BackgroundExecutor(NodeExecutor):
    """Runs transitions and callbacks of a BackgroundGroup for a node that uses a MainExecutor.

    Call `wake` after an entity was created on another thread. rclpy's MultiThreadedExecutor is not
    used: at 640x480 and 30 Hz, it took 63 % of a core and lost half of the images, whereas a
    single-threaded executor takes 8 % and loses none.
    """

    def __init__(self, node: Any) -> None:
        super().__init__(context=node.context)
        self._node = node

    def get_nodes(self) -> list[Any]:
        """Return the node, which was added to the MainExecutor only."""
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        """Return whether the callback belongs to this executor and can run now."""
        return _is_background(entity) and bool(super().can_execute(entity))
