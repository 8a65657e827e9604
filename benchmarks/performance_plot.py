"""Plot results for docs/performance.md.

python -m benchmarks.performance_plot [--output docs/images/performance.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.tables import ROOT, results
from dynamic_ofa_ros.plotting.style import (
    INK,
    LIMIT,
    QUIET,
    TEXT_SIZE,
    draw_caption,
    new_figure,
    save_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

W12 = 'ofa_mbv3_d234_e346_k357_w1.2 (random weights)'
ENGINES = {
    'supernet': ('supernet (ofa)', QUIET, 'o:'),
    'pytorch': ('PyTorch', QUIET, 's-'),
    'onnxruntime': ('ONNX Runtime', INK, 'o-'),
    'openvino': ('OpenVINO', LIMIT, 'o-'),
}
# Mean switching times on a Jetson in ms: Dynamic-OFA (CVPRW 2021), section 4.
PUBLISHED_SWITCHES_MS = {'Dynamic-OFA*': 73.0, 'AutoSlim*': 33.0, 'MutualNet*': 17.0}


def main() -> None:
    """Draw the four panels and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, default=ROOT / 'docs/images/performance.png')
    options = parser.parse_args()
    figure = new_figure(6.4)
    figure.subplots_adjust(left=0.18, top=0.95, bottom=0.14, hspace=0.42, wspace=0.62)
    (levels, switches), (memory, start) = figure.subplots(2, 2)
    draw_levels(levels, results('engines')['results'][W12]['levels'])
    draw_switches(switches, results('switching')['results'])
    draw_memory(memory, results('memory')['results'])
    draw_start(start, results('start')['results'])
    draw_caption(
        figure,
        f'{results("engines")["machine"]["cpu"]}, one thread, batch 1, fp32. Extra time: the '
        'first frame after a switch less the median of the level; bar: median, line: up to the '
        '99th percentile. * Published means on a Jetson, another machine. '
        'w1.2: the six levels of OFA-MobileNetV3 published for the Xavier NX, random weights.',
    )
    print(save_figure(figure, options.output))


def draw_levels(axes: Axes, levels: Sequence[Mapping[str, Any]]) -> None:
    """Plot the latency of the published levels with each engine."""
    for key, (name, colour, style) in ENGINES.items():
        medians_ms = [level[key]['median_ms'] for level in levels]
        numbers = [level['level'] for level in levels]
        axes.plot(numbers, medians_ms, style, color=colour, label=name, markersize=3, lw=1.2)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=TEXT_SIZE - 1, frameon=False)
    _finish(axes, 'latency of a level, ms', 'level of w1.2')


def draw_switches(axes: Axes, found: Mapping[str, Any]) -> None:
    """Plot the extra time of the first frame after a switch, also of published methods."""
    ours = {
        'index change (ours)': found['all'],
        'no switch (noise)': found['no_switch'],
        'sub-network extracted': found['published_method'],
    }
    names = [*ours, *PUBLISHED_SWITCHES_MS]
    floor_ms = 0.1
    medians_ms = [max(row['median_ms'], floor_ms) for row in ours.values()]
    values_ms = [*medians_ms, *PUBLISHED_SWITCHES_MS.values()]
    colours = [LIMIT, QUIET, INK, *[QUIET] * len(PUBLISHED_SWITCHES_MS)]
    places = range(len(names))
    axes.barh(places, values_ms, left=0, color=colours, height=0.6)
    for place, row in enumerate(ours.values()):
        ends_ms = (max(row['median_ms'], floor_ms), row['p99_ms'])
        axes.plot(ends_ms, (place, place), color=colours[place], linewidth=1.2)
    axes.set_xscale('log')
    axes.set_xlim(left=floor_ms)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    _finish(axes, 'first frame after a switch: extra ms', '')


def draw_memory(axes: Axes, found: Mapping[str, Any]) -> None:
    """Plot the memory of all levels, of the largest level and of the supernet."""
    rows = []
    for family, of in found.items():
        name = 'w1.2' if family == W12 else family
        for engine, short in (('onnxruntime', 'ONNX Runtime'), ('openvino', 'OpenVINO')):
            rows.append((f'{name}, {short}', of[engine]['all_mb'], of[engine]['alone_mb'], INK))
        rows.append((f'{name}, supernet', of['supernet_mb'], None, QUIET))
    for place, (_, all_mb, alone_mb, colour) in enumerate(rows):
        axes.barh(place, all_mb, color=colour, height=0.6)
        if alone_mb is not None:
            axes.plot((alone_mb, alone_mb), (place - 0.4, place + 0.4), color=LIMIT, linewidth=2)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.invert_yaxis()
    _finish(axes, 'memory of all levels, MB (red: largest alone)', '')


def draw_start(axes: Axes, found: Mapping[str, Any]) -> None:
    """Plot the time from the start of a process until it can classify."""
    kinds = {
        'first': 'first start',
        'warm': 'later start',
        'published method': 'PyTorch, one level',
    }
    rows = [
        (f'{"w1.2" if family == W12 else family}, {name}', of[kind]['median_s'], kind)
        for family, of in found.items()
        for kind, name in kinds.items()
    ]
    for place, (_, seconds, kind) in enumerate(rows):
        axes.barh(place, seconds, color=QUIET if kind == 'published method' else INK, height=0.6)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.invert_yaxis()
    _finish(axes, 'process start to ready, s', '')


def _finish(axes: Axes, title: str, x_label: str) -> None:
    style_axes(axes)
    if not x_label:
        axes.grid(visible=False, axis='y')
        axes.grid(axis='x', color='#ececec', linewidth=0.6)
    axes.set_title(title, fontsize=TEXT_SIZE + 0.5, loc='left', color=INK)
    axes.set_xlabel(x_label)


if __name__ == '__main__':
    main()
