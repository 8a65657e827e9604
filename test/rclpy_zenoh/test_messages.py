"""Message classes behave as rclpy's, and their CDR is that of `rosbags`."""

import array
import copy
import math
import pickle

import numpy as np
import pytest
from rclpy_zenoh import support  # noqa: F401 - skips this module where ROS 2 serves

from dynamic_ofa_ros.rclpy_zenoh.messages import deserialize, message_class, serialize

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # isort: skip
from dynamic_ofa_ros.msg import Level, LevelArray, Telemetry  # isort: skip
from geometry_msgs.msg import Quaternion  # isort: skip
from rcl_interfaces.msg import Log, ParameterValue  # isort: skip
from sensor_msgs.msg import CameraInfo, Image  # isort: skip
from std_msgs.msg import Empty, Float32, Header, String, UInt8  # isort: skip
from std_srvs.srv import SetBool, Trigger  # isort: skip


def test_defaults_are_nested_and_fresh():
    first, second = Image(), Image()
    first.header.frame_id = 'camera'
    assert second.header.frame_id == ''
    assert first.header.stamp.sec == 0
    assert first.data == array.array('B')
    assert Quaternion().w == 1.0


def test_keyword_construction_and_equality():
    header = Header(frame_id='map')
    assert Image(header=header, width=3) == Image(header=Header(frame_id='map'), width=3)
    assert Image(width=3) != Image(width=4)
    assert Image() != String()
    assert CameraInfo(k=[1.0] * 9) != CameraInfo()


@pytest.mark.parametrize(
    ('cls', 'values', 'complaint'),
    [
        (Image, {'height': -1}, 'unsigned integer in'),
        (Image, {'height': 1.0}, "must be of type 'int'"),
        (Image, {'height': np.uint32(1)}, "must be of type 'int'"),
        (UInt8, {'data': 256}, r'in \[0, 255\]'),
        (Float32, {'data': 1}, "must be of type 'float'"),
        (Float32, {'data': 1e39}, 'must be a float in'),
        (String, {'data': b'x'}, "must be of type 'str'"),
        (SetBool.Request, {'data': 1}, "must be of type 'bool'"),
        (Image, {'header': String()}, "sub message of type 'Header'"),
        (Image, {'data': 'text'}, 'set or sequence'),
        (Image, {'data': array.array('b', [1])}, "type code of 'B'"),
        (Image, {'data': np.zeros(3, np.int16)}, "dtype of 'uint8'"),
        (CameraInfo, {'k': [0.0] * 8}, '9 elements'),
        (LevelArray, {'levels': [Header()]}, "sub message of type 'Level'"),
        (DiagnosticStatus, {'level': 1}, "type 'bytes'"),
        (String, {'text': ''}, 'Invalid arguments'),
    ],
)
def test_wrong_values_are_refused(cls, values, complaint):
    with pytest.raises(AssertionError, match=complaint):
        cls(**values)


def test_unknown_attribute_is_refused():
    with pytest.raises(AttributeError):
        Image().heigth = 3


def test_uint8_array_takes_bytes_and_numpy_and_keeps_an_array():
    for value in (b'\x01\x02', bytearray(b'\x01\x02'), np.array([1, 2], np.uint8), [1, 2], (1, 2)):
        assert Image(data=value).data == array.array('B', [1, 2])
    data = array.array('B', b'\x01')
    assert Image(data=data).data is data


def test_fixed_arrays_are_numpy():
    info = CameraInfo(k=[float(i) for i in range(9)])
    assert info.k.dtype == np.float64
    assert info.k.shape == (9,)


def test_constants():
    assert DiagnosticStatus.ERROR == b'\x02'
    assert Log.WARN == 30
    with pytest.raises(AttributeError):
        DiagnosticStatus().ERROR = b'\x00'


def test_repr_and_field_types():
    assert repr(String(data='hi')) == "std_msgs.msg.String(data='hi')"
    assert repr(Trigger.Response()) == ("std_srvs.srv.Trigger_Response(success=False, message='')")
    types = Image.get_fields_and_field_types()
    assert types['header'] == 'std_msgs/Header'
    assert types['data'] == 'sequence<uint8>'
    assert CameraInfo.get_fields_and_field_types()['k'] == 'double[9]'


def test_copy_and_pickle():
    message = Image(header=Header(frame_id='a'), data=b'\x01')
    for twin in (copy.deepcopy(message), pickle.loads(pickle.dumps(message))):
        assert twin == message
        assert twin.header is not message.header


SAMPLES = [
    Empty(),
    String(data='grüße'),
    Image(height=1, width=2, encoding='rgb8', step=6, data=bytes(range(6))),
    CameraInfo(k=[0.5] * 9, d=[1.0, 2.0], distortion_model='plumb_bob'),
    DiagnosticArray(
        status=[
            DiagnosticStatus(
                level=DiagnosticStatus.STALE, name='n', values=[KeyValue(key='k', value='v')]
            ),
            DiagnosticStatus(level=b'\xff'),
        ]
    ),
    LevelArray(family='f', levels=[Level(index=1, ks=[3, 5], e=[], d=[2]), Level(name='x')]),
    ParameterValue(
        type=5,
        byte_array_value=[b'\x00', b'\xfe'],
        bool_array_value=[True, False],
        integer_array_value=[-1, 2**62],
        double_array_value=[0.5],
        string_array_value=['', 'ab'],
    ),
    SetBool.Response(success=True, message='yes'),
]


@pytest.mark.parametrize('message', SAMPLES, ids=lambda message: message.TYPE_NAME)
def test_cdr_round_trip(message):
    assert deserialize(bytes(serialize(message)), type(message)) == message


def test_telemetry_round_trip_keeps_nan():
    message = Telemetry(level=3, inference_ms=math.nan, top1_label='stop', switch_count=2**63)
    twin = deserialize(bytes(serialize(message)), Telemetry)
    assert math.isnan(twin.inference_ms)
    assert (twin.level, twin.top1_label, twin.switch_count) == (3, 'stop', 2**63)


def test_cdr_is_what_rosbags_writes():
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    kinds = store.types
    stamp = kinds['builtin_interfaces/msg/Time'](sec=7, nanosec=8)
    header = kinds['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')
    theirs = kinds['sensor_msgs/msg/Image'](
        header=header, height=2, width=1, encoding='mono8', is_bigendian=0, step=1,
        data=np.array([3, 4], np.uint8),
    )  # fmt: skip
    ours = Image(height=2, width=1, encoding='mono8', step=1, data=b'\x03\x04')
    ours.header.frame_id = 'camera'
    ours.header.stamp.sec = 7
    ours.header.stamp.nanosec = 8
    assert bytes(serialize(ours)) == bytes(store.serialize_cdr(theirs, 'sensor_msgs/msg/Image'))


def test_damaged_cdr_is_refused():
    from rosbags.serde import SerdeError

    data = bytes(serialize(SAMPLES[2]))
    for damaged in (b'', data[:3], data[:20], b'\x00\x03' + data[2:]):
        with pytest.raises(SerdeError):
            deserialize(damaged, Image)


def test_unknown_types_are_key_errors():
    with pytest.raises(KeyError):
        message_class('std_msgs/msg/Sting')
