"""Type hashes as a real ROS 2 Jazzy generates them."""

import json

import pytest
from rclpy_zenoh import support  # noqa: F401 - skips this module where ROS 2 serves
from reference import reference_file

from dynamic_ofa_ros.rclpy_zenoh.typestore import catalogue, own_message_directory


@pytest.fixture(scope='module')
def golden():
    return json.loads(reference_file('ros2_jazzy_type_hashes.json').read_text())


def test_every_golden_type_has_the_hash_of_a_real_jazzy(golden):
    ours = {name: catalogue().type_hash(name) for name in golden}
    assert len(golden) > 100
    assert ours == golden


def test_char_is_hashed_as_uint8():
    # What rosbags gets wrong about ServiceEventInfo, and with it about every service.
    assert catalogue().type_hash('service_msgs/msg/ServiceEventInfo') == (
        'RIHS01_41bcbbe07a75c9b52bc96bfd5c24d7f0fc0a08c0cb7921b3373c5732345a6f45'
    )


def test_hash_depends_on_nested_types():
    store = type(catalogue())()
    store.add_definition('a/msg/Inner', 'int32 x')
    store.add_definition('a/msg/Outer', 'Inner inner')
    before = store.hash_rihs01('a/msg/Outer')
    store.add_definition('a/msg/Inner', 'int64 x')
    assert store.hash_rihs01('a/msg/Outer') != before


def test_own_messages_are_found_in_the_checkout():
    directory = own_message_directory()
    assert directory is not None
    names = {path.stem for path in directory.glob('*.msg')}
    assert names == set(catalogue().names('dynamic_ofa_ros', 'msg'))
    assert 'Telemetry' in names


@pytest.mark.parametrize(
    'package',
    [
        'builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs',
        'rcl_interfaces', 'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs', 'vision_msgs',
    ],
)  # fmt: skip
def test_packages_the_nodes_need_are_known(package):
    assert package in catalogue().packages()


def test_service_parts_are_known():
    fields = [name for name, _ in catalogue().fields('std_srvs/srv/SetBool_Response')]
    assert fields == ['success', 'message']
    assert catalogue().fields('std_srvs/srv/Empty_Request') == []
