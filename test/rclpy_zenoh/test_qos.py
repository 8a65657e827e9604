"""QoS profiles and their form in liveliness tokens."""

import pytest
from rclpy_zenoh import support  # noqa: F401 - skips this module where ROS 2 serves

from rclpy.duration import Duration  # isort: skip
from rclpy.qos import (  # isort: skip
    DurabilityPolicy,
    HistoryPolicy,
    InvalidQoSProfileException,
    LivelinessPolicy,
    QoSPresetProfiles,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
    qos_profile_system_default,
)


def test_defaults():
    profile = QoSProfile(depth=10)
    assert profile.history == HistoryPolicy.KEEP_LAST
    assert profile.reliability == ReliabilityPolicy.RELIABLE
    assert profile.durability == DurabilityPolicy.VOLATILE
    assert qos_profile_sensor_data.reliability == ReliabilityPolicy.BEST_EFFORT
    assert QoSPresetProfiles.get_from_short_key('sensor_data') is qos_profile_sensor_data


def test_incomplete_profiles_are_refused():
    with pytest.raises(InvalidQoSProfileException):
        QoSProfile()
    with pytest.raises(InvalidQoSProfileException):
        QoSProfile(history=HistoryPolicy.KEEP_LAST)
    with pytest.raises(ValueError, match='depth'):
        QoSProfile(depth=-1)
    with pytest.raises(TypeError):
        QoSProfile(depth=1, nonsense=2)
    with pytest.raises(AttributeError):
        QoSProfile(depth=1).reliable = True


# As rmw_zenoh writes them: what is default is left out.
@pytest.mark.parametrize(
    ('profile', 'text'),
    [
        (QoSProfile(depth=10), '::,10:,:,:,,'),
        (qos_profile_sensor_data, '2::,5:,:,:,,'),
        (QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL), ':1:,1:,:,:,,'),
        (QoSProfile(depth=7, lifespan=Duration(seconds=10)), '::,7:,:10,0:,,'),
    ],
)
def test_token_form(profile, text):
    assert profile.encode() == text
    assert QoSProfile.decode(text).encode() == text


def test_keep_all_survives_the_token():
    profile = QoSProfile(
        history=HistoryPolicy.KEEP_ALL,
        deadline=Duration(nanoseconds=1_500_000_000),
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=Duration(seconds=2),
    )
    twin = QoSProfile.decode(profile.encode())
    assert twin.history == HistoryPolicy.KEEP_ALL
    assert twin.deadline == profile.deadline
    assert twin.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
    assert twin.liveliness_lease_duration == profile.liveliness_lease_duration
    assert profile.queue_length is None


def test_system_default_is_resolved_as_rmw_does():
    twin = QoSProfile.decode(qos_profile_system_default.encode())
    assert twin.reliability == ReliabilityPolicy.RELIABLE
    assert twin.durability == DurabilityPolicy.VOLATILE


def test_malformed_tokens():
    for text in ('', 'a:b', '9::,1:,:,:,,'):
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own sentence
            QoSProfile.decode(text)
