"""The parts of cv_bridge that the nodes use."""

import numpy as np
import pytest
from rclpy_zenoh import support  # noqa: F401 - skips this module where ROS 2 serves

from cv_bridge import CvBridge, CvBridgeError  # isort: skip
from sensor_msgs.msg import Image  # isort: skip
from std_msgs.msg import Header  # isort: skip

BRIDGE = CvBridge()
RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_round_trip_and_header():
    message = BRIDGE.cv2_to_imgmsg(RGB, 'rgb8', header=Header(frame_id='camera'))
    assert (message.height, message.width, message.step) == (2, 3, 9)
    assert message.header.frame_id == 'camera'
    assert (BRIDGE.imgmsg_to_cv2(message) == RGB).all()


def test_colour_conversion():
    message = BRIDGE.cv2_to_imgmsg(RGB, 'rgb8')
    assert (BRIDGE.imgmsg_to_cv2(message, 'bgr8') == RGB[..., ::-1]).all()
    assert BRIDGE.imgmsg_to_cv2(message, 'mono8').shape == (2, 3)
    assert BRIDGE.imgmsg_to_cv2(message, 'rgba8').shape == (2, 3, 4)


def test_padded_rows():
    padded = np.zeros((2, 16), np.uint8)
    padded[:, :9] = RGB.reshape(2, 9)
    message = Image(height=2, width=3, encoding='rgb8', step=16, data=padded.tobytes())
    assert (BRIDGE.imgmsg_to_cv2(message) == RGB).all()


def test_depth_and_byte_order():
    values = np.array([[1, 256]], np.uint16)
    big = Image(height=1, width=2, encoding='16UC1', step=4, is_bigendian=1,
                data=values.astype('>u2').tobytes())  # fmt: skip
    assert (BRIDGE.imgmsg_to_cv2(big) == values).all()
    floats = np.array([[0.5]], np.float32)
    message = BRIDGE.cv2_to_imgmsg(floats)
    assert message.encoding == '32FC1'
    assert BRIDGE.imgmsg_to_cv2(message)[0, 0] == 0.5


def test_bayer_red_stays_red():
    red = np.zeros((8, 8), np.uint8)
    red[::2, ::2] = 200  # the red positions of RGGB
    message = BRIDGE.cv2_to_imgmsg(red, 'bayer_rggb8')
    pixel = BRIDGE.imgmsg_to_cv2(message, 'rgb8')[4, 4]
    assert pixel[0] > 150
    assert pixel[2] < 50


@pytest.mark.parametrize(
    'message',
    [
        Image(height=2, width=3, encoding='nonsense', step=9, data=bytes(18)),
        Image(height=2, width=3, encoding='rgb8', step=8, data=bytes(18)),
        Image(height=2, width=3, encoding='rgb8', step=9, data=bytes(17)),
    ],
)
def test_malformed_images(message):
    with pytest.raises(CvBridgeError):
        BRIDGE.imgmsg_to_cv2(message)


def test_wrong_array():
    with pytest.raises(CvBridgeError):
        BRIDGE.cv2_to_imgmsg(RGB, 'mono8')
    with pytest.raises(TypeError):
        BRIDGE.cv2_to_imgmsg('text')


def test_compressed():
    message = BRIDGE.cv2_to_compressed_imgmsg(RGB, 'png')
    assert (BRIDGE.compressed_imgmsg_to_cv2(message) == RGB).all()
