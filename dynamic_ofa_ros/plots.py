"""The paper's figures, from our own data: pure functions from recorded frames to figures.

They use matplotlib's object interface and the Agg canvas, so they change no global state and need
no display. Every function takes the frames themselves or the path of a telemetry.csv.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.demo.recording import (
    FrameRecord,
    RecordingError,
    SwitchRecord,
    competitor_spans,
    phases_of,
    read_frames,
)
from dynamic_ofa_ros.demo.summary import percentile, wilson_interval
from dynamic_ofa_ros.files import replacing
from dynamic_ofa_ros.plot_style import (
    DPI,
    INK,
    LIMIT,
    QUIET,
    SHADE,
    TEXT_SIZE,
    draw_caption,
    draw_legend,
    level_colour,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Frames = Sequence[FrameRecord] | str | Path

ROLLING_WINDOW_S = 2.0

_SWITCH_TEXT_SHARE = 0.085
_SWITCH_TEXT_LEVELS_MAX = 4


def plot_latency(frames: Frames, switches: Sequence[SwitchRecord] | None = None) -> Figure:
    """Draw inference latency and its limit over time, a point per frame, coloured by level.

    Below it the active level. Phases are named on top, contention is shaded, switches are marked
    (those given, else the changes of level between frames). As figures 6 and 7 of the paper.
    Raises RecordingError without frames.
    """
    frames = _load(frames)
    figure = new_figure(4.9)
    upper, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={'height_ratios': (3.2, 1.0), 'hspace': 0.2}
    )
    cut = _draw_latency(upper, frames, has_names=True)
    _draw_background(lower, frames, has_names=False)
    _draw_levels(lower, frames, max(frame.level_count for frame in frames))
    _annotate_switches(lower, _switches_of(frames) if switches is None else switches, frames)
    lower.set_xlabel('time [s]')
    draw_legend(figure, upper)
    violations = sum(frame.is_violation for frame in frames)
    limited = sum(not math.isnan(frame.max_latency_ms) for frame in frames)
    text = (
        f'Inference latency of {len(frames)} frames, coloured by the active level (held-out top-1 '
        f'in brackets). {violations} of the {limited} frames under a limit exceeded it. '
    )
    if competitor_spans(frames):
        text += 'Grey: a competing process runs on the same device. '
    text += 'Below: the active level; vertical ticks are switches.'
    if cut:
        text += f' Triangles: {len(cut)} above the axis, up to {_slowest(cut):.1f} ms.'
    draw_caption(figure, text)
    return figure


def plot_models(models: Mapping[str, Frames]) -> Figure:
    """Draw several classifiers on one device: latency, limit and level of each over time.

    As figure 8 of the paper. Raises RecordingError for one without frames.
    """
    loaded = {name: _load(frames) for name, frames in models.items()}
    figure = new_figure(1.1 + 2.7 * len(loaded))
    rows = figure.subplots(
        2 * len(loaded),
        1,
        sharex=True,
        gridspec_kw={'height_ratios': (2.6, 1.0) * len(loaded), 'hspace': 0.3},
    )
    texts = []
    for row, (name, frames) in enumerate(loaded.items()):
        upper, lower = rows[2 * row], rows[2 * row + 1]
        _draw_latency(upper, frames, has_names=row == 0)
        upper.set_ylabel(f'{name} [ms]')
        _draw_background(lower, frames, has_names=False)
        count = max(frame.level_count for frame in frames)
        _draw_levels(lower, frames, count)
        lower.set_yticks([1, count])
        violations = sum(frame.is_violation for frame in frames)
        limited = sum(not math.isnan(frame.max_latency_ms) for frame in frames)
        texts.append(f'{name}: {violations} of {limited} limited frames above their limit')
    rows[-1].set_xlabel('time [s]')
    rows[-1].set_xlim(
        min(frames[0].time_s for frames in loaded.values()),
        max(frames[-1].time_s for frames in loaded.values()),
    )
    draw_legend(figure, rows[0])
    text = 'Inference latency of each model, coloured by its active level, and that level below. '
    draw_caption(figure, text + '; '.join(texts) + '.')
    return figure


def _draw_latency(
    axes: Axes, frames: Sequence[FrameRecord], *, has_names: bool
) -> list[FrameRecord]:
    """Draw latency, a point a frame, and the limit; return the frames above the axis."""
    _draw_background(axes, frames, has_names=has_names)
    count = max(frame.level_count for frame in frames)
    top_ms = _top_of(frames)
    axes.plot([], [], linestyle='none', label='level (top-1 %):')
    for level in sorted({frame.level for frame in frames}):
        own = [frame for frame in frames if frame.level == level]
        axes.scatter(
            [frame.time_s for frame in own],
            [min(frame.inference_ms, top_ms) for frame in own],
            s=7.0,
            color=level_colour(level, count),
            linewidths=0,
            label=f'{level} ({100 * own[0].level_accuracy:.1f})',
            zorder=3,
        )
    cut = [frame for frame in frames if frame.inference_ms > top_ms]
    if cut:
        axes.scatter(
            [frame.time_s for frame in cut],
            [top_ms] * len(cut),
            s=16.0,
            marker='^',
            color=[level_colour(frame.level, count) for frame in cut],
            linewidths=0,
            zorder=3,
            clip_on=False,
        )
    if any(not math.isnan(frame.max_latency_ms) for frame in frames):
        axes.plot(
            [frame.time_s for frame in frames],
            [frame.max_latency_ms for frame in frames],
            color=LIMIT,
            linewidth=1.5,
            drawstyle='steps-post',
            label='limit',
            zorder=4,
        )
    axes.set_ylim(0.0, top_ms)
    axes.set_ylabel('inference latency [ms]')
    axes.set_xlim(frames[0].time_s, max(frames[-1].time_s, frames[0].time_s + 1e-3))
    return cut


def plot_accuracy(frames: Frames) -> Figure:
    """Draw the share of labels that equal the truth: over time, by phase and by level.

    Bars carry 95 % Wilson intervals, for as many samples as there were scenes; next to them what
    the family's table promises. Frames without a truth are left out; RecordingError when no frame
    has one.
    """
    frames = [frame for frame in _load(frames) if frame.is_correct is not None]
    if not frames:
        raise RecordingError('no frame has a true label, so there is no accuracy to draw')
    count = max(frame.level_count for frame in frames)
    figure = new_figure(5.6)
    axes = figure.subplot_mosaic(
        [['time', 'time'], ['phase', 'level']],
        gridspec_kw={'hspace': 0.5, 'wspace': 0.12},
    )
    times, shares = _rolling_accuracy(frames, ROLLING_WINDOW_S)
    upper = axes['time']
    _draw_background(upper, frames, has_names=True)
    upper.plot(
        [frame.time_s for frame in frames],
        [100 * frame.level_accuracy for frame in frames],
        color=QUIET,
        linewidth=1.2,
        linestyle=(0, (4, 2)),
        label='held-out top-1 of the active level',
    )
    upper.plot(
        times,
        [100 * share for share in shares],
        color=INK,
        linewidth=1.4,
        label=f'labels equal to the truth, last {ROLLING_WINDOW_S:g} s',
    )
    wrong = [frame for frame in frames if frame.is_correct is False]
    low = _accuracy_floor([100 * share for share in shares])
    upper.scatter(
        [frame.time_s for frame in wrong],
        [low] * len(wrong),
        marker='|',
        s=22.0,
        linewidths=0.8,
        color=[level_colour(frame.level, count) for frame in wrong],
        label='a wrong label (colour: level)',
        zorder=3,
        clip_on=False,
    )
    upper.set_xlim(frames[0].time_s, max(frames[-1].time_s, frames[0].time_s + 1e-3))
    upper.set_ylim(low, 101.0)
    upper.set_xlabel('time [s]')
    upper.set_ylabel('accuracy [%]')
    draw_legend(figure, upper)
    phases = list(dict.fromkeys(frame.phase for frame in frames))
    bottoms = [
        _draw_bars(axes['phase'], frames, phases, lambda f: f.phase, lambda _: QUIET),
        _draw_bars(
            axes['level'],
            frames,
            sorted({frame.level for frame in frames}),
            lambda f: f.level,
            lambda level: level_colour(level, count),
        ),
    ]
    for name in ('phase', 'level'):
        axes[name].set_ylim(min(bottoms), 101.0)
        axes[name].set_xlabel(f'{name} (frames / scenes)')
    axes['phase'].set_ylabel('accuracy [%]')
    axes['level'].tick_params(labelleft=False)
    correct = sum(frame.is_correct is True for frame in frames)
    draw_caption(
        figure,
        f'Labels against the truth: {correct} of {len(frames)} frames right '
        f'({100 * correct / len(frames):.1f} %). Bars: share of right labels with 95 % Wilson '
        'intervals that count each scene once; diamonds: held-out top-1 of the levels that ran, '
        'from the family.',
    )
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the suffix (.png, .pdf, .svg) says which format. Return the path."""
    path = Path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format=path.suffix.lstrip('.') or 'png')
    return path


