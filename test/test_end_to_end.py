"""End-to-end tests with real processes, transport and images; there are no fakes."""

from __future__ import annotations

import array
import itertools
import math
import os
import shutil
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from programs import DEADLINE_S
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import Ros, Topic, ros
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from vision_msgs.msg import Classification, LabelInfo

from dynamic_ofa_ros.family import families_directory
from dynamic_ofa_ros.msg import ActiveLevel, Constraints, LevelArray, Telemetry
from dynamic_ofa_ros.nodes import conversions, qos
from dynamic_ofa_ros.recordings.bag import Bag
from dynamic_ofa_ros.recordings.comparison import summary
from dynamic_ofa_ros.recordings.messages import stamp_of
from dynamic_ofa_ros.recordings.reading import read

NAN = math.nan
NODE = '/robot/classifier'
CAMERA_NODE = '/robot/camera'
# Below the load's priority, so that contention costs the classifier more than its fair share.
CLASSIFIER_NICE = 5
LOAD_WORKERS = 4
CONTENTION_WINDOW = 30
REASONS_DOWN = {'reactive': 'exceeds the limit', 'predictive': 'predicted'}
# The reactive policy moves up one level at a time, and a single slow frame can move it down again.
CLIMB_TIMEOUT_S = 90.0
LOAD_TIMEOUT_S = 60.0
START_TIMEOUT_S = 90.0
NUMBERS = itertools.count()
IN_NAMESPACE = ('-r', '__ns:=/robot')
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class System:
    """The classifier as a process, and its messages."""

    def __init__(self, session: Ros, family: str) -> None:
        self.ros = session
        self.family = family
        self.telemetry = session.listen(Telemetry, f'{NODE}/telemetry', 50)
        self.labels = session.listen(Classification, '/robot/classification', 50)
        self.switches = session.listen(ActiveLevel, f'{NODE}/active_level', qos.LATCHED)
        self.levels = session.listen(LevelArray, f'{NODE}/levels', qos.LATCHED)
        self.label_info = session.listen(LabelInfo, '/robot/label_info', qos.LATCHED)
        self.diagnostics = session.listen(DiagnosticArray, '/diagnostics', 50)
        self.images = session.node.create_publisher(Image, '/robot/image_raw', 10)
        self.constraints = session.node.create_publisher(Constraints, f'{NODE}/constraints', 1)
        self.classifier = session.start(
            'classifier_node',
            {'family': family, 'engine': 'onnxruntime', 'device': 'cpu'},
            arguments=IN_NAMESPACE,
        )
        session.wait_until(lambda: self.levels.last, 'the levels', START_TIMEOUT_S)
        session.wait_until(
            lambda: self.images.get_subscription_count() == 1, 'the image subscription'
        )

    @property
    def top_level(self) -> int:
        return len(self.levels.last.levels)

    def publish(self, message: Any) -> None:
        self.images.publish(message)

    def feed(self) -> None:
        """Publish an image; called in a loop at a higher rate than that of the classifier."""
        self.publish(small_image(self.ros.node.get_clock().now().to_msg()))

    def answer_to(self, message: Any) -> Any:
        """Publish an image until its label arrives; with best effort, images may be lost."""

        def answers() -> list[Any]:
            return [label for label in self.labels.messages if label.header == message.header]

        self.publish(message)
        return self.ros.wait_until(
            answers, f'the label of {message.header}', meanwhile=lambda: self.publish(message)
        )[0]

    def wait_for_telemetry(
        self, condition: Callable[[Any], bool], what: str, timeout_s: float = DEADLINE_S
    ) -> Any:
        """Publish images until new telemetry meets the condition; return that telemetry."""
        start = len(self.telemetry.messages)
        return self.ros.wait_until(
            lambda: next(filter(condition, self.telemetry.messages[start:]), None),
            what,
            timeout_s,
            meanwhile=self.feed,
        )

    def telemetry_of(self, message: Any) -> Any:
        """Return the newest telemetry of an image, which arrives after its label."""
        return self.ros.wait_until(
            lambda: [t for t in self.telemetry.messages if t.header == message.header],
            f'the telemetry of {message.header}',
        )[-1]

    def next_telemetry(self, count: int = 1) -> list[Any]:
        """Publish images until a number of telemetry messages have arrived; return them."""
        start = len(self.telemetry.messages)
        self.ros.wait_until(
            lambda: len(self.telemetry.messages) >= start + count, 'telemetry', meanwhile=self.feed
        )
        return self.telemetry.messages[start : start + count]

    def diagnostic(self, task: str) -> dict[str, float]:
        """Return the values of a task in the latest diagnostics."""
        for message in reversed(self.diagnostics.messages):
            for status in message.status:
                if status.name == f'{NODE.strip("/")}: {task}':
                    return {item.key: float(item.value) for item in status.values}
        return {}

    def set(self, name: str, value: Any) -> Any:
        return self.ros.set_parameter(NODE, name, value)

    def free(self) -> None:
        """Remove the constraints and wait until that takes effect."""
        for name in ('constraints.max_latency_ms', 'constraints.min_accuracy'):
            assert self.set(name, 0.0).successful
        self.wait_for_telemetry(
            lambda t: t.level == self.top_level and math.isnan(t.max_latency_ms),
            'the top level without constraints',
            CLIMB_TIMEOUT_S,
        )


