"""The paper's figures 2 to 5 and its switching times: published results beside ours.

Our results come from a search with the authors' latency tables and accuracy predictor, which are
not in this repository. Without the folder of reference data, only published results are drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamic_ofa_ros.files import share_directory
from dynamic_ofa_ros.offline.search.pareto import choose_levels
from dynamic_ofa_ros.plotting.family import FRONT, SAMPLED_DOT, draw_curve, finish_axes, log_axis
from dynamic_ofa_ros.plotting.published_curves import OURS, Curve, PublishedCurves, headline
from dynamic_ofa_ros.plotting.style import (
    INK,
    QUIET,
    SHADE,
    TEXT_SIZE,
    draw_caption,
    level_colour,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE_VARIABLE = 'DYNAMIC_OFA_REFERENCE'
PREDICTOR = 'acc_predictor.npz'
LEVELS = 'ofa_mbv3_w12_xavier_nx_gpu'
LEVEL_COUNT = 6
EVALUATIONS = 20000
SAMPLES = 1000


@dataclass(frozen=True)
class Searched:
    """The results of our search with the authors' table for one device.

    sampled, found: (latency in ms, top-1 in per cent) of random sub-networks and of the front;
    macs_m: of the front; levels: indices in the front of the levels of the family. Latencies are
    corrected by the line `offset_ms + factor * sum`, top-1 by `bias` points, both fitted to the
    published levels.
    """

    sampled: Curve
    found: Curve
    macs_m: tuple[float, ...]
    levels: tuple[int, ...]
    offset_ms: float
    factor: float
    bias: float

    @property
    def family(self) -> Curve:
        """Return the points of the levels."""
        return tuple(self.found[index] for index in self.levels)


def reference_directory() -> Path:
    """Return the folder of reference data: $DYNAMIC_OFA_REFERENCE, or else beside the checkout."""
    default = share_directory().parent / 'shared' / 'reference'
    return Path(os.environ.get(REFERENCE_VARIABLE) or default).expanduser()


def search_as_published(device: str, folder: Path | None = None) -> Searched | None:
    """Search with the authors' table for `gpu` or `cpu`; return None without reference data.

    Latencies on the GPU are corrected by the six published levels. The architectures of the CPU
    levels are not published, so latencies on the CPU are not corrected.
    """
    from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor
    from dynamic_ofa_ros.offline.latency.table import fit_correction, read_table
    from dynamic_ofa_ros.offline.search.search import Objectives, find_front
    from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes
    from dynamic_ofa_ros.supernet.published.level_file import read_levels

    folder = folder or reference_directory()
    paths = [
        folder / name
        for name in (
            f'lut_xavier_nx_{device}.json', PREDICTOR, f'published_search_{device}.json'
        )
    ]  # fmt: skip
    if not all(path.is_file() for path in paths):
        return None
    table, predictor = read_table(paths[0]), read_predictor(paths[1])
    limits_ms = [float(f['constraint']) for f in json.loads(paths[2].read_text())['found']]
    encoding, listed = GenomeEncoding(table.space), read_levels(LEVELS)
    published = encoding.encode(listed.architectures)

    def top1(genomes: Genomes) -> Any:
        return predictor.predict(genomes, table.space)

    measured = np.array([level.accuracy for level in listed.levels])
    bias = float((top1(published) - measured).mean())
    offset_ms, factor = 0.0, 1.0
    if device == 'gpu':
        latency_ms = np.array([level.latency_ms for level in listed.levels])
        line = fit_correction(table.predict(published), latency_ms).correction
        offset_ms, factor = line.offset_ms, line.factor
    objectives = Objectives(
        encoding, table.predict, top1, effects=lambda g: predictor.effects(g, table.space)
    )
    # The family also needs levels between and below the limits of the published search.
    fastest_ms = 0.95 * min(limits_ms)
    limits_ms = [float(ms) for ms in np.geomspace(fastest_ms, 1.05 * max(limits_ms), 20)]
    result = find_front(objectives, limits_ms, EVALUATIONS)
    kept = [f for f in result.front if limits_ms[0] <= f.latency_ms]
    sampled = encoding.sample(np.random.default_rng(1), SAMPLES)

    def points(latency_ms: Any, accuracy: Any) -> Curve:
        rows = zip(latency_ms, accuracy, strict=True)
        return tuple((offset_ms + factor * float(ms), 100 * (float(a) - bias)) for ms, a in rows)

    backbone = listed.backbone
    costs = [
        table.space.count_cost(f.architecture, backbone.width_mult, backbone.classes) for f in kept
    ]
    found = points([f.latency_ms for f in kept], [f.accuracy for f in kept])
    return Searched(
        points(table.predict(sampled), top1(sampled)),
        found,
        tuple(cost.macs / 1e6 for cost in costs),
        tuple(
            choose_levels([x for x, _ in found], [y / 100 for _, y in found], LEVEL_COUNT, 0.005)
        ),
        offset_ms,
        factor,
        100 * bias,
    )


def draw_figure_2() -> Figure:
    """Draw the workflow: offline steps, the family, and the parts that run on the robot."""
    figure = new_figure(3.9)
    axes = figure.add_axes((0.02, 0.12, 0.96, 0.86))
    axes.set_axis_off()
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 50)
    parts = ((1, 53, 'offline: once for a platform'), (68, 31, 'runtime: on the robot'))
    for x, width, title in parts:
        _box(axes, x, 2, width, 46, '', SHADE)
        axes.text(x + 1.5, 45.5, title, fontsize=TEXT_SIZE + 1.5, color=INK, va='top')
    steps = {
        'backbone': (3, 29, 15, 'OFA backbone\n(supernet)'),
        'accuracy': (21, 33, 15, 'accuracy\npredictor'),
        'latency': (21, 21, 15, 'latency table\nor predictor'),
        'search': (39, 27, 13, 'search:\nPareto front'),
        'levels': (39, 6, 13, 'levels: batch norm\nrecalculated,\nmeasured'),
        'family': (55.5, 6, 11, 'family\n(look-up table)'),
        'manager': (70, 27, 12, 'runtime\nmanager'),
        'engine': (70, 6, 12, 'engine: the\nactive level'),
        'constraints': (85, 33, 12.5, 'constraints:\nlatency, top-1'),
        'monitor': (85, 21, 12.5, 'measured\nlatencies'),
        'images': (85, 6, 12.5, 'images in,\nlabels out'),
    }  # fmt: skip
    for left, bottom, wide, text in steps.values():
        _box(axes, left, bottom, wide, 9, text, 'white')
    for first, second in (
        ('backbone', 'accuracy'), ('backbone', 'latency'), ('accuracy', 'search'),
        ('latency', 'search'), ('search', 'levels'), ('levels', 'family'), ('family', 'manager'),
        ('family', 'engine'), ('constraints', 'manager'), ('monitor', 'manager'),
        ('manager', 'engine'), ('images', 'engine'), ('engine', 'monitor'),
    ):  # fmt: skip
        _arrow(axes, steps[first], steps[second])
    draw_caption(
        figure,
        'After figure 2: dynamic-ofa train or fetch makes the backbone, profile and predictor '
        'make the two predictors, build searches and writes the family, and classifier_node runs '
        'it.',
    )
    return figure


def draw_figure_3(published: PublishedCurves, ours: Searched | None) -> Figure:
    """Draw published and our sub-networks, their Pareto front and the family on the GPU."""
    figure = new_figure(4.2)
    axes = figure.subplots()
    caption = (
        'As figure 3: GPU of a Jetson Xavier NX, batch 1, latencies of the published levels as in '
        'that figure (41.2-61.7 ms; figure 4a says 48.8-79.6 ms). '
    )
    if ours is not None:
        _dots(axes, ours.sampled, 'random sub-networks')
        axes.plot(
            *np.array(ours.found).T, color=FRONT, linewidth=1.0, drawstyle='steps-post',
            label='Pareto front of our search',
        )  # fmt: skip
        _family(axes, ours.family, 'our family')
        caption += _how(ours)
    else:
        caption += 'No reference data was found, so our results are not shown. '
    draw_curve(axes, OURS, published.figure_3)
    finish_axes(axes, 'latency [ms]', 'Sub-networks on the GPU, their front and the family')
    axes.legend(loc='lower right', fontsize=TEXT_SIZE, frameon=False)
    draw_caption(figure, caption)
    return figure


def draw_figure_4(published: PublishedCurves, ours: Mapping[str, Searched | None]) -> Figure:
    """Draw accuracy against latency on GPU and CPU, of published systems and our search."""
    figure = new_figure(4.6)
    values = headline(published)
    for axes, device, curves in zip(
        figure.subplots(1, 2, gridspec_kw={'wspace': 0.18}),
        ('gpu', 'cpu'),
        (published.gpu_ms, published.cpu_ms),
        strict=True,
    ):
        _curves_and_ours(axes, curves, ours[device], lambda searched: searched.family)
        log_axis(axes)
        finish_axes(
            axes,
            f'latency [ms], {device.upper()}',
            f'Up to {values[device + "_speedup"]:.1f}x faster, '
            f'{values[device + "_points"]:.1f} points more than AutoSlim',
        )
    _legend_below(figure)
    caption = (
        'As figure 4, with the GPU latencies of figure 4a. Computed from them, against AutoSlim: '
        'the largest speed-up at equal top-1 (interpolated), and the largest gain in top-1 at a '
        'latency that differs by at most 5 %. '
    )
    if ours['cpu'] is not None:
        caption += (
            'Our CPU latencies are uncorrected sums of the published table, because the '
            'architectures of the CPU levels are not published. '
        )
    if ours['gpu'] is not None:
        caption += 'Our GPU latencies are on the scale of figure 3. '
    draw_caption(figure, caption)
    return figure


def draw_figure_5(published: PublishedCurves, ours: Searched | None) -> Figure:
    """Draw accuracy against cost, of measured sub-networks, published systems and our search."""
    figure = new_figure(4.6)
    axes = figure.subplots()
    _dots(axes, published.measured, 'measured (published)')
    curves = {**published.macs_m, OURS: published.mflops}
    _curves_and_ours(
        axes,
        curves,
        ours,
        lambda s: tuple((s.macs_m[i], s.found[i][1]) for i in s.levels),
    )
    finish_axes(axes, 'MFLOPs as published; ours: MACs [M]', 'Accuracy against cost')
    _legend_below(figure)
    draw_caption(
        figure,
        'As figure 5. Published FLOPs of the levels, of unrounded channels, are 5-10 % below the '
        'multiply-accumulates that we count. ' + (_how(ours) if ours is not None else ''),
    )
    return figure


def draw_table_1(published: PublishedCurves, ours_ms: float | None) -> Figure:
    """Draw the published times of a switch, and the time that our benchmark measured."""
    figure = new_figure(2.7)
    axes = figure.add_axes((0.05, 0.3, 0.9, 0.65))
    axes.set_axis_off()
    rows = [
        [name, 'Jetson Xavier NX (published)', f'{ms:g}']
        for name, ms in published.switching_ms.items()
    ]
    rows.append(
        ['Dynamic-OFA, batch norm only', 'Jetson Xavier NX (published)',
         f'{published.load_batch_norm_ms:g}']
    )  # fmt: skip
    if ours_ms is not None:
        rows.append(['this package: all levels resident', 'benchmarks/results/switching.json',
                     f'{ours_ms:.2g}'])  # fmt: skip
    table = axes.table(
        rows,
        colLabels=['system', 'measured on', 'switch [ms]'],
        loc='center',
        cellLoc='left',
        colWidths=[0.34, 0.44, 0.22],
    )
    table.auto_set_font_size(False)
    table.set_fontsize(TEXT_SIZE + 1)
    table.scale(1.0, 1.35)
    for cell in table.get_celld().values():
        cell.set_edgecolor(SHADE)
    draw_caption(
        figure,
        'Time to switch to another sub-network. Other machines and other networks: compare what a '
        'switch does (load weights, or change an index), not the milliseconds.',
    )
    return figure


def measured_switch_ms(folder: Path | None = None) -> float | None:
    """Return the median time of a switch in the checkout's results; None if there are none."""
    path = (folder or share_directory() / 'benchmarks' / 'results') / 'switching.json'
    if not path.is_file():
        return None
    return float(json.loads(path.read_text(encoding='utf-8'))['results']['all']['median_ms'])


