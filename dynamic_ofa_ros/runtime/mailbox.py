"""Frame and Mailbox, which pass images from the receiving thread to the worker."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from dynamic_ofa_ros.runtime.image import ImageSource

NAN = math.nan


@dataclass(frozen=True)
class Frame:
    """An image with its header and times.

    header: passed to the callbacks unchanged. received_ns: time when the caller received the
    image.
    arrived_ns: time when it arrived in this process; None: the same as received_ns. Both are of
    `time.perf_counter_ns`. input_age_ms: age of the image at arrival by the caller's clock; NaN if
    unknown.
    """

    image: ImageSource
    header: Any = None
    received_ns: int = field(default_factory=time.perf_counter_ns)
    input_age_ms: float = NAN
    arrived_ns: int | None = None

    @property
    def executor_wait_ms(self) -> float:
        """Time from arrival until the caller received the image; NaN if unknown."""
        return NAN if self.arrived_ns is None else (self.received_ns - self.arrived_ns) / 1e6

    def age_ms(self, time_ns: int) -> float:
        """Return the time from arrival to `time_ns`, a time of `time.perf_counter_ns`."""
        start_ns = self.received_ns if self.arrived_ns is None else self.arrived_ns
        return (time_ns - start_ns) / 1e6


class Mailbox:
    """Holds the newest frame; a new frame replaces one that has not been taken yet."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._is_closed = False
        self._received = 0
        self._replaced = 0

    @property
    def received(self) -> int:
        """Number of frames since the start."""
        return self._received

    @property
    def replaced(self) -> int:
        """Number of frames that were replaced before they were taken."""
        return self._replaced

    def put(self, frame: Frame) -> bool:
        """Store a frame; return whether it replaced one. A closed mailbox ignores it."""
        with self._condition:
            if self._is_closed:
                return False
            self._received += 1
            is_replacing = self._frame is not None
            self._replaced += is_replacing
            self._frame = frame
            self._condition.notify()
            return is_replacing

    def get(self, timeout_s: float | None = None) -> Frame | None:
        """Wait for a frame and take it; None after the timeout or if the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or self._is_closed, timeout_s)
            if self._is_closed:
                return None
            frame, self._frame = self._frame, None
            return frame

    def clear(self) -> None:
        """Discard a waiting frame; it is not counted as replaced."""
        with self._condition:
            self._frame = None

    def close(self) -> None:
        """Close the mailbox and wake waiting threads."""
        with self._condition:
            self._is_closed = True
            self._frame = None
            self._condition.notify_all()