def random_pixels(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def a_stamp() -> Any:
    """Return a unique stamp, so that labels can be assigned to images."""
    return Time(sec=3000 + next(NUMBERS))


def small_image(stamp: Any) -> Any:
    return conversions.image_message(
        random_pixels(0, 48, 64), Header(stamp=stamp, frame_id='small'), 'rgb8'
    )


@pytest.fixture(scope='module')
def system(tmp_path_factory):
    folder = tmp_path_factory.mktemp('end_to_end')
    with ros(folder) as session:
        running = System(session, 'signs')
        yield running
        # After all tests, the process must end cleanly.
        assert running.classifier.stop(signal.SIGINT) == 0, running.classifier.output()
        assert 'Traceback' not in running.classifier.output()


def test_header_is_copied_byte_for_byte(system):
    header = Header(stamp=Time(sec=1234, nanosec=56789), frame_id='odd frame/näme')
    message = conversions.image_message(random_pixels(1, 60, 80), header, 'rgb8')
    answer = system.answer_to(message)
    assert answer.header.stamp.sec == 1234
    assert answer.header.stamp.nanosec == 56789
    assert answer.header.frame_id == 'odd frame/näme'
    scores = [result.score for result in answer.results]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)


def test_labels_over_the_wire_are_those_of_the_runtime(system):
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.classifier import Classifier
    from dynamic_ofa_ros.runtime.engine import create_engine

    family = Family.load(system.family)
    classifier = Classifier(family, create_engine(family, device='cpu', engine='onnxruntime'))
    system.free()
    for seed in range(5):
        pixels = random_pixels(seed, 120, 160)
        header = Header(stamp=Time(sec=2000 + seed), frame_id='camera')
        message = conversions.image_message(pixels, header, 'bgr8')
        expected = classifier.classify(pixels)
        found = system.answer_to(message).results
        assert [int(result.class_id) for result in found] == [s.class_id for s in expected.scores]
        assert found[0].score == pytest.approx(expected.scores[0].score, abs=1e-6)
    names = {entry.class_id: entry.class_name for entry in system.label_info.last.class_map}
    assert [names[index] for index in sorted(names)] == list(family.labels)


def test_telemetry_is_complete(system):
    system.free()
    telemetry = system.next_telemetry(3)[-1]
    level = system.levels.last.levels[telemetry.level - 1]
    assert telemetry.level_count == system.top_level
    assert telemetry.level_accuracy == pytest.approx(level.accuracy)
    assert telemetry.level_latency_ms == pytest.approx(level.latency_ms)
    assert 0.0 < telemetry.inference_ms < telemetry.processing_ms < telemetry.node_ms
    assert telemetry.node_ms < telemetry.end_to_end_ms
    assert telemetry.executor_wait_ms >= 0.0
    assert telemetry.platform == system.levels.last.platform
    assert telemetry.lost_frames == telemetry.failed_frames == 0
    assert telemetry.queue_wait_ms >= 0.0
    assert 0.0 < telemetry.input_age_ms < 5000.0
    assert telemetry.throughput_hz > 0.0
    assert telemetry.policy == system.ros.get_parameter(NODE, 'manager.policy')
    assert math.isnan(telemetry.max_latency_ms)
    assert telemetry.top1_label