def _load(frames: Frames) -> Sequence[FrameRecord]:
    loaded = read_frames(frames) if isinstance(frames, (str, Path)) else frames
    if not loaded:
        raise RecordingError('there is not a single frame to draw')
    return sorted(loaded, key=lambda frame: frame.time_s)


def _draw_background(axes: Axes, frames: Sequence[FrameRecord], *, has_names: bool) -> None:
    """Shade contention, separate the phases, and name them above the axes."""
    style_axes(axes)
    for begin_s, end_s in competitor_spans(frames):
        axes.axvspan(begin_s, end_s, color=SHADE, linewidth=0, zorder=0.5)
    spans = phases_of(frames)
    for index, (name, begin_s, end_s) in enumerate(spans):
        if index:
            axes.axvline(begin_s, color=QUIET, linewidth=0.7, linestyle=':', zorder=1)
        until_s = spans[index + 1][1] if index + 1 < len(spans) else end_s
        if has_names and name:
            axes.annotate(
                name,
                ((begin_s + until_s) / 2, 1.0),
                xycoords=('data', 'axes fraction'),
                xytext=(0, 3),
                textcoords='offset points',
                ha='center',
                va='bottom',
                fontsize=TEXT_SIZE,
                color=INK,
            )


def _draw_levels(axes: Axes, frames: Sequence[FrameRecord], count: int) -> None:
    """Draw the active level over time as a line of steps, each in its level's colour."""
    starts = [frames[0]]
    starts += [frame for before, frame in pairwise(frames) if frame.level != before.level]
    for begin, following in zip(starts, [*starts[1:], None], strict=True):
        end_s = frames[-1].time_s if following is None else following.time_s
        axes.plot(
            [begin.time_s, end_s],
            [begin.level] * 2,
            color=level_colour(begin.level, count),
            linewidth=3.0,
            solid_capstyle='butt',
            zorder=3,
        )
        if following is not None:
            axes.plot(
                [end_s] * 2, [begin.level, following.level], color=QUIET, linewidth=0.7, zorder=2
            )
    axes.set_ylim(0.4, count + 1.1)
    axes.set_yticks(range(count, 0, -1 if count <= 6 else -math.ceil(count / 4)))
    axes.set_ylabel('level')


