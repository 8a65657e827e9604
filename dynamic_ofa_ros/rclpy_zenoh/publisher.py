"""`rclpy.publisher`."""

from __future__ import annotations

import itertools
import time
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.endpoint import Endpoint
from dynamic_ofa_ros.rclpy_zenoh.messages import serialize
from dynamic_ofa_ros.rclpy_zenoh.qos import HistoryPolicy, QoSProfile

# How often a reliable, transient-local publisher tells what it last sent, so that a subscription
# notices a lost sample and asks for it; the period of rmw_zenoh.
HEARTBEAT_S = 0.5


class RCLError(RuntimeError):
    """Raised where ROS's C layer reports an error."""


class Publisher(Endpoint):
    """Publishes messages of one type on one topic; safe to use from several threads."""

    KIND = wire.PUBLISHER

    def __init__(self, node: Any, msg_type: Any, topic: str, qos: QoSProfile) -> None:
        super().__init__(node, topic, msg_type.TYPE_NAME, qos)
        self.msg_type = msg_type
        self._sequence = itertools.count(1)
        self._publisher = self.keep(self._declare())
        self.announce()

    def _declare(self) -> Any:
        import zenoh

        qos = self.qos_profile
        keep_all = qos.history == HistoryPolicy.KEEP_ALL
        # As rmw_zenoh does: only "reliable, keep all" may hold the publisher up for ever.
        block = qos.is_reliable and keep_all
        congestion = zenoh.CongestionControl.BLOCK if block else zenoh.CongestionControl.DROP
        reliability = (
            zenoh.Reliability.RELIABLE if qos.is_reliable else zenoh.Reliability.BEST_EFFORT
        )
        session = self.context.session
        if not qos.is_transient_local:
            return session.declare_publisher(
                self.key, congestion_control=congestion, reliability=reliability
            )
        from zenoh import ext

        detection = None
        if qos.is_reliable:
            detection = ext.MissDetectionConfig(heartbeat=None, sporadic_heartbeat=HEARTBEAT_S)
        return ext.declare_advanced_publisher(
            session,
            self.key,
            congestion_control=congestion,
            reliability=reliability,
            cache=ext.CacheConfig(max_samples=max(qos.depth, 1)),
            publisher_detection=True,
            sample_miss_detection=detection,
        )

    @property
    def topic_name(self) -> str:
        """Return the fully qualified topic."""
        return self._name

    @property
    def topic(self) -> str:
        """Return the fully qualified topic."""
        return self._name

    def publish(self, msg: Any) -> None:
        """Publish a message or serialised bytes.

        TypeError for another type; RCLError after the context's shutdown.
        """
        if isinstance(msg, self.msg_type):
            payload: Any = serialize(msg)
        elif isinstance(msg, (bytes, bytearray)):
            payload = msg
        else:
            raise TypeError(f'Expected {self.msg_type}, got {type(msg)}')
        self.check_alive()
        attachment = wire.pack_attachment(next(self._sequence), time.time_ns(), self.gid)
        try:
            self._publisher.put(payload, attachment=attachment)
        except Exception as error:
            if self.context.ok():
                raise RCLError(f"Failed to publish on '{self._name}': {error}") from error
            raise RCLError(
                "Failed to publish: publisher's context is invalid (it was shut down)"
            ) from error

    def get_subscription_count(self) -> int:
        """Return how many subscriptions the topic has."""
        return len(self.context.graph.tokens([wire.SUBSCRIPTION], self._name))

    def assert_liveliness(self) -> None:
        """Do nothing: liveliness is the session's."""

    def wait_for_all_acked(self, timeout: Any = None) -> bool:
        """Return True: samples are handed to the router when published."""
        return True

    def destroy(self) -> None:
        """Leave the topic."""
        self.undeclare()