def _curves_and_ours(
    axes: Axes,
    curves: Mapping[str, Curve],
    ours: Searched | None,
    points: Callable[[Searched], Curve],
) -> None:
    for name, curve in curves.items():
        draw_curve(axes, name, curve)
    if ours is not None:
        _family(axes, points(ours), 'this package, predicted')


def _dots(axes: Axes, points: Curve, label: str) -> None:
    x, y = np.array(points).T
    axes.scatter(x, y, s=7, color=SAMPLED_DOT, linewidths=0, label=label)


def _family(axes: Axes, points: Curve, label: str) -> None:
    colours = [level_colour(i + 1, len(points)) for i in range(len(points))]
    x, y = np.array(points).T
    axes.plot(x, y, color=FRONT, linewidth=0.9, linestyle='--', zorder=5)
    axes.scatter(
        x, y, s=48, marker='*', color=colours, edgecolors=FRONT, linewidths=0.7, zorder=6,
        label=label,
    )  # fmt: skip


def _how(ours: Searched) -> str:
    return (
        'Ours: found by our search with the published table and predictor, not measured: '
        f'ms = {ours.offset_ms:.1f} + {ours.factor:.2f} x sum of the table, top-1 less '
        f'{ours.bias:.1f} points, both fitted to the six published levels. '
    )