def test_parameter_is_set_live(system):
    assert system.set('constraints.max_latency_ms', 123.5).successful
    system.wait_for_telemetry(lambda t: t.max_latency_ms == 123.5, 'the limit')
    system.free()


def test_integer_is_accepted_for_a_double(system):
    result = system.set('constraints.max_latency_ms', 77)
    assert result.successful, result.reason
    assert float(system.ros.get_parameter(NODE, 'constraints.max_latency_ms')) == 77.0
    system.wait_for_telemetry(lambda t: t.max_latency_ms == 77.0, 'the limit')
    system.free()


@pytest.mark.parametrize(
    ('name', 'value', 'named'),
    [
        ('constraints.max_latency_ms', -1.0, '10000'),
        ('constraints.max_latency_ms', NAN, '10000'),
        ('constraints.max_latency_ms', 1e9, '10000'),
        ('constraints.max_latency_ms', math.inf, '10000'),
        ('constraints.min_accuracy', 1.5, '1'),
        ('constraints.latency_scope', 'yesterday', 'inference, node, end_to_end'),
        ('manager.policy', 'clairvoyant', 'reactive'),
        ('manager.fixed_level', 99, ''),
        ('top_k', 0, '1000'),
    ],
)
def test_invalid_parameter_is_rejected_with_the_reason(system, name, value, named):
    before = system.ros.get_parameter(NODE, name)
    result = system.set(name, value)
    assert not result.successful
    assert name in result.reason
    assert named in result.reason
    assert system.ros.get_parameter(NODE, name) == before


def test_read_only_parameter_is_rejected(system):
    result = system.set('threads', 2)
    assert not result.successful
    assert 'read-only' in result.reason.lower()


@pytest.fixture
def by_the_table(system):
    """The policy `table`, whose choice depends only on the constraints and the profile."""
    before = system.ros.get_parameter(NODE, 'manager.policy')
    assert system.set('manager.policy', 'table').successful
    yield
    system.free()
    assert system.set('manager.policy', before).successful


def test_constraints_message_takes_effect(system, by_the_table):
    # Level 1 may not be the fastest, because the machine may have been busy when it was measured.
    limit_ms = 1.001 * min(level.latency_ms for level in system.levels.last.levels)
    within = [level for level in system.levels.last.levels if level.latency_ms <= limit_ms]
    wanted = max(within, key=lambda level: level.accuracy)
    message = Constraints(max_latency_ms=limit_ms, min_accuracy=NAN, source='the tester')
    system.ros.wait_until(
        lambda: system.constraints.get_subscription_count() == 1, 'the constraints subscription'
    )
    system.constraints.publish(message)
    telemetry = system.wait_for_telemetry(
        lambda t: t.level == wanted.index and t.max_latency_ms == pytest.approx(limit_ms),
        'the most accurate level within the limit',
    )
    assert math.isnan(telemetry.min_accuracy)
    parameter = system.ros.get_parameter(NODE, 'constraints.max_latency_ms')
    assert parameter == pytest.approx(limit_ms)
    if wanted.index != system.top_level:
        switch = system.ros.wait_until(
            lambda: [m for m in system.switches.messages if 'the tester' in m.reason],
            'the switch to that level',
        )[-1]
        assert (switch.to_level, switch.to_name) == (wanted.index, wanted.name)
    # An omitted field leaves a constraint unchanged; a negative number removes it.
    system.constraints.publish(Constraints())
    system.constraints.publish(Constraints(min_accuracy=0.001))
    after = system.wait_for_telemetry(lambda t: t.min_accuracy > 0.0, 'the lower limit')
    assert after.max_latency_ms == pytest.approx(limit_ms)
    system.constraints.publish(Constraints(min_accuracy=-1.0))
    after = system.wait_for_telemetry(lambda t: math.isnan(t.min_accuracy), 'no lower limit')
    assert after.max_latency_ms == pytest.approx(limit_ms)
    system.constraints.publish(Constraints(max_latency_ms=-1.0))
    system.wait_for_telemetry(lambda t: math.isnan(t.max_latency_ms), 'no limit')


