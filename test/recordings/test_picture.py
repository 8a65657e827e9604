"""The picture of several synthetic runs."""

import math
import sys

import cv2
import pytest
from demo.made_up import LIMIT_MS, frame, three_runs, unanswered
from figure_texts import texts
from matplotlib.colors import to_hex

from dynamic_ofa_ros.plotting.style import save_figure
from dynamic_ofa_ros.recordings.measures import Run, measure
from dynamic_ofa_ros.recordings.picture import KINDS, plot_runs


def points(axes, kind):
    """Return the points of one kind of image."""
    (found,) = [c for c in axes.collections if c.get_label() == KINDS[kind][0]]
    assert to_hex(found.get_facecolor()[0]) == KINDS[kind][1]
    return found.get_offsets()


def test_every_image_is_a_point_on_a_logarithmic_axis_with_the_limit():
    runs = three_runs()
    figure = plot_runs(runs, 'The caption.')
    for run, axes in zip(runs, figure.axes[:3], strict=True):
        assert axes.get_yscale() == 'log'
        assert sum(len(points(axes, kind)) for kind in range(4)) == len(run.frames)
        assert len(points(axes, 2)) == round(measure(run).late * len(run.frames))
        low, high = axes.get_ylim()
        assert low < min(f.latency_ms for f in run.frames)
        assert high > max(f.latency_ms for f in run.frames)
        (limit,) = [line for line in axes.lines if line.get_label() == 'limit']
        assert set(limit.get_ydata()) == {LIMIT_MS}
    written = '\n'.join(texts(figure))
    for word in ('highest level', 'lowest level', 'switching', '41.2 % late', 'The caption.'):
        assert word in written
    for name, *_ in KINDS[:4]:
        assert name in written


def test_levels_are_steps_and_loads_are_shaded():
    figure = plot_runs(three_runs(), '')
    lowest, switching = figure.axes[4], figure.axes[5]
    assert set(lowest.lines[0].get_ydata()) == {1}
    assert set(switching.lines[0].get_ydata()) == {3, 8}
    assert switching.lines[0].get_drawstyle() == 'steps-post'
    for axes in figure.axes:
        (shade,) = axes.patches  # a Rectangle, or a Polygon in Matplotlib before 3.9
        corners = shade.get_patch_transform().transform(shade.get_path().vertices)
        assert set(corners[:, 0]) == {5.0, 12.0}


def test_missing_answers_and_limits_are_drawn():
    frames = [frame(limit_ms=math.nan), unanswered(time_s=1.0, limit_ms=LIMIT_MS)]
    runs = [Run('some', 2.0, frames, marks=[(0.5, 'phase')]), Run('none', 2.0, [unanswered()])]
    figure = plot_runs(runs, '')
    axes = figure.axes[0]
    ((_, top),) = points(axes, 3)
    assert top == axes.get_ylim()[1]
    assert 'phase' in texts(figure)


@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_a_figure_is_written_without_a_display(tmp_path, suffix):
    path = save_figure(plot_runs(three_runs(), ''), tmp_path / f'picture.{suffix}')
    assert path.stat().st_size > 10_000
    assert 'matplotlib.pyplot' not in sys.modules
    if suffix == 'png':
        assert cv2.imread(str(path)).shape[1] == 1200


def test_without_the_truth_images_are_on_time_or_late_and_the_accuracy_of_the_levels_counts():
    frames = [frame(truth='', level_accuracy=0.9), frame(truth='', latency_ms=LIMIT_MS + 1.0)]
    figure = plot_runs([Run('unknown', 2.0, frames)], '')
    axes = figure.axes[0]
    assert len(points(axes, 4)) == len(points(axes, 2)) == 1
    written = '\n'.join(texts(figure))
    assert '45.0 % top-1 of the levels, late images counting 0' in written
    assert 'right and on time' not in written
