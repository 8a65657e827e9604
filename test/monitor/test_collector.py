"""The monitor finds classifiers on a real ROS graph, and reads little of them without a page."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import rclpy
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from ros_harness import ros
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from dynamic_ofa_ros.monitor import collector as module
from dynamic_ofa_ros.monitor.collector import Collector
from dynamic_ofa_ros.monitor.parameter_client import MAX_PENDING, ParameterClient, problem_of
from dynamic_ofa_ros.monitor.records import FRAME_FIELDS, Records
from dynamic_ofa_ros.msg import ActiveLevel, LevelArray, Telemetry
from dynamic_ofa_ros.nodes import conversions, qos

NAN = math.nan
LIMIT = 'constraints.max_latency_ms'
IMAGES = '/camera/image_raw'
TIMEOUT_S = 20.0
PICTURE_RATE_HZ = 5.0
GAP_S = 0.015
ARRIVAL_S = 0.2
"""Time within which a message certainly arrives."""

TIME, LEVEL = FRAME_FIELDS.index('time_s'), FRAME_FIELDS.index('level')

# A service warns if it has not discovered its client yet; the collector repeats the request.
pytestmark = pytest.mark.filterwarnings('ignore:failed to send response:RuntimeWarning')


class Classifier:
    """A node with the topics and parameters of a classifier, controlled by the test."""

    def __init__(self, graph, name, images):
        self._graph = graph
        self.node = rclpy.create_node(name, context=graph.context, namespace='/robot')
        graph.executor.add_node(self.node)
        self.telemetry = self.node.create_publisher(Telemetry, '~/telemetry', qos.TELEMETRY)
        self.levels = self.node.create_publisher(LevelArray, '~/levels', qos.LATCHED)
        self.active = self.node.create_publisher(ActiveLevel, '~/active_level', qos.LATCHED)
        self.node.create_subscription(Image, images, lambda message: None, 1)
        descriptor = ParameterDescriptor(
            description='a limit',
            floating_point_range=[FloatingPointRange(from_value=0.0, to_value=100.0)],
        )
        self.node.declare_parameter(LIMIT, 5.0, descriptor)
        choice = ParameterDescriptor(additional_constraints='One of: table, fixed')
        self.node.declare_parameter('manager.policy', 'table', choice)
        self.node.declare_parameter('family', 'signs', ParameterDescriptor(read_only=True))
        self.node.declare_parameter('weights', [1.0, 2.0])
        self.node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, parameters):
        is_good = all(p.name != 'manager.policy' or p.value == 'fixed' for p in parameters)
        return SetParametersResult(successful=is_good, reason='' if is_good else 'only fixed')

    def close(self):
        self._graph.executor.remove_node(self.node)
        self.node.destroy_node()


class Graph:
    """A domain with the monitor's collector, spun by the test."""

    def __init__(self, session):
        self.context = session.context
        self.executor = SingleThreadedExecutor(context=session.context)
        self.node = rclpy.create_node('monitor', context=session.context)
        self.executor.add_node(self.node)
        self.records = Records()
        self.collector = Collector(self.node, self.records, 64, PICTURE_RATE_HZ)
        self.classifiers = []

    def add(self, name, images=IMAGES):
        self.classifiers.append(Classifier(self, name, images))
        return self.classifiers[-1]

    def record(self, name):
        return next(
            (r for r in self.records._records.values() if r.name == f'/robot/{name}'), None
        )

    def wait_until(self, condition, meanwhile=lambda: None):
        deadline_s = time.monotonic() + TIMEOUT_S
        while not (found := condition()):
            assert time.monotonic() < deadline_s
            meanwhile()
            self.executor.spin_once(timeout_sec=0.02)
        return found

    def all_subscriptions(self):
        return [subscription.topic_name for subscription in self.node.subscriptions]

    def subscriptions(self):
        return set(self.all_subscriptions())

    def set(self, *arguments):
        """Set a parameter; return the answer."""
        answers = []
        self.collector.set_parameter(*arguments, lambda *answer: answers.append(answer))
        self.wait_until(lambda: answers)
        return answers[0]

    def close(self):
        self.collector.close()
        for classifier in self.classifiers:
            classifier.close()
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture(scope='module')
def session(tmp_path_factory):
    with ros(tmp_path_factory.mktemp('ros')) as found:
        yield found


