"""Plot simulated runs side by side: latency with its limit, and top-1, over time.

As in figures 6 to 8 of the paper, each frame is a point in the colour of its level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.plotting.style import (
    INK,
    LIMIT,
    QUIET,
    SHADE,
    TEXT_SIZE,
    draw_caption,
    level_colour,
    new_figure,
    style_axes,
)
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform
from dynamic_ofa_ros.simulation.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP_QUANTILE = 0.995
"""Share of frames within the range of the latency axis; triangles mark the others."""

_LATENCY_INCHES, _ACCURACY_INCHES, _MARGIN_INCHES = 1.75, 1.05, 2.05
_MODEL_LINES: tuple[Any, ...] = ('-', (0, (3, 1.5)), (0, (1, 1)))


@dataclass(frozen=True)
class Column:
    """Runs of models that share a device, plotted in one column.

    phases: (begin in s, name). spans: (begin, end) in s of times with contention.
    """

    title: str
    records: tuple[Record, ...]
    phases: tuple[tuple[float, str], ...] = ()
    spans: tuple[tuple[float, float], ...] = ()


def draw_columns(columns: Sequence[Column], caption: str) -> Figure:
    """Plot one column per policy: the latency of each model, and the top-1 of all models."""
    from matplotlib.ticker import MaxNLocator

    if not columns or not all(record.frames for column in columns for record in column.records):
        raise SimulationError('there are no frames to plot')
    models = len(columns[0].records)
    figure = new_figure(_MARGIN_INCHES + models * _LATENCY_INCHES + _ACCURACY_INCHES)
    figure.subplots_adjust(top=1.0 - 0.8 / figure.get_figheight())
    grid = figure.subplots(
        models + 1,
        len(columns),
        sharex=True,
        sharey='row',
        squeeze=False,
        gridspec_kw={
            'height_ratios': [_LATENCY_INCHES] * models + [_ACCURACY_INCHES],
            'hspace': 0.16,
            'wspace': 0.06,
        },
    )
    last = [record.frames[-1] for column in columns for record in column.records]
    end_s = max(frame.start_ms + frame.latency_ms for frame in last) / 1e3
    is_cut = False
    for position, column in enumerate(columns):
        is_first = position == 0
        for row, record in enumerate(column.records):
            axes = grid[row][position]
            _draw_background(axes, column, end_s, has_names=row == 0)
            range_ms = _latency_range_ms([c.records[row] for c in columns])
            _draw_latency(axes, record, range_ms)
            is_cut |= any(frame.latency_ms > range_ms[1] for frame in record.frames)
            if is_first:
                name = f'{record.name}\n' if models > 1 else ''
                axes.set_ylabel(f'{name}latency [ms]')
        grid[0][position].set_title(
            column.title, fontsize=TEXT_SIZE + 1.5, color=INK, pad=17, loc='left', weight='bold'
        )
        lower = grid[models][position]
        _draw_background(lower, column, end_s, has_names=False)
        _draw_accuracy(lower, column.records)
        lower.set_xlabel('time [s]')
        lower.xaxis.set_major_locator(MaxNLocator(integer=end_s >= 4.0))
        if is_first:
            lower.set_ylabel('top-1 [%]')
    figure.align_ylabels(grid[:, 0])
    _draw_legend(figure, columns)
    draw_caption(figure, f'{caption} Triangles: above the range.' if is_cut else caption)
    return figure


def violations_text(record: Record) -> str:
    """Return the number and share of late frames as text, for a plot."""
    late = sum(frame.is_violation for frame in record.frames)
    return f'{late} of {len(record.frames)} frames late ({100 * late / len(record.frames):.1f} %)'


def _draw_background(axes: Axes, column: Column, end_s: float, *, has_names: bool) -> None:
    style_axes(axes)
    axes.set_xlim(0.0, end_s)
    for begin_s, until_s in column.spans:
        axes.axvspan(begin_s, min(until_s, end_s), color=SHADE, linewidth=0, zorder=0.5)
    phases = [phase for phase in column.phases if phase[0] < end_s]
    ends_s = [*(begin_s for begin_s, _ in phases[1:]), end_s]
    for (begin_s, name), until_s in zip(phases, ends_s, strict=False):
        if begin_s > 0.0:
            axes.axvline(begin_s, color=QUIET, linewidth=0.7, linestyle=':', zorder=1)
        if has_names:
            axes.annotate(
                name,
                ((begin_s + until_s) / 2, 1.0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0, 3),
                textcoords='offset points',
                ha='center',
                va='bottom',
                fontsize=TEXT_SIZE - 0.5,
                color=INK,
            )


def _draw_latency(axes: Axes, record: Record, range_ms: tuple[float, float]) -> None:
    frames = record.frames
    top_ms = range_ms[1]
    count = len(record.platform.levels)
    for marker, size, chosen in (
        ('o', 9.0, [frame for frame in frames if frame.latency_ms <= top_ms]),
        ('^', 16.0, [frame for frame in frames if frame.latency_ms > top_ms]),
    ):
        axes.scatter(
            [frame.start_ms / 1e3 for frame in chosen],
            [min(frame.latency_ms, top_ms) for frame in chosen],
            s=size,
            marker=marker,
            color=[level_colour(frame.level, count) for frame in chosen],
            linewidths=0,
            zorder=3,
            clip_on=False,
        )
    if any(math.isfinite(frame.limit_ms) for frame in frames):
        last = frames[-1]
        times_s = [frame.start_ms / 1e3 for frame in (*frames, last)]
        times_s[-1] += last.latency_ms / 1e3
        limits = [f.limit_ms if math.isfinite(f.limit_ms) else math.nan for f in (*frames, last)]
        axes.plot(times_s, limits, color=LIMIT, linewidth=1.4, drawstyle='steps-post', zorder=4)
    axes.set_ylim(*range_ms)
    axes.annotate(
        violations_text(record),
        (0.015, 0.05),
        xycoords='axes fraction',
        fontsize=TEXT_SIZE,
        color=INK,
        zorder=5,
    )


def _draw_accuracy(axes: Axes, records: Sequence[Record]) -> None:
    """Plot the top-1 of the levels over time, with one line per model."""
    lowest, highest = 1.0, 0.0
    for record, line in zip(records, _MODEL_LINES * len(records), strict=False):
        accuracies = record.platform.accuracies
        lowest, highest = min(lowest, *accuracies), max(highest, *accuracies)
        times_s = [frame.start_ms / 1e3 for frame in record.frames]
        axes.plot(
            times_s,
            [100 * record.accuracy(frame) for frame in record.frames],
            color=INK,
            linewidth=1.1,
            linestyle=line,
            drawstyle='steps-post',
            zorder=3,
        )
        count = len(accuracies)
        axes.scatter(
            times_s,
            [100 * record.accuracy(frame) for frame in record.frames],
            s=7.0,
            color=[level_colour(frame.level, count) for frame in record.frames],
            linewidths=0,
            zorder=2,
        )
    margin = max(0.005, 0.15 * (highest - lowest))
    axes.set_ylim(100 * (lowest - margin), 100 * (highest + margin))


def _draw_legend(figure: Figure, columns: Sequence[Column]) -> None:
    """Draw a legend of levels, limit and models in one line above all axes."""
    from matplotlib.lines import Line2D

    platform = columns[0].records[0].platform
    count = len(platform.levels)
    used = sorted({f.level for column in columns for r in column.records for f in r.frames})
    handles = [Line2D([], [], linestyle='none', label='level (top-1 %):')]
    handles += [
        Line2D(
            [], [], linestyle='none', marker='o', markersize=5, markeredgewidth=0,
            color=level_colour(level, count),
            label=f'{_short_name(platform, level)} ({100 * platform.accuracies[level - 1]:.1f})',
        )
        for level in used
    ]  # fmt: skip
    if any(math.isfinite(f.limit_ms) for column in columns for f in column.records[0].frames):
        handles.append(Line2D([], [], color=LIMIT, linewidth=1.4, label='limit'))
    if len(columns[0].records) > 1:
        handles += [
            Line2D([], [], color=INK, linewidth=1.1, linestyle=line, label=record.name)
            for record, line in zip(columns[0].records, _MODEL_LINES, strict=False)
        ]
    figure.legend(
        handles=handles,
        loc='upper left',
        bbox_to_anchor=(figure.subplotpars.left - 0.03, 0.995),
        ncol=len(handles),
        fontsize=TEXT_SIZE,
        frameon=False,
        handlelength=1.4 if len(handles) < 10 else 1.2,
        handletextpad=0.3,
        columnspacing=0.9 if len(handles) < 10 else 0.6,
        borderaxespad=0.0,
    )


def _short_name(platform: SimulatedPlatform, level: int) -> str:
    """Return the number of a level, with its device unless it is the first one."""
    name = platform.levels[level - 1].name
    return name if ' on ' in name else str(level)


def _latency_range_ms(records: Sequence[Record]) -> tuple[float, float]:
    """Return the range of the latency axis, which includes nearly all frames and all limits."""
    latencies = [frame.latency_ms for record in records for frame in record.frames]
    limits = [f.limit_ms for r in records for f in r.frames if math.isfinite(f.limit_ms)]
    top_ms = max([float(np.quantile(latencies, TOP_QUANTILE)), *limits])
    bottom_ms = min([*latencies, *limits])
    return 0.6 * bottom_ms, top_ms + 0.1 * (top_ms - 0.6 * bottom_ms)
