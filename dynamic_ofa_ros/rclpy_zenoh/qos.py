"""`rclpy.qos`: quality of service profiles and their encoding in liveliness tokens."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh import wire
from dynamic_ofa_ros.rclpy_zenoh.duration import Duration


class InvalidQoSProfileException(Exception):  # noqa: N818 - the name is that of rclpy
    """Raised for a profile that makes no sense."""

    def __init__(self, *args: Any) -> None:
        super().__init__('Invalid QoSProfile', *args)


class QoSPolicyKind(IntEnum):
    """Names of the policies, as bits."""

    INVALID = 1 << 0
    DURABILITY = 1 << 1
    DEADLINE = 1 << 2
    LIVELINESS = 1 << 3
    RELIABILITY = 1 << 4
    HISTORY = 1 << 5
    LIFESPAN = 1 << 6
    DEPTH = 1 << 7
    LIVELINESS_LEASE_DURATION = 1 << 8
    AVOID_ROS_NAMESPACE_CONVENTIONS = 1 << 9


class _Policy(IntEnum):
    """A policy with the short keys that parameters and commands use (`best_effort`)."""

    @property
    def short_key(self) -> str:
        """Return the name as the command line and YAML write it."""
        return self.name.lower()

    @classmethod
    def get_from_short_key(cls, name: str) -> Any:
        """Return the policy of a short key; KeyError if there is none."""
        return cls[name.upper()]

    @classmethod
    def short_keys(cls) -> list[str]:
        """Return all short keys."""
        return [policy.short_key for policy in cls if policy.name != 'UNKNOWN']


class HistoryPolicy(_Policy):
    """How many samples are kept."""

    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(_Policy):
    """Whether samples may be lost."""

    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class DurabilityPolicy(_Policy):
    """Whether late joiners get earlier samples."""

    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class LivelinessPolicy(_Policy):
    """How a publisher asserts that it is alive."""

    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4
    BEST_AVAILABLE = 5


QoSHistoryPolicy = HistoryPolicy
QoSReliabilityPolicy = ReliabilityPolicy
QoSDurabilityPolicy = DurabilityPolicy
QoSLivelinessPolicy = LivelinessPolicy

_DEFAULTS: dict[str, Any] = {
    'history': HistoryPolicy.SYSTEM_DEFAULT,
    'depth': 0,
    'reliability': ReliabilityPolicy.SYSTEM_DEFAULT,
    'durability': DurabilityPolicy.SYSTEM_DEFAULT,
    'lifespan': Duration(),
    'deadline': Duration(),
    'liveliness': LivelinessPolicy.SYSTEM_DEFAULT,
    'liveliness_lease_duration': Duration(),
    'avoid_ros_namespace_conventions': False,
}
_ENUMS = {
    'history': HistoryPolicy,
    'reliability': ReliabilityPolicy,
    'durability': DurabilityPolicy,
    'liveliness': LivelinessPolicy,
}


class QoSProfile:
    """A set of policies; needs at least a history or a depth."""

    history: HistoryPolicy
    depth: int
    reliability: ReliabilityPolicy
    durability: DurabilityPolicy
    lifespan: Duration
    deadline: Duration
    liveliness: LivelinessPolicy
    liveliness_lease_duration: Duration
    avoid_ros_namespace_conventions: bool

    def __init__(self, **kwargs: Any) -> None:
        unknown = set(kwargs) - set(_DEFAULTS)
        if unknown:
            raise TypeError(f'Invalid arguments passed to constructor: {sorted(unknown)}')
        if 'history' not in kwargs:
            if 'depth' not in kwargs:
                raise InvalidQoSProfileException('History and/or depth settings are required.')
            kwargs['history'] = HistoryPolicy.KEEP_LAST
        if kwargs['history'] == HistoryPolicy.KEEP_LAST and 'depth' not in kwargs:
            raise InvalidQoSProfileException('History set to KEEP_LAST without a depth setting.')
        # What is not named has the values of the default profile.
        for name, value in {
            **_DEFAULTS,
            'reliability': ReliabilityPolicy.RELIABLE,
            'durability': DurabilityPolicy.VOLATILE,
            **kwargs,
        }.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _DEFAULTS:
            raise AttributeError(f"'QoSProfile' object has no attribute {name!r}")
        if name in _ENUMS:
            value = _ENUMS[name](value)
        elif isinstance(_DEFAULTS[name], Duration):
            if not isinstance(value, Duration):
                raise TypeError(f'{name} must be a Duration')
        elif name == 'depth':
            if not isinstance(value, int):
                raise TypeError('depth must be an integer')
            if value < 0:
                raise ValueError('depth must be greater than or equal to zero')
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QoSProfile):
            return False
        return all(getattr(self, name) == getattr(other, name) for name in _DEFAULTS)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f'{type(self).__name__}({", ".join(f"{k}={getattr(self, k)}" for k in _DEFAULTS)})'

    __repr__ = __str__

    def copy(self) -> QoSProfile:
        """Return an independent copy."""
        return QoSProfile(**{name: getattr(self, name) for name in _DEFAULTS})

    def get_c_qos_profile(self) -> QoSProfile:
        """Return the profile itself: there is no C layer here."""
        return self

    @property
    def is_transient_local(self) -> bool:
        """Return whether late joiners get earlier samples."""
        return self.durability == DurabilityPolicy.TRANSIENT_LOCAL

    @property
    def is_reliable(self) -> bool:
        """Return whether samples must not be lost."""
        return self.reliability != ReliabilityPolicy.BEST_EFFORT

    @property
    def queue_length(self) -> int | None:
        """Return how many samples a subscription's queue holds; None is unlimited."""
        if self.history == HistoryPolicy.KEEP_ALL:
            return None
        return max(self.depth, 1)

    def encode(self) -> str:
        """Return the profile as liveliness tokens carry it."""
        return wire.encode_qos(
            reliability=1 if self.is_reliable else 2,
            durability=1 if self.is_transient_local else 2,
            history=2 if self.history == HistoryPolicy.KEEP_ALL else 1,
            depth=max(self.depth, 1),
            deadline_ns=self.deadline.nanoseconds,
            lifespan_ns=self.lifespan.nanoseconds,
            liveliness=3 if self.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC else 1,
            lease_ns=self.liveliness_lease_duration.nanoseconds,
        )

    @classmethod
    def decode(cls, text: str) -> QoSProfile:
        """Return the profile that a token carries; ValueError if it is malformed."""
        values = wire.decode_qos(text)
        return cls(
            history=HistoryPolicy(values['history']),
            depth=values['depth'],
            reliability=ReliabilityPolicy(values['reliability']),
            durability=DurabilityPolicy(values['durability']),
            deadline=Duration(nanoseconds=values['deadline_ns']),
            lifespan=Duration(nanoseconds=values['lifespan_ns']),
            liveliness=LivelinessPolicy(values['liveliness']),
            liveliness_lease_duration=Duration(nanoseconds=values['lease_ns']),
        )


