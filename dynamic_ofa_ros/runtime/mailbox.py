"""Frame and Mailbox: what lies between the thread that receives images and the worker."""

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
    """A frame on its way: the image, the caller's own header, when it came, how old it was then.

    `header` is handed back untouched. `received_ns` (when the caller got it) and `arrived_ns`
    (when it reached this process; None: when the caller got it) are from `time.perf_counter_ns`;
    `input_age_ms` is the age of the image at arrival by the caller's clock, NaN when unknown.
    """

    image: ImageSource
    header: Any = None
    received_ns: int = field(default_factory=time.perf_counter_ns)
    input_age_ms: float = NAN
    arrived_ns: int | None = None

    @property
    def executor_wait_ms(self) -> float:
        """Time from arrival to the caller; NaN when the arrival is unknown."""
        return NAN if self.arrived_ns is None else (self.received_ns - self.arrived_ns) / 1e6

    def age_ms(self, time_ns: int) -> float:
        """Return the time from arrival to a moment of `time.perf_counter_ns`."""
        start_ns = self.received_ns if self.arrived_ns is None else self.arrived_ns
        return (time_ns - start_ns) / 1e6


class Mailbox:
    """Holds the newest frame only: a frame that nobody took in time is replaced, and counted."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._is_closed = False
        self._received = 0
        self._replaced = 0

    @property
    def received(self) -> int:
        """Frames put in since start."""
        return self._received

    @property
    def replaced(self) -> int:
        """Frames that a newer one replaced before they were taken."""
        return self._replaced

    def put(self, frame: Frame) -> bool:
        """Leave a frame; tell whether it replaced one. A closed mailbox takes none."""
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
        """Wait for a frame and take it; None after the timeout or when the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or self._is_closed, timeout_s)
            if self._is_closed:
                return None
            frame, self._frame = self._frame, None
            return frame

    def clear(self) -> None:
        """Throw away a waiting frame without counting it."""
        with self._condition:
            self._frame = None

    def close(self) -> None:
        """Wake whoever waits; from now on there are no frames."""
        with self._condition:
            self._is_closed = True
            self._frame = None
            self._condition.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed
