"""The four tasks of the node's diagnostics: their values, and the conditions of their warnings.

Statuses are computed from snapshots, so that every condition can be tested without a node. The
keys of `Input` are compatible with NITROS and greenwave_monitor.
"""

from __future__ import annotations

import enum
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamic_ofa_ros.runtime.decisions import ManagerState
    from dynamic_ofa_ros.runtime.telemetry import FrameTelemetry

NAN = math.nan
SILENCE_S = 2.0
"""Time without an image after which `Input` warns, if there is or was a publisher."""

VIOLATION_WINDOW_S = 5.0
"""Period over which the fraction of late frames is computed."""

REJECTION_CAUSES = ('encoding', 'size', 'step', 'buffer')
RATE_WINDOW = 60

LOGGED_PROBLEMS = ('silence', 'age')
"""Problems of the input that `new_warnings` returns; others are logged where they are detected."""


class Severity(enum.Enum):
    """The severity of a status."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """The status of one task; the unit of a value is part of its key."""

    task: str
    severity: Severity
    message: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class InputSnapshot:
    """The state of the image topic; counters since the start.

    rate_node_hz, rate_msg_hz: frame rate by arrival and by stamp. delay_ms: age of the last frame
    at its arrival. silence_s: time since the last frame; infinite before the first. open_s: time
    since the node subscribed; NaN while it is not subscribed.
    """

    frames: int = 0
    rate_node_hz: float = NAN
    rate_msg_hz: float = NAN
    delay_ms: float = NAN
    silence_s: float = math.inf
    open_s: float = math.inf
    zero_stamps: int = 0
    future_stamps: int = 0


class InputMonitor:
    """Monitors stamps and arrivals of images; thread-safe."""

    def __init__(self, window: int = RATE_WINDOW) -> None:
        self._lock = threading.Lock()
        self._arrivals_ns: deque[int] = deque(maxlen=window)
        self._stamps_ns: deque[int] = deque(maxlen=window)
        self._opened_ns: int | None = None
        self._frames = 0
        self._delay_ms = NAN
        self._zero_stamps = 0
        self._future_stamps = 0

    def open(self, now_ns: int) -> None:
        """Start to measure silence and rates anew, because the node has just subscribed."""
        with self._lock:
            self._opened_ns = now_ns
            self._arrivals_ns.clear()
            self._stamps_ns.clear()

    def close(self) -> None:
        """Expect no frames, because the node is not subscribed any more."""
        self._opened_ns = None

    def add(self, arrival_ns: int, stamp_ns: int, now_ns: int) -> float:
        """Add a frame; return its age in ms, or NaN if its stamp or the clock is zero.

        arrival_ns: of a steady clock. stamp_ns, now_ns: of the node's clock. The age is negative
        if the stamp is in the future.
        """
        age_ms = NAN if not stamp_ns or not now_ns else (now_ns - stamp_ns) / 1e6
        with self._lock:
            self._frames += 1
            self._arrivals_ns.append(arrival_ns)
            self._delay_ms = age_ms
            if not stamp_ns:
                self._zero_stamps += 1
            else:
                if self._stamps_ns and stamp_ns < self._stamps_ns[-1]:
                    self._stamps_ns.clear()  # a bag was restarted, or a clock was set back
                self._stamps_ns.append(stamp_ns)
            if age_ms < 0.0:
                self._future_stamps += 1
        return age_ms

    def snapshot(self, now_ns: int) -> InputSnapshot:
        """Return the state at a time of the steady clock; rates are NaN if images stopped."""
        with self._lock:
            silence_s, open_s = math.inf, NAN
            if self._arrivals_ns:
                silence_s = (now_ns - self._arrivals_ns[-1]) / 1e9
            if self._opened_ns is not None:
                open_s = (now_ns - self._opened_ns) / 1e9
            is_silent = silence_s > SILENCE_S
            return InputSnapshot(
                frames=self._frames,
                rate_node_hz=NAN if is_silent else _rate_hz(self._arrivals_ns),
                rate_msg_hz=NAN if is_silent else _rate_hz(self._stamps_ns),
                delay_ms=self._delay_ms,
                silence_s=silence_s,
                open_s=open_s,
                zero_stamps=self._zero_stamps,
                future_stamps=self._future_stamps,
            )


def _rate_hz(times_ns: deque[int]) -> float:
    if len(times_ns) < 2 or times_ns[-1] <= times_ns[0]:
        return NAN
    return (len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0])


@dataclass(frozen=True)
class Snapshot:
    """The input of the diagnostics at one time of the steady clock.

    topic: the image topic. last: telemetry of the last frame. qos_problem: a message; empty if
    there is no problem. dropped_old: number of frames dropped because of their age.
    dropped_age_ms: age of the last of them. rejected: number of images that could not be decoded,
    by cause. rejection: why the last of them could not.
    """

    time_ns: int
    input: InputSnapshot
    topic: str
    manager: ManagerState
    last: FrameTelemetry | None
    is_enabled: bool
    publishers: int
    qos_problem: str
    processed_frames: int
    lost_frames: int
    dropped_frames: int
    dropped_old: int
    dropped_age_ms: float
    max_frame_age_ms: float
    rejected: Mapping[str, int]
    rejection: str
    failed_frames: int
    inference_error: str
    rejected_constraints: int
    level_count: int
    level_accuracy: float
    device_load: float = NAN
    device_temperature_celsius: float = NAN
    device_power_w: float = NAN
    resident_levels: int = 0
    resident_mb: float = NAN
    engine_notes: tuple[str, ...] = field(default=())


class Diagnostician:
    """Computes statuses from snapshots; keeps recent snapshots to detect changes."""

    def __init__(self) -> None:
        self._history: deque[Snapshot] = deque()
        self._warned: set[str] = set()
        self._new_warnings: list[str] = []

    def diagnose(self, now: Snapshot) -> tuple[Status, ...]:
        """Return the statuses of all tasks."""
        previous = self._history[-1] if self._history else None
        while self._history and now.time_ns - self._history[0].time_ns > VIOLATION_WINDOW_S * 1e9:
            self._history.popleft()
        self._history.append(now)
        problems = _input_problems(now, previous)
        self._note_warnings(problems)
        return (
            _latency(now, self._history[0]),
            _input(now, previous, list(problems.values())),
            _manager(now),
            _device(now, previous),
        )

    def new_warnings(self) -> list[str]:
        """Return the problems of the input that are new since the last call, for the log."""
        warnings, self._new_warnings = self._new_warnings, []
        return warnings

    def _note_warnings(self, problems: Mapping[str, str]) -> None:
        begun = [
            text
            for kind, text in problems.items()
            if kind in LOGGED_PROBLEMS and kind not in self._warned
        ]
        self._new_warnings += begun
        self._warned = set(problems)


def idle_statuses(progress: str) -> tuple[Status, ...]:
    """Return the statuses of a node that is not configured. progress: what it does now, if any."""
    message = f'configuring: {progress}' if progress else 'not configured'
    return (Status('Runtime manager', Severity.OK, message, {}),)


def _latency(now: Snapshot, then: Snapshot) -> Status:
    last, constraints = now.last, now.manager.constraints
    frames = now.processed_frames - then.processed_frames
    violations = now.manager.violations - then.manager.violations
    share = violations / frames if frames > 0 else NAN
    is_silent = now.input.silence_s > SILENCE_S
    values = {
        'inference_ms': last.inference_ms if last else NAN,
        'processing_ms': last.processing_ms if last else NAN,
        'executor_wait_ms': last.executor_wait_ms if last else NAN,
        'queue_wait_ms': last.queue_wait_ms if last else NAN,
        'node_ms': last.node_ms if last else NAN,
        'end_to_end_ms': last.end_to_end_ms if last else NAN,
        'latency_p50_ms': last.latency_p50_ms if last else NAN,
        'latency_p95_ms': last.latency_p95_ms if last else NAN,
        'throughput_hz': last.throughput_hz if last and not is_silent else 0.0,
        'max_latency_ms': constraints.max_latency_ms,
        'violations': now.manager.violations,
        'violation_ratio': share,
    }
    # 1e-9 is a tolerance for rounding errors.
    if constraints.has_latency and share > 1.0 - constraints.quantile + 1e-9:
        message = (
            f'{share:.0%} of the last {frames} frames exceeded the {constraints.latency_scope} '
            f'limit of {constraints.max_latency_ms:g} ms; {1.0 - constraints.quantile:.1%} allowed'
        )
        return Status('Latency', Severity.WARN, message, values)
    message = 'within the limit' if constraints.has_latency else 'no limit'
    return Status('Latency', Severity.OK, message, values)


def _input(now: Snapshot, previous: Snapshot | None, problems: list[str]) -> Status:
    values: dict[str, float] = {
        'frame_rate_node': now.input.rate_node_hz,
        'frame_rate_msg': now.input.rate_msg_hz,
        'current_delay_from_realtime_ms': now.input.delay_ms,
        'total_dropped_frames': now.dropped_frames,
        'expected_frequency': NAN,
        'received_frames': now.input.frames,
        'processed_frames': now.processed_frames,
        'lost_frames': now.lost_frames,
        'dropped_for_age': now.dropped_old,
        'zero_stamps': now.input.zero_stamps,
        'future_stamps': now.input.future_stamps,
    }
    for cause in REJECTION_CAUSES:
        values[f'rejected_{cause}'] = now.rejected.get(cause, 0)
    severity = Severity.WARN if problems else Severity.OK
    state = f'waiting for a publisher on {now.topic}'
    if now.input.silence_s <= SILENCE_S:
        state = 'receiving'
    if not now.is_enabled:
        state = 'disabled'
    if math.isnan(now.input.open_s):
        state = 'not active'
    return Status('Input', severity, '; '.join(problems) or state, values)


def _input_problems(now: Snapshot, previous: Snapshot | None) -> dict[str, str]:
    """Return the problems of the input: a message for each kind of problem."""

    def since(read: Callable[[Snapshot], int]) -> int:
        return read(now) - (read(previous) if previous is not None else 0)

    problems = {}
    if now.qos_problem:
        problems['qos'] = now.qos_problem
    silence_s = now.input.silence_s
    is_silent = silence_s > SILENCE_S and now.input.open_s > SILENCE_S
    if is_silent and now.is_enabled and (now.publishers or now.input.frames):
        waiting = f'for {silence_s:.0f} s' if math.isfinite(silence_s) else 'yet'
        problems['silence'] = f'no image {waiting}, {now.publishers} publisher(s) on {now.topic}'
    if lost := since(lambda snapshot: snapshot.lost_frames):
        problems['lost'] = f'{lost} image(s) lost in transport: use reliable QoS (docs/nodes.md)'
    if since(lambda snapshot: snapshot.dropped_old) and not since(
        lambda snapshot: snapshot.processed_frames
    ):
        problems['age'] = (
            f'every image is dropped, {now.dropped_age_ms:.0f} ms old: raise max_frame_age_ms '
            f'({now.max_frame_age_ms:g}), or set use_sim_time'
        )
    if since(lambda snapshot: snapshot.input.zero_stamps):
        problems['zero stamps'] = 'images have no stamp, so their age is unknown'
    if since(lambda snapshot: snapshot.input.future_stamps):
        problems['future stamps'] = "stamps of images are in the future: check the camera's clock"
    if rejected := since(lambda snapshot: sum(snapshot.rejected.values())):
        problems['rejected'] = f'{rejected} image(s) rejected: {now.rejection}'
    return problems


def _manager(now: Snapshot) -> Status:
    state, last = now.manager, now.last
    values = {
        'level': state.level,
        'level_count': now.level_count,
        'level_accuracy': now.level_accuracy,
        'predicted_latency_ms': state.predicted_latency_ms,
        'outside_inference_ms': state.outside_ms,
        'min_accuracy': state.constraints.min_accuracy,
        'slowdown': state.slowdown,
        'contended': float(state.is_contended),
        'feasible': float(state.is_feasible),
        'switch_count': state.switch_count,
        'last_switch_ms': last.last_switch_ms if last else NAN,
        'rejected_constraints': now.rejected_constraints,
    }
    if not state.is_feasible:
        message = f'no level meets the constraints: {state.reason}'
        return Status('Runtime manager', Severity.WARN, message, values)
    message = f'level {state.level} of {now.level_count} by {state.policy}: {state.reason}'
    return Status('Runtime manager', Severity.OK, message, values)


def _device(now: Snapshot, previous: Snapshot | None) -> Status:
    values = {
        'device_load': now.device_load,
        'device_temperature_celsius': now.device_temperature_celsius,
        'device_power_w': now.device_power_w,
        'failed_frames': now.failed_frames,
        'resident_levels': now.resident_levels,
        'resident_mb': now.resident_mb,
    }
    if now.failed_frames > (previous.failed_frames if previous is not None else 0):
        message = f'inference failed: {now.inference_error}'
        return Status('Device', Severity.ERROR, message, values)
    if now.engine_notes:
        return Status('Device', Severity.WARN, '; '.join(now.engine_notes), values)
    return Status('Device', Severity.OK, 'running', values)