def as_profile(value: QoSProfile | int) -> QoSProfile:
    """Return a profile from a profile or a depth; TypeError or ValueError for anything else."""
    if isinstance(value, QoSProfile):
        return value
    if not isinstance(value, int):
        raise TypeError(f'Expected QoSProfile or int, but received {type(value)!r}')
    if value < 0:
        raise ValueError('history depth must be greater than or equal to zero')
    return QoSProfile(depth=value)


qos_profile_system_default = QoSProfile(
    history=HistoryPolicy.SYSTEM_DEFAULT,
    depth=0,
    reliability=ReliabilityPolicy.SYSTEM_DEFAULT,
    durability=DurabilityPolicy.SYSTEM_DEFAULT,
)
qos_profile_default = QoSProfile(depth=10)
qos_profile_sensor_data = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
qos_profile_services_default = QoSProfile(depth=10)
qos_profile_parameters = QoSProfile(depth=1000)
qos_profile_parameter_events = QoSProfile(depth=1000)
qos_profile_action_status_default = QoSProfile(
    depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
qos_profile_rosout_default = QoSProfile(
    depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=Duration(seconds=10)
)
qos_profile_best_available = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.BEST_AVAILABLE,
    durability=DurabilityPolicy.BEST_AVAILABLE,
    liveliness=LivelinessPolicy.BEST_AVAILABLE,
)


class QoSPresetProfiles(Enum):
    """The named profiles."""

    UNKNOWN = None
    DEFAULT = qos_profile_default
    SYSTEM_DEFAULT = qos_profile_system_default
    SENSOR_DATA = qos_profile_sensor_data
    SERVICES_DEFAULT = qos_profile_services_default
    PARAMETERS = qos_profile_parameters
    PARAMETER_EVENTS = qos_profile_parameter_events
    ACTION_STATUS_DEFAULT = qos_profile_action_status_default
    BEST_AVAILABLE = qos_profile_best_available

    @classmethod
    def short_keys(cls) -> list[str]:
        """Return the names as commands write them (`sensor_data`)."""
        return [preset.name.lower() for preset in cls if preset.value is not None]

    @classmethod
    def get_from_short_key(cls, name: str) -> QoSProfile:
        """Return the profile of a name; KeyError if there is none."""
        profile: QoSProfile = cls[name.upper()].value
        return profile
