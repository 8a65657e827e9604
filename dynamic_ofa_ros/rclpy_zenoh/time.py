"""`rclpy.time`."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.duration import S_TO_NS, Duration
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class

CONVERSION_CONSTANT = S_TO_NS


class ClockType(IntEnum):
    """Which clock a time was read from."""

    UNINITIALIZED = 0
    ROS_TIME = 1
    SYSTEM_TIME = 2
    STEADY_TIME = 3


class Time:
    """A point in time, in whole nanoseconds of its clock."""

    __slots__ = ('_clock_type', '_nanoseconds')

    def __init__(
        self,
        *,
        seconds: float = 0,
        nanoseconds: float = 0,
        clock_type: ClockType = ClockType.SYSTEM_TIME,
    ) -> None:
        if not isinstance(clock_type, ClockType):
            raise TypeError('Clock type must be a ClockType enum')
        if seconds < 0:
            raise ValueError('Seconds value must not be negative')
        if nanoseconds < 0:
            raise ValueError('Nanoseconds value must not be negative')
        total = int(seconds * S_TO_NS) + int(nanoseconds)
        if total >= 2**63:
            raise OverflowError('Total nanoseconds value is too large to store in C time point.')
        self._nanoseconds = total
        self._clock_type = clock_type

    @property
    def nanoseconds(self) -> int:
        """Return nanoseconds since the clock's epoch."""
        return self._nanoseconds

    @property
    def clock_type(self) -> ClockType:
        """Return the type of the clock this was read from."""
        return self._clock_type

    def seconds_nanoseconds(self) -> tuple[int, int]:
        """Return whole seconds and the remaining nanoseconds."""
        return divmod(self._nanoseconds, S_TO_NS)

    def to_msg(self) -> Any:
        """Return the time as builtin_interfaces/msg/Time."""
        seconds, nanoseconds = self.seconds_nanoseconds()
        return message_class('builtin_interfaces/msg/Time')(sec=seconds, nanosec=nanoseconds)

    @classmethod
    def from_msg(cls, msg: Any, clock_type: ClockType = ClockType.ROS_TIME) -> Time:
        """Return a Time from builtin_interfaces/msg/Time."""
        return cls(seconds=msg.sec, nanoseconds=msg.nanosec, clock_type=clock_type)

    def __add__(self, other: object) -> Time:
        if not isinstance(other, Duration):
            return NotImplemented
        return Time(nanoseconds=self._nanoseconds + other.nanoseconds, clock_type=self._clock_type)

    __radd__ = __add__

    def __sub__(self, other: object) -> Any:
        if isinstance(other, Time):
            self._check_clock(other)
            return Duration(nanoseconds=self._nanoseconds - other._nanoseconds)
        if isinstance(other, Duration):
            return Time(
                nanoseconds=self._nanoseconds - other.nanoseconds, clock_type=self._clock_type
            )
        return NotImplemented

    def _check_clock(self, other: Time) -> None:
        if self._clock_type != other._clock_type:
            raise TypeError("Can't compare times with different clock types")

    def _compared(self, other: object) -> int:
        if not isinstance(other, Time):
            raise TypeError(f"Can't compare time with object of type: {type(other)}")
        self._check_clock(other)
        return other._nanoseconds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Time) and self._nanoseconds == self._compared(other)

    def __lt__(self, other: object) -> bool:
        return self._nanoseconds < self._compared(other)

    def __le__(self, other: object) -> bool:
        return self._nanoseconds <= self._compared(other)

    def __gt__(self, other: object) -> bool:
        return self._nanoseconds > self._compared(other)

    def __ge__(self, other: object) -> bool:
        return self._nanoseconds >= self._compared(other)

    def __hash__(self) -> int:
        return hash((self._nanoseconds, self._clock_type))

    def __repr__(self) -> str:
        return f'Time(nanoseconds={self._nanoseconds}, clock_type={self._clock_type.name})'
