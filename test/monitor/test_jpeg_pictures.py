"""Camera images become small JPEG pictures with the right colours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.monitor.pictures import jpeg
from dynamic_ofa_ros.runtime.image import RawImage

RED = {
    'rgb8': (255, 0, 0),
    'bgr8': (0, 0, 255),
    'rgba8': (255, 0, 0, 255),
    'bgra8': (0, 0, 255, 9),
}


def raw(pixels, encoding):
    height, width = pixels.shape[:2]
    return RawImage(pixels.tobytes(), width, height, encoding, pixels.strides[0])


@pytest.mark.parametrize('encoding', RED)
@pytest.mark.parametrize('width', [64, 1001])
def test_a_picture_keeps_its_colours_and_is_scaled_down(encoding, width):
    pixels = np.empty((width // 2, width, len(RED[encoding])), np.uint8)
    pixels[:] = RED[encoding]
    data = jpeg(raw(pixels, encoding), 100)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    expected_width = min(width, 100)
    assert found.shape == (expected_width // 2, expected_width, 3)
    blue, green, red = found.mean((0, 1))
    assert red > 240
    assert max(blue, green) < 15


def test_grey_images_become_grey_pictures():
    data = jpeg(raw(np.full((20, 30), 200, np.uint8), 'mono8'), 640)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert abs(found.mean() - 200) < 3


def test_an_empty_image_raises_an_image_error():
    with pytest.raises(ImageError):
        jpeg(RawImage(b'', 10, 10, 'rgb8', 30), 640)