def _annotate_switches(
    axes: Axes, switches: Sequence[SwitchRecord], frames: Sequence[FrameRecord]
) -> None:
    """Mark each switch above the axes, with its levels; those close together share one text."""
    first_s, last_s = frames[0].time_s, frames[-1].time_s
    room_s = (last_s - first_s) * _SWITCH_TEXT_SHARE
    groups: list[list[SwitchRecord]] = []
    for switch in switches:
        if not first_s <= switch.time_s <= last_s:
            continue
        if groups and switch.time_s - groups[-1][0].time_s < room_s:
            groups[-1].append(switch)
        else:
            groups.append([switch])
        axes.plot(
            [switch.time_s], [1.0], marker='|', color=INK, markersize=5, markeredgewidth=0.9,
            transform=axes.get_xaxis_transform(), clip_on=False, zorder=4,
        )  # fmt: skip
    for group in groups:
        levels = [str(group[0].from_level), *(str(switch.to_level) for switch in group)]
        if len(levels) > _SWITCH_TEXT_LEVELS_MAX:
            levels = [levels[0], '…', levels[-1]]
        is_at_end = group[0].time_s > last_s - room_s
        axes.annotate(
            '→'.join(levels),
            (group[0].time_s, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 4),
            textcoords='offset points',
            ha='right' if is_at_end else 'left',
            va='bottom',
            fontsize=TEXT_SIZE - 1,
            color=INK,
        )