@pytest.mark.parametrize(
    ('max_latency_ms', 'min_accuracy'),
    [(1e12, NAN), (math.inf, NAN), (50.0, 2.0), (NAN, 1.5), (-1.0, 7.0)],
)
def test_invalid_constraints_message_is_rejected_completely(system, max_latency_ms, min_accuracy):
    def rejected() -> float:
        return system.diagnostic('Runtime manager').get('rejected_constraints', NAN)

    system.ros.wait_until(lambda: rejected() >= 0.0, 'diagnostics')
    before = rejected()
    names = ('constraints.max_latency_ms', 'constraints.min_accuracy')
    constraints = [system.ros.get_parameter(NODE, name) for name in names]
    system.constraints.publish(
        Constraints(max_latency_ms=max_latency_ms, min_accuracy=min_accuracy, source='fo\nol')
    )
    system.ros.wait_until(lambda: rejected() == before + 1, 'the rejection in the diagnostics')
    assert [system.ros.get_parameter(NODE, name) for name in names] == constraints
    assert 'constraints from fo?ol were rejected' in system.classifier.output()


BAD_IMAGES = {
    'step': {'step': 64 * 3 - 1},
    'buffer': {'data': array.array('B', bytes(100))},
    'size': {'width': 0, 'height': 0},
    'encoding': {'encoding': 'smell-o-vision'},
}


@pytest.mark.parametrize('cause', sorted(BAD_IMAGES))
def test_malformed_image_is_rejected_and_counted_by_cause(system, cause):
    def rejected() -> float:
        return system.diagnostic('Input').get(f'rejected_{cause}', NAN)

    system.ros.wait_until(lambda: rejected() >= 0.0, 'diagnostics')
    before = rejected()
    message = small_image(a_stamp())
    for name, value in BAD_IMAGES[cause].items():
        setattr(message, name, value)
    system.publish(message)
    system.ros.wait_until(lambda: rejected() > before, f'a rejected image by {cause}')
    said = 'smell-o-vision' if cause == 'encoding' else f'image not classified ({cause}'
    system.ros.wait_until(lambda: said in system.classifier.output(), 'the line in the log')
    reason = 'smell-o-vision' if cause == 'encoding' else '1 image(s) rejected: '
    messages = [status.message for m in system.diagnostics.messages for status in m.status]
    assert any(reason in text for text in messages)
    good = small_image(a_stamp())
    assert system.answer_to(good).results
    assert system.telemetry_of(good).rejected_frames >= before + 1


def test_enable_stops_and_resumes(system):
    answer = system.ros.call(SetBool, f'{NODE}/enable', SetBool.Request(data=False))
    assert answer.success
    assert answer.message
    assert system.ros.get_parameter(NODE, 'enabled') is False
    ticks = len(system.diagnostics.messages)
    unwanted = small_image(a_stamp())
    # The label would arrive before two more diagnostics, which are published once per second.
    system.ros.wait_until(
        lambda: len(system.diagnostics.messages) >= ticks + 2,
        'diagnostics',
        meanwhile=lambda: system.publish(unwanted),
    )
    assert unwanted.header not in [label.header for label in system.labels.messages]
    assert system.ros.call(SetBool, f'{NODE}/enable', SetBool.Request(data=True)).success
    assert system.next_telemetry()


def test_stamps_of_zero_and_of_the_future(system):
    unstamped = small_image(Time())
    system.answer_to(unstamped)
    assert math.isnan(system.telemetry_of(unstamped).input_age_ms)
    system.ros.wait_until(
        lambda: 'images have no stamp' in system.classifier.output(), 'the warning'
    )
    future = system.ros.node.get_clock().now().to_msg()
    future.sec += 100
    message = small_image(future)
    assert system.answer_to(message).header == message.header
    system.ros.wait_until(lambda: 'in the future' in system.classifier.output(), 'the warning')


