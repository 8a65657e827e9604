"""Bags that tests share: real messages, serialised by ROS 2, written by rosbags."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header, String

from dynamic_ofa_ros.cli.ros_bag import BAG_VERSION, types_of
from dynamic_ofa_ros.msg import Telemetry
from dynamic_ofa_ros.nodes import conversions

BEGIN_NS = 1_790_000_000_000_000_000
PERIOD_NS = 10_000_000
SECOND_NS = 10**9


def write_bag(
    folder: Path,
    messages: Iterable[tuple[str, Any, int]],
    *,
    storage: str = 'mcap',
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """Write (topic, message, time of its recording in ns) into a new bag, in order of time.

    Return the folder.
    """
    writer = Writer(folder, version=BAG_VERSION, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(compression, CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for topic, message, time_ns in sorted(messages, key=lambda item: item[2]):
            if topic not in connections:
                package, kind = type(message).__module__.split('.')[0], type(message).__name__
                name = f'{package}/msg/{kind}'
                connections[topic] = writer.add_connection(topic, name, typestore=types_of(name))
            writer.write(connections[topic], time_ns, serialize_message(message))
    return folder


def header(stamp_ns: int, frame_id: str = 'eye') -> Header:
    """Return a header with a stamp."""
    sec, nanosec = divmod(stamp_ns, SECOND_NS)
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id)


def grey(value: int, width: int = 16, height: int = 12) -> np.ndarray:
    """Return a grey picture, (H, W, 3) uint8."""
    return np.full((height, width, 3), value, np.uint8)


def image(number: int, encoding: str = 'rgb8') -> Any:
    """Return picture `number` of a drive, stamped 5 ms before it is recorded."""
    stamp_ns = BEGIN_NS + number * PERIOD_NS - 5_000_000
    return conversions.image_message(grey(10 * (number % 20)), header(stamp_ns), encoding)


def jpeg(number: int) -> CompressedImage:
    """Return the same as a JPEG."""
    data = cv2.imencode('.jpg', grey(10 * (number % 20)))[1].tobytes()
    return CompressedImage(header=image(number).header, format='jpeg', data=data)


def drive(count: int, topic: str = '/image_raw', kind: Any = image) -> list[tuple[str, Any, int]]:
    """Return the messages of a drive: images, and something else beside them."""
    times_ns = [BEGIN_NS + number * PERIOD_NS for number in range(count)]
    images = [(topic, kind(number), time_ns) for number, time_ns in enumerate(times_ns)]
    return [('/note', String(data='begin'), BEGIN_NS - 1), *images]


def drive_with_truth(count: int) -> list[tuple[str, Any, int]]:
    """Return a drive as camera_node publishes it: each truth is recorded about with its image."""
    labels = conversions.label_info(header(BEGIN_NS), ['stop', 'yield', 'works'])
    messages = [('/ground_truth/label_info', labels, BEGIN_NS - 2)]
    for topic, message, time_ns in drive(count)[1:]:
        number = (time_ns - BEGIN_NS) // PERIOD_NS
        truth = conversions.truth(message.header, number % 3)
        late_ns = 1_000_000 * (-1) ** number  # before the image or after it
        messages += [(topic, message, time_ns), ('/ground_truth', truth, time_ns + late_ns)]
    return sorted(messages, key=lambda item: item[2])


def telemetry(number: int, **changes: Any) -> Telemetry:
    """Return what a classifier says of picture `number`: 4 ms of inference, 6 ms in the node."""
    values: dict[str, Any] = {
        'header': image(number).header, 'sequence': number + 1, 'input_age_ms': 1.0,
        'executor_wait_ms': 0.5, 'queue_wait_ms': 0.25, 'preprocess_ms': 0.75,
        'inference_ms': 4.0, 'postprocess_ms': 0.25, 'processing_ms': 5.0, 'node_ms': 6.0,
        'end_to_end_ms': 7.0, 'max_latency_ms': 10.0, 'level': 2, 'level_count': 8,
        'level_accuracy': 0.9, 'top1_class_id': number % 3,
        'top1_label': ('stop', 'yield', 'works')[number % 3], 'policy': 'predictive',
        'platform': 'cpu',
    }  # fmt: skip
    return Telemetry(**values | changes)


def told(messages: Iterable[Telemetry], node: str = '/classifier') -> list[tuple[str, Any, int]]:
    """Return telemetry as it is recorded: one message a period."""
    return [
        (f'{node}/telemetry', message, BEGIN_NS + number * PERIOD_NS)
        for number, message in enumerate(messages)
    ]


def truths(count: int, wrong: Iterable[int] = ()) -> list[tuple[str, Any, int]]:
    """Return what the pictures show, with the names; some are not what the classifier says."""
    labels = conversions.label_info(header(BEGIN_NS), ['stop', 'yield', 'works'])
    found = [('/ground_truth/label_info', labels, BEGIN_NS - 2)]
    for number in range(count):
        class_id = (number + (number in wrong)) % 3
        message = conversions.truth(image(number).header, class_id)
        found.append(('/ground_truth', message, BEGIN_NS + number * PERIOD_NS + 1))
    return found