@pytest.fixture
def graph(session, monkeypatch):
    monkeypatch.setattr(module, 'IDLE_DISCOVERY_PERIOD_S', 0.2)
    found = Graph(session)
    yield found
    found.close()


def test_without_a_page_only_levels_and_switches_are_read(graph):
    classifier = graph.add('quiet')
    classifier.active.publish(ActiveLevel(to_level=3, reason='start'))
    graph.wait_until(lambda: graph.record('quiet') and graph.record('quiet').switches)
    topics = {'/robot/quiet/levels', '/robot/quiet/active_level'}
    assert {t for t in graph.subscriptions() if t.startswith('/robot')} == topics
    assert IMAGES not in graph.subscriptions()
    graph.collector.set_watching(True)
    graph.wait_until(lambda: {IMAGES, '/robot/quiet/telemetry'} <= graph.subscriptions())
    graph.wait_until(lambda: graph.record('quiet').parameters)
    graph.collector.set_watching(False)
    graph.wait_until(lambda: IMAGES not in graph.subscriptions())
    assert {t for t in graph.subscriptions() if t.startswith('/robot')} == topics


def test_opening_and_closing_a_page_leaves_no_entities(graph):
    graph.add('often')
    graph.wait_until(lambda: graph.record('often'))
    counts = set()
    for _ in range(3):
        graph.collector.set_watching(True)
        graph.wait_until(lambda: IMAGES in graph.subscriptions())
        graph.collector.set_watching(False)
        graph.wait_until(lambda: IMAGES not in graph.subscriptions())
        entities = (graph.node.subscriptions, graph.node.clients, graph.node.timers)
        counts.add(tuple(len(list(kind)) for kind in entities))
    assert len(list(graph.node.clients)) == 4
    assert len(counts) == 1


def test_telemetry_with_nan_and_pictures_reach_the_record(graph):
    classifier = graph.add('busy')
    image = conversions.image_message(np.full((60, 80, 3), 90, np.uint8), Header(), 'rgb8')
    damaged = Image(width=9999, height=9999, encoding='rgb8', step=1)
    images = classifier.node.create_publisher(Image, IMAGES, qos_profile_sensor_data)

    def publish():
        classifier.telemetry.publish(Telemetry(slowdown=NAN, max_latency_ms=NAN, level=2))
        images.publish(damaged)
        images.publish(image)

    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.record('busy'))
    record = graph.record('busy')
    ((picture, answers),) = graph.wait_until(
        lambda: record.frames and graph.records.pictures(1), publish
    )
    assert picture.jpeg.startswith(b'\xff\xd8')
    assert answers['/robot/busy']['level'] == 2
    entries = {entry['name']: entry for entry in graph.records.update({})}
    assert entries['/robot/busy']['latest']['slowdown'] is None


def test_telemetry_between_two_readings_keeps_its_order_and_distance(graph):
    classifier = graph.add('steady')
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.record('steady'))
    record = graph.record('steady')
    graph.wait_until(
        lambda: record.frames, lambda: classifier.telemetry.publish(Telemetry(slowdown=1.0))
    )
    graph.wait_until(lambda: not graph.collector._watches[record.name]._telemetry.take_all())
    count, begin_s = record.frame_count, time.time()
    for level in range(1, 6):
        classifier.telemetry.publish(Telemetry(level=level))
        time.sleep(GAP_S)
    graph.wait_until(lambda: record.frame_count == count + 5)
    frames = list(record.frames)[-5:]
    assert [frame[LEVEL] for frame in frames] == [1, 2, 3, 4, 5]
    times_s = [frame[TIME] for frame in frames]
    assert begin_s < times_s[0]
    assert times_s[-1] <= time.time() + 1e-3  # rounded to ms
    gaps_s = np.diff(times_s)
    assert (gaps_s >= 0.9 * GAP_S).all()
    assert gaps_s.sum() < 4 * GAP_S + (time.time() - begin_s - 5 * GAP_S)


