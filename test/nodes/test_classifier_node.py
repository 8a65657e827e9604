"""classifier_node with simulated time and on two platforms; see also test_end_to_end.py."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from runtime_fakes import FakeEngine, make_profile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.msg import Telemetry
from dynamic_ofa_ros.nodes import classifier_node, conversions
from dynamic_ofa_ros.nodes.camera_node import CameraNode
from dynamic_ofa_ros.nodes.contention_node import ContentionNode
from dynamic_ofa_ros.nodes.diagnostics import Severity
from dynamic_ofa_ros.nodes.executors import MainExecutor
from dynamic_ofa_ros.runtime import assembly

PIXELS = np.zeros((48, 64, 3), np.uint8)


def image(sec, nanosec=0):
    header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id='camera')
    return conversions.image_message(PIXELS, header, 'rgb8')


def test_ages_follow_simulated_time_and_diagnostics_do_not_wait_for_it(domain, family):
    telemetry = domain.listen(Telemetry, '/sim/classifier/telemetry')
    diagnostics = domain.listen(DiagnosticArray, '/diagnostics')
    images = domain.node.create_publisher(Image, '/sim/image_raw', 5)
    clock = domain.node.create_publisher(Clock, '/clock', 5)
    classifier = domain.start_classifier(
        family, 'sim', use_sim_time=True, **{'telemetry.every_n': 2}
    )
    domain.wait_until(lambda: images.get_subscription_count(), 'the subscription', 60.0)

    def telemetry_of(message, meanwhile=lambda: None):
        def publish():
            meanwhile()
            images.publish(message)

        telemetry.messages.clear()
        domain.wait_until(
            lambda: [t for t in telemetry.messages if t.header == message.header],
            'telemetry',
            meanwhile=publish,
        )
        return telemetry.last

    # Without /clock, the time is zero, so the age is unknown, without a warning.
    assert math.isnan(telemetry_of(image(1000)).input_age_ms)
    tick = Clock(clock=Time(sec=1000, nanosec=500_000_000))
    domain.wait_until(
        lambda: telemetry.last.input_age_ms == pytest.approx(250.0),
        'the age by simulated time',
        meanwhile=lambda: telemetry_of(image(1000, 250_000_000), lambda: clock.publish(tick)),
    )
    # Telemetry of every second frame, starting with the first.
    assert all(t.sequence % 2 == 1 for t in telemetry.messages)
    count = len(diagnostics.messages)
    domain.wait_until(lambda: len(diagnostics.messages) >= count + 2, 'diagnostics')
    assert 'in the future' not in classifier.output()
    assert classifier.stop() == 0, classifier.output()


def test_two_classifiers_and_another_lifecycle_node_share_an_executor(domain, family):
    limits_ms = {'left': 2000.0, 'right': 3000.0}
    given = {'family': str(family), 'engine': 'onnxruntime', 'device': 'cpu'}
    classifiers = [
        classifier_node.ClassifierNode(
            name,
            namespace='/shared',
            context=domain.context,
            parameter_overrides=[
                Parameter(key, value=value)
                for key, value in (given | {'constraints.max_latency_ms': limit_ms}).items()
            ],
        )
        for name, limit_ms in limits_ms.items()
    ]
    other = LifecycleNode('other', context=domain.context)
    images = domain.node.create_publisher(Image, '/shared/image_raw', 5)
    telemetry = {name: domain.listen(Telemetry, f'/shared/{name}/telemetry') for name in limits_ms}
    executor = MainExecutor(context=domain.context)
    spinning = threading.Thread(target=executor.spin)
    for node in (*classifiers, other):
        executor.add_node(node)
    for node in classifiers:
        node.start()
    spinning.start()
    try:
        domain.wait_until(
            lambda: all(topic.messages for topic in telemetry.values()),
            'telemetry of both',
            60.0,
            lambda: images.publish(image(1000)),
        )
        assert {n: t.last.max_latency_ms for n, t in telemetry.items()} == limits_ms
        for name, transition in (('/shared/left', 'deactivate'), ('/other', 'configure')):
            request = ChangeState.Request(transition=Transition(label=transition))
            assert domain.call(ChangeState, f'{name}/change_state', request).success
        telemetry['right'].messages.clear()
        domain.wait_until(
            lambda: telemetry['right'].messages,
            'telemetry of the active one',
            meanwhile=lambda: images.publish(image(1000)),
        )
    finally:
        executor.shutdown()
        spinning.join()
        for node in classifiers:
            node.close()
        for node in (*classifiers, other):
            node.destroy_node()


@pytest.mark.parametrize('kind', [CameraNode, ContentionNode])
def test_camera_and_load_take_a_name_and_options_too(domain, kind):
    node = kind('other', namespace='/shared', context=domain.context)
    try:
        assert node.get_fully_qualified_name() == '/shared/other'
    finally:
        node.close()
        node.destroy_node()


LATENCIES_MS = {'cuda-fake': (5.0, 10.0), 'cpu-fake': (20.0, 40.0)}


@pytest.fixture
def node(domain, family, monkeypatch):
    """A node in this process, with two engines that are not real."""
    loaded = Family.load(family)
    classes = len(loaded.labels)
    monkeypatch.setattr(assembly.Family, 'load', lambda _: loaded)
    monkeypatch.setattr(
        assembly,
        'create_engines',
        lambda *_, **__: [FakeEngine(2, classes, platform=name) for name in LATENCIES_MS],
    )
    monkeypatch.setattr(
        assembly,
        'load_or_measure_profile',
        lambda engine, _: make_profile(LATENCIES_MS[engine.platform], engine.platform),
    )
    rclpy.init()
    made = classifier_node.ClassifierNode()
    yield made
    made.close()
    made.destroy_node()
    rclpy.try_shutdown()


def test_two_platforms_are_one_set_of_levels_for_every_policy(node):
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    for policy in ('reactive', 'fixed', 'table', 'predictive'):
        (accepted,) = node.set_parameters([Parameter('manager.policy', value=policy)])
        assert accepted.successful, policy
    (refused,) = node.set_parameters([Parameter('manager.fixed_level', value=3)])
    assert refused.reason == 'manager.fixed_level is 3; it must lie in [0, 2]'


@pytest.mark.parametrize(
    ('asked', 'name'),
    [
        (Transition(id=3), '3'),
        (Transition(id=99), '99'),
        (Transition(label='activate'), 'activate'),
    ],
)
def test_a_transition_that_is_not_possible_is_rejected_with_the_possible_ones(
    node, capfd, asked, name
):
    (service,) = (each for each in node.services if each.srv_type is ChangeState)
    response = service.callback(ChangeState.Request(transition=asked), ChangeState.Response())
    assert not response.success
    assert (
        f'transition rejected: {name} is not possible in the state unconfigured [1]; possible: '
        'configure [1], shutdown [5]'
    ) in ''.join(capfd.readouterr())


def test_another_node_of_the_same_name_is_warned_of(node, monkeypatch, capfd):
    warning = 'another node publishes on /classifier/telemetry'
    other = node.create_publisher(Telemetry, '~/telemetry', 10)
    node._on_diagnostics()  # perhaps a process that was killed
    assert warning not in ''.join(capfd.readouterr())
    monkeypatch.setattr(classifier_node, 'MAX_LEASE_S', 0.0)
    node._on_diagnostics()
    assert ''.join(capfd.readouterr()).count(warning) == 1
    node.destroy_publisher(other)
    node._on_diagnostics()
    assert warning not in ''.join(capfd.readouterr())


def test_all_counts_begin_again_when_the_node_is_configured_again(node):
    def problems():
        statuses = node._diagnostician.diagnose(node._snapshot(node._assembly))
        return [status.message for status in statuses if status.severity is not Severity.OK]

    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    node._input._on_message_lost(SimpleNamespace(total_count_change=3))
    node._input.monitor.add(1, 0, 1)
    assert len(problems()) == 1
    assert node._assembly.worker.lost_frames == 3
    assert node.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_cleanup() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert problems() == []
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    node._input._on_message_lost(SimpleNamespace(total_count_change=1))
    assert node._assembly.worker.lost_frames == 1