def test_camera_is_labelled_better_than_by_chance(system):
    """Camera, classifier and test are three processes; true classes are on a separate topic."""
    system.free()
    truths = system.ros.listen(Classification, '/robot/ground_truth', 50)
    names = system.ros.listen(LabelInfo, '/robot/ground_truth/label_info', qos.LATCHED)
    images = system.ros.listen(Image, '/robot/image_raw', BEST_EFFORT)
    system.labels.messages.clear()
    camera = system.ros.start(
        'camera_node', {'scene_period_s': 0.0, 'rate_hz': 25}, arguments=IN_NAMESPACE
    )
    wanted = 60
    system.ros.wait_until(lambda: len(matched(system.labels, truths)) >= wanted, 'labels', 90.0)
    pairs = matched(system.labels, truths)
    assert camera.stop(signal.SIGTERM) == 0, camera.output()
    assert len(names.last.class_map) >= 16
    assert (images.last.width, images.last.height) == (640, 480)
    assert images.last.header.frame_id == 'camera_optical_frame'
    right = sum(label == truth for label, truth in pairs) / len(pairs)
    assert right > 0.7
    assert len({truth for _, truth in pairs}) >= 16


def test_a_recording_contains_the_topics_and_fields_of_the_layouts(system, tmp_path):
    """The bag contains all topics of camera and classifier, with schemas for plotting tools."""
    system.free()
    recorder = system.ros.record(tmp_path / 'bag')
    camera = system.ros.start('camera_node', {'rate_hz': 25}, arguments=IN_NAMESPACE)
    topics = [f'{NODE}/telemetry', '/robot/debug_image', '/robot/ground_truth', '/diagnostics']
    system.ros.wait_until(
        lambda: all(f"topic '{topic}'" in recorder.output() for topic in topics),
        'the recorder',
        START_TIMEOUT_S,
    )
    told = len(system.telemetry.messages) + 40
    system.ros.wait_until(lambda: len(system.telemetry.messages) > told, 'telemetry')
    assert recorder.stop() == 0, recorder.output()
    assert camera.stop() == 0

    paths = {*layouts.plotjuggler_paths(), *layouts.foxglove_paths()}
    with Bag(tmp_path / 'bag') as bag:
        for topic, field in paths:
            value = getattr(bag.first(f'/robot{topic}'), field)
            assert isinstance(value, (bool, int, float)), (topic, field)
        for topic in layouts.foxglove_topics():
            recorded = topic if topic in bag.topics else f'/robot{topic}'
            assert bag.first(recorded) is not None, topic
    with Reader(tmp_path / 'bag') as reader:
        assert all(connection.msgdef.data for connection in reader.connections)
        (ours,) = (c for c in reader.connections if c.topic == f'{NODE}/telemetry')
        assert 'float64 inference_ms' in ours.msgdef.data

    recording = read(str(tmp_path / 'bag'), 'all')
    measures = summary(recording)
    assert recording.has_truth
    assert recording.family
    assert measures['answered'] >= 30
    assert measures['latency_ms']['inference_ms']['p50'] > 0.0
    assert measures['right'] > 0.4


def matched(labels: Topic, truths: Topic) -> list[tuple[str, str]]:
    """Return (label, true class) of the images that have both."""
    known = {stamp_of(m.header): m.results[0].class_id for m in truths.messages}
    return [
        (m.results[0].class_id, known[stamp_of(m.header)])
        for m in labels.messages
        if stamp_of(m.header) in known
    ]


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='CPUs cannot be chosen here')
def test_level_switches_under_real_contention_and_back(system):
    """Load on the CPU of the classifier: the level decreases, and increases after the load."""
    cpu = idlest_cpu()
    system.classifier.confine({cpu}, CLASSIFIER_NICE)
    system.free()
    assert system.set('manager.hold_s', 0.2).successful
    # Inference is shorter than a time slice, so with load some frames take ten times as long. With
    # this window, the mean reacts to many such frames, but not to a single one.
    assert system.set('manager.window', CONTENTION_WINDOW).successful
    alone = statistics.median(t.inference_ms for t in system.next_telemetry(60)[10:])
    limit_ms = 2.5 * max(alone, system.levels.last.levels[-1].latency_ms)
    assert system.set('constraints.latency_scope', 'inference').successful
    assert system.set('constraints.max_latency_ms', limit_ms).successful
    load = system.ros.start(
        'contention_node',
        {'workload': 'none', 'workers': LOAD_WORKERS, 'cpus': cpu},
        arguments=IN_NAMESPACE,
    )
    try:
        for policy, reason in REASONS_DOWN.items():
            assert system.set('manager.policy', policy).successful
            follow_load(system, reason)
    finally:
        status = load.stop()
    assert status == 0, load.output()
    # Only root can raise the priority again, so no later test may depend on the speed.
    system.classifier.confine(os.sched_getaffinity(0), CLASSIFIER_NICE)
    system.free()


