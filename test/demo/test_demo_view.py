"""The output of the demo: charts on a terminal, otherwise lines."""

import io
import math
import re
import sys
from dataclasses import replace

import pytest
from demo.made_up import frame, three_runs, unanswered
from rich.console import Console

from dynamic_ofa_ros.demo.view import (
    Scene,
    View,
    render,
    results_table,
    status_line,
)
from dynamic_ofa_ros.recordings.measures import Run


def console(**options):
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=options.pop('encoding', 'utf-8'))
    defaults = {'width': 100, 'height': 34, 'force_terminal': True}
    return Console(file=buffer, **defaults | options, _environ={'TERM': 'xterm'})


def shown(renderable, width=100):
    target = Console(file=io.StringIO(), width=width, height=60)
    target.print(renderable)
    return target.file.getvalue()


@pytest.mark.parametrize(('width', 'height'), [(100, 34), (80, 24), (200, 60), (80, 20)])
def test_a_scene_fits_into_the_terminal(width, height):
    runs = three_runs()
    text = shown(render(Scene('heading', 'stage', runs, runs[-1:]), width, height), width)
    assert len(text.splitlines()) <= height
    assert max(map(len, text.splitlines())) <= width
    for word in ('heading', 'stage', 'highest level', 'lowest level', 'last switch: from 3 to 8'):
        assert word in text


def test_the_latency_axis_is_logarithmic_and_in_milliseconds():
    runs = three_runs()
    text = shown(render(Scene('', '', runs, runs[:1]), 100, 40))
    labels = [float(found) for found in re.findall(r'^ *([\d.]+)┤', text, re.MULTILINE)]
    assert labels[:2] == [20.0, 10.0]


def test_runs_without_images_answers_or_a_limit_are_drawn():
    frames = [[], [unanswered()], [frame(limit_ms=math.nan)]]
    runs = [replace(run, frames=some) for run, some in zip(three_runs(), frames, strict=True)]
    assert shown(render(Scene('', '', runs, runs), 100, 60))
    assert 'no label yet' in status_line(runs[1])
    assert 'limit none' in status_line(runs[2])


def test_the_table_has_a_row_per_run():
    text = shown(results_table(three_runs()), 80)
    assert len(text.splitlines()) == 4
    assert re.search(r'switching +0\.0 % +9\d\.\d % +9\d\.\d %', text)


def test_charts_are_drawn_only_on_a_suitable_terminal(monkeypatch):
    assert View(console())._live
    for poor in (
        {'width': 79}, {'height': 19}, {'encoding': 'ascii'}, {'force_terminal': False}
    ):  # fmt: skip
        assert not View(console(**poor))._live, poor
    monkeypatch.setitem(sys.modules, 'plotext', None)
    monkeypatch.delitem(sys.modules, 'plotext')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert not View(console())._live


def test_each_stage_and_one_status_line_per_second_are_printed():
    target = Console(file=io.StringIO(), width=40)
    runs = three_runs()
    with View(target) as view:
        for stage in ('one', 'one', 'one', 'two'):
            view.show(Scene('', stage, runs, runs[-1:]))
    lines = target.file.getvalue().splitlines()
    assert [line for line in lines if not line.startswith(' ')] == ['one', 'two']
    assert len(lines) == 3
    assert 'level 8/8' in lines[1]


def test_charts_restore_the_terminal():
    target = console()
    runs = three_runs()
    with View(target) as view:
        view.show(Scene('', 'playing', runs, runs[-1:]))
    target.file.flush()
    written = target.file.buffer.getvalue().decode()
    assert '\x1b[?1049h' in written
    assert written.rstrip().endswith('\x1b[?25h') or '\x1b[?1049l' in written
    assert isinstance(runs[0], Run)
