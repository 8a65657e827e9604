"""Evaluate runs of a policy with a temporary load: metrics, intervals, choice of a limit, plots.

Used by `contention` (the node, end to end) and `gpu_contention` (the runtime beside a GPU load).
Late, on time, reaction and recovery are defined in `dynamic_ofa_ros.adaptation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dynamic_ofa_ros import adaptation
from dynamic_ofa_ros.adaptation import Delay, TimedFrame
from dynamic_ofa_ros.plotting.style import (
    LIMIT,
    SHADE,
    TEXT_SIZE,
    draw_caption,
    level_colour,
    new_figure,
    style_axes,
)

QUANTILE = 0.95
MARGIN = 1.1
"""Ratio of the limit to the latency quantile of the level that must meet it."""

CLEARLY_LATE = 0.15
"""Minimum share of late frames at the highest level for a limit that separates the levels."""

PIECE_MS = 2500.0
"""Length of the blocks for bootstrapping; consecutive frames are correlated."""

DRAWS = 2000
CONFIDENCE = 0.95


class Load(Protocol):
    """A competitor that can be switched on and off."""

    def work(self, share: float) -> None:
        """Work for this share of the time."""


@dataclass(frozen=True)
class Timeline:
    """One run of one policy: all images in order of time, and the time of the load.

    Times are relative to the start of the run. The accuracy of a frame is that of its level.
    rights: whether the result of each frame is correct; empty if unknown. switches: number of
    changes of level or platform.
    """

    frames: tuple[TimedFrame, ...]
    onset_ms: float
    relief_ms: float
    end_ms: float
    switches: int = 0
    rights: tuple[bool, ...] = ()

    def is_loaded(self, frame: TimedFrame) -> bool:
        """Return whether the load was on when the frame arrived."""
        return self.onset_ms <= frame.time_ms < self.relief_ms

    @property
    def with_truth(self) -> tuple[TimedFrame, ...]:
        """The frames with the accuracy 1.0 for a correct result and 0.0 for a wrong one."""
        pairs = zip(self.frames, self.rights, strict=True) if self.rights else ()
        return tuple(frame._replace(accuracy=float(is_right)) for frame, is_right in pairs)


def answered(frames: Sequence[TimedFrame]) -> list[TimedFrame]:
    """Return the frames with a result."""
    return [frame for frame in frames if math.isfinite(frame.latency_ms)]


def figures(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """Return the metrics of a policy over all of its runs, with and without load.

    `frames` is the number of frames with a result, `dropped` of those without, which are late.
    Latencies are those of frames with a result. Reaction and recovery are medians over the runs;
    None if there was nothing to react to, or if most runs ended before the recovery.
    """
    frames = [frame for line in timelines for frame in line.frames]
    loaded = [f for line in timelines for f in line.frames if line.is_loaded(f)]
    free = [f for line in timelines for f in line.frames if not line.is_loaded(f)]
    answers = answered(frames)
    latencies_ms = [frame.latency_ms for frame in answers] or [math.nan]
    minutes = sum(line.end_ms for line in timelines) / 60e3
    reactions = [found for line in timelines if (found := _reaction(line)) is not None]
    recoveries = [found for line in timelines if (found := _recovery(line)) is not None]
    return {
        'frames': len(answers),
        'dropped': len(frames) - len(answers),
        'late': rounded(adaptation.late_share(frames)),
        'late_under_load': rounded(adaptation.late_share(loaded)),
        'late_free': rounded(adaptation.late_share(free)),
        'on_time_top1': rounded(adaptation.on_time_accuracy(frames)),
        'mean_top1': rounded(adaptation.mean_accuracy(frames)),
        'mean_level_under_load': _mean([frame.level for frame in answered(loaded)]),
        'mean_level_free': _mean([frame.level for frame in answered(free)]),
        'switches_per_minute': round(sum(line.switches for line in timelines) / minutes, 2),
        'reaction_ms': _median_ms(reactions),
        'reaction_is_over': all(found.is_over for found in reactions),
        'recovery_ms': _median_ms(
            [found if found.is_over else Delay(found.frames, math.inf) for found in recoveries]
        ),
        'p50_ms': round(float(np.quantile(latencies_ms, 0.5)), 3),
        'p95_ms': round(float(np.quantile(latencies_ms, 0.95)), 3),
        'p99_ms': round(float(np.quantile(latencies_ms, 0.99)), 3),
    }


def share_of_right(timelines: Sequence[Timeline]) -> float | None:
    """Return the share of images with a correct result on time; None if unknown."""
    return rounded(adaptation.on_time_accuracy([f for line in timelines for f in line.with_truth]))


def is_late(frame: TimedFrame) -> float:
    """Return 1.0 for a late frame and 0.0 for one on time."""
    return float(frame.is_late)


def on_time_accuracy(frame: TimedFrame) -> float:
    """Return the accuracy of a frame, 0.0 if it is late."""
    return 0.0 if frame.is_late else frame.accuracy


def draws(timelines: Sequence[Timeline], value: Callable[[TimedFrame], float]) -> Any:
    """Return bootstrapped means of a value, (DRAWS,) float64, from blocks of the runs.

    Blocks with and without load are drawn separately, because the duration of the load is fixed.
    """
    pieces: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    for line in timelines:
        found: dict[tuple[bool, int], list[float]] = {}
        for frame in line.frames:
            key = (line.is_loaded(frame), int(frame.time_ms // PIECE_MS))
            found.setdefault(key, []).append(value(frame))
        for (is_loaded, _), values in found.items():
            pieces[is_loaded].append((math.fsum(values), len(values)))
    random = np.random.default_rng(0)
    sums, counts = np.zeros(DRAWS), np.zeros(DRAWS)
    for of_kind in filter(None, pieces.values()):
        table = np.array(of_kind)
        chosen = table[random.integers(0, len(table), (DRAWS, len(table)))].sum(axis=1)
        sums += chosen[:, 0]
        counts += chosen[:, 1]
    return sums / counts


def interval(sample: Any) -> tuple[float, float]:
    """Return the 95 % interval of bootstrapped means."""
    low, high = np.quantile(sample, (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2))
    return round(float(low), 4), round(float(high), 4)


@dataclass(frozen=True)
class Limit:
    """The limit of all runs with one load, and the reason.

    middle: the level that should be best under load. is_separable: whether such a level exists.
    """

    limit_ms: float
    middle: int
    is_separable: bool
    sentence: str


def choose_limit(contended_ms: Mapping[int, Sequence[float]], free_ms: Sequence[float]) -> Limit:
    """Choose a limit from the latencies of all levels under load, and of the highest without load.

    With this limit, the highest level is on time without load but often late under load, whereas
    the most accurate possible lower level is on time under load. So no fixed level is best all the
    time. A frame without a result has an infinite latency.
    """
    quantiles_ms = {level: quantile_ms(samples) for level, samples in contended_ms.items()}
    levels = sorted(contended_ms)
    highest, lowest = levels[-1], levels[0]
    # Frames without load are not slower, unless other programs disturbed them.
    free = min(quantile_ms(free_ms), quantiles_ms[highest])
    for middle in reversed(levels[1:-1]):
        limit_ms = MARGIN * max(quantiles_ms[middle], free)
        late = float(np.mean(np.asarray(contended_ms[highest]) > limit_ms))
        if late >= CLEARLY_LATE and math.isfinite(limit_ms):
            sentence = (
                f'under load, level {middle} is on time and level {highest} is late in '
                f'{100 * late:.0f} % of frames'
            )
            return Limit(limit_ms, middle, True, sentence)
    known_ms = [ms for ms in (quantiles_ms[lowest], free) if math.isfinite(ms)]
    limit_ms = MARGIN * max(known_ms, default=math.inf)
    sentence = (
        'no limit separates the levels: under load, the highest takes '
        f'{quantiles_ms[highest]:.2f} ms and the lowest {quantiles_ms[lowest]:.2f} ms; '
        f'without load, the highest takes {free:.2f} ms (p95)'
    )
    return Limit(limit_ms, levels[len(levels) // 2], False, sentence)


def quantile_ms(samples_ms: Sequence[float]) -> float:
    """Return the quantile for limits; infinite if too many frames got no result."""
    # Interpolation between two infinite values would give NaN.
    return float(np.quantile(samples_ms, QUANTILE, method='higher'))


def rounded(share: float | None) -> float | None:
    """Return a share rounded to four decimals."""
    return None if share is None else round(share, 4)


def draw(
    panels: Mapping[str, Timeline], limit_ms: float, level_count: int, path: Path, caption: str
) -> None:
    """Plot latency over time, one panel per policy, each frame in the colour of its level.

    Frames without a result are triangles at the upper end.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    figure = new_figure(1.25 * len(panels) + 1.6)
    grid = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    latencies_ms = [f.latency_ms for line in panels.values() for f in answered(line.frames)]
    bottom_ms, top_ms = 0.8 * min([limit_ms, *latencies_ms]), 1.3 * max([limit_ms, *latencies_ms])
    for axes, (name, line) in zip(grid, panels.items(), strict=True):
        style_axes(axes)
        axes.axvspan(line.onset_ms / 1e3, line.relief_ms / 1e3, color=SHADE, zorder=0)
        axes.axhline(limit_ms, color=LIMIT, linewidth=1.0)
        answers = answered(line.frames)
        axes.scatter(
            [frame.time_ms / 1e3 for frame in answers],
            [frame.latency_ms for frame in answers],
            s=2.5,
            c=[level_colour(frame.level, level_count) for frame in answers],
            linewidths=0,
            rasterized=True,
        )
        lost_s = [f.time_ms / 1e3 for f in line.frames if math.isinf(f.latency_ms)]
        axes.scatter(
            lost_s, [top_ms] * len(lost_s), s=9, marker='^', color=LIMIT, linewidths=0,
            clip_on=False,
        )  # fmt: skip
        axes.set_title(name, loc='left', fontsize=TEXT_SIZE + 1)
        axes.set_yscale('log')
        axes.set_ylim(bottom_ms, top_ms)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(FormatStrFormatter('%g'))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel('ms')
    grid[-1].set_xlabel('time, s')
    handles: list[Any] = [
        Line2D([], [], linestyle='', marker='o', markersize=4, color=level_colour(i, level_count),
               label=f'level {i}')
        for i in range(1, level_count + 1)
    ]  # fmt: skip
    handles.append(Line2D([], [], color=LIMIT, label='limit'))
    handles.append(
        Line2D([], [], linestyle='', marker='^', markersize=4, color=LIMIT, label='no answer')
    )
    figure.legend(
        handles=handles, loc='upper right', ncols=len(handles), fontsize=TEXT_SIZE, frameon=False,
        handletextpad=0.2, columnspacing=0.8,
    )  # fmt: skip
    draw_caption(figure, caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f'written: {path}')


def _reaction(line: Timeline) -> Delay | None:
    until_relief = [frame for frame in line.frames if frame.time_ms < line.relief_ms]
    return adaptation.reaction(until_relief, line.onset_ms)


def _recovery(line: Timeline) -> Delay | None:
    """Return the time until a level as accurate as the last one before the load ran again."""
    answers = answered(line.frames)
    before = [frame.accuracy for frame in answers if frame.time_ms < line.onset_ms]
    return adaptation.recovery(answers, line.relief_ms, before[-1]) if before else None


def _median_ms(delays: Sequence[Delay]) -> float | None:
    middle_ms = float(np.median([delay.ms for delay in delays])) if delays else math.inf
    return round(middle_ms, 1) if math.isfinite(middle_ms) else None


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None
