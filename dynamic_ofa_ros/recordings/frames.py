"""Records of images: the answer, if any, and whether it was right and on time."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from dynamic_ofa_ros.adaptation import TimedFrame
from dynamic_ofa_ros.files import replacing


@dataclass(frozen=True)
class SwitchRecord:
    """A change of the active level, as published on ~/active_level."""

    time_s: float
    from_level: int
    to_level: int
    reason: str


@dataclass(frozen=True)
class FrameRecord:
    """One camera image; a row of frames.csv.

    time_s: stamp, since the begin of the run. latency_ms: from the arrival of the image at the
    classifier to its label. An image without an answer has an infinite latency, no label, level 0
    and NaN in the other fields. truth: correct label, or empty if unknown.
    """

    run: str
    time_s: float
    is_loaded: bool
    truth: str
    label: str
    level: int
    level_accuracy: float
    latency_ms: float
    inference_ms: float
    limit_ms: float

    @property
    def is_right(self) -> bool:
        """Whether the label equals the truth."""
        return self.label == self.truth

    @property
    def is_answered(self) -> bool:
        """Whether the image has an answer."""
        return math.isfinite(self.latency_ms)

    @property
    def timed(self) -> TimedFrame:
        """Return the frame for `adaptation`: a right answer has the accuracy 1, a wrong one 0."""
        return TimedFrame(
            1e3 * self.time_s, self.latency_ms, self.limit_ms, self.level, float(self.is_right)
        )

    @property
    def by_level(self) -> TimedFrame:
        """Return the frame with the accuracy of the level that ran; 0 without an answer."""
        accuracy = self.level_accuracy if self.is_answered else 0.0
        return self.timed._replace(accuracy=accuracy)

    @property
    def is_late(self) -> bool:
        """Whether the answer came after the limit or is missing."""
        return self.timed.is_late


def write_frames(frames: Iterable[FrameRecord], path: Path) -> None:
    """Write a CSV row per image; values that were not measured are blank."""
    rows = [
        {**asdict(frame), 'is_late': frame.is_late, 'is_right': frame.is_right} for frame in frames
    ]
    with replacing(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _to_text(value) for name, value in row.items()} for row in rows)


def _to_text(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f'{value:.6g}' if math.isfinite(value) else ''
    return value
