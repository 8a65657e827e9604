"""`rclpy.duration`."""

from __future__ import annotations

from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.messages import message_class

S_TO_NS = 1_000_000_000


class Duration:
    """A length of time, in whole nanoseconds."""

    __slots__ = ('_nanoseconds',)

    def __init__(self, *, seconds: float = 0, nanoseconds: float = 0) -> None:
        total = int(seconds * S_TO_NS) + int(nanoseconds)
        if not -(2**63) <= total < 2**63:
            raise OverflowError('Total nanoseconds value is too large to store in C duration.')
        self._nanoseconds = total

    @property
    def nanoseconds(self) -> int:
        """Return the length in nanoseconds."""
        return self._nanoseconds

    def to_msg(self) -> Any:
        """Return the length as builtin_interfaces/msg/Duration."""
        seconds, nanoseconds = divmod(self._nanoseconds, S_TO_NS)
        return message_class('builtin_interfaces/msg/Duration')(sec=seconds, nanosec=nanoseconds)

    @classmethod
    def from_msg(cls, msg: Any) -> Duration:
        """Return a Duration from builtin_interfaces/msg/Duration."""
        return cls(seconds=msg.sec, nanoseconds=msg.nanosec)

    def _other(self, other: object) -> int:
        if not isinstance(other, Duration):
            raise TypeError(f"Can't compare duration with object of type: {type(other)}")
        return other._nanoseconds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self._nanoseconds == other._nanoseconds

    def __lt__(self, other: object) -> bool:
        return self._nanoseconds < self._other(other)

    def __le__(self, other: object) -> bool:
        return self._nanoseconds <= self._other(other)

    def __gt__(self, other: object) -> bool:
        return self._nanoseconds > self._other(other)

    def __ge__(self, other: object) -> bool:
        return self._nanoseconds >= self._other(other)

    def __hash__(self) -> int:
        return hash(self._nanoseconds)

    def __repr__(self) -> str:
        return f'Duration(nanoseconds={self._nanoseconds})'


Infinite = Duration(nanoseconds=2**63 - 1)
