"""What a simulation leaves behind: every frame, and what each level would have done with it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynamic_ofa_ros.adaptation import is_late, switch_count
from dynamic_ofa_ros.files import replacing
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform

if TYPE_CHECKING:
    from dynamic_ofa_ros.runtime.decisions import Decision

FRAME_COLUMNS = (
    'model',
    'frame',
    'camera_frame',
    'time_ms',
    'level',
    'accuracy',
    'latency_ms',
    'limit_ms',
    'is_violation',
    'slowdown',
    'is_first_after_switch',
    'oracle_level',
    'reason',
    'inference_ms',
    'wait_ms',
)


@dataclass(frozen=True)
class SimulatedFrame:
    """One frame, and what the other levels would have done in its place.

    camera_frame: number of the picture; what the camera made while the last frame ran is skipped.
    start_ms: when the classifier took it up and inference began.
    latency_ms: in the scope of the limit, the cost of a switch included; inference_ms is part of
    it, and so is wait_ms: how long the picture waited for the frames before it (0 where the scope
    is inference).
    limit_ms: the latency limit of this frame; infinite without one.
    slowdown: of the device for this level, without noise.
    level_latencies_ms: what every level would have taken for this picture, taken up at the same
    time: with the same wait, noise and stalls, and without the cost of a switch; position 0 is
    level 1. A slow level makes later pictures wait, or be skipped: that is not in these numbers.
    level_expected_ms: the same without wait, noise and stalls.
    reason: what the policy thought when it chose this level.
    """

    camera_frame: int
    start_ms: float
    level: int
    latency_ms: float
    limit_ms: float
    slowdown: float
    is_first_after_switch: bool
    level_latencies_ms: tuple[float, ...]
    level_expected_ms: tuple[float, ...]
    inference_ms: float = math.nan
    wait_ms: float = 0.0
    reason: str = ''

    @property
    def is_violation(self) -> bool:
        """Tell whether the frame was late."""
        return is_late(self.latency_ms, self.limit_ms)

    @property
    def could_be_met(self) -> bool:
        """Tell whether some level would have met the limit, had the picture not had to wait.

        So a policy whose slow frames make the next picture late gets no pardon for that one.
        """
        return min(self.level_latencies_ms) - self.wait_ms <= self.limit_ms


@dataclass(frozen=True)
class Record:
    """One simulated run. `name` says what it ran on, `policy` who decided.

    changes_ms: when the device or the constraints changed, ascending; empty where nobody can say.
    """

    name: str
    policy: str
    seed: int
    platform: SimulatedPlatform
    frames: tuple[SimulatedFrame, ...]
    decisions: tuple[Decision, ...] = ()
    changes_ms: tuple[float, ...] = ()

    @property
    def switch_count(self) -> int:
        """Return how often the level changed between two frames."""
        return switch_count([frame.level for frame in self.frames])

    def accuracy(self, frame: SimulatedFrame) -> float:
        """Return the top-1 accuracy of the level that a frame ran at."""
        return self.platform.levels[frame.level - 1].accuracy

    def oracle_level(self, frame: SimulatedFrame) -> int:
        """Return the most accurate level that would have met the limit; the fastest if none."""
        return clairvoyant_level(
            self.platform.accuracies, frame.level_latencies_ms, frame.limit_ms
        )

    def oracle_accuracy(self, frame: SimulatedFrame) -> float:
        """Return the top-1 accuracy of the oracle for a frame, zero where it would be late too."""
        level = self.oracle_level(frame)
        if is_late(frame.level_latencies_ms[level - 1], frame.limit_ms):
            return 0.0
        return self.platform.accuracies[level - 1]


def clairvoyant_level(
    accuracies: tuple[float, ...], latencies_ms: tuple[float, ...], limit_ms: float
) -> int:
    """Return the most accurate level (from 1) whose known latency meets the limit.

    The fastest one when none does; of equally accurate ones the fastest.
    """
    met = [i for i, latency_ms in enumerate(latencies_ms) if latency_ms <= limit_ms]
    if not met:
        return latencies_ms.index(min(latencies_ms)) + 1
    return max(met, key=lambda i: (accuracies[i], -latencies_ms[i])) + 1


def write_frames(records: Sequence[Record], path: str | Path) -> None:
    """Write a CSV file with a row per frame, atomically; limit_ms is empty without a limit."""
    with (
        replacing(Path(path)) as temporary,
        temporary.open('w', encoding='utf-8', newline='') as file,
    ):
        writer = csv.writer(file)
        writer.writerow(FRAME_COLUMNS)
        for record in records:
            for index, frame in enumerate(record.frames):
                writer.writerow(_row(record, index, frame))


def _row(record: Record, index: int, frame: SimulatedFrame) -> list[object]:
    return [
        record.name,
        index,
        frame.camera_frame,
        f'{frame.start_ms:.3f}',
        frame.level,
        f'{record.accuracy(frame):.5f}',
        f'{frame.latency_ms:.6f}',
        '' if math.isinf(frame.limit_ms) else f'{frame.limit_ms:.6f}',
        int(frame.is_violation),
        f'{frame.slowdown:.5f}',
        int(frame.is_first_after_switch),
        record.oracle_level(frame),
        frame.reason,
        f'{frame.inference_ms:.6f}',
        f'{frame.wait_ms:.6f}',
    ]
