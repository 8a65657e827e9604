"""Measure policies with a load on the GPU: camera frames in the node's worker, without ROS.

Part of `benchmarks.gpu_check`. The latency of a frame is in the scope `node`, from arrival to
result. A frame that was replaced by a newer one has no result and counts as late.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.adapting import QUANTILE, Load, Timeline
from dynamic_ofa_ros.adaptation import TimedFrame, switch_count
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.family import Family, LatencyProfile
from dynamic_ofa_ros.runtime.classifier import Classifier, ClassifierWorker, Result
from dynamic_ofa_ros.runtime.image import RgbImage
from dynamic_ofa_ros.runtime.mailbox import Frame
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.runtime.telemetry import FrameTelemetry

if TYPE_CHECKING:
    from dynamic_ofa_ros.runtime.engine import Engine

HIGH_RATE_HZ, LOW_RATE_HZ = 60.0, 30.0
IMAGE_SHAPE = (480, 640, 3)


@dataclass(frozen=True)
class Segments:
    """The times of the load in a run, in seconds."""

    before_s: float
    load_s: float
    after_s: float

    @property
    def total_s(self) -> float:
        """Return the duration of a run."""
        return self.before_s + self.load_s + self.after_s

    @property
    def load_end_s(self) -> float:
        """Return the end of the load."""
        return self.before_s + self.load_s


@dataclass(frozen=True)
class FrameRecord:
    """One frame with a result; `time_s` is its arrival, relative to the start of the run.

    `reason` is that of the switch before the frame, if there was one.
    """

    time_s: float
    level: int
    platform: str
    latency_ms: float
    inference_ms: float
    queue_wait_ms: float = 0.0
    preprocess_ms: float = 0.0
    predicted_ms: float = math.nan
    slowdown: float = math.nan
    reason: str = ''


@dataclass(frozen=True)
class Run:
    """The record of one run of a policy; times_s: arrivals of all images."""

    frames: tuple[FrameRecord, ...]
    times_s: tuple[float, ...]

    def timeline(
        self, limit_ms: float, accuracies: Sequence[float], segments: Segments
    ) -> Timeline:
        """Return the timeline of the run; an image that was replaced has no result."""
        answers = {frame.time_s: frame for frame in self.frames}
        frames = [
            TimedFrame(1e3 * time_s, frame.latency_ms, limit_ms, frame.level,
                       accuracies[frame.level - 1])
            if (frame := answers.get(time_s))
            else TimedFrame(1e3 * time_s, math.inf, limit_ms)
            for time_s in self.times_s
        ]  # fmt: skip
        return Timeline(
            tuple(frames),
            1e3 * segments.before_s,
            1e3 * segments.load_end_s,
            1e3 * segments.total_s,
            switch_count([(frame.level, frame.platform) for frame in self.frames]),
        )


def drive(
    family: Family,
    engines: Sequence[Engine],
    profiles: Sequence[LatencyProfile],
    load: Load,
    segments: Segments,
    policy: PolicySettings,
    *,
    rate_hz: float,
    limit_ms: float | None = None,
) -> Run:
    """Classify the frames of a camera with a temporary load."""
    constraints = Constraints()
    if limit_ms is not None:
        constraints = Constraints(limit_ms, latency_scope='node', quantile=QUANTILE)
    manager = RuntimeManager(family.levels, profiles, constraints=constraints, policy=policy)
    pixels = np.random.default_rng(1).integers(0, 256, IMAGE_SHAPE, np.uint8)
    records: list[FrameRecord] = []
    reasons: list[str] = []

    def on_telemetry(frame: Frame, telemetry: FrameTelemetry) -> None:
        records.append(
            FrameRecord(
                time_s=frame.header,
                level=telemetry.level,
                platform=telemetry.platform,
                latency_ms=telemetry.node_ms,
                inference_ms=telemetry.inference_ms,
                queue_wait_ms=telemetry.queue_wait_ms,
                preprocess_ms=telemetry.preprocess_ms,
                predicted_ms=telemetry.predicted_latency_ms,
                slowdown=telemetry.slowdown,
                reason='; '.join(reasons),
            )
        )
        reasons.clear()

    worker = ClassifierWorker(
        Classifier(family, *engines),
        manager,
        on_result=_ignore,
        on_telemetry=on_telemetry,
        on_switch=lambda switch: reasons.append(switch.decision.reason),
    )
    worker.start()
    changes = [(segments.before_s, 1.0), (segments.load_end_s, 0.0)]
    times_s = [number / rate_hz for number in range(round(segments.total_s * rate_hz))]
    start_s = time.perf_counter()
    try:
        for due_s in times_s:
            if changes and due_s >= changes[0][0]:
                load.work(changes.pop(0)[1])
            time.sleep(max(0.0, start_s + due_s - time.perf_counter()))
            worker.submit(Frame(RgbImage(pixels), header=due_s))
    finally:
        load.work(0.0)
        has_stopped = worker.stop(timeout_s=30.0)
    if worker.failure is not None or worker.failed_frames or not has_stopped:
        raise RuntimeError(f'{policy.name}: {worker.failed_frames} frames failed')
    return Run(tuple(records), tuple(times_s))


def _ignore(frame: Frame, result: Result) -> None:
    """Do nothing instead of publishing."""


def rate_for(limit_ms: float) -> float:
    """Return the rate of the camera, with a period that is longer than the limit."""
    fitting_hz = 1e3 / limit_ms
    rates_hz = (HIGH_RATE_HZ, LOW_RATE_HZ)
    return next((rate_hz for rate_hz in rates_hz if rate_hz <= fitting_hz), round(fitting_hz, 1))


def write_frames(runs: dict[str, dict[str, Run]], path: Path) -> None:
    """Write all frames of all runs as gzipped CSV."""
    with gzip.open(path, 'wt', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['load', 'policy', *(f.name for f in dataclasses.fields(FrameRecord))])
        for load, by_policy in runs.items():
            for policy, run in by_policy.items():
                writer.writerows(
                    [load, policy, *dataclasses.astuple(frame)] for frame in run.frames
                )
