"""A process whose nodes look like classifiers to monitor_node, for `benchmarks.monitor`.

    python -m benchmarks.telemetry_publisher COUNT RATE_HZ

They have the topics and parameters of classifiers and publish telemetry with random latencies, but
classify nothing: 20 real classifiers would take all processors of a small machine. The images of
`image_raw` are not read. Runs until it is ended.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image

from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.monitor.polling import PolledSubscription
from dynamic_ofa_ros.msg import LevelArray, Telemetry
from dynamic_ofa_ros.nodes import conversions, parameters, qos
from dynamic_ofa_ros.nodes.parameter_table import declare

FIELDS = (
    'input_age_ms', 'executor_wait_ms', 'queue_wait_ms', 'preprocess_ms', 'inference_ms',
    'postprocess_ms', 'latency_p50_ms', 'latency_p95_ms', 'throughput_hz', 'predicted_latency_ms',
    'slowdown', 'device_load', 'top1_score',
)  # fmt: skip
"""The fields with random values."""


class Classifier:
    """The publishers and parameters of one classifier."""

    def __init__(self, number: int, family: Family) -> None:
        self.node = rclpy.create_node(f'classifier_{number}')
        for spec in parameters.CLASSIFIER:
            declare(self.node, spec)
        self._images = PolledSubscription(
            self.node, Image, 'image_raw', qos.image(ReliabilityPolicy.BEST_EFFORT)
        )
        self._levels_pub = self.node.create_publisher(LevelArray, '~/levels', qos.LATCHED)
        self._telemetry_pub = self.node.create_publisher(Telemetry, '~/telemetry', qos.TELEMETRY)
        header = conversions.stamped_header(self.node.get_clock())
        self._levels_pub.publish(
            conversions.level_array(header, family, tuple(family.platforms.values()))
        )
        self._message: Any = Telemetry(
            level=1,
            level_count=len(family.levels),
            feasible=True,
            max_latency_ms=math.nan,
            min_accuracy=math.nan,
            last_switch_ms=math.nan,
            device_temperature_celsius=math.nan,
            device_power_w=math.nan,
            top1_label=family.labels[0],
            policy='predictive',
            platform=next(iter(family.platforms)),
        )

    def publish(self, values: Any) -> None:
        """Publish telemetry with these values of FIELDS."""
        message = self._message
        message.header.stamp = self.node.get_clock().now().to_msg()
        message.sequence += 1
        for name, value in zip(FIELDS, values, strict=True):
            setattr(message, name, value)
        message.node_ms = message.end_to_end_ms = 1.1 * float(sum(values[:6]))
        self._telemetry_pub.publish(message)


def main(count: int, rate_hz: float) -> None:
    """Publish until the process is ended."""
    rclpy.init()
    family = Family.load(default_family())
    executor = SingleThreadedExecutor()
    classifiers = [Classifier(number, family) for number in range(count)]
    for classifier in classifiers:
        executor.add_node(classifier.node)
    threading.Thread(target=_publish, args=(classifiers, rate_hz), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        executor.spin()  # answers requests for parameters


def _publish(classifiers: list[Classifier], rate_hz: float) -> None:
    rng = np.random.default_rng(0)
    start_s, ticks = time.monotonic(), 0
    while rclpy.ok():
        rows = rng.uniform(0.1, 3.0, (len(classifiers), len(FIELDS))).tolist()
        for classifier, values in zip(classifiers, rows, strict=True):
            classifier.publish(values)
        ticks += 1
        time.sleep(max(0.0, start_s + ticks / rate_hz - time.monotonic()))


if __name__ == '__main__':
    main(int(sys.argv[1]), float(sys.argv[2]))
