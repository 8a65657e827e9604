"""camera_node publishes rendered signs, an image folder, a video file, a webcam or a bag.

It publishes `image_raw` (reliable). If true classes are known, it also publishes `ground_truth`
with the header of the image, and the names of the classes (latched) on `ground_truth/label_info`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Classification, LabelInfo

from dynamic_ofa_ros.nodes import conversions, parameters, qos
from dynamic_ofa_ros.nodes.bag_source import BagSource
from dynamic_ofa_ros.nodes.camera_sources import (
    SIGNS_HEIGHT,
    SIGNS_WIDTH,
    FolderSource,
    Picture,
    Prefetcher,
    SignsSource,
    Source,
    VideoSource,
    WebcamSource,
)
from dynamic_ofa_ros.nodes.parameter_table import NodeParameters
from dynamic_ofa_ros.nodes.runner import NodeFinished, Throttle, run

LINGER_S = 1.0
"""Time that the node keeps running after the last image, so that slow subscribers receive it."""

POLL_S = 0.005
"""Polling period for an image that is due but not decoded yet."""

LATE_S = 0.1
"""Delay of an image above which a warning is logged."""


@dataclass(frozen=True)
class CameraSettings:
    """The camera's live parameters."""

    rate_hz: float


class CameraNode(Node):  # type: ignore[misc]  # rclpy is untyped
    """Publishes the images of a source at a fixed rate, or at the times of the source."""

    def __init__(self, node_name: str = 'camera', **options: Any) -> None:
        super().__init__(node_name, **options)
        self._settings = NodeParameters(self, _settings, self._on_settings)
        values = self._settings.declare(parameters.CAMERA)
        settings = self._settings.activate()
        self._encoding: str = values['encoding']
        self._frame_id: str = values['frame_id']
        self._throttle = Throttle()
        self._closing = threading.Event()
        cv2.setNumThreads(1)  # leaves the other cores to other programs
        self._source = self._open(values)
        self._pictures: Prefetcher | None = None
        self._waiting: Picture | None = None
        self._began_s: float | None = None
        self._published = 0
        self._ended_s: float | None = None
        self._image_pub = self.create_publisher(
            Image, 'image_raw', qos.of_publisher(self, 'image_raw', qos.CAMERA)
        )
        self._truth_pub: Any = None
        if self._source.labels:
            self._truth_pub = self.create_publisher(
                Classification, 'ground_truth', qos.GROUND_TRUTH
            )
            labels_pub = self.create_publisher(LabelInfo, 'ground_truth/label_info', qos.LATCHED)
            header = conversions.stamped_header(self.get_clock(), self._frame_id)
            labels_pub.publish(conversions.label_info(header, self._source.labels))
        # rclpy itself uses names such as `_timers`.
        self._image_timer = self._new_timer(settings.rate_hz)
        pace = f'{settings.rate_hz:g} Hz'
        if isinstance(self._source, BagSource):
            pace = f'{values["bag.rate"]:g} times the speed of {self._source.topic}'
        self.get_logger().info(
            f'{values["source"]} {values["path"]}'.rstrip()
            + f' on {self._image_pub.topic_name} at {pace}'
        )

    def start(self) -> None:
        """Start the thread that reads images."""
        self._pictures = Prefetcher(self._source)

    def close(self) -> None:
        """End the thread that reads images."""
        self._closing.set()
        if self._pictures is not None:
            self._pictures.close()

    def _open(self, values: Mapping[str, Any]) -> Source:
        kind, path = values['source'], values['path']
        width, height = values['width'], values['height']
        if kind == 'folder':
            return FolderSource(
                path,
                width=width,
                height=height,
                seed=values['seed'],
                loop=values['loop'],
                on_problem=self._on_problem,
            )
        if kind == 'video':
            return VideoSource(path, width=width, height=height, loop=values['loop'])
        if kind == 'webcam':
            return WebcamSource(
                path,
                width=width,
                height=height,
                rate_hz=values['rate_hz'],
                closing=self._closing,
                on_outage=lambda text: self.get_logger().warning(text),
                on_return=lambda text: self.get_logger().info(text),
            )
        if kind == 'bag':
            return BagSource(
                path,
                topic=values['bag.topic'],
                has_own_stamps=values['bag.stamps'] == 'recorded',
                rate=values['bag.rate'],
                width=width,
                height=height,
                loop=values['loop'],
                on_problem=self._on_problem,
            )
        return SignsSource(
            seed=values['seed'],
            frames_per_scene=max(1, round(values['scene_period_s'] * values['rate_hz'])),
            width=width or SIGNS_WIDTH,
            height=height or SIGNS_HEIGHT,
        )

    def _on_problem(self, problem: str) -> None:
        if self._throttle.passes('damaged image'):
            self.get_logger().warning(f'image left out: {problem}')

    def _on_settings(self, before: CameraSettings, after: CameraSettings) -> None:
        self.destroy_timer(self._image_timer)
        self._image_timer = self._new_timer(after.rate_hz)

    def _new_timer(self, rate_hz: float) -> Any:
        """Return a timer of a steady clock; others stop while their clock is set back."""
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        return self.create_timer(1.0 / rate_hz, self._on_timer, clock=steady)

    def _on_timer(self) -> None:
        pictures = self._pictures
        if pictures is None:
            return
        picture = self._waiting or pictures.take()
        while picture is not None and picture.due_s is not None:
            wait_s = self._wait_s(picture.due_s)
            if wait_s > 0.0:
                self._waiting = picture
                self._call_again(wait_s)
                return
            self._publish(picture)
            picture = self._waiting = pictures.take()
        if picture is not None:
            self._publish(picture)
        elif pictures.failure is not None:
            raise pictures.failure
        elif pictures.has_ended:
            self._finish()
        elif self._began_s is not None:
            self._call_again(POLL_S)
        elif self._published and not self._source.is_live:
            self._on_late()

    def _wait_s(self, due_s: float) -> float:
        """Return the time until an image is due; the first image sets the start time."""
        now_s = time.monotonic()
        if self._began_s is None:
            self._began_s = now_s - due_s
        wait_s = due_s - (now_s - self._began_s)
        if wait_s < -LATE_S:
            self._on_late()
        return wait_s

    def _call_again(self, wait_s: float) -> None:
        self._image_timer.timer_period_ns = round(1e9 * wait_s)
        self._image_timer.reset()

    def _on_late(self) -> None:
        if self._throttle.passes('late'):
            self.get_logger().warning(
                'images are not ready in time: the source or this machine is too slow'
            )

    def _publish(self, picture: Picture) -> None:
        now = self.get_clock().now()
        if picture.captured_ns is not None:
            age_ns = time.perf_counter_ns() - picture.captured_ns
            now -= Duration(nanoseconds=min(age_ns, now.nanoseconds))  # simulated time may be 0
        header = Header(stamp=now.to_msg(), frame_id=self._frame_id)
        if picture.stamp_ns is not None:
            sec, nanosec = divmod(picture.stamp_ns, 10**9)
            header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=picture.frame_id)
        if self._truth_pub is not None and picture.class_id >= 0:
            self._truth_pub.publish(conversions.truth(header, picture.class_id))
        self._image_pub.publish(conversions.image_message(picture.rgb, header, self._encoding))
        self._published += 1

    def _finish(self) -> None:
        now_s = time.monotonic()
        if self._ended_s is None:
            self._ended_s = now_s
            self.get_logger().info(f'the source has ended after {self._published} images')
        elif now_s - self._ended_s >= LINGER_S:
            raise NodeFinished


def _settings(values: Mapping[str, Any]) -> CameraSettings:
    return CameraSettings(values['rate_hz'])


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; return the exit status."""
    return run('camera', CameraNode, args)


if __name__ == '__main__':
    sys.exit(main())
