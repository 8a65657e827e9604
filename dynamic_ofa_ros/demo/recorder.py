"""Collects what the classifier and the camera say, and keeps it in the scenario's time."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from typing import Any

from dynamic_ofa_ros.demo.joining import FrameJoiner, JoinedFrame
from dynamic_ofa_ros.demo.recording import FrameRecord, LevelRecord, Recording, SwitchRecord
from dynamic_ofa_ros.demo.snapshot import Tally

HISTORY_S = 15.0
RECENT_LABELS = 60
PREPARING = 'preparing'


class Recorder:
    """Turns messages into records. Times in are nanoseconds of the system clock.

    It knows nothing of ROS: messages are objects with the fields of msg/*.msg.
    truth_labels: what the classifier calls the camera's classes, where it calls them otherwise.
    """

    def __init__(self, truth_labels: Mapping[str, str] | None = None) -> None:
        self._truth_labels = truth_labels or {}
        self.levels: tuple[LevelRecord, ...] = ()
        self.family = ''
        self.platform = ''
        self.switches: list[SwitchRecord] = []
        self.frames: list[FrameRecord] = []
        self.tally = Tally()
        self._recent: deque[bool] = deque(maxlen=RECENT_LABELS)
        self._joiner = FrameJoiner()
        self._truth_names: Mapping[str, str] = {}
        self._label_names: Mapping[str, str] = {}
        self._origin_ns: int | None = None
        self._phases: list[tuple[str, float]] = []
        self._competitor: list[tuple[float, float]] = []
        self._announced = 0
        self._last_telemetry: Any = None

    # What the scenario does.

    def start(self, now_ns: int) -> None:
        """Begin the scenario's time: what was recorded while preparing is forgotten."""
        self._origin_ns = now_ns
        self.frames.clear()
        self.switches.clear()
        self._recent.clear()
        self.tally = Tally()
        self._announced = 0

    def time_s(self, now_ns: int) -> float:
        """Return the scenario's time; negative before it began."""
        return -1.0 if self._origin_ns is None else (now_ns - self._origin_ns) / 1e9

    def begin_phase(self, name: str, now_ns: int) -> None:
        """Attribute frames from now on to a phase."""
        self._phases.append((name, max(0.0, self.time_s(now_ns))))

    def mark_competitor(self, is_running: bool, now_ns: int) -> None:
        """Note that the competing process runs, or does so no more."""
        time_s = self.time_s(now_ns)
        if is_running:
            self._competitor.append((time_s, math.inf))
        elif self._competitor:
            self._competitor[-1] = (self._competitor[-1][0], time_s)

    # What the nodes say.

    def add_truth(self, message: Any) -> None:
        """Take a vision_msgs/Classification of the camera."""
        self._announced += 1
        truth = message.results[0].class_id if message.results else ''
        self._take(self._joiner.add_truth(stamp_of(message.header), truth))

    def add_label(self, message: Any) -> None:
        """Take a vision_msgs/Classification of the classifier."""
        label = message.results[0].class_id if message.results else ''
        self._take(self._joiner.add_label(stamp_of(message.header), label))

    def add_telemetry(self, message: Any) -> None:
        """Take a dynamic_ofa_ros/Telemetry."""
        self._last_telemetry = message
        self._take(self._joiner.add_telemetry(stamp_of(message.header), message))

    def add_switch(self, message: Any, now_ns: int) -> None:
        """Take a dynamic_ofa_ros/ActiveLevel; the latched one of the start is no switch."""
        if message.from_level == 0 or self._origin_ns is None:
            return
        self.switches.append(
            SwitchRecord(
                time_s=self.time_s(now_ns),
                from_level=message.from_level,
                to_level=message.to_level,
                reason=message.reason,
                switch_ms=message.switch_ms,
                is_feasible=message.feasible,
            )
        )

    def set_levels(self, message: Any) -> None:
        """Take the look-up table, a dynamic_ofa_ros/LevelArray."""
        self.family, self.platform = message.family, message.platform
        self.levels = tuple(
            LevelRecord(
                index=level.index,
                name=level.name,
                resolution=level.resolution,
                accuracy=level.accuracy,
                latency_ms=level.latency_ms,
                latency_p95_ms=level.latency_p95_ms,
            )
            for level in message.levels
        )

    def set_truth_names(self, message: Any) -> None:
        """Take the camera's class names, a vision_msgs/LabelInfo."""
        self._truth_names = _names_of(message)

    def set_label_names(self, message: Any) -> None:
        """Take the classifier's class names, a vision_msgs/LabelInfo."""
        self._label_names = _names_of(message)

    # What others want to know.

    @property
    def has_telemetry(self) -> bool:
        """Whether the classifier has labelled anything yet."""
        return self._last_telemetry is not None

    @property
    def has_truth(self) -> bool:
        """Whether the camera has said what it shows, and by which name."""
        return self._announced > 0 and bool(self._truth_names)

    def history(self, now_s: float) -> tuple[FrameRecord, ...]:
        """Return the frames of the last HISTORY_S seconds."""
        begin = len(self.frames)
        while begin and self.frames[begin - 1].time_s > now_s - HISTORY_S:
            begin -= 1
        return tuple(self.frames[begin:])

    def free_run_slowdown(self) -> float:
        """Return the median of measured over tabulated latency, of the later frames."""
        ratios = [
            frame.inference_ms / frame.level_latency_ms
            for frame in self.frames[len(self.frames) // 2 :]
            if frame.level_latency_ms > 0.0
        ]
        return statistics.median(ratios) if ratios else math.nan

    def recording(self, now_ns: int, conditions: Mapping[str, str]) -> Recording:
        """Return everything recorded; frames that still wait for a message go in as they are."""
        self._take(self._joiner.flush())
        return Recording(
            frames=tuple(sorted(self.frames, key=lambda frame: frame.time_s)),
            switches=tuple(self.switches),
            levels=self.levels,
            phase_starts_s=tuple(self._phases),
            end_s=self.time_s(now_ns),
            family=self.family,
            platform=self.platform,
            published_frames=self._announced,
            conditions=dict(conditions),
        )

    def _take(self, joined_frames: list[JoinedFrame]) -> None:
        for joined in joined_frames:
            frame = self._record(joined)
            if self._origin_ns is not None and frame.time_s < 0.0:
                continue  # of before the start, completed after it
            self.frames.append(frame)
            self._count(frame)

    def _count(self, frame: FrameRecord) -> None:
        correct = frame.is_correct
        if correct is None:
            return
        self._recent.append(correct)
        self.tally = Tally(
            correct=self.tally.correct + correct,
            known=self.tally.known + 1,
            recent_correct=sum(self._recent),
            recent_known=len(self._recent),
        )

    def _record(self, joined: JoinedFrame) -> FrameRecord:
        message = joined.telemetry
        time_s = self._finished_s(joined)
        return FrameRecord(
            time_s=time_s,
            stamp_ns=joined.stamp_ns,
            sequence=message.sequence,
            phase=self._phase_at(time_s),
            has_competitor=any(begin <= time_s < end for begin, end in self._competitor),
            truth=self._truth_label(joined.truth),
            label=self._label_names.get(joined.label, joined.label),
            score=message.top1_score,
            level=message.level,
            level_count=message.level_count,
            level_accuracy=message.level_accuracy,
            level_latency_ms=message.level_latency_ms,
            inference_ms=message.inference_ms,
            preprocess_ms=message.preprocess_ms,
            postprocess_ms=message.postprocess_ms,
            processing_ms=message.processing_ms,
            queue_wait_ms=message.queue_wait_ms,
            end_to_end_ms=message.end_to_end_ms,
            input_age_ms=message.input_age_ms,
            predicted_latency_ms=message.predicted_latency_ms,
            max_latency_ms=message.max_latency_ms,
            min_accuracy=message.min_accuracy,
            slowdown=message.slowdown,
            is_contended=message.contended,
            is_feasible=message.feasible,
            dropped_frames=message.dropped_frames,
            rejected_frames=message.rejected_frames,
            switch_count=message.switch_count,
            throughput_hz=message.throughput_hz,
            device_load=message.device_load,
            device_temperature_celsius=message.device_temperature_celsius,
            device_power_w=message.device_power_w,
        )

    def _truth_label(self, class_id: str) -> str:
        """Return the label that is right for the camera's class."""
        name = self._truth_names.get(class_id, class_id)
        return self._truth_labels.get(name, name)

    def _finished_s(self, joined: JoinedFrame) -> float:
        """Return when the frame's label was published.

        From the frame's own times, not from when its message was handled here: under contention
        this process is late too.
        """
        message = joined.telemetry
        delays_ms = [message.input_age_ms, message.end_to_end_ms]
        delay_ms = sum(value for value in delays_ms if not math.isnan(value))
        return self.time_s(joined.stamp_ns + round(delay_ms * 1e6))

    def _phase_at(self, time_s: float) -> str:
        index = bisect_right([start for _, start in self._phases], time_s)
        return self._phases[index - 1][0] if index else PREPARING


def stamp_of(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def _names_of(message: Any) -> dict[str, str]:
    return {str(item.class_id): str(item.class_name) for item in message.class_map}
