"""Clocks that jump, old images, and several cameras, with real nodes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Classification

from dynamic_ofa_ros.msg import Telemetry
from dynamic_ofa_ros.nodes import conversions
from dynamic_ofa_ros.nodes.diagnostics import InputMonitor

START_S = 1000
STEP_MS = 50
LOOP_FRAMES = 30
LOOPS = 2
MAX_AGE_MS = 500.0
TIMEOUT_S = 60.0
PIXELS = np.zeros((48, 64, 3), np.uint8)


def input_status(topic, namespace):
    """Return the last `Input` status of a classifier as (message, values), or None."""
    for array in reversed(topic.messages):
        for status in array.status:
            if status.name == f'{namespace}/classifier: Input':
                return status.message, {pair.key: float(pair.value) for pair in status.values}
    return None


def play(domain, clock, images, frame):
    """Publish a frame of the bag and its time of playback, 10 ms after its stamp."""
    begin_s = time.monotonic()
    milliseconds = frame * STEP_MS
    stamp = Time(sec=START_S + milliseconds // 1000, nanosec=milliseconds % 1000 * 1_000_000)
    now = Time(sec=stamp.sec, nanosec=stamp.nanosec + 10_000_000)
    clock.publish(Clock(clock=now))
    domain.wait_until(lambda: time.monotonic() > begin_s + 0.02, 'the clock to arrive')
    header = Header(stamp=stamp, frame_id='bag')
    images.publish(conversions.image_message(PIXELS, header, 'rgb8'))
    domain.wait_until(lambda: time.monotonic() > begin_s + STEP_MS / 1e3, 'the next frame')


def test_a_looping_bag_disturbs_neither_ages_nor_rates(domain, family):
    telemetry = domain.listen(Telemetry, '/looping/classifier/telemetry', 1000)
    diagnostics = domain.listen(DiagnosticArray, '/diagnostics')
    images = domain.node.create_publisher(Image, '/looping/image_raw', 5)
    clock = domain.node.create_publisher(Clock, '/clock', 5)
    node = domain.start_classifier(
        family, 'looping', use_sim_time=True, max_frame_age_ms=MAX_AGE_MS
    )
    domain.wait_until(images.get_subscription_count, 'the subscription', TIMEOUT_S)
    domain.wait_until(clock.get_subscription_count, 'the clock', TIMEOUT_S)
    for loop in range(LOOPS):
        telemetry.messages.clear()
        for frame in range(LOOP_FRAMES):
            play(domain, clock, images, frame)
        last = Time(sec=START_S + (LOOP_FRAMES - 1) * STEP_MS // 1000)
        domain.wait_until(
            lambda last=last: telemetry.last and telemetry.last.header.stamp.sec >= last.sec,
            'the last frames of the loop',
        )
        assert len(telemetry.messages) > LOOP_FRAMES // 2, loop
        # The first frame can arrive before the jump of the clock.
        for message in telemetry.messages[1:]:
            assert -STEP_MS <= message.input_age_ms < MAX_AGE_MS
            assert message.end_to_end_ms < MAX_AGE_MS + 100.0
    _, values = input_status(diagnostics, 'looping')
    # The rate by stamp is computed since the jump; the rate by arrival continues.
    assert values['frame_rate_msg'] == pytest.approx(1000.0 / STEP_MS, rel=0.3)
    assert 0.3 < values['frame_rate_node'] * STEP_MS / 1000.0 < 1.1
    assert values['dropped_for_age'] <= LOOPS
    assert abs(values['current_delay_from_realtime_ms']) < MAX_AGE_MS
    assert node.stop() == 0, node.output()
    assert 'Traceback' not in node.output()


def test_a_bag_played_without_its_clock_causes_a_warning_with_age_and_remedy(domain, family):
    diagnostics = domain.listen(DiagnosticArray, '/diagnostics')
    telemetry = domain.listen(Telemetry, '/old/classifier/telemetry')
    images = domain.node.create_publisher(Image, '/old/image_raw', 5)
    node = domain.start_classifier(family, 'old', max_frame_age_ms=MAX_AGE_MS)

    def feed():
        now = domain.node.get_clock().now().to_msg()
        stamp = Time(sec=now.sec - 3600, nanosec=now.nanosec)
        header = Header(stamp=stamp, frame_id='bag')
        images.publish(conversions.image_message(PIXELS, header, 'rgb8'))

    def is_warned():
        status = input_status(diagnostics, 'old')
        return status is not None and 'every image is dropped' in status[0]

    domain.wait_until(images.get_subscription_count, 'the subscription', TIMEOUT_S)
    domain.wait_until(is_warned, 'the warning', meanwhile=feed)
    message, values = input_status(diagnostics, 'old')
    assert 'every image is dropped, 3600' in message
    for remedy in ('raise max_frame_age_ms (500)', 'use_sim_time'):
        assert remedy in message
    assert values['dropped_for_age'] > 0
    assert telemetry.messages == []
    # The warning is logged once.
    domain.wait_until(
        lambda: 'every image is dropped, 3600' in node.output(), 'the line', meanwhile=feed
    )
    assert node.output().count('every image is dropped, 3600') == 1
    # The suggested change takes effect at once and ends the warning.
    assert domain.set_parameter('/old/classifier', 'max_frame_age_ms', 0.0).successful
    domain.wait_until(lambda: telemetry.last, 'telemetry', meanwhile=feed)
    domain.wait_until(lambda: not is_warned(), 'the end of the warning', meanwhile=feed)
    assert node.stop() == 0, node.output()


def test_classifiers_and_cameras_in_namespaces_do_not_mix(domain, family):
    names = ('front', 'rear')
    processes, labels = [], {}
    for name in names:
        labels[name] = domain.listen(Classification, f'/{name}/classification')
        processes.append(domain.start_classifier(family, name))
        processes.append(
            domain.start(
                'camera_node',
                {'rate_hz': 10.0, 'frame_id': name},
                arguments=('-r', f'__ns:=/{name}'),
            )
        )
    domain.wait_until(
        lambda: all(len(labels[name].messages) >= 10 for name in names), 'labels', TIMEOUT_S
    )
    for name in names:
        assert {message.header.frame_id for message in labels[name].messages} == {name}
    for process in processes:
        assert process.stop() == 0, process.output()
        assert 'Traceback' not in process.output()


def test_rates_by_stamp_restart_when_the_wall_clock_is_set_back():
    monitor = InputMonitor()
    steady_ns, wall_ns = 0, 2_000 * 10**9
    for step in range(40):
        if step == 20:
            wall_ns -= 3_600 * 10**9
        age_ms = monitor.add(steady_ns, wall_ns - 5_000_000, wall_ns)
        assert age_ms == pytest.approx(5.0)
        steady_ns += 50_000_000
        wall_ns += 50_000_000
    state = monitor.snapshot(steady_ns)
    assert state.rate_node_hz == pytest.approx(20.0)
    assert state.rate_msg_hz == pytest.approx(20.0)
    assert state.future_stamps == 0
    # A stamp from before the clock was set back is in the future, once.
    assert monitor.add(steady_ns, wall_ns + 3_600 * 10**9, wall_ns) < 0.0
    assert monitor.snapshot(steady_ns).future_stamps == 1
