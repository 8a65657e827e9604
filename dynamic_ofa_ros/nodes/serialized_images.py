"""Read serialized image messages without copying the pixels.

rclpy copies every byte of an image into a message object, which takes longer than preprocessing.
A subscription with `raw=True` delivers the serialized message instead. Its format is the Common
Data Representation (CDR) of the OMG's DDSI-RTPS specification.
"""

from __future__ import annotations

import struct
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dynamic_ofa_ros.nodes import conversions
from dynamic_ofa_ros.runtime import image
from dynamic_ofa_ros.runtime.image import ImageSource

_BYTE_ORDERS = {b'\x00\x00': '>', b'\x00\x01': '<'}  # of CDR by its identifier


def read_image(serialized: bytes) -> tuple[Any, ImageSource]:
    """Return header and image of a serialized sensor_msgs/Image; the pixels are not copied.

    Raise ValueError if the message is damaged.
    """
    if serialized[:2] not in _BYTE_ORDERS:
        message = deserialize_message(serialized, Image)
        return message.header, conversions.raw_image(message)
    reader = _Reader(serialized)
    header = reader.header()
    height, width, encoding = reader.uint32(), reader.uint32(), reader.text()
    is_bigendian, step, data = bool(reader.uint8()), reader.uint32(), reader.uint8s()
    return header, image.RawImage(data, width, height, encoding, step, is_bigendian)


def read_compressed_image(serialized: bytes) -> tuple[Any, ImageSource]:
    """Return header and image of a serialized sensor_msgs/CompressedImage, without a copy.

    Raise ValueError if the message is damaged.
    """
    if serialized[:2] not in _BYTE_ORDERS:
        message = deserialize_message(serialized, CompressedImage)
        return message.header, conversions.compressed_image(message)
    reader = _Reader(serialized)
    header, kind, data = reader.header(), reader.text(), reader.uint8s()
    return header, image.CompressedImage(data, kind)


class _Reader:
    """Reads the fields of a message in CDR, one after the other."""

    def __init__(self, serialized: bytes) -> None:
        self._fields = memoryview(serialized)[4:]
        self._order = _BYTE_ORDERS[serialized[:2]]
        self._at = 0

    def header(self) -> Any:
        stamp = Time(sec=self._number('i', 4), nanosec=self.uint32())
        return Header(stamp=stamp, frame_id=self.text())

    def uint8(self) -> int:
        return self._number('B', 1)

    def uint32(self) -> int:
        return self._number('I', 4)

    def text(self) -> str:
        """Return a string; its length includes the final zero."""
        return bytes(self.uint8s()).rstrip(b'\x00').decode('utf-8', errors='replace')

    def uint8s(self) -> memoryview:
        """Return a list of bytes as a view of the message."""
        length = self.uint32()
        begin, self._at = self._at, self._at + length
        if self._at > len(self._fields):
            raise ValueError(f'{length} bytes announced, {len(self._fields) - begin} received')
        return self._fields[begin : self._at]

    def _number(self, kind: str, size: int) -> int:
        begin = -(-self._at // size) * size  # numbers are aligned to their size
        self._at = begin + size
        if self._at > len(self._fields):
            raise ValueError(f'a message of {len(self._fields)} bytes is too short')
        number: int = struct.unpack_from(self._order + kind, self._fields, begin)[0]
        return number
