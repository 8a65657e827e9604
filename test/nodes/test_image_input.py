"""The image subscription: reliability, lost images, arrival times, both transports."""

from __future__ import annotations

import array
import itertools
import math
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dynamic_ofa_ros.nodes import conversions
from dynamic_ofa_ros.nodes.image_input import MAX_WAIT_NS, ImageInput, arrival_ns
from dynamic_ofa_ros.nodes.parameter_table import ParameterError

PIXELS = np.full((48, 64, 3), (200, 30, 90), np.uint8)
RELIABLE = QoSProfile(depth=5)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
NUMBERS = itertools.count()


class Receiver:
    """An ImageInput on a separate node; records the calls of its callbacks."""

    def __init__(self, domain, name, transport='raw', reliability=None, remapped=''):
        self.ros = domain
        self.frames, self.missing = [], []
        override = f'qos_overrides./{name}/image_raw.subscription.reliability'
        self.node = domain.create_node(
            name,
            namespace=name,
            cli_args=['--ros-args', '-r', remapped] if remapped else None,
            parameter_overrides=[Parameter(override, value=reliability)] if reliability else [],
        )
        domain._executor.add_node(self.node)
        self.input = ImageInput(
            self.node, transport, self.frames.append, lambda *counts: self.missing.append(counts)
        )
        self.input.open()

    def reliability(self):
        (info,) = self.node.get_subscriptions_info_by_topic(self.input.topic)
        return info.qos_profile.reliability

    def receive(self, publisher, message):
        """Publish until a frame arrives, and return it."""
        self.frames.clear()
        self.ros.wait_until(
            lambda: self.frames, 'a frame', meanwhile=lambda: publisher.publish(message)
        )
        return self.frames[-1]

    def close(self):
        self.input.close()
        self.ros._executor.remove_node(self.node)
        self.node.destroy_node()


@pytest.fixture
def receiver(domain):
    made = []

    def make(*arguments, **keywords):
        name = f'receiver_{next(NUMBERS)}'
        made.append(Receiver(domain, name, *arguments, **keywords))
        return made[-1]

    yield make
    for one in made:
        one.close()


def image(domain):
    stamp = domain.node.get_clock().now().to_msg()
    return conversions.image_message(PIXELS, Header(stamp=stamp, frame_id='eye'), 'rgb8')


def test_the_subscription_adopts_the_reliability_of_the_publishers(domain, receiver):
    one = receiver()
    assert one.reliability() == ReliabilityPolicy.RELIABLE  # without publishers
    careless = domain.node.create_publisher(Image, one.input.topic, BEST_EFFORT)
    one.receive(careless, image(domain))
    assert one.reliability() == ReliabilityPolicy.BEST_EFFORT
    careful = domain.node.create_publisher(Image, one.input.topic, RELIABLE)
    one.receive(careful, image(domain))
    assert one.reliability() == ReliabilityPolicy.BEST_EFFORT  # compatible with both publishers
    domain.node.destroy_publisher(careless)
    domain.wait_until(
        lambda: one.reliability() == ReliabilityPolicy.RELIABLE,
        'reliable, when only reliable publishers are left',
        meanwhile=one.input.update,
    )
    one.receive(careful, image(domain))
    assert one.input.qos_problem == ''
    domain.node.destroy_publisher(careful)


def test_a_reliability_set_by_the_user_is_kept_and_its_effect_is_logged(domain, receiver, capfd):
    one = receiver(reliability='reliable')
    careless = domain.node.create_publisher(Image, one.input.topic, BEST_EFFORT)
    domain.wait_until(lambda: one.input.qos_problem, 'the incompatibility')
    assert one.input.qos_problem == (
        f'a publisher on {one.input.topic} offers an incompatible RELIABILITY'
    )
    one.input.update()
    assert one.reliability() == ReliabilityPolicy.RELIABLE
    assert one.input.qos_problem in ''.join(capfd.readouterr())
    domain.node.destroy_publisher(careless)


def test_an_unknown_reliability_is_rejected(receiver):
    with pytest.raises(ParameterError, match='best_available, reliable, best_effort'):
        receiver(reliability='perfect')


def test_lost_messages_are_counted_and_logged_with_a_remedy(receiver, capfd):
    one = receiver()
    for count in (3, 4):
        one.input._on_message_lost(SimpleNamespace(total_count_change=count))
    assert one.missing == [(3, 0), (7, 0)]
    assert one.input.lost_frames == 7
    printed = ''.join(capfd.readouterr())
    assert '3 images were lost in transport' in printed
    assert 'publish with reliable QoS' in printed


