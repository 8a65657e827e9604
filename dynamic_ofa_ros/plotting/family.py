"""Plot the levels of a family, with all candidates and with the paper's curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.offline.search.candidates import FINALIST, Candidate
from dynamic_ofa_ros.offline.search.pareto import front
from dynamic_ofa_ros.plotting.published_curves import OURS, Curve, PublishedCurves
from dynamic_ofa_ros.plotting.style import (
    INK,
    QUIET,
    TEXT_SIZE,
    draw_caption,
    level_colour,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dynamic_ofa_ros.family import Family

FRONT, SAMPLED_DOT, FINALIST_DOT = '#c1272d', '#c4c4c4', '#6f8fb3'
PLATFORM_STYLES = (('o', '-'), ('s', '--'), ('^', ':'), ('D', '-.'))

# One colour per compared system, from a colour-blind safe palette (Okabe and Ito, 2008).
_SYSTEMS = {
    OURS: ('Dynamic-OFA (published)', INK, 'o'),
    'ofa_static': ('OFA, static', '#e69f00', 'D'),
    'autoslim_mnasnet': ('AutoSlim MNasNet', '#009e73', '^'),
    'mutualnet_mbv1': ('MutualNet MBv1', '#56b4e9', 'v'),
    'mutualnet_mbv2': ('MutualNet MBv2', '#0072b2', 'v'),
    'us_mbv1': ('US-Net MBv1', '#d55e00', 's'),
    'us_mbv2': ('US-Net MBv2', '#cc79a7', 's'),
    'slimmable_mbv1': ('Slimmable MBv1', '#999999', 'P'),
}
_ROW_INCHES = 2.9
_LEGEND_INCHES = 0.55


def plot_family(
    family: Family,
    candidates: Mapping[str, Sequence[Candidate]],
    published: PublishedCurves | None = None,
    platform: str = '',
) -> Figure:
    """Plot a family like figures 3 to 5 of the paper.

    The top row shows all candidates measured on `platform`, their Pareto front and the levels; by
    default, `platform` is the first one with candidates, and the row is omitted if there is none.
    The next row shows accuracy against latency on every platform, and against MACs. The bottom row
    shows the published curves, if given.
    """
    shown = platform or next((p for p in family.platforms if candidates.get(p)), '')
    known = [c for c in candidates.get(shown, ()) if not math.isnan(c.top1 + _latency(c))]
    rows: list[Any] = [['latency', 'macs']]
    if known:
        rows.insert(0, ['scatter', 'scatter'])
    if published is not None:
        rows.append(['published_latency', 'published_macs'])
    height = _ROW_INCHES * len(rows) + 0.9 + (_LEGEND_INCHES if published is not None else 0.0)
    figure = new_figure(height)
    # Axes titles use the space of the legend in other figures; the published legend is below.
    lower = figure.subplotpars.bottom + (_LEGEND_INCHES / height if published is not None else 0.0)
    figure.subplots_adjust(top=1.0 - 0.32 / height, bottom=lower)
    axes = figure.subplot_mosaic(rows, gridspec_kw={'hspace': 0.42, 'wspace': 0.2})
    caption = 'Numbers: levels; top-1 on images not used for training or for choosing levels.'
    if known:
        caption += _draw_scatter(axes['scatter'], family, shown, known)
    _draw_latencies(axes['latency'], family)
    _draw_levels(
        axes['macs'],
        [level.macs / 1e6 for level in family.levels],
        [100 * level.accuracy for level in family.levels],
    )
    _finish(axes['macs'], 'MACs [M]', f'{family.name}: accuracy against cost')
    if published is not None:
        _draw_published(figure, axes['published_latency'], axes['published_macs'], published)
        caption += (
            ' Bottom row: published results of the paper, ImageNet on a Jetson Xavier NX (another '
            'task: compare shapes, not values). GPU: filled markers, CPU: hollow.'
        )
    draw_caption(figure, caption)
    return figure


def _draw_scatter(axes: Axes, family: Family, platform: str, known: Sequence[Candidate]) -> str:
    """Plot candidates, Pareto front and levels; return the text about them for the caption."""
    finalists = [c for c in known if c.kind == FINALIST]
    sampled = [c for c in known if c.kind != FINALIST]
    for group, colour, size, label in (
        (sampled, SAMPLED_DOT, 9.0, f'sampled ({len(sampled)})'),
        (finalists, FINALIST_DOT, 15.0, f'measured as precisely as levels ({len(finalists)})'),
    ):
        if group:
            axes.scatter(
                [_latency(c) for c in group],
                [100 * c.top1 for c in group],
                s=size,
                color=colour,
                linewidths=0,
                label=label,
                zorder=2,
            )
    if finalists:
        best = [
            finalists[i]
            for i in front([_latency(c) for c in finalists], [c.top1 for c in finalists])
        ]
        axes.plot(
            [_latency(c) for c in best],
            [100 * c.top1 for c in best],
            color=FRONT,
            linewidth=1.0,
            drawstyle='steps-post',
            label='Pareto front',
            zorder=3,
        )
    profile = family.platforms.get(platform)
    if profile is not None:
        _draw_levels(
            axes,
            [level.median_ms for level in profile.levels],
            [100 * level.accuracy for level in family.levels],
            has_line=False,
        )
    _log_axis(axes, is_wide=True)
    _finish(axes, f'latency [ms], {platform}', f'{family.name}: levels among candidates')
    axes.legend(loc='lower right', fontsize=TEXT_SIZE, frameon=False, handletextpad=0.4)
    predicted = sum(math.isnan(c.latency_ms) for c in known)
    return (
        ' Dots: candidates, top-1 on the images used for choosing levels'
        + (f'; the latencies of {predicted} sampled ones are predicted.' if predicted else '.')
        + ' The levels were measured again on other images.'
    )


def _draw_latencies(axes: Axes, family: Family) -> None:
    """Plot accuracy against latency, with one line per platform."""
    accuracies = [100 * level.accuracy for level in family.levels]
    several = len(family.platforms) > 1
    for index, (name, profile) in enumerate(family.platforms.items()):
        marker, line = PLATFORM_STYLES[index % len(PLATFORM_STYLES)]
        _draw_levels(
            axes,
            [level.median_ms for level in profile.levels],
            accuracies,
            marker=marker,
            line=line,
            label=name if several else '',
            has_numbers=not index,
        )
    _log_axis(axes)
    if several:
        axes.legend(loc='lower right', fontsize=TEXT_SIZE - 1.5, frameon=False)
    where = 'latency [ms]' if several else f'latency [ms], {next(iter(family.platforms), "")}'
    _finish(axes, where, f'{family.name}: accuracy against latency')


def _draw_levels(
    axes: Axes,
    x: Sequence[float],
    top1_percent: Sequence[float],
    *,
    marker: str = 'o',
    line: str = '-',
    label: str = '',
    has_line: bool = True,
    has_numbers: bool = True,
) -> None:
    from matplotlib.patheffects import withStroke

    count = len(x)
    if has_line:
        order = sorted(range(count), key=lambda i: x[i])
        axes.plot(
            [x[i] for i in order],
            [top1_percent[i] for i in order],
            color=QUIET,
            linewidth=1.0,
            linestyle=line,
            zorder=3,
        )
    axes.scatter(
        x,
        top1_percent,
        s=46.0,
        marker=marker,
        color=[level_colour(i + 1, count) for i in range(count)],
        edgecolors='white',
        linewidths=0.8,
        label=label or None,
        zorder=5,
    )
    for index in range(count if has_numbers else 0):
        text = axes.annotate(
            str(index + 1),
            (x[index], top1_percent[index]),
            xytext=(-4, 4),
            textcoords='offset points',
            ha='right',
            va='bottom',
            fontsize=TEXT_SIZE,
            color=INK,
            zorder=6,
        )
        text.set_path_effects([withStroke(linewidth=2.0, foreground='white')])


def _draw_published(figure: Figure, latency: Axes, macs: Axes, published: PublishedCurves) -> None:
    for name, curve in published.gpu_ms.items():
        _draw_curve(latency, name, curve)
    for name, curve in published.cpu_ms.items():
        _draw_curve(latency, name, curve, is_hollow=True)
    for name, curve in published.macs_m.items():
        _draw_curve(macs, name, curve)
    _log_axis(latency)
    _log_axis(macs)
    _finish(latency, 'latency [ms], Jetson Xavier NX, GPU and CPU', 'published: latency')
    _finish(macs, 'MACs [M]', 'published: cost')
    handles, labels = latency.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc='lower center',
        bbox_to_anchor=(0.5, 0.68 / figure.get_figheight()),
        ncol=4,
        fontsize=TEXT_SIZE - 0.5,
        frameon=False,
        columnspacing=1.4,
    )


def _draw_curve(axes: Axes, name: str, curve: Curve, *, is_hollow: bool = False) -> None:
    label, colour, marker = _SYSTEMS.get(name, (name, QUIET, '.'))
    axes.plot(
        [x for x, _ in curve],
        [y for _, y in curve],
        color=colour,
        marker=marker,
        markersize=4.5 if name == OURS else 3.2,
        markerfacecolor='white' if is_hollow else colour,
        markeredgewidth=0.8,
        linewidth=1.4 if name == OURS else 0.8,
        label=None if is_hollow else label,
        zorder=4 if name == OURS else 3,
    )


def _finish(axes: Axes, x_label: str, title: str) -> None:
    style_axes(axes)
    axes.grid(axis='x', color='#ececec', linewidth=0.6, zorder=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel('top-1 [%]')
    axes.set_title(title, fontsize=TEXT_SIZE + 1, color=INK, loc='left', pad=5)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.06 * (high - low))  # space for the numbers


def _log_axis(axes: Axes, *, is_wide: bool = False) -> None:
    """Make the x axis logarithmic, with plain numbers as tick labels that do not overlap."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axes.set_xscale('log')
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    fine = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    coarse = (1.0, 2.0, 5.0)
    steps = fine if high / low < (30.0 if is_wide else 12.0) else coarse
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _latency(candidate: Candidate) -> float:
    measured = candidate.latency_ms
    return candidate.predicted_latency_ms if math.isnan(measured) else measured