def _legend_below(figure: Figure) -> None:
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.subplots_adjust(top=0.93, bottom=1.55 / figure.get_figheight())
    figure.legend(
        found.values(), found.keys(), loc='lower center', ncol=4, fontsize=TEXT_SIZE - 0.5,
        bbox_to_anchor=(0.5, 0.55 / figure.get_figheight()), frameon=False, columnspacing=1.4,
    )  # fmt: skip


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, fill: str
) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((x, y), width, height, facecolor=fill, edgecolor=QUIET, linewidth=0.8)
    )
    axes.text(
        x + width / 2, y + height / 2, text, ha='center', va='center', fontsize=TEXT_SIZE - 0.5,
        color=INK,
    )  # fmt: skip


def _arrow(
    axes: Axes, first: tuple[float, float, float, str], second: tuple[float, float, float, str]
) -> None:
    (x1, y1, w1, _), (x2, y2, w2, _) = first, second
    if x1 < x2 + w2 and x2 < x1 + w1:  # below each other
        up = 1 if y2 > y1 else 0
        start, end = (x1 + w1 / 2, y1 + 9 * up), (x2 + w2 / 2, y2 + 9 * (1 - up))
    else:
        right = 1 if x2 > x1 else 0
        start, end = (x1 + w1 * right, y1 + 4.5), (x2 + w2 * (1 - right), y2 + 4.5)
    axes.annotate('', end, start, arrowprops={'arrowstyle': '->', 'color': INK, 'linewidth': 0.9})
