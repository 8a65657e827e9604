"""Subscriptions that are read when the monitor has time for their messages."""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.serialization import deserialize_message


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

    def take(self, is_raw: bool = False) -> tuple[Any, int] | None:
        """Return the oldest waiting message and its source timestamp in ns; None if none waits.

        is_raw: return the bytes of the message.
        """
        subscription = self._subscription
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, is_raw)
        return None if taken is None else (taken[0], taken[1]['source_timestamp'])

    def take_all(self) -> list[tuple[Any, int]]:
        """Return the waiting messages, oldest first, with their source timestamps in ns."""
        return self._take_all(is_raw=False)

    def take_newest(self) -> list[tuple[Any, int]]:
        """Return the newest waiting message, if any, and discard the others.

        The discarded ones are not converted, because that takes ten times as long as reading them.
        """
        return [
            (deserialize_message(data, self._subscription.msg_type), source_ns)
            for data, source_ns in self._take_all(is_raw=True)[-1:]
        ]

    def _take_all(self, is_raw: bool) -> list[tuple[Any, int]]:
        found: list[tuple[Any, int]] = []
        while len(found) < self._depth and (item := self.take(is_raw)) is not None:
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