def test_images_overwritten_before_they_are_taken_are_counted(domain, receiver):
    one = receiver()
    publisher = domain.node.create_publisher(Image, one.input.topic, RELIABLE)
    one.receive(publisher, image(domain))
    domain.wait_until(lambda: not domain.spin_once(0.05), 'quiet')
    before, frames = one.input.overwritten_frames, len(one.frames)
    for _ in range(5):
        publisher.publish(image(domain))
    domain.wait_until(lambda: len(one.frames) > frames, 'the newest')
    taken = len(one.frames) - frames
    assert taken < 5  # the depth of the queue is 1
    assert one.input.overwritten_frames - before == 5 - taken
    assert one.input.lost_frames == 0
    assert one.missing[-1] == (0, one.input.overwritten_frames)
    domain.node.destroy_publisher(publisher)


def test_a_frame_has_its_arrival_age_and_header(domain, receiver):
    one = receiver()
    publisher = domain.node.create_publisher(Image, one.input.topic, RELIABLE)
    before_ns = time.perf_counter_ns()
    frame = one.receive(publisher, image(domain))
    assert frame.header.frame_id == 'eye'
    assert before_ns < frame.arrived_ns <= frame.received_ns <= time.perf_counter_ns()
    assert frame.executor_wait_ms == pytest.approx((frame.received_ns - frame.arrived_ns) / 1e6)
    assert 0.0 <= frame.input_age_ms < 10_000.0
    assert (frame.image.decode() == PIXELS).all()
    unstamped = conversions.image_message(PIXELS, Header(), 'rgb8')
    assert math.isnan(one.receive(publisher, unstamped).input_age_ms)
    domain.node.destroy_publisher(publisher)


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_compressed_images_are_received_on_their_own_topic(domain, receiver, suffix):
    one = receiver('compressed')
    assert one.input.topic.endswith('/image_raw/compressed')
    publisher = domain.node.create_publisher(CompressedImage, one.input.topic, BEST_EFFORT)
    is_good, encoded = cv2.imencode(suffix, cv2.cvtColor(PIXELS, cv2.COLOR_RGB2BGR))
    assert is_good
    message = CompressedImage(format=suffix[1:], data=array.array('B', encoded.tobytes()))
    decoded = one.receive(publisher, message).image.decode()
    assert decoded.shape == PIXELS.shape
    assert np.abs(decoded.astype(int) - PIXELS).max() <= (0 if suffix == '.png' else 6)
    domain.node.destroy_publisher(publisher)


@pytest.mark.parametrize(
    ('transport', 'remapped', 'topic'),
    [
        ('raw', 'image_raw:=/eye/image', '/eye/image'),
        ('compressed', 'image_raw:=/eye/image', '/eye/image/compressed'),
        ('compressed', 'image_raw/compressed:=/eye/jpeg', '/eye/jpeg'),
    ],
)
def test_the_topic_is_the_remapped_one(domain, receiver, transport, remapped, topic):
    one = receiver(transport, remapped=remapped)
    assert one.input.topic == topic
    kind = CompressedImage if transport == 'compressed' else Image
    publisher = domain.node.create_publisher(kind, topic, BEST_EFFORT)
    one.receive(publisher, kind())
    assert one.input.publishers == 1
    domain.node.destroy_publisher(publisher)


def test_a_closed_input_receives_nothing_until_it_is_opened_again(domain, receiver):
    one = receiver()
    publisher = domain.node.create_publisher(Image, one.input.topic, RELIABLE)
    one.receive(publisher, image(domain))
    one.input.close()
    one.input.close()
    domain.wait_until(lambda: publisher.get_subscription_count() == 0, 'the end')
    one.input.open()
    one.receive(publisher, image(domain))
    domain.node.destroy_publisher(publisher)


def test_arrival_is_the_middlewares_receive_time():
    assert arrival_ns(5_000, 1_000_000, 999_000) == 4_000
    assert arrival_ns(5_000, 1_000_000, 1_000_000) == 5_000
    for unknown in (0, -1, 1_000_001, 1_000_000 - MAX_WAIT_NS - 1):
        assert arrival_ns(5_000, 1_000_000, unknown) is None
