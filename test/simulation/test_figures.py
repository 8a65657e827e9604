from __future__ import annotations

import math

import pytest
from figure_texts import texts
from simulation.examples import make_platform, make_record

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.plotting.published_curves import OURS, read_published_curves
from dynamic_ofa_ros.plotting.style import LIMIT
from dynamic_ofa_ros.simulation import figures
from dynamic_ofa_ros.simulation.drawing import Column, draw_columns
from dynamic_ofa_ros.simulation.record import Record
from dynamic_ofa_ros.simulation.scenario import load_scenario, scenario_names

ROWS = [(3, 1.0), (3, 1.5), (2, 1.5), (2, 1.5), (3, 1.0)]


def test_a_column_shows_every_frame_the_limit_and_the_top_1():
    record = make_record(ROWS, 45.0)
    figure = draw_columns([Column('ours', (record,), ((0.0, 'calm'), (0.1, 'storm')))], 'caption')
    upper, lower = figure.axes
    points = [tuple(xy) for c in upper.collections for xy in c.get_offsets()]
    assert len(points) == len(ROWS)
    assert sorted(x for x, _ in points) == pytest.approx([f.start_ms / 1e3 for f in record.frames])
    (limit,) = [line for line in upper.lines if line.get_color() == LIMIT]
    assert set(limit.get_ydata()) == {45.0}
    low, high = upper.get_ylim()
    assert low < 30.0
    assert high > 60.0
    (steps,) = [line for line in lower.lines if line.get_drawstyle() == 'steps-post']
    assert list(steps.get_ydata()) == pytest.approx([80.0, 80.0, 70.0, 70.0, 80.0])
    written = texts(figure)
    for text in ('ours', 'calm', 'storm', 'caption', 'limit', 'latency [ms]', 'top-1 [%]',
                 'time [s]', '2 (70.0)', '3 (80.0)', '1 of 5 frames late (20.0 %)'):  # fmt: skip
        assert text in written


def test_without_a_limit_no_limit_is_plotted():
    figure = draw_columns([Column('free', (make_record(ROWS, math.inf),))], '')
    assert not [line for line in figure.axes[0].lines if line.get_color() == LIMIT]
    assert 'limit' not in texts(figure)


def test_frames_above_the_range_are_marked():
    rows = [(3, 1.0)] * 400 + [(3, 50.0)]
    figure = draw_columns([Column('x', (make_record(rows, 45.0),))], 'text.')
    assert 'text. Triangles: above the range.' in texts(figure)
    upper = figure.axes[0]
    top_ms = upper.get_ylim()[1]
    assert top_ms < 200.0
    highest = max(y for c in upper.collections for _, y in c.get_offsets())
    assert highest == pytest.approx(top_ms)


def test_columns_without_frames_are_rejected():
    empty = Record('empty', 'x', 1, make_platform(), ())
    for columns in ([], [Column('x', (empty,))]):
        with pytest.raises(SimulationError, match='there are no frames'):
            draw_columns(columns, '')


def test_all_figures_of_the_paper_have_shipped_scenarios():
    assert [figure.number for figure in figures.FIGURES] == [1, 6, 7, 8]
    for figure in figures.FIGURES:
        assert figure.scenario in scenario_names()
        assert figure.policies[-1] in ('predictive', figures.COLLECTIVE)
        assert f'figure {figure.number}' in figure.caption


def test_the_command_writes_all_figures(capsys, tmp_path, monkeypatch):
    (chosen,) = [figure for figure in figures.FIGURES if figure.number == 6]
    monkeypatch.setattr(figures, 'FIGURES', (chosen,))
    assert main(['figures', '--output', str(tmp_path / 'here')]) == 0
    path = tmp_path / 'here' / 'figure_6_limits.png'
    assert path.read_bytes().startswith(b'\x89PNG')
    out = capsys.readouterr().out
    assert f'figure 6: {path}' in out
    assert 'predictive' in out


def caption_of(drawn):
    return ' '.join(' '.join(texts(drawn.figure)).split())


def test_the_captions_say_which_of_the_published_numbers_were_used():
    by_number = {figure.number: figure for figure in figures.FIGURES}
    caption = caption_of(figures.draw_figure(by_number[7]))
    assert 'figure 3 of the paper, 41.2-61.7 ms' in caption
    assert '48.8-79.6 ms' in caption
    drawn = figures.draw_figure(by_number[6])
    caption = caption_of(drawn)
    assert 'figure 4a times 0.72 are used. The factor is assumed: from 0.69 to 0.75' in caption
    for record in (record for records in drawn.records.values() for record in records):
        limits = [frame.limit_ms for frame in record.frames]
        assert sorted(set(limits)) == [40.0, 55.0, 65.0]
        assert {f.level for f in record.frames if f.limit_ms == 40.0} == {2}
        assert sum(f.is_violation for f in record.frames) < 0.05 * len(record.frames)


def test_the_latencies_of_figure_6_are_those_that_its_caption_states():
    published_ms = [ms for ms, _ in read_published_curves().gpu_ms[OURS]]
    (model,) = load_scenario('limits').models
    assert model.platform.latencies_ms == pytest.approx(
        [0.72 * ms for ms in published_ms], abs=0.06
    )
    assert 0.75 * published_ms[1] < 40.0 < 0.69 * published_ms[2]


def test_figure_8_is_collective():
    (chosen,) = [figure for figure in figures.FIGURES if figure.number == 8]
    records = figures.draw_figure(chosen).records[figures.COLLECTIVE]
    reasons = {frame.reason for record in records for frame in record.frames}
    assert len(records) == 2
    assert any('collective with model A' in reason for reason in reasons)
    assert any('makes room for model' in reason for reason in reasons)
