"""Picture of runs side by side: the latency of every image with the limit, and the level below.

Uses matplotlib's object interface and the Agg canvas, so that no global state is changed and no
display is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamic_ofa_ros import adaptation
from dynamic_ofa_ros.plotting.style import (
    INK,
    LIMIT,
    QUIET,
    SHADE,
    TEXT_SIZE,
    draw_caption,
    draw_legend,
    new_figure,
    style_axes,
)
from dynamic_ofa_ros.recordings.frames import FrameRecord
from dynamic_ofa_ros.recordings.measures import Measures, Run, interval, measure, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT_INCHES = 4.6
KINDS = (
    ('right and on time', '#2a7fb8', 'o', 6.0),
    ('on time, but wrong', '#f0a22e', 'X', 16.0),
    ('late', LIMIT, 'o', 6.0),
    ('no answer', LIMIT, '^', 16.0),
    ('on time', '#8fb8d4', 'o', 6.0),
)
"""Kinds of images: name, colour, marker and size, in drawing order; the last: truth unknown."""


def plot_runs(runs: Sequence[Run], caption: str) -> Figure:
    """Draw latency (logarithmic) with the limit, and the level below, in one column per run."""
    figure = new_figure(HEIGHT_INCHES)
    figure.subplots_adjust(top=0.8, left=0.1)
    grid = figure.subplots(
        2,
        len(runs),
        sharex='all',
        sharey='row',
        squeeze=False,
        gridspec_kw={'height_ratios': (3.0, 1.0), 'hspace': 0.12, 'wspace': 0.06},
    )
    frames = [frame for run in runs for frame in run.frames]
    low_ms, high_ms = _range_ms(frames)
    kinds = sorted({*_kinds_of(frames), 2, 3})
    level_count = max(1, *(run.level_count for run in runs))
    for column, run in enumerate(runs):
        upper, lower = grid[0][column], grid[1][column]
        for axes in (upper, lower):
            style_axes(axes)
            for begin_s, end_s in run.loads:
                axes.axvspan(
                    begin_s, min(end_s, run.seconds), color=SHADE, linewidth=0, zorder=0.5
                )
        _draw_latency(upper, run, high_ms, kinds)
        _draw_levels(lower, run, level_count)
        _write_heading(upper, run, measure(run))
        lower.set_xlabel('time [s]')
    first = grid[0][0]
    first.set_ylim(low_ms, high_ms)  # first, because not all latencies may be positive
    first.set_yscale('log')
    first.set_ylabel('latency [ms]')
    _label_milliseconds(first)
    grid[1][0].set_ylabel('level')
    draw_legend(figure, first)
    draw_caption(figure, caption)
    return figure


def _draw_latency(axes: Axes, run: Run, high_ms: float, kinds: Sequence[int]) -> None:
    """Draw a mark for each image; unanswered images are at the upper end of the axis."""
    for kind in kinds:
        name, colour, marker, size = KINDS[kind]
        frames = [frame for frame in run.frames if _kind_of(frame) == kind]
        axes.scatter(
            [frame.time_s for frame in frames],
            [min(frame.latency_ms, high_ms) for frame in frames],
            s=size,
            color=colour,
            marker=marker,
            linewidths=0,
            label=name,
            zorder=3 + 0.1 * kind,
            clip_on=False,
        )
    axes.plot(
        [frame.time_s for frame in run.frames],
        [frame.limit_ms for frame in run.frames],
        color=LIMIT,
        linewidth=1.2,
        drawstyle='steps-post',
        label='limit',
        zorder=4,
    )


def _draw_levels(axes: Axes, run: Run, level_count: int) -> None:
    answered = [frame for frame in run.frames if frame.is_answered]
    axes.plot(
        [frame.time_s for frame in answered],
        [frame.level for frame in answered],
        color=INK,
        linewidth=1.6,
        drawstyle='steps-post',
    )
    axes.set_xlim(0.0, run.seconds or 1.0)
    axes.set_ylim(0.5, level_count + 0.5)
    axes.set_yticks(sorted({1, level_count}), ['lowest', 'highest'][-min(2, level_count) :])


def _write_heading(axes: Axes, run: Run, measures: Measures) -> None:
    """Write the title and the result above a column, and the phases into it."""
    if math.isnan(measures.right_on_time):
        share = adaptation.on_time_accuracy([frame.by_level for frame in run.frames])
        result = f'{percent(share or 0.0)} top-1 of the levels, late images counting 0'
    else:
        low, high = interval(measures.right_on_time, measures.images)
        ends = f'{100 * low:.0f}-{100 * high:.0f}'
        result = f'{percent(measures.right_on_time)} right and on time ({ends})'
    axes.annotate(
        run.title,
        (0.0, 1.0),
        xycoords='axes fraction',
        xytext=(0, 27),
        textcoords='offset points',
        fontsize=TEXT_SIZE + 2,
        fontweight='bold',
        color=INK,
        parse_math=False,
    )
    axes.annotate(
        f'{percent(measures.late)} late\n{result}',
        (0.0, 1.0),
        xycoords='axes fraction',
        xytext=(0, 4),
        textcoords='offset points',
        fontsize=TEXT_SIZE,
        color=INK,
    )
    for (time_s, name), row in zip(run.marks, range(len(run.marks)), strict=True):
        axes.axvline(time_s, color=QUIET, linewidth=0.7, linestyle=':', zorder=1)
        axes.annotate(
            name,
            (time_s, 0.99 - 0.06 * row),
            xycoords=axes.get_xaxis_transform(),
            fontsize=TEXT_SIZE - 1,
            color=QUIET,
            va='top',
        )


def _kind_of(frame: FrameRecord) -> int:
    if not frame.is_answered:
        return 3
    if frame.is_late:
        return 2
    if not frame.truth:
        return 4
    return 0 if frame.is_right else 1


def _kinds_of(frames: Sequence[FrameRecord]) -> set[int]:
    """Return the kinds in the legend; right and wrong answers are always listed together."""
    kinds = {_kind_of(frame) for frame in frames}
    return kinds | {0, 1} if kinds & {0, 1} else kinds


def _range_ms(frames: Sequence[FrameRecord]) -> tuple[float, float]:
    """Return the ends of a latency axis that contains all latencies and limits."""
    values = [value for frame in frames for value in (frame.latency_ms, frame.limit_ms)]
    values = [value for value in values if 0.0 < value < math.inf]
    return (0.8 * min(values), 1.25 * max(values)) if values else (1.0, 10.0)


def _label_milliseconds(axes: Axes) -> None:
    """Put plain numbers at 1, 2, 5, 10, ... of a logarithmic axis."""
    low_ms, high_ms = axes.get_ylim()
    ticks = [
        m * 10.0**e for e in range(-2, 5) for m in (1, 2, 5) if low_ms <= m * 10.0**e <= high_ms
    ]
    axes.set_yticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low_ms, high_ms)
