"""A process that publishes images at a given rate and counts them, for `benchmarks.node`.

    python -m benchmarks.image_publisher WIDTH HEIGHT RATE_HZ RELIABILITY SECONDS

The messages are created in advance, so that only the transport is measured. Waits for a
subscriber, and prints the number of published images.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from dynamic_ofa_ros.nodes import conversions
from dynamic_ofa_ros.offline.data.signs import render_scene, sample_scene

SCENES = 4
LINGER_S = 2.0


def main(width: int, height: int, rate_hz: float, reliability: str, seconds: float) -> None:
    """Publish images for `seconds`."""
    rclpy.init()
    node = rclpy.create_node('image_source')
    profile = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    publisher = node.create_publisher(Image, 'image_raw', profile)
    messages = [
        conversions.image_message(
            render_scene(sample_scene(np.random.default_rng(seed), seed), width, height),
            Header(frame_id='camera'),
            'rgb8',
        )
        for seed in range(SCENES)
    ]
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    time.sleep(1.0)  # the subscription may be matched again
    start_s, count = time.monotonic(), 0
    while time.monotonic() - start_s < seconds:
        message = messages[count % SCENES]
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        count += 1
        time.sleep(max(0.0, start_s + count / rate_hz - time.monotonic()))
    print(count, flush=True)
    time.sleep(LINGER_S)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == '__main__':
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
