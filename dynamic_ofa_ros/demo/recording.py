"""Joins what camera and classifier say, while a demo runs, to a record of every image."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from dynamic_ofa_ros.recordings.frames import FrameRecord, SwitchRecord
from dynamic_ofa_ros.recordings.messages import stamp_of

ANSWER_WITHIN_S = 1.0
"""An image without an answer for so long gets none."""


class Recorder:
    """Collects what camera and classifier say, by the stamp of the image that it is about.

    It knows nothing of ROS: messages are objects with the fields of msg/*.msg.
    labels: what the classifier calls each of the camera's classes.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._truths: dict[int, str] = {}
        self._answers: dict[int, Any] = {}
        self._switches: list[tuple[int, Any]] = []
        self.table: Any = None

    def add_truth(self, message: Any) -> None:
        """Take a vision_msgs/Classification of the camera."""
        self._truths[stamp_of(message.header)] = self._labels[int(message.results[0].class_id)]

    def add_telemetry(self, message: Any) -> None:
        """Take a dynamic_ofa_ros/Telemetry."""
        self._answers[stamp_of(message.header)] = message

    def add_switch(self, message: Any) -> None:
        """Take a dynamic_ofa_ros/ActiveLevel; that of the start is no switch."""
        if message.from_level:
            self._switches.append((stamp_of(message.header), message))

    def forget(self) -> None:
        """Drop images, answers and switches; the table stays."""
        self._truths.clear()
        self._answers.clear()
        self._switches.clear()

    def set_table(self, message: Any) -> None:
        """Take the look-up table, a dynamic_ofa_ros/LevelArray."""
        self.table = message

    @property
    def level_count(self) -> int:
        """Return how many levels there are; 0 before that is known."""
        return len(self.table.levels) if self.table else 0

    @property
    def is_hearing(self) -> bool:
        """Whether both the camera and the classifier have been heard."""
        return bool(self._truths and self._answers)

    def answers(self, begin_ns: int) -> list[Any]:
        """Return the telemetry of the images from a time on."""
        return [message for stamp, message in self._answers.items() if stamp >= begin_ns]

    def frames(
        self,
        run: str,
        begin_ns: int,
        end_ns: int,
        origin_ns: int,
        loads: Sequence[tuple[float, float]] = (),
    ) -> list[FrameRecord]:
        """Return a record of every image that the camera stamped from begin to end, in order.

        Images that may still be answered are left out. loads: when the competitor was busy, begin
        and end in seconds since `origin_ns`.
        """
        limit_ms = math.nan
        records = []
        for stamp in sorted(stamp for stamp in self._truths if begin_ns <= stamp < end_ns):
            answer = self._answers.get(stamp)
            if answer is None and stamp > time.time_ns() - ANSWER_WITHIN_S * 1e9:
                continue
            limit_ms = limit_ms if answer is None else answer.max_latency_ms
            time_s = (stamp - origin_ns) / 1e9
            records.append(
                FrameRecord(
                    run=run,
                    time_s=time_s,
                    is_loaded=any(begin_s <= time_s < until_s for begin_s, until_s in loads),
                    truth=self._truths[stamp],
                    label=answer.top1_label if answer else '',
                    level=answer.level if answer else 0,
                    level_accuracy=answer.level_accuracy if answer else math.nan,
                    latency_ms=answer.node_ms if answer else math.inf,
                    inference_ms=answer.inference_ms if answer else math.nan,
                    limit_ms=limit_ms,
                )
            )
        return records

    def switches(self, begin_ns: int, end_ns: int, origin_ns: int) -> list[SwitchRecord]:
        """Return the switches from begin to end; their times are since `origin_ns`."""
        return [
            SwitchRecord((stamp - origin_ns) / 1e9, m.from_level, m.to_level, m.reason)
            for stamp, m in self._switches
            if begin_ns <= stamp < end_ns
        ]
