"""Policies beside a load on the GPU: frames of a camera through the node's own worker, no ROS.

Part of `benchmarks.gpu_check`. A frame's latency is that of scope `node`: from its arrival to the
answer. A frame that a newer one replaced got no answer: it counts as late.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

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

QUANTILE = 0.95
MARGIN = 1.1
"""How far above the quantile of the level that is to be feasible the limit lies."""

CLEARLY_LATE = 0.15
"""Share of the highest level's frames that must be late for a middle level to be worth having."""

ON_TIME_IN_A_ROW = 3
REACTION_WITHIN_S = 2.0
"""A load shows within this time after its start, or has not been felt."""

HIGH_RATE_HZ, LOW_RATE_HZ = 60.0, 30.0
IMAGE_SHAPE = (480, 640, 3)


class Load(Protocol):
    """A competitor on the GPU that works only while it is told to."""

    def work(self, share: float) -> None:
        """Work for this share of the time from now on."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Segments:
    """When the load is on in a run, in seconds from its start."""

    before_s: float
    load_s: float
    after_s: float

    @property
    def total_s(self) -> float:
        """Return how long a run takes."""
        return self.before_s + self.load_s + self.after_s

    @property
    def load_end_s(self) -> float:
        """Return when the load ends."""
        return self.before_s + self.load_s


@dataclass(frozen=True)
class FrameRecord:
    """One frame that got an answer; `time_s` is its arrival, from the start of the run.

    `reason` is that of the switch before it, if there was one.
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
    """What one policy made of one run."""

    frames: tuple[FrameRecord, ...]
    dropped: int


@dataclass(frozen=True)
class Limit:
    """The limit of all runs beside one load, and why."""

    limit_ms: float
    rate_hz: float
    middle: int
    is_separable: bool
    sentence: str


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
    """Classify a camera's frames while the load comes and goes."""
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
    start_s = time.perf_counter()
    try:
        for number in range(round(segments.total_s * rate_hz)):
            due_s = number / rate_hz
            if changes and due_s >= changes[0][0]:
                load.work(changes.pop(0)[1])
            time.sleep(max(0.0, start_s + due_s - time.perf_counter()))
            worker.submit(Frame(RgbImage(pixels), header=due_s))
    finally:
        load.work(0.0)
        has_stopped = worker.stop(timeout_s=30.0)
    if worker.failure is not None or worker.failed_frames or not has_stopped:
        raise RuntimeError(f'{policy.name}: {worker.failed_frames} frames failed')
    return Run(tuple(records), worker.dropped_frames)


def _ignore(frame: Frame, result: Result) -> None:
    """Stand in for a publisher."""


