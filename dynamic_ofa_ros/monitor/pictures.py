"""Camera images as small JPEG pictures."""

from __future__ import annotations

import time
from typing import Any

import cv2
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.monitor.polling import PolledSubscription
from dynamic_ofa_ros.nodes import conversions, qos
from dynamic_ofa_ros.runtime.image import ImageSource

JPEG_QUALITY = 75
IMAGE_TYPES = {'sensor_msgs/msg/Image': Image, 'sensor_msgs/msg/CompressedImage': CompressedImage}


class Camera:
    """An image topic; only the images that are shown are read. max_width: of pictures, in px."""

    def __init__(self, node: Any, topic: str, type_name: str, max_width: int) -> None:
        self._max_width = max_width
        self._message: Any = None
        self._taken_s = 0.0
        # Best effort is compatible with every publisher and causes no retransmissions.
        profile = qos.image(ReliabilityPolicy.BEST_EFFORT)
        self._images = PolledSubscription(node, IMAGE_TYPES[type_name], topic, profile)

    @property
    def stamp(self) -> tuple[int, int] | None:
        """Stamp (seconds, nanoseconds) of the image that was read but not yet shown."""
        if self._message is None:
            return None
        return self._message.header.stamp.sec, self._message.header.stamp.nanosec

    @property
    def waited_s(self) -> float:
        """Time since the last image was read."""
        return time.monotonic() - self._taken_s

    def take(self) -> bool:
        """Read the newest image; return False if there is none since the last call."""
        taken = self._images.take()
        if taken is None:
            return False
        self._message, self._taken_s = taken[0], time.monotonic()
        return True

    def picture(self) -> bytes | None:
        """Return the image that was read, once, as JPEG.

        None if no image was read, or if it is damaged; the classifier reports why.
        """
        message, self._message = self._message, None
        if message is None:
            return None
        is_compressed = isinstance(message, CompressedImage)
        convert = conversions.compressed_image if is_compressed else conversions.raw_image
        try:
            return jpeg(convert(message), self._max_width)
        except (ImageError, cv2.error):
            return None

    def close(self) -> None:
        """End the subscription."""
        self._images.close()


def jpeg(image: ImageSource, max_width: int) -> bytes:
    """Return an image as JPEG, at most `max_width` px wide; raise ImageError if it is damaged."""
    rgb = image.decode()
    height, width = rgb.shape[:2]
    if width > max_width:
        # Linear interpolation is good enough for a preview, and ten times as fast as by area.
        size = (max_width, max(1, round(height * max_width / width)))
        bgr = cv2.cvtColor(
            cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_RGB2BGR
        )
    else:
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    is_encoded, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not is_encoded:
        raise ImageError('encoding', 'The picture cannot be encoded as JPEG.')
    return bytes(data)
