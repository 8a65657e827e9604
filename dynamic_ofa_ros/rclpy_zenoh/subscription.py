"""`rclpy.subscription`."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rosbags.serde import SerdeError

from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.endpoint import Endpoint
from dynamic_ofa_ros.rclpy_zenoh.logging import get_logger
from dynamic_ofa_ros.rclpy_zenoh.messages import deserialize
from dynamic_ofa_ros.rclpy_zenoh.qos import QoSProfile
from dynamic_ofa_ros.rclpy_zenoh.session import direct


class Subscription(Endpoint):
    """Calls back for messages of one type on one topic, in the executor's thread.

    The queue holds as many samples as the QoS depth; a newer one replaces the oldest.
    """

    KIND = wire.SUBSCRIPTION

    def __init__(
        self,
        node: Any,
        msg_type: Any,
        topic: str,
        callback: Callable[..., Any],
        qos: QoSProfile,
        *,
        raw: bool = False,
        callback_group: Any = None,
    ) -> None:
        super().__init__(node, topic, msg_type.TYPE_NAME, qos)
        self.msg_type = msg_type
        self.raw = raw
        self.callback = callback
        self.callback_group = callback_group
        self._wants_info = _accepts_two_arguments(callback)
        self._queue: deque[tuple[Any, Any, int]] = deque(maxlen=qos.queue_length)
        self.keep(self._declare())
        self.announce()

    def _declare(self) -> Any:
        session = self.context.session
        qos = self.qos_profile
        if not qos.is_transient_local:
            return session.declare_subscriber(self.key, direct(self._on_sample))
        from zenoh import ext

        recovery = None
        if qos.is_reliable:
            recovery = ext.RecoveryConfig(periodic_queries=None, heartbeat=True)
        return ext.declare_advanced_subscriber(
            session,
            self.key,
            direct(self._on_sample),
            history=ext.HistoryConfig(detect_late_publishers=True, max_samples=max(qos.depth, 1)),
            recovery=recovery,
            subscriber_detection=True,
        )

    def _on_sample(self, sample: Any) -> None:
        # On the network's thread: only keep the sample, so that it never waits for a callback.
        self._queue.append((sample.payload, sample.attachment, time.time_ns()))
        self.node.wake()

    @property
    def topic_name(self) -> str:
        """Return the fully qualified topic."""
        return self._name

    @property
    def topic(self) -> str:
        """Return the fully qualified topic."""
        return self._name

    def is_ready(self) -> bool:
        """Return whether a sample waits."""
        return bool(self._queue)

    def execute(self) -> None:
        """Take one sample and call back."""
        try:
            payload, attachment, received_ns = self._queue.popleft()
        except IndexError:
            return
        data = payload.to_bytes()
        if self.raw:
            message: Any = data
        else:
            try:
                message = deserialize(data, self.msg_type)
            except (SerdeError, IndexError) as error:
                get_logger(self.node.get_logger().name).error(
                    f"Dropped a malformed {self.type_name} on '{self._name}': {error}",
                    throttle_duration_sec=5.0,
                )
                return
        if self._wants_info:
            self.callback(message, _message_info(attachment, received_ns))
        else:
            self.callback(message)

    def get_publisher_count(self) -> int:
        """Return how many publishers the topic has."""
        return len(self.context.graph.tokens([wire.PUBLISHER], self._name))

    def destroy(self) -> None:
        """Leave the topic."""
        self.undeclare()
        self._queue.clear()


def _message_info(attachment: Any, received_ns: int) -> dict[str, Any]:
    sequence = source_ns = 0
    if attachment is not None:
        # Something else than a ROS publisher may attach nothing that is known here.
        with contextlib.suppress(ValueError):
            sequence, source_ns, _ = wire.unpack_attachment(attachment.to_bytes())
    return {
        'source_timestamp': source_ns,
        'received_timestamp': received_ns,
        'publication_sequence_number': sequence,
        'reception_sequence_number': None,
    }


def _accepts_two_arguments(callback: Callable[..., Any]) -> bool:
    """Return whether a callback wants the message info too, as rclpy decides it."""
    try:
        inspect.signature(callback).bind(object())
    except TypeError:
        try:
            inspect.signature(callback).bind(object(), object())
        except TypeError:
            raise RuntimeError(
                'Subscription.__init__(): callback should be either be callable with one argument '
                '(to get only the message) or two (to get message and message info)'
            ) from None
        return True
    except ValueError:  # no signature (built-in): it gets the message
        return False
    return False