def choose_limit(contended_ms: dict[int, Sequence[float]], free_ms: Sequence[float]) -> Limit:
    """Choose limit and rate from every level's latencies beside the load, and the highest's alone.

    The most accurate level below the highest that can be on time while the highest is late clearly
    often, and on time when it is alone: then a fixed level cannot be best all the time.
    """
    quantiles_ms = {
        level: float(np.quantile(samples, QUANTILE)) for level, samples in contended_ms.items()
    }
    free = float(np.quantile(free_ms, QUANTILE))
    levels = sorted(contended_ms)
    highest, lowest = levels[-1], levels[0]
    for middle in reversed(levels[1:-1]):
        limit_ms = MARGIN * max(quantiles_ms[middle], free)
        late = float(np.mean(np.asarray(contended_ms[highest]) > limit_ms))
        if late >= CLEARLY_LATE:
            sentence = (
                f'level {middle} is on time beside the load, level {highest} late in '
                f'{100 * late:.0f} % of frames'
            )
            return Limit(limit_ms, _rate_hz(limit_ms), middle, True, sentence)
    limit_ms = MARGIN * max(quantiles_ms[lowest], free)
    sentence = (
        'no limit separates the levels: beside the load the highest takes '
        f'{quantiles_ms[highest]:.2f} ms and the lowest {quantiles_ms[lowest]:.2f}, '
        f'the highest alone {free:.2f} (p95)'
    )
    return Limit(limit_ms, _rate_hz(limit_ms), levels[len(levels) // 2], False, sentence)


def _rate_hz(limit_ms: float) -> float:
    """Return the camera's rate: a frame that takes the whole limit ends before the next comes."""
    fitting_hz = 1e3 / limit_ms
    rates_hz = (HIGH_RATE_HZ, LOW_RATE_HZ)
    return next((rate_hz for rate_hz in rates_hz if rate_hz <= fitting_hz), round(fitting_hz, 1))


def evaluate(
    run: Run, limit_ms: float, accuracies: Sequence[float], segments: Segments
) -> dict[str, Any]:
    """Return the figures of a run, over the whole of it, free and contended."""
    frames = run.frames
    loaded = [f for f in frames if segments.before_s <= f.time_s < segments.load_end_s]
    free = [f for f in frames if not segments.before_s <= f.time_s < segments.load_end_s]
    switches = sum(
        (a.level, a.platform) != (b.level, b.platform) for a, b in itertools.pairwise(frames)
    )
    latencies_ms = [frame.latency_ms for frame in frames]
    return {
        'frames': len(frames),
        'dropped': run.dropped,
        'late': _late(frames, limit_ms, run.dropped),
        'late_under_load': _late(loaded, limit_ms),
        'late_free': _late(free, limit_ms),
        'on_time_top1': _mean(
            [accuracies[f.level - 1] * (f.latency_ms <= limit_ms) for f in frames]
            + [0.0] * run.dropped
        ),
        'mean_top1': _mean([accuracies[frame.level - 1] for frame in frames]),
        'mean_level_under_load': _mean([frame.level for frame in loaded]),
        'mean_level_free': _mean([frame.level for frame in free]),
        'switches_per_minute': round(60.0 * switches / segments.total_s, 2),
        'reaction_ms': reaction_ms(frames, limit_ms, segments),
        'recovery_ms': recovery_ms(frames, segments),
        'p50_ms': round(float(np.quantile(latencies_ms, 0.5)), 3),
        'p95_ms': round(float(np.quantile(latencies_ms, 0.95)), 3),
        'p99_ms': round(float(np.quantile(latencies_ms, 0.99)), 3),
    }


def reaction_ms(
    frames: Sequence[FrameRecord], limit_ms: float, segments: Segments
) -> float | None:
    """Return the time from the load's start to the first of three frames on time after a late one.

    None when no frame was late soon after the start; the load's whole length when it never ended.
    """
    loaded = [f for f in frames if segments.before_s <= f.time_s < segments.load_end_s]
    late = [i for i, f in enumerate(loaded) if f.latency_ms > limit_ms]
    if not late or loaded[late[0]].time_s - segments.before_s > REACTION_WITHIN_S:
        return None
    for first in range(late[0], len(loaded) - ON_TIME_IN_A_ROW + 1):
        if all(f.latency_ms <= limit_ms for f in loaded[first : first + ON_TIME_IN_A_ROW]):
            return round(1e3 * (loaded[first].time_s - segments.before_s), 1)
    return round(1e3 * segments.load_s, 1)


def recovery_ms(frames: Sequence[FrameRecord], segments: Segments) -> float | None:
    """Return the time from the load's end until a level as high as before it; None if never."""
    before = [frame.level for frame in frames if frame.time_s < segments.before_s]
    if not before:
        return None
    for frame in frames:
        if frame.time_s >= segments.load_end_s and frame.level >= before[-1]:
            return round(1e3 * (frame.time_s - segments.load_end_s), 1)
    return None


def _late(frames: Sequence[FrameRecord], limit_ms: float, dropped: int = 0) -> float:
    if not frames:
        return 0.0
    late = sum(frame.latency_ms > limit_ms for frame in frames) + dropped
    return round(late / (len(frames) + dropped), 4)


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def write_frames(runs: dict[str, dict[str, Run]], path: Path) -> None:
    """Write every frame of every run as gzipped CSV, to draw them elsewhere."""
    with gzip.open(path, 'wt', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['load', 'policy', *(f.name for f in dataclasses.fields(FrameRecord))])
        for load, by_policy in runs.items():
            for policy, run in by_policy.items():
                writer.writerows(
                    [load, policy, *dataclasses.astuple(frame)] for frame in run.frames
                )


def draw(
    runs: dict[str, Run],
    limit: Limit,
    level_count: int,
    segments: Segments,
    path: Path,
    title: str,
) -> None:
    """Draw latency over time, a panel a policy, each frame in its level's colour."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    from dynamic_ofa_ros.plot_style import (
        LIMIT,
        SHADE,
        TEXT_SIZE,
        draw_caption,
        level_colour,
        new_figure,
        style_axes,
    )

    figure = new_figure(1.25 * len(runs) + 1.6)
    panels = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, run) in zip(panels, runs.items(), strict=True):
        style_axes(axes)
        axes.axvspan(segments.before_s, segments.load_end_s, color=SHADE, zorder=0)
        axes.axhline(limit.limit_ms, color=LIMIT, linewidth=1.0)
        axes.scatter(
            [frame.time_s for frame in run.frames],
            [frame.latency_ms for frame in run.frames],
            s=2.5,
            c=[level_colour(frame.level, level_count) for frame in run.frames],
            linewidths=0,
            rasterized=True,
        )
        axes.set_title(name, loc='left', fontsize=TEXT_SIZE + 1)
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(FormatStrFormatter('%g'))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel('ms')
    panels[-1].set_xlabel('time, s')
    handles = [
        Line2D([], [], linestyle='', marker='o', markersize=4, color=level_colour(i, level_count),
               label=f'level {i}')
        for i in range(1, level_count + 1)
    ]  # fmt: skip
    handles.append(Line2D([], [], color=LIMIT, label='limit'))
    figure.legend(
        handles=handles, loc='upper right', ncols=len(handles), fontsize=TEXT_SIZE, frameon=False
    )
    draw_caption(figure, f'{title} Grey: load on. Arrival to answer, {limit.rate_hz:.0f} Hz.')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f'written: {path}')
