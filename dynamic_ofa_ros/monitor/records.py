"""Records of the classifiers, of limited size, and the part that a page has not received yet.

Written on the ROS thread, read on the web server's thread. Times are in s of the system clock.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

MAX_FRAMES = 3600
MAX_SWITCHES = 100
RECENT_FRAMES = 30
"""Number of frames for the median of the latency outside inference."""

MAX_LABEL = 100
"""Longer labels are truncated."""

ACTIVE_S = 1.0
"""Time since the last frame within which a classifier counts as active."""

STAGES = (
    'input_age_ms', 'executor_wait_ms', 'queue_wait_ms', 'preprocess_ms', 'inference_ms',
    'postprocess_ms',
)  # fmt: skip
"""The stages of a frame in telemetry, in order; `publish_ms` is the remaining time."""

FRAME_FIELDS = (
    'time_s', *STAGES, 'publish_ms', 'node_ms', 'end_to_end_ms', 'max_latency_ms', 'level',
)  # fmt: skip
"""The columns of a frame that is sent to pages."""

LATEST_FIELDS = (
    'sequence', 'latency_p50_ms', 'latency_p95_ms', 'throughput_hz', 'lost_frames',
    'dropped_frames', 'rejected_frames', 'failed_frames', 'violations', 'max_latency_ms',
    'min_accuracy', 'level', 'level_count', 'level_accuracy', 'predicted_latency_ms', 'slowdown',
    'contended', 'feasible', 'switch_count', 'last_switch_ms', 'device_load',
    'device_temperature_celsius', 'device_power_w', 'top1_label', 'top1_score', 'policy',
    'platform',
)  # fmt: skip
LATENCY_OF_SCOPE = {'inference': 'inference_ms', 'node': 'node_ms', 'end_to_end': 'end_to_end_ms'}
SCOPE_PARAMETER = 'constraints.latency_scope'

Cursor = dict[str, tuple[int, int, int, int]]
"""By classifier: frames and switches sent to a page; revisions of its levels and parameters."""


@dataclass(frozen=True)
class Picture:
    """A camera image as JPEG, with its stamp (seconds, nanoseconds) and its number."""

    jpeg: bytes
    stamp: tuple[int, int]
    number: int


@dataclass
class Record:
    """The record of one classifier. Hold the lock of its Records while using it."""

    name: str
    is_alive: bool = True
    image_topic: str = ''
    family: str = ''
    platforms: tuple[str, ...] = ()
    levels: list[dict[str, Any]] = field(default_factory=list)
    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    frames: deque[tuple[Any, ...]] = field(default_factory=lambda: deque(maxlen=MAX_FRAMES))
    answers: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT_FRAMES))
    switches: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_SWITCHES))
    latest: Any = None
    frame_count: int = 0
    switch_count: int = 0
    level_revision: int = 0
    parameter_revision: int = 0

    @property
    def is_active(self) -> bool:
        """Whether a frame has come recently."""
        return bool(self.frames) and time.time() - self.frames[-1][0] < ACTIVE_S

    def add_telemetry(self, message: Any, time_s: float) -> None:
        """Add a frame from a dynamic_ofa_ros/Telemetry."""
        self.frames.append(frame_of(message, time_s))
        self.frame_count += 1
        self.latest = message
        stamp = message.header.stamp
        self.answers.append(
            {
                'stamp': (stamp.sec, stamp.nanosec),
                'label': message.top1_label[:MAX_LABEL] if message.top1_class_id >= 0 else '',
                'score': finite(message.top1_score),
                'level': message.level,
            }
        )

    def add_levels(self, message: Any) -> None:
        """Set the look-up table from a dynamic_ofa_ros/LevelArray."""
        self.family, self.platforms = message.family, tuple(message.platforms)
        self.levels = [
            {
                'index': level.index,
                'name': level.name,
                'resolution': level.resolution,
                'accuracy': finite(level.accuracy),
                'latency_ms': finite(level.latency_ms),
            }
            for level in message.levels
        ]
        self.latencies_ms = {
            platform: [level.latencies_ms[i] for level in message.levels]
            for i, platform in enumerate(message.platforms)
            if all(i < len(level.latencies_ms) for level in message.levels)
        }
        self.level_revision += 1

    def add_switch(self, message: Any, time_s: float) -> None:
        """Add a switch from a dynamic_ofa_ros/ActiveLevel."""
        self.switches.append(
            {
                'time_s': time_s,
                'from': message.from_level,
                'to': message.to_level,
                'from_platform': message.from_platform,
                'to_platform': message.to_platform,
                'reason': message.reason,
                'policy': message.policy,
                'feasible': bool(message.feasible),
                'switch_ms': finite(message.switch_ms),
                'slowdown': finite(message.slowdown),
            }
        )
        self.switch_count += 1

    def set_parameters(self, parameters: dict[str, dict[str, Any]]) -> None:
        """Replace all parameters, by name."""
        self.parameters = parameters
        self.parameter_revision += 1

    def set_values(self, values: Iterable[tuple[str, Any]]) -> None:
        """Update the values of known parameters."""
        for name, value in values:
            if name in self.parameters:
                self.parameters[name]['value'] = clean(value)
                self.parameter_revision += 1

    def predictions_ms(self) -> list[float | None]:
        """Return the estimated latency of each level now, in the scope of the limit.

        The node predicts the latency of the active level. For the other levels, inference is
        scaled by the latency profile, and the time outside inference is assumed to be the same.
        """
        latest = self.latest
        own = self.latencies_ms.get(latest.platform) if latest is not None else None
        if own is None or not 1 <= latest.level <= len(own):
            return [None] * len(self.levels)
        scope = self.parameters.get(SCOPE_PARAMETER, {}).get('value', 'node')
        column = FRAME_FIELDS.index(LATENCY_OF_SCOPE.get(scope, 'node_ms'))
        inference = FRAME_FIELDS.index('inference_ms')
        outside = [
            frame[column] - frame[inference]
            for frame in islice(reversed(self.frames), RECENT_FRAMES)
            if frame[column] is not None and frame[inference] is not None
        ]
        outside_ms = max(0.0, statistics.median(outside)) if outside else 0.0
        active_ms, predicted_ms = own[latest.level - 1], latest.predicted_latency_ms
        inside_ms = max(0.0, predicted_ms - outside_ms)
        if not active_ms > 0.0 or math.isnan(predicted_ms):
            return [None] * len(self.levels)
        return [finite(inside_ms * level_ms / active_ms + outside_ms) for level_ms in own]

    def answer_to(self, stamp: tuple[int, int]) -> dict[str, Any]:
        """Return label, score and level of the frame with a stamp, or of the newest frame."""
        newest: dict[str, Any] = self.answers[-1] if self.answers else {}
        if stamp == (0, 0):
            return newest
        found = (answer for answer in reversed(self.answers) if answer['stamp'] == stamp)
        return next(found, newest)


class Records:
    """The records of all classifiers, by name. Hold `lock` while using a record.

    left_out: number of further classifiers, which have no record. shown: names of the classifiers
    in the windows of the open pages; None if not known.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.left_out = 0
        self.shown: Set[str] | None = None
        self._records: dict[str, Record] = {}
        self._pictures: dict[str, Picture] = {}
        self._picture_count = 0

    def __len__(self) -> int:
        return len(self._records)

    def create(self, name: str) -> Record:
        """Create and return a record."""
        record = Record(name)
        with self.lock:
            self._records[name] = record
        return record

    def remove(self, name: str) -> None:
        """Remove the record of a classifier."""
        with self.lock:
            self._records.pop(name, None)

    def parameter(self, name: str, parameter: str) -> dict[str, Any] | None:
        """Return the description of a writable parameter, or None."""
        with self.lock:
            record = self._records.get(name)
            found = record.parameters.get(parameter) if record is not None else None
            return dict(found) if found is not None else None

    def is_shown(self, name: str) -> bool:
        """Return whether a classifier is in the window of a page, as far as known."""
        return self.shown is None or name in self.shown

    def is_topic_shown(self, topic: str) -> bool:
        """Return whether a classifier in the window of a page reads an image topic."""
        with self.lock:
            return any(
                record.image_topic == topic and self.is_shown(record.name)
                for record in self._records.values()
            )

    def update(self, cursor: Cursor, shown: Set[str] | None = None) -> list[dict[str, Any]]:
        """Return an entry per classifier with the news for a page, and advance its cursor.

        shown: the classifiers in the window of the page, None = all. The others have only a name,
        and their news wait.
        """
        with self.lock:
            records = sorted(self._records.values(), key=lambda record: record.name)
            for name in cursor.keys() - self._records.keys():
                del cursor[name]
            entries = []
            for record in records:
                if shown is not None and record.name not in shown:
                    entries.append({'name': record.name})
                    continue
                entries.append(_entry(record, cursor.get(record.name, (0, 0, 0, 0))))
                cursor[record.name] = (
                    record.frame_count,
                    record.switch_count,
                    record.level_revision,
                    record.parameter_revision,
                )
        return entries

    def set_picture(self, topic: str, jpeg: bytes, stamp: tuple[int, int]) -> None:
        """Set the newest image of a topic."""
        with self.lock:
            self._picture_count += 1
            self._pictures[topic] = Picture(jpeg, stamp, self._picture_count)

    def is_answered(self, topic: str, stamp: tuple[int, int]) -> bool:
        """Return whether all classifiers of an image topic have reached the image with a stamp."""
        with self.lock:
            return all(
                record.answers and record.answers[-1]['stamp'] >= stamp
                for record in self._records.values()
                if record.image_topic == topic and record.is_active
            )

    def remove_picture(self, topic: str) -> None:
        """Remove the image of a topic."""
        with self.lock:
            self._pictures.pop(topic, None)

    def pictures(
        self, after: int, shown: Set[str] | None = None
    ) -> list[tuple[Picture, dict[str, dict[str, Any]]]]:
        """Return the pictures with a number above `after`, oldest first.

        Each comes with the answers, by name, of the classifiers that read its topic. shown: the
        classifiers in the window of the page, None = all; pictures without any are left out.
        """
        with self.lock:
            found = [
                (
                    picture,
                    {
                        record.name: record.answer_to(picture.stamp)
                        for record in self._records.values()
                        if record.image_topic == topic and (shown is None or record.name in shown)
                    },
                )
                for topic, picture in sorted(self._pictures.items(), key=lambda p: p[1].number)
                if picture.number > after
            ]
        return [(picture, answers) for picture, answers in found if shown is None or answers]


