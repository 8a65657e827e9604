"""Plots of `benchmarks.contention`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import adapting
from benchmarks.contention_report import OURS, order_of, sentence_of, timelines_of
from benchmarks.journal import Journal
from benchmarks.policy_node import ALERT

DRAWN = ('reactive', ALERT, OURS)
COLUMNS = 3


def draw_overview(entry: Mapping[str, Any], path: Path) -> None:
    """Plot on-time top-1 and late frames of all policies with intervals, one panel per load."""
    from dynamic_ofa_ros.plotting.style import (
        INK,
        LIMIT,
        QUIET,
        TEXT_SIZE,
        draw_caption,
        new_figure,
        style_axes,
    )

    loads = entry['loads']
    names = sorted(
        {policy for load in loads.values() for policy in load['policies']}, key=order_of
    )
    names.reverse()
    columns = min(COLUMNS, len(loads))
    lines = math.ceil(len(loads) / columns)
    figure = new_figure(1.6 + lines * (0.6 + 0.2 * len(names)))
    figure.subplots_adjust(left=0.11, hspace=0.5)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for unused in grid.flat[len(loads) :]:
        unused.set_visible(False)
    for axes, load in zip(grid.flat, loads.values(), strict=False):
        style_axes(axes)
        for place, name in enumerate(names):
            row = load['policies'].get(name)
            if row is None:
                continue
            colour = LIMIT if name == OURS else INK if name == load.get('best_fixed') else QUIET
            low, high = (100 * value for value in row['on_time_top1_interval'])
            axes.plot([low, high], [place, place], color=colour, linewidth=1.2)
            axes.plot(100 * row['on_time_top1'], place, 'o', markersize=4, color=colour)
            axes.annotate(
                f'{100 * row["late"]:.0f} %', (1.0, place), xycoords=('axes fraction', 'data'),
                ha='right', va='center', fontsize=TEXT_SIZE - 1, color=QUIET,
            )  # fmt: skip
        axes.set_title(f'{load["words"]}, {load["limit_ms"]:.1f} ms', fontsize=TEXT_SIZE)
        axes.margins(x=0.25)
        axes.tick_params(labelsize=TEXT_SIZE - 1)
    grid[0, 0].set_yticks(range(len(names)), names)
    figure.supxlabel('on-time top-1, %', fontsize=TEXT_SIZE + 1, y=0.62 / figure.get_figheight())
    draw_caption(
        figure,
        f'{sentence_of(entry)} Mean accuracy of the levels with late images counted as 0, and '
        '95 % intervals. On the right: share of late images. Black: the best fixed level.',
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f'written: {path}')


def draw_frames(journal: Journal, entry: Mapping[str, Any], path: Path) -> None:
    """Plot every image of the first round of the first load."""
    name, load = next(iter(entry['loads'].items()))
    lines = timelines_of(journal, name)
    chosen = [policy for policy in (load.get('best_fixed'), *DRAWN) if policy in lines]
    if not chosen:
        return
    node = entry['nodes'][load['device']]
    caption = (
        f'Measured: family {entry["family"]} on {node["platform"]}, {node["rate_hz"]:g} Hz. Grey: '
        f'{load["words"]} on the same processor. Latency from arrival to label, one segment per '
        'policy.'
    )
    panels = {policy: lines[policy][0] for policy in chosen}
    adapting.draw(panels, load['limit_ms'], len(node['levels']), path, caption)
