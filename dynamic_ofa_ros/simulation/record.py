"""Records of simulations: every frame, with the latency that each level would have had."""

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
    """One frame, with the latencies that all levels would have had.

    camera_frame: number of the image; older images that were not processed are skipped.
    start_ms: start of inference.
    latency_ms: in the scope of the limit, including the cost of a switch. It includes inference_ms
    and wait_ms, the time that the image waited for the previous frame (0 if the scope is
    inference).
    limit_ms: latency limit of this frame; infinite without a limit.
    slowdown: slowdown of the device for this level, without noise.
    level_latencies_ms: latency of every level for this image with the same start, waiting time,
    noise and stalls, without the cost of a switch; index 0 is level 1. It does not include that a
    slow level makes later images wait or be skipped.
    level_expected_ms: the same without waiting time, noise and stalls.
    reason: the policy's reason for this level.
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
        """Return whether the frame was late."""
        return is_late(self.latency_ms, self.limit_ms)

    @property
    def could_be_met(self) -> bool:
        """Return whether some level would have met the limit if the image had not waited.

        So a frame that is late because of the previous slow frame counts as avoidable.
        """
        return min(self.level_latencies_ms) - self.wait_ms <= self.limit_ms


@dataclass(frozen=True)
class Record:
    """One simulated run.

    name: name of the trace or model. policy: name of the policy. changes_ms: times of changes of
    the device or the constraints, ascending; empty if unknown.
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
        """Return the number of switches."""
        return switch_count([frame.level for frame in self.frames])

    def accuracy(self, frame: SimulatedFrame) -> float:
        """Return the top-1 accuracy of the level of a frame."""
        return self.platform.levels[frame.level - 1].accuracy

    def oracle_level(self, frame: SimulatedFrame) -> int:
        """Return the most accurate level that would have met the limit, or else the fastest."""
        return clairvoyant_level(
            self.platform.accuracies, frame.level_latencies_ms, frame.limit_ms
        )

    def oracle_accuracy(self, frame: SimulatedFrame) -> float:
        """Return the top-1 accuracy of the oracle for a frame; 0 if the oracle is late, too."""
        level = self.oracle_level(frame)
        if is_late(frame.level_latencies_ms[level - 1], frame.limit_ms):
            return 0.0
        return self.platform.accuracies[level - 1]


def clairvoyant_level(
    accuracies: tuple[float, ...], latencies_ms: tuple[float, ...], limit_ms: float
) -> int:
    """Return the most accurate level (1-based) whose known latency meets the limit.

    Of equally accurate levels, return the fastest; if no level meets the limit, the fastest of
    all.
    """
    met = [i for i, latency_ms in enumerate(latencies_ms) if latency_ms <= limit_ms]
    if not met:
        return latencies_ms.index(min(latencies_ms)) + 1
    return max(met, key=lambda i: (accuracies[i], -latencies_ms[i])) + 1


def write_frames(records: Sequence[Record], path: str | Path) -> None:
    """Write a CSV file with one row per frame atomically; limit_ms is empty without a limit."""
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
