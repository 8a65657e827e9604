"""`rclpy.timer`: periodic callbacks on any clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.clock import Clock
from dynamic_ofa_ros.rclpy_zenoh.exceptions import MissingFeatureError
from dynamic_ofa_ros.rclpy_zenoh.time import ClockType


class Timer:
    """Calls back once a period of its clock; calls that were missed are not made up for."""

    def __init__(
        self,
        callback: Callable[[], Any] | None,
        callback_group: Any,
        timer_period_ns: int,
        clock: Clock,
        *,
        context: Any = None,
        autostart: bool = True,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        if timer_period_ns < 0:
            raise ValueError('timer period must not be negative')
        self.callback = callback
        self.callback_group = callback_group
        self.clock = clock
        self._wake = wake
        self._period_ns = timer_period_ns
        self._is_canceled = not autostart
        self._last_call_ns = clock.now_ns()
        self._next_call_ns = self._last_call_ns + timer_period_ns

    @property
    def timer_period_ns(self) -> int:
        """Return the period in nanoseconds."""
        return self._period_ns

    @timer_period_ns.setter
    def timer_period_ns(self, value: int) -> None:
        self._period_ns = int(value)
        self._next_call_ns = self._last_call_ns + self._period_ns
        self._wake()

    @property
    def follows_wall_time(self) -> bool:
        """Return whether a wall clock can tell when it is due (simulated time cannot)."""
        clock = self.clock
        return clock.clock_type is not ClockType.ROS_TIME or not getattr(
            clock, 'ros_time_is_active', False
        )

    def is_ready(self) -> bool:
        """Return whether the callback is due."""
        if self._is_canceled:
            return False
        now_ns = self.clock.now_ns()
        if now_ns < self._last_call_ns:
            # The clock jumped back (a bag started over): count from its new time.
            self._last_call_ns = now_ns
            self._next_call_ns = now_ns + self._period_ns
        elif self.clock.clock_type is ClockType.ROS_TIME and self._last_call_ns == 0:
            # Simulated time began after the timer.
            self._last_call_ns = now_ns
            self._next_call_ns = now_ns + self._period_ns
        return now_ns >= self._next_call_ns

    def execute(self) -> None:
        """Call back if due."""
        if not self.is_ready():
            return
        now_ns = self.clock.now_ns()
        self._last_call_ns = now_ns
        self._next_call_ns += self._period_ns
        if self._next_call_ns < now_ns and self._period_ns > 0:
            behind = (now_ns - self._next_call_ns) // self._period_ns + 1
            self._next_call_ns += behind * self._period_ns
        if self.callback is not None:
            self.callback()

    def time_until_next_call(self) -> int | None:
        """Return nanoseconds until the callback is due (negative: overdue); None if cancelled."""
        return None if self._is_canceled else self._next_call_ns - self.clock.now_ns()

    def time_since_last_call(self) -> int:
        """Return nanoseconds since the last call."""
        return self.clock.now_ns() - self._last_call_ns

    def is_canceled(self) -> bool:
        """Return whether the timer is cancelled."""
        return self._is_canceled

    def cancel(self) -> None:
        """Stop calling back."""
        self._is_canceled = True

    def reset(self) -> None:
        """Start over: the next call is a period from now."""
        self._last_call_ns = self.clock.now_ns()
        self._next_call_ns = self._last_call_ns + self._period_ns
        self._is_canceled = False
        self._wake()

    def destroy(self) -> None:
        """Stop for good."""
        self.cancel()


class Rate:
    """Not available: it needs an executor in another thread."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise MissingFeatureError('rclpy.timer.Rate')
