import dataclasses
import io
import math
import re

import pytest
from demo.records import frame, snapshot_at, synthetic_recording
from rich.console import Console

from dynamic_ofa_ros.demo.chart import VIOLATION_STYLE, latency_chart
from dynamic_ofa_ros.demo.palette import ASCII, UNICODE, glyphs_for, level_colour
from dynamic_ofa_ros.demo.report import status_line, summary_table
from dynamic_ofa_ros.demo.snapshot import Preparation
from dynamic_ofa_ros.demo.summary import summarise
from dynamic_ofa_ros.demo.view import SMALLEST, fits, render

SIZES = [(80, 24), (120, 40), (200, 60)]


class EncodedFile(io.StringIO):
    """A file that claims an encoding, as a terminal does."""

    def __init__(self, encoding='utf-8'):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self):
        return self._encoding


def screen(snapshot, size, *, colour=None, encoding='utf-8'):
    """Return the lines a terminal of that size would show."""
    console = Console(
        file=EncodedFile(encoding),
        width=size[0],
        height=size[1],
        force_terminal=True,
        color_system=colour,
        no_color=colour is None,
        legacy_windows=False,
    )
    console.print(render(snapshot, console))
    return console.file.getvalue().rstrip('\n').split('\n')


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('time_s', [3.0, 10.0, 20.0, 39.0])
def test_the_screen_is_filled_and_never_overflows(size, time_s):
    lines = screen(snapshot_at(time_s), size)
    assert len(lines) == size[1]
    assert {len(line) for line in lines} == {size[0]}
    text = '\n'.join(lines)
    for word in ('scenario', 'truth', 'label', 'accuracy', 'slowdown', 'limit', 'switches'):
        assert word in text


@pytest.mark.parametrize('size', [SMALLEST, (79, 20), (300, 100)])
def test_odd_sizes_are_filled_too(size):
    for preparation in (None, Preparation('the camera', 1.0, 300.0, ('up',) * 50)):
        lines = screen(snapshot_at(20.0, preparation=preparation), size)
        assert len(lines) == size[1]
        assert {len(line) for line in lines} == {size[0]}


@pytest.mark.parametrize('size', SIZES[:2])
def test_what_a_viewer_must_see_is_there(size):
    text = '\n'.join(screen(snapshot_at(20.0), size))
    assert '▶ competitor    5.2 / 11.2 s' in text
    assert '✔ tight limit' in text
    assert '$ ros2 param set /classifier constraints.max_latency_ms 2.4' in text
    assert '90.0 % of 100' in text
    assert '93.3 % of the last 30' in text
    assert '1/5' in text
    assert 'limit 2.40 ms ✔ met' in text
    assert '2.00x contended' in text
    assert '30.0 Hz, 0 dropped' in text
    assert 'switches (2)' in text
    assert '3 → 1  because' in text


def test_a_long_command_is_shown_whole():
    command = ' '.join(f'word_{number}' for number in range(18))
    snapshot = dataclasses.replace(snapshot_at(20.0), command=command)
    lines = screen(snapshot, SIZES[0])
    assert len(lines) == SIZES[0][1]
    shown = ' '.join('\n'.join(lines).replace('│', '').split())
    assert f'$ {command}' in shown


def test_right_and_wrong_labels_look_different():
    recording = synthetic_recording()
    right = frame(time_s=1.0, truth='stop', label='stop')
    wrong = frame(time_s=1.0, truth='stop', label='yield')
    unknown = frame(time_s=1.0, truth='', label='yield')
    texts = []
    for newest in (right, wrong, unknown):
        changed = recording.__class__(frames=(newest,), levels=recording.levels)
        texts.append('\n'.join(screen(snapshot_at(1.0, changed), SIZES[0])))
    assert '✔ stop' in texts[0]
    assert '✘ yield' in texts[1]
    assert '? yield' in texts[2]
    assert '(unknown)' in texts[2]


def test_infeasible_limits_are_said():
    recording = synthetic_recording()
    late = frame(time_s=1.0, inference_ms=3.0, max_latency_ms=2.0, is_feasible=False)
    changed = recording.__class__(frames=(late,), levels=recording.levels)
    text = '\n'.join(screen(snapshot_at(1.0, changed), SIZES[0]))
    assert '✘ no level can' in text


@pytest.mark.parametrize('size', SIZES[:2])
def test_preparing_shows_what_the_part_says(size):
    preparation = Preparation('the classifier', 12.3, 300.0, ('building level 1', 'level 2'))
    lines = screen(snapshot_at(0.0, preparation=preparation), size)
    assert len(lines) == size[1]
    text = '\n'.join(lines)
    assert 'Waiting for the classifier 12 s of at most 300 s' in text
    assert 'level 2' in text
    assert 'truth' not in text