def _switches_of(frames: Sequence[FrameRecord]) -> list[SwitchRecord]:
    return [
        SwitchRecord(frame.time_s, previous.level, frame.level, '')
        for previous, frame in pairwise(frames)
        if frame.level != previous.level
    ]


def _rolling_accuracy(
    frames: Sequence[FrameRecord], window_s: float
) -> tuple[list[float], list[float]]:
    """Return times [s] and the share of right labels in the window that ends there."""
    times, shares = [], []
    begin = correct = 0
    for end, frame in enumerate(frames):
        correct += frame.is_correct is True
        while frames[begin].time_s < frame.time_s - window_s:
            correct -= frames[begin].is_correct is True
            begin += 1
        # A window that is only half full says nothing yet.
        if frame.time_s - frames[0].time_s >= window_s / 2:
            times.append(frame.time_s)
            shares.append(correct / (end + 1 - begin))
    return times, shares


def _draw_bars(
    axes: Axes,
    frames: Sequence[FrameRecord],
    groups: Sequence[Any],
    group_of: Callable[[FrameRecord], Any],
    colour_of: Callable[[Any], Any],
) -> float:
    """Draw a bar per group; return where the axis may begin, in per cent."""
    style_axes(axes)
    lowest = 100.0
    names = []
    for position, group in enumerate(groups):
        own = [frame for frame in frames if group_of(frame) == group]
        share = sum(frame.is_correct is True for frame in own) / len(own)
        scenes = _scenes(own)
        low, high = wilson_interval(share * scenes, scenes)
        expected = sum(frame.level_accuracy for frame in own) / len(own)
        lowest = min(lowest, 100 * low, 100 * expected)
        axes.bar(position, 100 * share, width=0.62, color=colour_of(group), zorder=2)
        # A white line under the dark one: it must be seen on every colour.
        for colour, width in (('white', 2.6), (INK, 1.0)):
            axes.errorbar(
                position,
                100 * share,
                yerr=[[100 * max(0.0, share - low)], [100 * max(0.0, high - share)]],
                color=colour,
                linewidth=width,
                capsize=2.5,
                capthick=width,
                zorder=3,
            )
        axes.plot(
            position + 0.2, 100 * expected, marker='D', markersize=4.5, color='white',
            markeredgecolor=INK, markeredgewidth=0.9, linestyle='none', zorder=4,
        )  # fmt: skip
        names.append(f'{group}\n{len(own)} / {scenes}')
    axes.set_xticks(range(len(groups)), names)
    axes.tick_params(axis='x', labelsize=TEXT_SIZE - 1.0)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    return _accuracy_floor([lowest])


def _scenes(frames: Sequence[FrameRecord]) -> int:
    """Return the number of runs of frames with one truth: the pictures within one are alike."""
    return 1 + sum(before.truth != frame.truth for before, frame in pairwise(frames))


def _accuracy_floor(percents: Sequence[float]) -> float:
    """Return a round lower end for an accuracy axis, in per cent."""
    return max(0.0, 10.0 * math.floor((min(percents, default=0.0) - 4.0) / 10.0))


def _top_of(frames: Sequence[FrameRecord]) -> float:
    """Return the upper end of the latency axis: nearly all frames and every limit are below it."""
    usual_ms = percentile([frame.inference_ms for frame in frames], 0.99)
    limits_ms = [f.max_latency_ms for f in frames if not math.isnan(f.max_latency_ms)]
    known_ms = [value for value in (usual_ms, *limits_ms) if not math.isnan(value)]
    return 1.12 * max(known_ms, default=1.0)


def _slowest(frames: Sequence[FrameRecord]) -> float:
    return max(frame.inference_ms for frame in frames)