def test_of_a_classifier_outside_the_windows_only_the_newest_telemetry_is_read(graph):
    classifier = graph.add('hidden')
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.record('hidden'))
    record = graph.record('hidden')
    graph.wait_until(
        lambda: record.frames, lambda: classifier.telemetry.publish(Telemetry(slowdown=1.0))
    )
    watch = graph.collector._watches[record.name]
    graph.wait_until(lambda: not watch._telemetry.take_all())
    for shown, expected in ((frozenset(), [5]), (frozenset([record.name]), [1, 2, 3, 4, 5])):
        graph.records.shown = shown
        count = record.frame_count
        for level in range(1, 6):
            classifier.telemetry.publish(Telemetry(level=level))
        time.sleep(ARRIVAL_S)
        watch.take_telemetry()
        frames = list(record.frames)[count - record.frame_count :]
        assert [frame[LEVEL] for frame in frames] == expected


def test_images_that_no_window_shows_are_not_read(graph):
    graph.add('unseen')
    image = conversions.image_message(np.full((60, 80, 3), 90, np.uint8), Header(), 'rgb8')
    publisher = graph.classifiers[0].node.create_publisher(Image, IMAGES, qos_profile_sensor_data)
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.records.pictures(0), lambda: publisher.publish(image))
    graph.records.shown = frozenset()
    graph.wait_until(lambda: graph.collector._cameras[IMAGES].stamp is None)
    last = graph.records.pictures(0)[0][0].number
    until_s = time.monotonic() + 5.0 / PICTURE_RATE_HZ
    graph.wait_until(lambda: time.monotonic() > until_s, lambda: publisher.publish(image))
    assert not graph.records.pictures(last)
    graph.records.shown = frozenset(['/robot/unseen'])
    graph.wait_until(lambda: graph.records.pictures(last), lambda: publisher.publish(image))


def test_classifiers_of_one_camera_share_its_picture_and_cameras_take_turns(graph):
    for name, images in (('left', IMAGES), ('right', IMAGES), ('rear', '/rear')):
        graph.add(name, images)
    node = graph.classifiers[0].node
    image = conversions.image_message(np.full((60, 80, 3), 90, np.uint8), Header(), 'rgb8')
    publishers = [
        node.create_publisher(Image, topic, qos_profile_sensor_data) for topic in (IMAGES, '/rear')
    ]
    graph.collector.set_watching(True)
    cameras = graph.collector._cameras
    graph.wait_until(lambda: set(cameras) == {IMAGES, '/rear'})
    found = []

    def publish():
        for publisher in publishers:
            publisher.publish(image)
        for picture, answers in graph.records.pictures(found[-1][0] if found else 0):
            found.append((picture.number, sorted(answers)))

    graph.wait_until(lambda: len(found) >= 8, publish)
    topics = [answers for _, answers in found[2:]]
    pair, rear = ['/robot/left', '/robot/right'], ['/robot/rear']
    assert topics == [pair, rear] * 3 or topics == [rear, pair] * 3
    assert sum(topic == IMAGES for topic in graph.all_subscriptions()) == 1


def test_a_silent_camera_does_not_delay_the_others(graph):
    for name, images in (('seen', IMAGES), ('blind', '/nothing')):
        graph.add(name, images)
    image = conversions.image_message(np.full((60, 80, 3), 90, np.uint8), Header(), 'rgb8')
    publisher = graph.classifiers[0].node.create_publisher(Image, IMAGES, qos_profile_sensor_data)
    graph.collector.set_watching(True)
    graph.wait_until(lambda: len(graph.collector._cameras) == 2)
    graph.wait_until(lambda: graph.records.pictures(0), lambda: publisher.publish(image))
    first, begin_s = graph.records.pictures(0)[0][0].number, time.monotonic()
    graph.wait_until(lambda: graph.records.pictures(first + 9), lambda: publisher.publish(image))
    assert time.monotonic() - begin_s < 1.5 * 10 / PICTURE_RATE_HZ


