"""`dynamic-ofa compare` on the command line."""

from __future__ import annotations

import json
import math

import cv2
import pytest
from bags import telemetry, told, truths, write_bag
from demo.made_up import LIMIT_MS, three_runs

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.recordings.frames import write_frames

BAD_INPUT = 2


@pytest.fixture
def bags(tmp_path, monkeypatch):
    """Write two bags; in the second one, every fourth image is late and there is no truth."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '100')
    write_bag(tmp_path / 'quick', [*told(telemetry(n) for n in range(40)), *truths(40)])
    slow = [
        telemetry(n, node_ms=30.0 if n % 4 == 1 else 6.0, violations=(n + 3) // 4, policy='table')
        for n in range(40)
    ]
    write_bag(tmp_path / 'slow', told(slow))
    return ['quick', 'slow']


def rows(text):
    """Return the cells of each row of a table by its first cell."""
    lines = [line.strip('│┃ \n') for line in text.splitlines() if '│' in line or '┃' in line]
    cells = [[cell.strip() for cell in line.replace('┃', '│').split('│')] for line in lines]
    return {first: rest for first, *rest in cells if first}


def test_a_table_shows_both_and_a_picture_is_drawn(bags, capsys):
    assert main(['compare', *bags, '--output', 'compared.png']) == 0
    output = capsys.readouterr().out
    found = rows(output)
    assert found['policy'] == ['predictive', 'table']
    assert found['limit, ms'] == ['10', '10']
    assert found['late %'] == ['0.0', '25.0']
    assert found['on time %'] == ['100.0', '75.0']
    assert found['right %'] == ['100.0', '-']
    assert found['node ms, p50/p95/p99'] == ['6.00 / 6.00 / 6.00', '6.00 / 30.00 / 30.00']
    assert 'reaction' not in found
    assert 'Note: the ground truth is known in A only.' in output
    assert 'drawn: compared.png' in output
    assert cv2.imread('compared.png').shape[1] == 1200


def test_json_has_the_same_and_nothing_else_is_printed(bags, capsys):
    assert main(['compare', *bags, '--json']) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert document['B']['late'] == pytest.approx(0.25)
    assert document['A']['right_on_time'] == 1.0
    assert document['B']['right_on_time'] is None
    assert document['differences'] == ['the ground truth is known in A only']


def test_runs_of_the_demo_have_reaction_and_recovery(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '120')
    monkeypatch.chdir(tmp_path)
    write_frames([frame for run in three_runs() for frame in run.frames], tmp_path / 'f.csv')
    names = ['f.csv:highest level', 'f.csv:switching']
    assert main(['compare', *names, '--output', 'both.svg']) == 0
    found = rows(capsys.readouterr().out)
    assert found['limit, ms'] == [f'{LIMIT_MS:g}'] * 2
    assert found['late under load %'] == ['100.0', '0.0']
    assert found['reaction'][0].endswith('not finished')
    assert found['recovery'] == ['0 images, 0 ms'] * 2
    assert (tmp_path / 'both.svg').read_text().startswith('<?xml')


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('one', {}),
        ('x[/b]$\\y$', {}),
        ('zero', {'node_ms': 0.0, 'max_latency_ms': 0.0, 'level': 0, 'level_count': 0}),
        ('negative', {'node_ms': -1.0, 'max_latency_ms': -1.0, 'level_count': -1}),
        ('infinite', {'node_ms': math.inf, 'max_latency_ms': math.inf}),
        ('unknown', {'node_ms': math.nan, 'max_latency_ms': math.nan}),
    ],
)
def test_any_recording_is_compared_and_drawn(tmp_path, monkeypatch, capsys, name, changes):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '100')
    write_bag(tmp_path / name, told([telemetry(0, **changes)]))
    assert main(['compare', name, name, '--output', 'compared.png']) == 0
    captured = capsys.readouterr()
    assert f'A: {name}' in captured.out
    assert captured.err == ''


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['quick', 'gone'], 'gone does not exist; give the folder of a rosbag2 recording'),
        (['gone:/classifier', 'quick'], 'gone:/classifier does not exist; give the folder'),
        (['quick', 'gone.csv'], 'gone.csv is not a file; give frames.csv'),
        (['quick', '.'], 'the folder . has no metadata.yaml; give the folder'),
        (['quick', 'slow', '--output', 'picture'], 'its name must end with .png'),
        (['quick', 'slow:/other'], 'no classifier /other'),
    ],
)
def test_bad_input_is_reported_in_one_line(bags, capsys, arguments, words):
    assert main(['compare', *arguments]) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ''
    assert words in captured.err
    assert captured.err.count('\n') == 1