def idlest_cpu() -> int:
    """Return the CPU that other processes currently use least."""
    psutil = pytest.importorskip('psutil')
    loads = psutil.cpu_percent(interval=0.5, percpu=True)
    return min(os.sched_getaffinity(0), key=lambda cpu: loads[cpu] if cpu < len(loads) else 100.0)


def follow_load(system: System, reason: str) -> None:
    """Switch the load on and off, and check the levels and reasons of the switches."""
    system.wait_for_telemetry(
        lambda t: t.level == system.top_level, 'the top level before the load', CLIMB_TIMEOUT_S
    )
    before = system.next_telemetry()[0]
    known = len(system.switches.messages)
    result = system.ros.set_parameter('/robot/contention', 'workload', 'busy')
    assert result.successful, result.reason
    system.wait_for_telemetry(
        lambda t: t.level < system.top_level, 'a lower level under load', LOAD_TIMEOUT_S
    )
    system.wait_for_telemetry(lambda t: t.violations > before.violations, 'a late frame')
    system.ros.wait_until(
        lambda: any(reason in message.reason for message in system.switches.messages[known:]),
        'the reason',
        LOAD_TIMEOUT_S,
        meanwhile=system.feed,
    )
    assert system.ros.set_parameter('/robot/contention', 'workload', 'none').successful
    system.wait_for_telemetry(
        lambda t: t.level == system.top_level, 'the top level after the load', CLIMB_TIMEOUT_S
    )


@pytest.mark.parametrize(
    ('file', 'damage'),
    [('backbone.safetensors', 'flip'), ('family.yaml', 'cut'), ('labels.txt', 'remove')],
)
def test_damaged_family_is_rejected(system, tmp_path, file, damage):
    family = Path(shutil.copytree(families_directory() / system.family, tmp_path / 'damaged'))
    data = (family / file).read_bytes()
    if damage == 'remove':
        (family / file).unlink()
    elif damage == 'cut':
        (family / file).write_bytes(data[: len(data) // 2])
    else:
        (family / file).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    node = system.ros.start('classifier_node', {'family': family}, arguments=('-r', '__ns:=/sick'))
    assert node.wait(START_TIMEOUT_S) == 2
    assert 'Traceback' not in node.output()
    fatal = [line for line in node.output().splitlines() if 'FATAL' in line]
    assert len(fatal) == 1
    assert file in fatal[0]


@pytest.mark.parametrize(
    ('module', 'parameters', 'said'),
    [
        ('classifier_node', {'threads': 0}, 'threads is 0; it must lie in [1, 64]'),
        ('camera_node', {'source': 'folder', 'path': '/nowhere/at/all'}, '/nowhere/at/all'),
        ('camera_node', {'source': 'video', 'path': '/nowhere.mp4'}, '/nowhere.mp4'),
        (
            'monitor_node',
            {'address': 'robot'},
            "address is 'robot'; it must be localhost or an IP",
        ),
        ('monitor_node', {'token': 'short'}, 'token has 5 characters; it must have 16 or more'),
        ('contention_node', {'workload': 'sloth'}, "workload is 'sloth'; it must be one of"),
    ],
)
def test_bad_start_ends_with_status_2_and_a_line(system, module, parameters, said):
    node = system.ros.start(module, parameters, arguments=('-r', '__ns:=/sick'))
    assert node.wait() == 2
    assert said in node.output()
    assert 'Traceback' not in node.output()
