"""Combines the messages of camera and classifier into a record of every image."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from dynamic_ofa_ros.recordings.frames import FrameRecord, SwitchRecord
from dynamic_ofa_ros.recordings.messages import stamp_of

ANSWER_WITHIN_S = 1.0
"""An image without an answer after this time counts as unanswered."""


class Recorder:
    """Collects the messages of camera and classifier by the stamp of their image.

    Messages are objects with the fields of msg/*.msg, so that ROS is not needed.
    labels: the classifier's label of each class of the camera.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._truths: dict[int, str] = {}
        self._answers: dict[int, Any] = {}
        self._switches: list[tuple[int, Any]] = []
        self.table: Any = None

    def add_truth(self, message: Any) -> None:
        """Add a vision_msgs/Classification of the camera."""
        self._truths[stamp_of(message.header)] = self._labels[int(message.results[0].class_id)]

    def add_telemetry(self, message: Any) -> None:
        """Add a dynamic_ofa_ros/Telemetry."""
        self._answers[stamp_of(message.header)] = message

    def add_switch(self, message: Any) -> None:
        """Add a dynamic_ofa_ros/ActiveLevel, unless it announces the first level."""
        if message.from_level:
            self._switches.append((stamp_of(message.header), message))

    def forget(self) -> None:
        """Remove images, answers and switches; keep the table of levels."""
        self._truths.clear()
        self._answers.clear()
        self._switches.clear()

    def set_table(self, message: Any) -> None:
        """Set the table of levels, a dynamic_ofa_ros/LevelArray."""
        self.table = message

    @property
    def level_count(self) -> int:
        """Return the number of levels; 0 if it is not known yet."""
        return len(self.table.levels) if self.table else 0

    @property
    def is_receiving(self) -> bool:
        """Whether messages of both camera and classifier have arrived."""
        return bool(self._truths and self._answers)

    def answers(self, begin_ns: int) -> list[Any]:
        """Return the telemetry of images stamped at `begin_ns` or later."""
        return [message for stamp, message in self._answers.items() if stamp >= begin_ns]

    def frames(
        self,
        run: str,
        begin_ns: int,
        end_ns: int,
        origin_ns: int,
        loads: Sequence[tuple[float, float]] = (),
    ) -> list[FrameRecord]:
        """Return a record of every camera image stamped from begin to end, in order.

        Images that may still be answered are left out. loads: begin and end of each load in
        seconds since `origin_ns`.
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
        """Return the switches from begin to end, with times since `origin_ns`."""
        return [
            SwitchRecord((stamp - origin_ns) / 1e9, m.from_level, m.to_level, m.reason)
            for stamp, m in self._switches
            if begin_ns <= stamp < end_ns
        ]
