import math
import sys

import cv2
import pytest
from demo.records import LIMIT_MS, frame, synthetic_recording

from dynamic_ofa_ros.demo.recording import RecordingError, write_frames
from dynamic_ofa_ros.plot_style import level_colour
from dynamic_ofa_ros.plots import plot_accuracy, plot_latency, plot_models, save_figure


@pytest.fixture(scope='module')
def recording():
    return synthetic_recording(20.0)


def points(axes):
    """Return the offsets of all scattered points."""
    return [tuple(xy) for collection in axes.collections for xy in collection.get_offsets()]


def texts(figure):
    """Return everything written into a figure, legends included."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [axes.get_xlabel(), axes.get_ylabel()]
    for legend in figure.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return found


def test_every_frame_is_a_point_and_the_limit_a_step(recording):
    figure = plot_latency(recording.frames, recording.switches)
    upper, lower = figure.axes
    assert len(points(upper)) == len(recording.frames)
    (limit,) = [line for line in upper.lines if line.get_label() == 'limit']
    values = [value for value in limit.get_ydata() if not math.isnan(value)]
    limited = [f for f in recording.frames if not math.isnan(f.max_latency_ms)]
    assert values == [LIMIT_MS] * len(limited)
    written = texts(figure)
    for word in ('inference latency [ms]', 'time [s]', 'level', 'competitor', '1 (85.0)'):
        assert word in written
    for switch in ('5→3', '3→1', '1→3', '3→5'):
        assert switch in written
    assert any('Grey: a competing process' in text for text in written)
    assert lower.get_ylim()[1] > 5


def test_points_have_the_colour_of_their_level(recording):
    upper = plot_latency(recording.frames).axes[0]
    for collection in upper.collections:
        if not len(collection.get_offsets()):
            continue
        level = int(collection.get_label().split()[0])
        assert tuple(collection.get_facecolor()[0]) == pytest.approx(level_colour(level, 5))
        own = [f for f in recording.frames if f.level == level]
        assert len(collection.get_offsets()) == len(own)


def test_contention_is_shaded_where_it_was(recording):
    upper = plot_latency(recording.frames).axes[0]
    (patch,) = upper.patches
    span = patch.get_extents().transformed(upper.transData.inverted())
    assert span.x0 == pytest.approx(0.37 * 20.0, abs=0.05)
    assert span.x1 == pytest.approx(0.65 * 20.0, abs=0.05)


def test_switches_are_found_in_the_frames_when_not_given(recording):
    assert '5→3' in texts(plot_latency(recording.frames))
    assert '5→3' not in texts(plot_latency(recording.frames, []))


def test_switches_close_together_share_a_text():
    levels = [5] * 30 + [4] * 3 + [3] * 3 + [2] * 30 + [5] * 60
    frames = [frame(time_s=0.1 * i, level=level) for i, level in enumerate(levels)]
    written = texts(plot_latency(frames))
    assert '5→4→3→2' in written
    assert '2→5' in written


def test_outliers_are_marked_not_dropped():
    frames = [frame(time_s=0.1 * i, inference_ms=2.0) for i in range(300)]
    frames[150] = frame(time_s=15.0, inference_ms=80.0)
    figure = plot_latency(frames)
    upper = figure.axes[0]
    assert upper.get_ylim()[1] < 5.0
    assert len(points(upper)) == 301  # its place on the axis, and the triangle there
    written = ' '.join(texts(figure)).replace('\n', ' ')
    assert 'Triangles: 1 above the axis, up to 80.0 ms' in written


def test_accuracy_is_what_the_labels_say(recording):
    figure = plot_accuracy(recording.frames)
    time_axes, phase_axes, level_axes = figure.axes
    heights = [patch.get_height() for patch in phase_axes.patches]
    for height, (name, _) in zip(heights, recording.phase_starts_s, strict=True):
        own = [f for f in recording.frames if f.phase == name]
        assert height == pytest.approx(100 * sum(f.is_correct for f in own) / len(own))
    assert len(level_axes.patches) == 3
    assert [label.get_text() for label in level_axes.get_xticklabels()] == [
        f'{level}\n{sum(f.level == level for f in recording.frames)} / 1' for level in (1, 3, 5)
    ]
    (rolling,) = [line for line in time_axes.lines if 'last 2 s' in str(line.get_label())]
    assert 0.0 <= min(rolling.get_ydata()) <= max(rolling.get_ydata()) <= 100.0
    wrong = sum(f.is_correct is False for f in recording.frames)
    assert len(points(time_axes)) == wrong
    assert 'accuracy [%]' in texts(figure)


def test_models_share_the_time_and_have_their_own_panels(recording):
    late = recording.frames[len(recording.frames) // 2 :]
    figure = plot_models({'one': recording.frames, 'two': late})
    upper_one, _, upper_two, lower_two = figure.axes
    assert len(points(upper_one)) == len(recording.frames)
    assert len(points(upper_two)) == len(late)
    assert upper_two.get_xlim() == upper_one.get_xlim()
    assert lower_two.get_xlim()[1] == recording.frames[-1].time_s
    written = texts(figure)
    assert {'one [ms]', 'two [ms]'} <= set(written)
    count = sum(frame.is_violation for frame in recording.frames)
    assert any(f'one: {count} of' in text for text in written)


def test_intervals_count_scenes_not_frames():
    def interval(truths):
        frames = [
            frame(time_s=0.1 * i, truth=truth, label=truth if i % 2 else 'x')
            for i, truth in enumerate(truths)
        ]
        (bar, *_) = plot_accuracy(frames).axes[1].containers[1:]
        segment = bar.lines[2][0].get_segments()[0]
        return segment[1][1] - segment[0][1]

    assert interval(['a'] * 40 + ['b'] * 40) > 2 * interval(['a', 'b'] * 40)


def test_frames_without_truth_do_not_count(recording):
    known = list(recording.frames[:60])
    unknown = [frame(time_s=3.0 + 0.1 * i, truth='', phase='other') for i in range(20)]
    figure = plot_accuracy([*known, *unknown])
    assert len(figure.axes[1].patches) == 1
    with pytest.raises(RecordingError, match='no frame has a true label'):
        plot_accuracy(unknown)


@pytest.mark.parametrize('plot', [plot_latency, plot_accuracy])
def test_nothing_to_draw_is_an_error(plot, tmp_path):
    with pytest.raises(RecordingError, match='not a single frame'):
        plot([])
    with pytest.raises(RecordingError, match='does not exist'):
        plot(tmp_path / 'none.csv')


@pytest.mark.parametrize('plot', [plot_latency, plot_accuracy])
def test_one_frame_and_unmeasured_values_can_be_drawn(plot, tmp_path):
    frames = [
        frame(inference_ms=math.nan, level_accuracy=math.nan, slowdown=math.nan, level_count=1)
    ]
    save_figure(plot(frames), tmp_path / 'one.png')
    assert (tmp_path / 'one.png').stat().st_size > 5000


def test_figures_are_saved_at_a_readable_size_from_a_csv_too(recording, tmp_path):
    write_frames(recording.frames, tmp_path / 'telemetry.csv')
    for name, plot in (('latency', plot_latency), ('accuracy', plot_accuracy)):
        path = save_figure(plot(tmp_path / 'telemetry.csv'), tmp_path / f'{name}.png')
        image = cv2.imread(str(path))
        assert image.shape[1] == 1200
        assert image.shape[0] > 600
        assert image.std() > 10.0  # not blank
    pdf = save_figure(plot_latency(recording.frames), tmp_path / 'latency.pdf')
    assert pdf.read_bytes().startswith(b'%PDF')


def test_no_global_state_is_touched():
    assert 'matplotlib.pyplot' not in sys.modules
