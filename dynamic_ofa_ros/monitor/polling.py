"""Subscriptions that are read when the monitor has time for their messages."""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup


class PolledSubscription:
    """A subscription whose messages wait in the middleware until they are taken.

    The executor does not wait for it: rclpy builds a new wait set for each message that wakes it,
    which takes longer than reading the message. `take_message` is not documented, but it is what
    rclpy's executors call, from Humble to Jazzy.
    """

    def __init__(self, node: Any, kind: Any, topic: str, profile: Any) -> None:
        self._node = node
        self._subscription = node.create_subscription(
            kind, topic, lambda message: None, profile, callback_group=_PolledGroup()
        )
        self._depth = profile.depth

    def take(self) -> tuple[Any, int] | None:
        """Return the oldest waiting message and its source timestamp in ns; None if none waits."""
        subscription = self._subscription
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        return None if taken is None else (taken[0], taken[1]['source_timestamp'])

    def take_all(self) -> list[tuple[Any, int]]:
        """Return the waiting messages, oldest first, with their source timestamps in ns."""
        found: list[tuple[Any, int]] = []
        while len(found) < self._depth and (item := self.take()) is not None:
            found.append(item)
        return found

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)


class _PolledGroup(CallbackGroup):  # type: ignore[misc]  # rclpy is untyped
    """A callback group that no executor serves."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass
