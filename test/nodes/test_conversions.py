from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header

from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.family import (
    BackboneSpec,
    Family,
    LatencyProfile,
    Level,
    LevelLatency,
    Preprocessing,
)
from dynamic_ofa_ros.msg import Telemetry
from dynamic_ofa_ros.nodes import conversions
from dynamic_ofa_ros.nodes.diagnostics import Severity, Status
from dynamic_ofa_ros.runtime import coordination
from dynamic_ofa_ros.runtime.classifier import ClassScore, Result
from dynamic_ofa_ros.runtime.decisions import Decision
from dynamic_ofa_ros.runtime.telemetry import FrameTelemetry
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.spaces import ResNet50Space

NAN = math.nan
HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id='camera')
ARCHITECTURE = SubnetArchitecture(ks=(3,) * 20, e=(4,) * 20, d=(2, 3, 4, 3, 2), r=48)
FAMILY = Family(
    directory=Path('/family'),
    name='tiny',
    source=BackboneSpec('mbv3', 'ofa_mobilenetv3', 0.35, 3),
    labels=('stop', 'yield', 'no entry'),
    preprocessing=Preprocessing(),
    levels=(
        Level(1, 'small', ARCHITECTURE, 0.5, 1_000_000, 20_000),
        Level(2, 'large', ARCHITECTURE, 0.9, 9_000_000, 90_000),
    ),
    platforms={},
    checksum='0' * 64,
)
PROFILE = LatencyProfile(
    'cpu-test',
    (LevelLatency(1.0, 1.1, 0.1, 1.5, 1.8, 100), LevelLatency(4.0, 4.1, 0.1, 4.5, 4.8, 100)),
    '2026-01-01T00:00:00+00:00',
)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'mono8'])
def test_an_image_is_unchanged_after_both_conversions(encoding):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    if encoding == 'mono8':
        pixels[...] = pixels[..., :1]
    message = conversions.image_message(pixels, HEADER, encoding)
    assert message.header == HEADER
    assert (message.width, message.height, message.encoding) == (8, 6, encoding)
    assert message.step * message.height == len(message.data)
    assert np.array_equal(conversions.raw_image(message).decode(), pixels)


def test_a_view_is_copied_into_packed_rows():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 3), np.uint8)[:, ::2]
    message = conversions.image_message(pixels, HEADER, 'rgb8')
    assert message.step == 8 * 3
    assert np.array_equal(conversions.raw_image(message).decode(), pixels)


@pytest.fixture
def bridge():
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        pytest.skip(f'no cv_bridge: {error}')
    return CvBridge()


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'mono8'])
def test_cv_bridge_reads_the_same_image(bridge, encoding):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    message = conversions.image_message(pixels, HEADER, encoding)
    expected = {'rgb8': pixels, 'bgr8': pixels[..., ::-1]}.get(encoding)
    if expected is None:
        expected = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    try:
        found = bridge.imgmsg_to_cv2(message)
    except (ImportError, AttributeError) as error:  # its compiled part, or of ROS 1 and NumPy 2
        pytest.skip(f'this cv_bridge does not serve: {error}')
    assert np.array_equal(found, expected)


@pytest.mark.parametrize('encoding', ['rgb8', 'mono8'])
def test_cv_bridge_creates_the_same_message(bridge, encoding):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    own = conversions.image_message(pixels, HEADER, encoding)
    image = pixels if encoding == 'rgb8' else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    try:
        made = bridge.cv2_to_imgmsg(image)  # an encoding needs its compiled part
    except (ImportError, AttributeError) as error:
        pytest.skip(f'this cv_bridge does not serve: {error}')
    assert made.data == own.data
    assert (made.step, made.width, made.height) == (own.step, own.width, own.height)
    assert made.is_bigendian == own.is_bigendian


def test_an_unknown_encoding_cannot_be_published():
    with pytest.raises(ImageError, match='yuv'):
        conversions.image_message(np.zeros((2, 2, 3), np.uint8), HEADER, 'yuv')


def test_hypotheses_keep_the_order():
    scores = (ClassScore(2, 'no entry', 0.7), ClassScore(0, 'stop', 0.2))
    found = conversions.hypotheses(Result(1, 'cpu', 48, scores, 1, 2, 3, 6))
    assert [hypothesis.class_id for hypothesis in found] == ['2', '0']
    assert [hypothesis.score for hypothesis in found] == [0.7, 0.2]


def test_a_true_class_has_the_score_one():
    (result,) = conversions.truth(HEADER, 12).results
    assert (result.class_id, result.score) == ('12', 1.0)


def test_label_info_numbers_the_labels():
    message = conversions.label_info(HEADER, FAMILY.labels, 0.25)
    assert [(e.class_id, e.class_name) for e in message.class_map] == [
        (0, 'stop'),
        (1, 'yield'),
        (2, 'no entry'),
    ]
    assert message.threshold == pytest.approx(0.25)


def test_version_changes_with_the_labels_only():
    message = conversions.vision_info(HEADER, FAMILY, '/label_info')
    assert message.database_location == '/label_info'
    assert message.database_version == conversions.database_version(FAMILY.labels)
    assert message.database_version != conversions.database_version(('stop', 'yield'))
    assert 0 <= message.database_version < 2**31


def test_telemetry_fills_every_field_with_its_own_value():
    """The dataclass and the message have the same names; distinct values reveal mix-ups."""
    values = {}
    for number, field in enumerate(dataclasses.fields(FrameTelemetry), start=1):
        kinds = {'int': number, 'float': number + 0.5, 'bool': True, 'str': f'text {number}'}
        values[field.name] = kinds[field.type]
    message = Telemetry()
    conversions.fill_telemetry(message, HEADER, FrameTelemetry(**values))
    assert message.header is HEADER
    fields = Telemetry.get_fields_and_field_types()
    assert set(fields) == {'header', *values}
    for name, value in values.items():
        assert getattr(message, name) == value


def test_unknown_telemetry_is_nan():
    values = {
        field.name: {'int': 0, 'float': NAN, 'bool': False, 'str': ''}[field.type]
        for field in dataclasses.fields(FrameTelemetry)
    }
    message = Telemetry()
    conversions.fill_telemetry(message, HEADER, FrameTelemetry(**values))
    assert math.isnan(message.device_power_w)
    assert math.isnan(message.max_latency_ms)


SLOW = dataclasses.replace(
    PROFILE,
    platform='slow-test',
    levels=tuple(
        dataclasses.replace(level, median_ms=2 * level.median_ms, p95_ms=2 * level.p95_ms)
        for level in PROFILE.levels
    ),
)


def test_the_level_array_contains_the_whole_table():
    message = conversions.level_array(HEADER, FAMILY, [PROFILE, SLOW])
    assert (message.family, message.backbone, message.platform) == ('tiny', 'mbv3', 'cpu-test')
    small, large = message.levels
    assert (small.index, small.name, small.resolution) == (1, 'small', 48)
    assert (large.accuracy, large.macs, large.parameters) == (0.9, 9e6, 9e4)
    assert (large.latency_ms, large.latency_p95_ms) == (4.0, 4.5)
    assert list(message.platforms) == ['cpu-test', 'slow-test']
    assert list(large.latencies_ms) == [4.0, 8.0]
    assert list(large.latencies_p95_ms) == [4.5, 9.0]
    assert list(small.ks) == [3] * 20
    assert list(small.e) == [4.0] * 20
    assert list(small.d) == [2, 3, 4, 3, 2]
    assert list(small.w) == []


def test_levels_of_a_resnet_contain_depths_and_widths():
    architecture = ResNet50Space().largest()
    level = Level(1, 'resnet', architecture, 0.8, 1, 1)
    profile = dataclasses.replace(PROFILE, levels=PROFILE.levels[:1])
    family = dataclasses.replace(FAMILY, levels=(level,))
    (message,) = conversions.level_array(HEADER, family, [profile]).levels
    assert list(message.ks) == []
    assert (tuple(message.e), tuple(message.d)) == (architecture.e, architecture.d)
    assert tuple(message.w) == architecture.w


def test_active_level_contains_both_levels_and_the_reason():
    decision = Decision(
        0, 2, 1, 'too slow', 'reactive', False, 1.5, 1.5, 1.6, 3.0, NAN, 'gpu-test', 'cpu-test'
    )
    message = conversions.active_level(HEADER, decision, FAMILY, 0.02)
    assert (message.from_level, message.from_name) == (2, 'large')
    assert (message.to_level, message.to_name) == (1, 'small')
    assert (message.from_platform, message.to_platform) == ('gpu-test', 'cpu-test')
    assert (message.reason, message.policy) == ('too slow', 'reactive')
    assert not message.feasible
    assert message.switch_ms == 0.02
    assert message.max_latency_ms == 3.0
    assert math.isnan(message.min_accuracy)


def test_active_level_at_the_start_has_no_previous_level():
    decision = Decision(0, 0, 2, 'start', 'reactive', True, 1.0, 4.0, 4.0, NAN, NAN)
    message = conversions.active_level(HEADER, decision, FAMILY, NAN)
    assert (message.from_level, message.from_name) == (0, '')


def test_diagnostics_name_node_task_and_hardware():
    status = Status('Latency', Severity.WARN, 'slow', {'latency_p95_ms': 12.5, 'frames': 3})
    message = conversions.diagnostic_array(HEADER, 'robot/classifier', 'cpu-test', [status])
    (found,) = message.status
    assert found.level == DiagnosticStatus.WARN
    assert found.name == 'robot/classifier: Latency'
    assert found.hardware_id == 'cpu-test'
    assert [(v.key, v.value) for v in found.values] == [
        ('latency_p95_ms', '12.5'),
        ('frames', '3'),
    ]


@pytest.mark.parametrize(
    ('value', 'text'),
    [(3, '3'), (3.0, '3'), (0.25, '0.25'), (NAN, 'nan'), (math.inf, 'inf'), (1e9, '1000000000')],
)
def test_numbers_have_no_unit(value, text):
    assert conversions.number_text(value) == text
    assert math.isnan(value) or float(text) == value


def peer(**changes):
    return coordination.Status(
        **{
            'name': '/a/classifier',
            'device': 'boot/cpu',
            'level': 2,
            'latencies_ms': (1.0, 4.0),
            'accuracies': (0.5, 0.9),
            'limit_ms': 12.5,
            'floor': 0.6,
            'priority': 'accuracy',
            'importance': 3.0,
            'quantile': 0.9,
            'time_ns': 5_000_000_000,
            'frames': (coordination.Frame(4_000_000_000, 3.5, 2),),
            'agreement': coordination.Agreement(7, (('/a/classifier', 2), ('/b', 1))),
            'interval_ms': 33.0,
            **changes,
        }
    )


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'limit_ms': math.inf},
        {'floor': 0.0},
        {'interval_ms': math.inf},
        {'frames': (), 'agreement': None},
    ],
)
def test_a_status_is_unchanged_after_both_conversions(changes):
    message = conversions.classifier_status(HEADER, peer(**changes))
    assert message.header == HEADER
    assert conversions.peer_status(message) == peer(**changes)


def test_missing_values_of_a_status_are_nan():
    lacking = peer(limit_ms=math.inf, floor=0.0, interval_ms=math.inf)
    message = conversions.classifier_status(HEADER, lacking)
    assert math.isnan(message.max_latency_ms)
    assert math.isnan(message.min_accuracy)
    assert math.isnan(message.interval_ms)


def test_a_status_with_too_long_lists_is_ignored():
    message = conversions.classifier_status(HEADER, peer())
    message.accuracies = [0.5] * 1_000_000
    assert conversions.peer_status(message) is None