def test_a_page_does_not_show_the_last_picture_of_the_previous_page(graph):
    graph.add('old')
    image = conversions.image_message(np.full((60, 80, 3), 90, np.uint8), Header(), 'rgb8')
    publisher = graph.classifiers[0].node.create_publisher(Image, IMAGES, qos_profile_sensor_data)
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.records.pictures(0), lambda: publisher.publish(image))
    graph.collector.set_watching(False)
    graph.wait_until(lambda: not graph.records.pictures(0))


def test_parameters_are_found_and_set_or_rejected_with_the_reason_of_the_node(graph):
    classifier = graph.add('steered')
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.record('steered') and graph.record('steered').parameters)
    record, name = graph.record('steered'), '/robot/steered'
    limit = record.parameters[LIMIT]
    assert (limit['kind'], limit['value'], limit['highest']) == ('float', 5.0, 100.0)
    assert record.parameters['manager.policy']['choices'] == ['table', 'fixed']
    assert {'family', 'weights', 'use_sim_time'}.isdisjoint(record.parameters)
    assert graph.set(name, LIMIT, 7) == (True, '')
    assert classifier.node.get_parameter(LIMIT).value == 7.0
    graph.wait_until(lambda: record.parameters[LIMIT]['value'] == 7.0)
    assert graph.set(name, 'manager.policy', 'table') == (False, 'only fixed')
    is_taken, reason = graph.set(name, LIMIT, 101.0)
    assert not is_taken
    assert LIMIT in reason
    assert graph.set(name, LIMIT, 'fast') == (False, f'{LIMIT} must be a number')
    for parameter in ('family', 'nothing', 'use_sim_time'):
        assert not graph.set(name, parameter, 'x')[0]
    assert not graph.set('/somebody', LIMIT, 1.0)[0]
    assert classifier.node.get_parameter(LIMIT).value == 7.0


def test_too_many_changes_at_once_are_rejected(graph):
    graph.add('flooded')
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.record('flooded') and graph.record('flooded').parameters)
    answers = []
    for _ in range(3 * MAX_PENDING):
        graph.collector.set_parameter(
            '/robot/flooded', LIMIT, 1.0, lambda *answer: answers.append(answer)
        )
    graph.wait_until(lambda: len(answers) == 3 * MAX_PENDING)
    assert answers.count((False, 'too many changes at once')) == 2 * MAX_PENDING
    assert answers.count((True, '')) == MAX_PENDING


def test_a_stopped_classifier_is_marked_may_return_and_is_removed_after_a_time(graph, monkeypatch):
    classifier = graph.add('fickle')
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.record('fickle') and graph.record('fickle').parameters)
    record = graph.record('fickle')
    graph.classifiers.remove(classifier)
    classifier.close()
    graph.wait_until(lambda: not record.is_alive)
    again = graph.add('fickle')
    again.node.set_parameters([rclpy.parameter.Parameter(LIMIT, value=9.0)])
    graph.wait_until(lambda: record.is_alive)
    graph.wait_until(lambda: record.parameters[LIMIT]['value'] == 9.0)
    graph.wait_until(
        lambda: record.frames, lambda: again.telemetry.publish(Telemetry(slowdown=1.0))
    )
    graph.classifiers.remove(again)
    again.close()
    graph.wait_until(lambda: not record.is_alive)
    monkeypatch.setattr(module, 'FORGET_AFTER_S', 0.0)
    graph.wait_until(lambda: graph.record('fickle') is None)
    assert not [t for t in graph.subscriptions() if 'fickle' in t]


def test_the_parameters_of_a_classifier_that_was_restarted_at_once_are_read_again(graph):
    killed = graph.add('restarted')
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.record('restarted') and graph.record('restarted').parameters)
    record = graph.record('restarted')
    # The middleware keeps a killed process in the graph until its lease ends.
    again = graph.add('restarted')
    graph.wait_until(lambda: len(graph.collector._watches['/robot/restarted'].publishers) == 2)
    with graph.records.lock:
        record.parameters[LIMIT]['value'] = 77.0  # of the killed process
    graph.classifiers.remove(killed)
    killed.close()
    graph.wait_until(lambda: record.parameters[LIMIT]['value'] == 5.0)
    assert record.is_alive
    assert again.node.get_parameter(LIMIT).value == 5.0


