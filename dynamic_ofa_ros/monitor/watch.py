"""The subscriptions to one classifier."""

from __future__ import annotations

import time
from typing import Any

import cv2
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.monitor.parameter_client import ParameterClient
from dynamic_ofa_ros.monitor.pictures import jpeg
from dynamic_ofa_ros.monitor.records import Picture, Record, Records
from dynamic_ofa_ros.msg import ActiveLevel, LevelArray, Telemetry
from dynamic_ofa_ros.nodes import conversions, qos

MAX_STAMP_AGE_S = 86_400.0
IMAGE_TYPES = {'sensor_msgs/msg/Image': Image, 'sensor_msgs/msg/CompressedImage': CompressedImage}


class PacedGroup(MutuallyExclusiveCallbackGroup):  # type: ignore[misc]  # rclpy is untyped
    """A callback group that runs at most one callback per period.

    Later messages wait in the middleware. With a queue of one message, a newer message replaces
    the waiting one, so that only the messages that are used are converted.
    """

    def __init__(self, period_s: float) -> None:
        super().__init__()
        self._period_s = period_s
        self._next_s = 0.0

    def can_execute(self, entity: Any) -> bool:
        """Return whether a callback is due."""
        return time.monotonic() >= self._next_s and bool(super().can_execute(entity))

    def beginning_execution(self, entity: Any) -> bool:
        """Record the time at which a callback starts."""
        self._next_s = time.monotonic() + self._period_s
        return bool(super().beginning_execution(entity))


class Watch:
    """The subscriptions to one classifier. Use it on the executor's thread.

    Levels and switches, which are rare, are always read; telemetry, images and parameters only
    while a page is open. picture_width: in px. picture_period_s: 0 = no pictures.
    """

    def __init__(
        self,
        node: Any,
        records: Records,
        record: Record,
        picture_width: int,
        picture_period_s: float,
    ) -> None:
        self._node = node
        self._records = records
        self._record = record
        self._width = picture_width
        self._period_s = picture_period_s
        self._latched: dict[str, Any] = {}
        self._telemetry: Any = None
        self._image: Any = None
        self._image_topic = ''
        self.parameters: ParameterClient | None = None
        self.seen_s = time.monotonic()

    @property
    def record(self) -> Record:
        """The record that is updated."""
        return self._record

    def find_latched(self, topics: dict[str, str]) -> None:
        """Subscribe to levels and switches among the topics that the classifier publishes.

        topics: name by type.
        """
        for kind, type_name, callback in (
            (LevelArray, 'LevelArray', self._on_levels),
            (ActiveLevel, 'ActiveLevel', self._on_switch),
        ):
            topic = topics.get(f'dynamic_ofa_ros/msg/{type_name}')
            if topic is not None and topic not in self._latched:
                self._latched[topic] = self._node.create_subscription(
                    kind, topic, callback, qos.LATCHED
                )

    def open(self, telemetry_topic: str) -> None:
        """Subscribe to telemetry and request the parameters."""
        if self._telemetry is None:
            self._telemetry = self._node.create_subscription(
                Telemetry, telemetry_topic, self._on_telemetry, qos.TELEMETRY
            )
        if self.parameters is None:
            self.parameters = ParameterClient(self._node, self._record.name, self._on_parameters)

    def watch_images(self, topic: str, type_name: str) -> None:
        """Subscribe to the image topic of the classifier, or to none if `topic` is empty."""
        if topic == self._image_topic or self._period_s <= 0.0:
            return
        self._close_images()
        self._image_topic = topic
        with self._records.lock:
            self._record.image_topic = topic
        if topic:
            # Best effort is compatible with every publisher and causes no retransmissions.
            self._image = self._node.create_subscription(
                IMAGE_TYPES[type_name],
                topic,
                self._on_image if type_name.endswith('/Image') else self._on_compressed,
                qos.image(ReliabilityPolicy.BEST_EFFORT),
                callback_group=PacedGroup(self._period_s),
            )

    def pause(self) -> None:
        """End the subscriptions that only an open page needs."""
        self._close_images()
        if self._telemetry is not None:
            self._node.destroy_subscription(self._telemetry)
            self._telemetry = None
        if self.parameters is not None:
            # The clients stay, because the node warns about answers to destroyed clients.
            self.parameters.ask_again()

    def close(self) -> None:
        """End all subscriptions."""
        self.pause()
        if self.parameters is not None:
            self.parameters.close()
        for subscription in self._latched.values():
            self._node.destroy_subscription(subscription)
        self._latched.clear()

    def _close_images(self) -> None:
        if self._image is not None:
            self._node.destroy_subscription(self._image)
        self._image, self._image_topic = None, ''

    def _on_telemetry(self, message: Any) -> None:
        with self._records.lock:
            self._record.add_telemetry(message, time.time())

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

    def _on_image(self, message: Any) -> None:
        self._show(conversions.raw_image(message), message.header.stamp)

    def _on_compressed(self, message: Any) -> None:
        self._show(conversions.compressed_image(message), message.header.stamp)

    def _show(self, image: Any, stamp: Any) -> None:
        try:
            data = jpeg(image, self._width)
        except (ImageError, cv2.error):
            return  # the classifier also rejects the image and reports why
        with self._records.lock:
            self._record.set_picture(Picture(data, (stamp.sec, stamp.nanosec)))