def test_nothing_measured_yet_is_no_error():
    recording = synthetic_recording()
    empty = recording.__class__(frames=(), levels=recording.levels)
    assert 'no frame yet' in '\n'.join(screen(snapshot_at(0.0, empty), SIZES[0]))
    unknown = frame(
        time_s=0.0,
        slowdown=math.nan,
        level_accuracy=math.nan,
        throughput_hz=math.nan,
        inference_ms=math.nan,
    )
    changed = recording.__class__(frames=(unknown,), levels=())
    assert 'not known yet' in '\n'.join(screen(snapshot_at(0.0, changed), SIZES[0]))


def test_a_terminal_that_shows_only_ascii_gets_only_ascii():
    for preparation in (None, Preparation('the classifier', 1.0, 300.0, ('up',))):
        lines = screen(snapshot_at(20.0, preparation=preparation), SIZES[0], encoding='ascii')
        '\n'.join(lines).encode('ascii')
    assert glyphs_for('utf-8') is UNICODE
    assert glyphs_for('latin-1') is ASCII
    assert glyphs_for(None) is ASCII
    assert glyphs_for('no-such-encoding') is ASCII


def test_colours_are_used_where_they_can_be_shown():
    with_colour = '\n'.join(screen(snapshot_at(20.0), SIZES[0], colour='truecolor'))
    without = '\n'.join(screen(snapshot_at(20.0), SIZES[0], colour=None))
    # Rich keeps the codes of a style as it was first drawn, so any number of colours will do.
    code = re.compile(r'\x1b\[(\d+;)*(3[0-8]|9[0-7])[;m]')
    assert code.search(with_colour)
    assert not code.search(without)


@pytest.mark.parametrize(
    ('size', 'is_terminal', 'expected'),
    [((80, 24), True, True), ((59, 24), True, False), ((80, 24), False, False)],
)
def test_the_view_needs_a_terminal_of_some_size(size, is_terminal, expected):
    console = Console(
        file=EncodedFile(), width=size[0], height=size[1], force_terminal=is_terminal
    )
    assert fits(console) is expected


def test_level_colours_differ_and_stay_in_range():
    for count in (1, 2, 5, 12):
        colours = [level_colour(level, count) for level in range(1, count + 1)]
        assert len(set(colours)) == count
    assert level_colour(9, 5) == level_colour(5, 5)


def chart(frames, **changes):
    options = {'now_s': 10.0, 'span_s': 10.0, 'width': 25, 'height': 4, 'glyphs': UNICODE}
    return latency_chart(frames, **{**options, **changes})


def test_chart_has_the_size_asked_for():
    lines = chart([frame(time_s=float(t)) for t in range(10)])
    assert len(lines) == 4
    assert {len(line.plain) for line in lines} == {25}
    assert lines[0].plain.startswith('   5 ')
    assert lines[-1].plain.startswith('   0 ')


def test_chart_shows_the_slowest_frame_of_a_column():
    # Columns are half a second wide: these two share one.
    lines = chart([frame(time_s=9.6, inference_ms=1.0), frame(time_s=9.7, inference_ms=4.0)])
    column = [line.plain[-2] for line in lines]
    assert column == ['▂', '█', '█', '█']


def test_chart_marks_the_limit_and_what_is_over_it():
    under = [frame(time_s=t, inference_ms=0.5, max_latency_ms=2.0) for t in (8.1, 8.6)]
    over = [frame(time_s=9.1, inference_ms=3.9, max_latency_ms=2.0)]
    lines = chart([*under, *over])
    row = next(line for line in lines if UNICODE.limit in line.plain)
    assert UNICODE.limit not in row.plain[5:20]  # no limit before the first frame that had one
    styles = {
        (row, span.style)
        for row, line in enumerate(lines)
        for span in line.spans
        if span.style == VIOLATION_STYLE
    }
    assert styles  # the part over the limit is red
    assert all(span.style != VIOLATION_STYLE for span in lines[-1].spans)


def test_chart_cuts_outliers_and_says_so():
    frames = [frame(time_s=0.25 + 0.5 * i, inference_ms=1.0) for i in range(20)]
    frames[10] = frame(time_s=5.25, inference_ms=100.0)
    lines = chart(frames)
    assert UNICODE.over in lines[0].plain
    assert lines[0].plain.startswith(' 1.5 ')


def test_chart_of_nothing_is_empty():
    assert all(not line.plain[5:].strip() for line in chart([]))


def test_status_line_has_the_same_facts():
    line = status_line(snapshot_at(20.0))
    assert '\n' not in line
    for part in ('20.0 s', 'competitor', 'level 1/5', 'limit 2.40 ms', 'accuracy 90.0% of 100'):
        assert part in line
    preparation = Preparation('the camera', 3.0, 300.0, ('first', 'last'))
    assert status_line(snapshot_at(0.0, preparation=preparation)).endswith('the camera: last')


@pytest.mark.parametrize('width', [80, 120])
def test_summary_table_fits_and_is_not_cut(width):
    console = Console(file=EncodedFile(), width=width, color_system=None)
    console.print(summary_table(summarise(synthetic_recording()), width))
    text = console.file.getvalue()
    assert '…' not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for name in ('free run', 'tight limit', 'competitor', 'recovery', 'limit lifted', 'whole run'):
        assert name in text
    assert '1200' in text
