"""`rclpy.clock`: system, steady and ROS time, and the source of simulated time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.duration import Duration
from dynamic_ofa_ros.rclpy_zenoh.time import ClockType, Time

__all__ = ['Clock', 'ClockType', 'Duration', 'ROSClock', 'Time']


class Clock:
    """A clock of one type; `Clock()` is the system clock."""

    def __init__(self, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> None:
        if not isinstance(clock_type, ClockType):
            raise TypeError('Clock type must be a ClockType enum')
        self._clock_type = clock_type
        self._sim_time_ns: int | None = None
        self._changed = threading.Condition()
        self._jump_callbacks: list[Callable[[], None]] = []

    def __new__(cls, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> Clock:  # noqa: D102
        return super().__new__(ROSClock if clock_type is ClockType.ROS_TIME else cls)

    @property
    def clock_type(self) -> ClockType:
        """Return the type of the clock."""
        return self._clock_type

    def now_ns(self) -> int:
        """Return nanoseconds since the clock's epoch."""
        if self._sim_time_ns is not None:
            return self._sim_time_ns
        return time.monotonic_ns() if self._clock_type is ClockType.STEADY_TIME else time.time_ns()

    def now(self) -> Time:
        """Return the current time of this clock."""
        return Time(nanoseconds=self.now_ns(), clock_type=self._clock_type)

    def sleep_until(self, until: Time, context: Any = None) -> bool:
        """Sleep until a time of this clock; False if the context was shut down meanwhile."""
        if until.clock_type != self._clock_type:
            raise ValueError("until's clock type does not match this clock's type")
        from dynamic_ofa_ros.rclpy_zenoh.utilities import get_default_context

        watched = context if context is not None else get_default_context()
        while watched.ok():
            missing_ns = until.nanoseconds - self.now_ns()
            if missing_ns <= 0:
                return True
            with self._changed:
                # Woken by simulated time; the bound lets a shutdown be seen.
                self._changed.wait(min(missing_ns / 1e9, 0.1))
        return False

    def sleep_for(self, rel_time: Duration, context: Any = None) -> bool:
        """Sleep for a duration of this clock; False if the context was shut down meanwhile."""
        until = Time(nanoseconds=self.now_ns() + rel_time.nanoseconds, clock_type=self._clock_type)
        return self.sleep_until(until, context)

    def __repr__(self) -> str:
        return f'Clock(clock_type={self._clock_type.name})'


class ROSClock(Clock):
    """The clock of a node: system time, or simulated time from `/clock`."""

    def __init__(self, *, clock_type: ClockType = ClockType.ROS_TIME) -> None:
        super().__init__(clock_type=ClockType.ROS_TIME)

    def __new__(cls, *, clock_type: ClockType = ClockType.ROS_TIME) -> ROSClock:  # noqa: D102
        return object.__new__(cls)

    @property
    def ros_time_is_active(self) -> bool:
        """Return whether simulated time is used."""
        return self._sim_time_ns is not None

    def set_ros_time_override(self, time_: Time) -> None:
        """Set the simulated time."""
        self.set_sim_time(time_.nanoseconds)

    def set_sim_time(self, nanoseconds: int | None) -> None:
        """Set the simulated time [ns]; None returns to the system's clock."""
        with self._changed:
            self._sim_time_ns = nanoseconds
            self._changed.notify_all()