def test_parameters_that_became_lists_are_not_shown(graph):
    classifier = graph.add('strange')
    classifier.node.declare_parameter('x', 1.0, ParameterDescriptor(dynamic_typing=True))
    graph.collector.set_watching(True)
    graph.wait_until(lambda: graph.record('strange') and graph.record('strange').parameters)
    record = graph.record('strange')
    for value in ([1.0, 2.0], 3.0):
        classifier.node.set_parameters([rclpy.parameter.Parameter('x', value=value)])
    graph.wait_until(lambda: record.parameters['x']['value'] == 3.0)
    classifier.node.set_parameters([rclpy.parameter.Parameter('x', value=[1.0, 2.0])])
    classifier.node.set_parameters([rclpy.parameter.Parameter(LIMIT, value=8.0)])
    graph.wait_until(lambda: record.parameters[LIMIT]['value'] == 8.0)
    json.dumps(graph.records.update({}), allow_nan=False)


def test_a_parameter_that_disappears_while_parameters_are_read_ends_nothing(graph, monkeypatch):
    client = ParameterClient(graph.node, '/robot/nobody', lambda found: pytest.fail('incomplete'))
    finish = []
    monkeypatch.setattr(client, '_call', lambda _, request, done: finish.append(done))
    client._on_descriptors([ParameterDescriptor(name='x'), ParameterDescriptor(name='y')])
    client._is_asked = True
    finish[0](GetParameters.Response(values=[]))
    assert not client._is_asked  # so that they are read again
    client.close()


def test_the_number_of_watched_classifiers_is_limited(graph, monkeypatch, capfd):
    monkeypatch.setattr(module, 'MAX_CLASSIFIERS', 1)
    first = graph.add('first')
    graph.wait_until(lambda: graph.record('first'))
    graph.add('surplus')
    graph.wait_until(
        lambda: any('surplus' in name for name, _ in graph.node.get_topic_names_and_types())
    )
    for _ in range(3):
        graph.collector.discover()
    assert len(graph.records) == 1
    assert graph.records.left_out == 1
    warning = 'classifier /robot/surplus is not shown: the page shows at most 1'
    assert ''.join(capfd.readouterr()).count(warning) == 1
    graph.classifiers.remove(first)
    first.close()
    graph.wait_until(lambda: graph.record('surplus'))
    assert len(graph.records) == 1
    assert graph.records.left_out == 0


@pytest.mark.parametrize(
    ('kind', 'value', 'is_fit'),
    [
        ('bool', True, True), ('bool', 1, False), ('int', 3, True), ('int', 3.0, False),
        ('int', True, False), ('int', 2**70, False), ('float', 1, True), ('float', 1.5, True),
        ('float', NAN, False), ('float', math.inf, False), ('float', 10**400, False),
        ('float', '1', False), ('float', None, False), ('str', 'x', True), ('str', 1, False),
        ('str', 'x' * 1000, False), ('str', ['x'], False), ('str', '\ud800', False),
    ],
)  # fmt: skip
def test_values_of_the_wrong_type_are_never_sent(kind, value, is_fit):
    assert (problem_of({'name': 'p', 'kind': kind}, value) == '') is is_fit


def test_a_publisher_of_an_undiscovered_node_is_left_out(graph, monkeypatch):
    graph.add('early')
    graph.wait_until(graph.collector._publishers)
    node = graph.collector._node
    publishers = node.get_publishers_info_by_topic

    def undiscovered(topic):
        found = publishers(topic)
        for info in found:
            info.node_name = '_NODE_NAME_UNKNOWN_'
            info.node_namespace = '_NODE_NAMESPACE_UNKNOWN_'
        return found

    monkeypatch.setattr(node, 'get_publishers_info_by_topic', undiscovered)
    assert graph.collector._publishers() == {}
