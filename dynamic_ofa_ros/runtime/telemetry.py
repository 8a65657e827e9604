"""Telemetry of frames: rolling statistics, counters by cause, and all values of a frame."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dynamic_ofa_ros.runtime.series import SortedWindow

NAN = math.nan


class RollingStatistics:
    """Percentiles and rate of the most recent frames; not thread-safe."""

    def __init__(self, capacity: int = 100) -> None:
        if capacity < 1:
            raise ValueError(f'capacity must be at least 1, found {capacity}')
        self._values = SortedWindow(capacity)
        self._times_ns: deque[int] = deque(maxlen=capacity)

    def add(self, value: float, time_ns: int) -> None:
        """Add the value of a frame (NaN if it has none) and the time when it was finished."""
        if not math.isnan(value):
            self._values.add(value)
        self._times_ns.append(time_ns)

    def percentiles(self, *fractions: float) -> tuple[float, ...]:
        """Return quantiles for these fractions, interpolated linearly; NaN without values."""
        ordered = self._values.ordered
        if not ordered:
            return (NAN,) * len(fractions)
        last, found = len(ordered) - 1, []
        for fraction in fractions:
            below = int(fraction * last)
            low, high = ordered[below], ordered[min(below + 1, last)]
            found.append(low + (fraction * last - below) * (high - low))
        return tuple(found)

    def rate_hz(self) -> float:
        """Return the frame rate over the window; NaN with fewer than two frames."""
        times_ns = self._times_ns
        if len(times_ns) < 2 or times_ns[-1] <= times_ns[0]:
            return NAN
        return (len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0])


class CauseCounter:
    """Counts events by cause, a short word; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, cause: str) -> int:
        """Count one event; return the number of events with this cause."""
        with self._lock:
            self._counts[cause] += 1
            return self._counts[cause]

    @property
    def total(self) -> int:
        """Number of events of all causes."""
        with self._lock:
            return sum(self._counts.values())

    def snapshot(self) -> Mapping[str, int]:
        """Return an immutable copy of the counts."""
        with self._lock:
            return MappingProxyType(dict(self._counts))


@dataclass(frozen=True)
class FrameTelemetry:
    """All values of one processed frame; the fields of msg/Telemetry.msg.

    Values that were not measured are NaN; `max_latency_ms` and `min_accuracy` are NaN if not set.
    """

    sequence: int
    input_age_ms: float
    executor_wait_ms: float
    queue_wait_ms: float
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    processing_ms: float
    node_ms: float
    end_to_end_ms: float
    latency_p50_ms: float
    latency_p95_ms: float
    throughput_hz: float
    lost_frames: int
    dropped_frames: int
    rejected_frames: int
    failed_frames: int
    violations: int
    max_latency_ms: float
    min_accuracy: float
    level: int
    level_count: int
    level_accuracy: float
    level_latency_ms: float
    predicted_latency_ms: float
    slowdown: float
    contended: bool
    feasible: bool
    switch_count: int
    last_switch_ms: float
    device_load: float
    device_temperature_celsius: float
    device_power_w: float
    top1_class_id: int
    top1_score: float
    top1_label: str
    policy: str
    platform: str

    def latency_ms(self, scope: str) -> float:
        """Return the latency in a scope; for end_to_end, node_ms if end_to_end_ms is NaN."""
        if scope == 'inference':
            return self.inference_ms
        if scope == 'end_to_end' and not math.isnan(self.end_to_end_ms):
            return self.end_to_end_ms
        return self.node_ms
