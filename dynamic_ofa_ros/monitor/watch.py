"""The subscriptions to one classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile

from dynamic_ofa_ros.monitor.parameter_client import ParameterClient
from dynamic_ofa_ros.monitor.polling import PolledSubscription
from dynamic_ofa_ros.monitor.records import Record, Records
from dynamic_ofa_ros.msg import ActiveLevel, LevelArray, Telemetry
from dynamic_ofa_ros.nodes import qos

MAX_STAMP_AGE_S = 86_400.0
SWITCHES = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TELEMETRY = QoSProfile(depth=100)
"""Many messages wait between two readings; older ones are lost at more than 1000 Hz."""


class Watch:
    """The subscriptions to one classifier. Use it on the executor's thread.

    Levels and switches, which are rare, are always read; telemetry and parameters only while a
    page is open. images: topic and type of the images that the classifier reads, once known.
    publishers: identities of the publishers of its telemetry.
    """

    def __init__(self, node: Any, records: Records, record: Record) -> None:
        self._node = node
        self._records = records
        self._record = record
        self._latched: dict[str, tuple[PolledSubscription, Callable[[Any], None]]] = {}
        self._telemetry: PolledSubscription | None = None
        self.images: tuple[str, str] | None = None
        self.parameters: ParameterClient | None = None
        self.publishers: set[bytes] = set()
        self.seen_s = time.monotonic()

    @property
    def record(self) -> Record:
        """The record that is updated."""
        return self._record

    def find_latched(self, topics: dict[str, str]) -> None:
        """Subscribe to levels and switches among the topics that the classifier publishes.

        topics: name by type.
        """
        for kind, profile, callback in (
            (LevelArray, qos.LATCHED, self._on_levels),
            (ActiveLevel, SWITCHES, self._on_switch),
        ):
            topic = topics.get(f'dynamic_ofa_ros/msg/{kind.__name__}')
            if topic is not None and topic not in self._latched:
                subscription = PolledSubscription(self._node, kind, topic, profile)
                self._latched[topic] = subscription, callback

    def take_latched(self) -> None:
        """Read the levels and switches since the last call."""
        for subscription, callback in self._latched.values():
            for message, _ in subscription.take_all():
                callback(message)

    def open(self, telemetry_topic: str) -> None:
        """Subscribe to telemetry and request the parameters."""
        if self._telemetry is None:
            self._telemetry = PolledSubscription(self._node, Telemetry, telemetry_topic, TELEMETRY)
        if self.parameters is None:
            self.parameters = ParameterClient(self._node, self._record.name, self._on_parameters)

    def take_telemetry(self) -> None:
        """Read the telemetry since the last call; only the newest if no page shows the classifier.

        The newest message gets the present time. The source timestamps give the times of the
        others, so that the clock of another machine does not matter.
        """
        if self._telemetry is None:
            return
        is_shown = self._records.is_shown(self._record.name)
        taken = self._telemetry.take_all() if is_shown else self._telemetry.take_newest()
        now_s = time.time()
        with self._records.lock:
            for message, source_ns in taken:
                self._record.add_telemetry(message, now_s - 1e-9 * (taken[-1][1] - source_ns))

    def find_images(self, topics: Sequence[tuple[str, str]]) -> None:
        """Set the image topic: the first of the image topics, given with their types."""
        self.images = topics[0] if topics else None
        with self._records.lock:
            self._record.image_topic = self.images[0] if self.images else ''

    def pause(self) -> None:
        """End the subscriptions that only an open page needs."""
        if self._telemetry is not None:
            self._telemetry.close()
            self._telemetry = None
        if self.parameters is not None:
            # The clients stay, because the node warns about answers to destroyed clients.
            self.parameters.ask_again()

    def close(self) -> None:
        """End all subscriptions."""
        self.pause()
        if self.parameters is not None:
            self.parameters.close()
        for subscription, _ in self._latched.values():
            subscription.close()
        self._latched.clear()

    def _on_levels(self, message: Any) -> None:
        with self._records.lock:
            self._record.add_levels(message)

    def _on_switch(self, message: Any) -> None:
        """Add a switch with the time of its frame, because a latched message may be old."""
        now_s, stamp = time.time(), message.header.stamp
        stamp_s = stamp.sec + 1e-9 * stamp.nanosec
        is_plausible = 0.0 <= now_s - stamp_s <= MAX_STAMP_AGE_S
        with self._records.lock:
            self._record.add_switch(message, stamp_s if is_plausible else now_s)

    def _on_parameters(self, parameters: dict[str, dict[str, Any]]) -> None:
        with self._records.lock:
            self._record.set_parameters(parameters)
