"""The camera as a process: images with their truth, at the size and rate that were asked for."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import Classification, LabelInfo

from dynamic_ofa_ros.nodes import conversions, qos

BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


def topics(domain, namespace):
    """Listen to a camera; each test has a namespace, for images of another may still come."""
    return (
        domain.listen(Image, f'/{namespace}/image_raw', BEST_EFFORT),
        domain.listen(Classification, f'/{namespace}/ground_truth', qos.GROUND_TRUTH),
        domain.listen(LabelInfo, f'/{namespace}/ground_truth/label_info', qos.LATCHED),
    )


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('images')
    for name, value in (('dark', 40), ('light', 200)):
        (root / name).mkdir()
        for number in range(6):
            pixels = np.full((30, 40, 3), value, np.uint8)
            assert cv2.imwrite(str(root / name / f'{number}.png'), pixels)
    return root


def test_folder_is_published_with_the_truth_and_then_the_node_ends(domain, folders):
    images, truths, labels = topics(domain, 'folder')
    camera = domain.start(
        'camera_node',
        {
            'source': 'folder',
            'path': folders,
            'rate_hz': 0.1,
            'loop': False,
            'encoding': 'mono8',
            'frame_id': 'eye',
        },
        arguments=('-r', '__ns:=/folder'),
    )
    # Who has answered this node knows its subscriptions: only then may the images come.
    assert domain.set_parameter('/folder/camera', 'rate_hz', 40).successful
    domain.wait_until(lambda: not camera.is_running, 'the end of the camera')
    assert camera.wait() == 0, camera.output()
    assert 'ended after 12 images' in camera.output()
    domain.wait_until(lambda: labels.last, 'the labels')
    assert [entry.class_name for entry in labels.last.class_map] == ['dark', 'light']
    assert 6 <= len(images.messages) <= 12  # best effort
    truth_of = {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in truths.messages}
    for image in images.messages:
        assert (image.width, image.height, image.encoding) == (40, 30, 'mono8')
        truth = truth_of[image.header.stamp.sec, image.header.stamp.nanosec]
        assert truth.header == image.header
        assert truth.header.frame_id == 'eye'
        assert truth.results[0].score == 1.0
        is_light = conversions.raw_image(image).decode()[0, 0, 0] > 100
        assert truth.results[0].class_id == str(int(is_light))


def test_signs_come_at_640x480_and_the_rate_is_live(domain):
    images, _, _ = topics(domain, 'signs')
    camera = domain.start(
        'camera_node',
        {'scene_period_s': 0.5},
        arguments=('-r', '__ns:=/signs'),
        is_in_background=True,
    )
    domain.wait_until(lambda: len(images.messages) >= 45, 'images')
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec / 1e9 for m in images.messages[15:]]
    rate_hz = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    # How well the rate is kept is for benchmarks/node.py; a busy machine may be slower.
    assert 5.0 < rate_hz < 36.0
    assert (images.last.width, images.last.height) == (640, 480)
    assert domain.set_parameter('/signs/camera', 'rate_hz', 5).successful
    images.messages.clear()
    domain.wait_until(lambda: len(images.messages) >= 4, 'slower images')
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec / 1e9 for m in images.messages[1:]]
    assert stamps[-1] - stamps[0] > 0.3
    refused = domain.set_parameter('/signs/camera', 'rate_hz', 0)
    assert not refused.successful
    assert 'rate_hz' in refused.reason
    assert camera.stop() == 0, camera.output()
    assert 'Traceback' not in camera.output()
