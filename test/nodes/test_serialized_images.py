"""Reading of serialized images: equal to rclpy's messages, and damage is detected."""

from __future__ import annotations

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dynamic_ofa_ros.nodes import serialized_images
from dynamic_ofa_ros.nodes.serialized_images import read_compressed_image, read_image

LITTLE_ENDIAN, BIG_ENDIAN, UNKNOWN = b'\x00\x01', b'\x00\x00', b'\x00\x07'


def header(frame_id: str) -> Header:
    return Header(stamp=Time(sec=-7, nanosec=999_999_999), frame_id=frame_id)


def image(frame_id: str = 'eye', encoding: str = 'rgb8', count: int = 18) -> Image:
    return Image(
        header=header(frame_id),
        height=2,
        width=3,
        encoding=encoding,
        is_bigendian=1,
        step=9,
        data=list(range(count)),
    )


@pytest.mark.parametrize('frame_id', ['', 'a', 'ab', 'abc', 'abcd', 'Küche', 'x' * 10_000])
@pytest.mark.parametrize('encoding', ['', 'rgb8', 'mono8', 'bayer_rggb8'])
@pytest.mark.parametrize('count', [0, 1, 18])
def test_an_image_has_the_fields_that_rclpy_serialized(frame_id, encoding, count):
    message = image(frame_id, encoding, count)
    read_header, found = read_image(serialize_message(message))
    assert read_header == message.header
    assert (found.height, found.width, found.step) == (2, 3, 9)
    assert (found.encoding, found.is_bigendian) == (encoding, True)
    assert bytes(found.data) == bytes(message.data)


@pytest.mark.parametrize('count', [0, 5])
def test_a_compressed_image_has_the_fields_that_rclpy_serialized(count):
    message = CompressedImage(
        header=header('eye'), format='bgr8; jpeg compressed bgr8', data=list(range(count))
    )
    read_header, found = read_compressed_image(serialize_message(message))
    assert read_header == message.header
    assert found.format == message.format
    assert bytes(found.data) == bytes(message.data)


def test_the_pixels_are_not_copied():
    serialized = serialize_message(image())
    _, found = read_image(serialized)
    assert np.shares_memory(
        np.frombuffer(found.data, np.uint8), np.frombuffer(serialized, np.uint8)
    )


def test_pixels_of_16_bits_are_aligned():
    for frame_id in ('', 'a', 'ab', 'abc'):
        _, found = read_image(serialize_message(image(frame_id)))
        assert np.frombuffer(found.data, np.uint16).flags.aligned


def test_big_endian_messages_are_read():
    serialized = (
        BIG_ENDIAN + b'\x00\x00'  # options
        b'\x00\x00\x00\x05\x00\x00\x00\x06'  # stamp
        b'\x00\x00\x00\x02a\x00\x00\x00'  # frame_id and two bytes of padding
        b'\x00\x00\x00\x01\x00\x00\x00\x02'  # height and width
        b'\x00\x00\x00\x06mono8\x00'
        b'\x00\x00\x00\x00\x00\x02'  # is_bigendian, one byte of padding, step
        b'\x00\x00\x00\x02\x08\x09'
    )
    read_header, found = read_image(serialized)
    assert (read_header.stamp.sec, read_header.stamp.nanosec) == (5, 6)
    assert read_header.frame_id == 'a'
    assert (found.height, found.width, found.encoding, found.step) == (1, 2, 'mono8', 2)
    assert bytes(found.data) == b'\x08\x09'


@pytest.mark.parametrize(
    ('read', 'message'),
    [(read_image, image()), (read_compressed_image, CompressedImage(header=header('eye')))],
)
def test_other_formats_are_left_to_rclpy(read, message, monkeypatch):
    serialized = UNKNOWN + serialize_message(message)[2:]
    asked = []
    monkeypatch.setattr(
        serialized_images,
        'deserialize_message',
        lambda given, kind: asked.append((given, kind)) or message,
    )
    read_header, _ = read(serialized)
    assert asked == [(serialized, type(message))]
    assert read_header == message.header


@pytest.mark.parametrize('read', [read_image, read_compressed_image])
def test_every_truncated_message_is_rejected(read):
    message = image() if read is read_image else CompressedImage(format='jpeg', data=[1, 2, 3])
    serialized = serialize_message(message)
    for length in range(4, len(serialized)):
        with pytest.raises(ValueError, match='bytes'):
            read(serialized[:length])


def test_a_text_that_is_not_utf_8_is_readable():
    serialized = serialize_message(image('eye')).replace(b'eye', b'\xffye')
    assert read_image(serialized)[0].frame_id == '\ufffdye'