def _entry(record: Record, seen: tuple[int, int, int, int]) -> dict[str, Any]:
    frames, switches, level_revision, parameter_revision = seen
    latest = record.latest
    entry: dict[str, Any] = {
        'name': record.name,
        'alive': record.is_alive,
        'image_topic': record.image_topic,
        'frames': _last(record.frames, record.frame_count - frames),
        'switches': _last(record.switches, record.switch_count - switches),
        'latest': None,
    }
    if latest is not None:
        entry['latest'] = {name: clean(getattr(latest, name)) for name in LATEST_FIELDS}
        entry['predictions_ms'] = record.predictions_ms()
    if record.level_revision != level_revision:
        entry |= {'family': record.family, 'levels': record.levels}
    if record.parameter_revision != parameter_revision:
        entry['parameters'] = list(record.parameters.values())
    return entry


def _last(items: Sequence[Any] | deque[Any], count: int) -> list[Any]:
    """Return the last `count` items, or all if there are fewer."""
    count = min(max(0, count), len(items))
    return list(islice(items, len(items) - count, len(items)))


def frame_of(message: Any, time_s: float) -> tuple[Any, ...]:
    """Return the columns FRAME_FIELDS of a dynamic_ofa_ros/Telemetry; None = not measured."""
    stages = [finite(getattr(message, name)) for name in STAGES]
    # The stages after arrival are contiguous; the remaining time is that of publishing.
    inside = sum(value or 0.0 for value in stages[1:])
    node_ms = finite(message.node_ms)
    publish_ms = None if node_ms is None else round(max(0.0, node_ms - inside), 3)
    return (
        round(time_s, 3),
        *stages,
        publish_ms,
        node_ms,
        finite(message.end_to_end_ms),
        finite(message.max_latency_ms),
        message.level,
    )


def finite(value: float) -> float | None:
    """Return a number rounded to three decimals; None for NaN and infinity, which JSON lacks."""
    return round(value, 3) if math.isfinite(value) else None


def clean(value: Any) -> Any:
    """Return the value of a message field for JSON."""
    return finite(value) if isinstance(value, float) else value
