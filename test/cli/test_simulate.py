from __future__ import annotations

import csv
import json
from itertools import pairwise

import pytest

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.simulation.metrics import SUMMARY
from dynamic_ofa_ros.simulation.scenario import scenario_names
from dynamic_ofa_ros.simulation.traces import trace_kinds

TRACE = 'time_ms,slowdown\n0,1.0\n2000,1.3\n4000,1.0\n'


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / 'trace.csv'
    path.write_text(TRACE, encoding='utf-8')
    return path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_json_contains_the_documented_metrics(capsys, trace):
    options = ('--policy', 'reactive', '--limit-ms', '60', '--seed', '1', '--json')
    status, out, _ = run(capsys, 'simulate', '--trace', trace, *options)
    assert status == 0
    found = json.loads(out)
    assert tuple(found) == SUMMARY
    assert found['frames'] > 90
    assert 0 < found['violations'] < found['frames']
    assert run(capsys, 'simulate', '--trace', trace, *options)[1] == out


def test_the_metrics_can_be_computed_from_the_frames_in_the_file(capsys, trace, tmp_path):
    frames = tmp_path / 'frames.csv'
    status, out, _ = run(
        capsys, 'simulate', '--trace', trace, '--policy', 'reactive', '--limit-ms', '60',
        '--json', '--frames', frames,
    )  # fmt: skip
    assert status == 0
    found = json.loads(out)
    with frames.open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found['frames']
    late = [float(row['latency_ms']) > float(row['limit_ms']) for row in rows]
    assert [row['is_violation'] == '1' for row in rows] == late
    assert found['violations'] == sum(late)
    assert found['violation_ratio'] == pytest.approx(sum(late) / len(rows))
    accuracies = [float(row['accuracy']) for row in rows]
    assert found['mean_accuracy'] == pytest.approx(sum(accuracies) / len(rows))
    # 1.3 times 41.2 ms is below 60 ms, so some level always meets the limit.
    assert found['oracle_violation_ratio'] == 0.0
    on_time = [0.0 if is_late else a for is_late, a in zip(late, accuracies, strict=True)]
    assert found['on_time_accuracy'] == pytest.approx(sum(on_time) / len(rows))
    levels = [row['level'] for row in rows]
    assert found['switches'] == sum(a != b for a, b in pairwise(levels))


def test_the_overhead_of_a_trace_counts_in_its_scopes(capsys, tmp_path):
    path = tmp_path / 'trace.csv'
    path.write_text('time_ms,slowdown,overhead_ms\n0,1,1\n2000,1,8\n4000,1,1\n')
    shares = [
        json.loads(
            run(
                capsys, 'simulate', '--trace', path, '--policy', 'fixed', '--limit-ms', '66',
                '--rate-hz', '10', '--scope', scope, '--json',
            )[1]
        )['violation_ratio']
        for scope in ('inference', 'node')
    ]  # fmt: skip
    assert shares[0] < 0.05
    assert shares[1] == pytest.approx(1 / 3, abs=0.05)


def test_a_table_and_a_plot_of_a_trace(capsys, trace, tmp_path):
    picture = tmp_path / 'run.png'
    status, out, _ = run(
        capsys, 'simulate', '--trace', trace, '--policy', 'oracle', '--limit-ms', '60',
        '--output', picture,
    )  # fmt: skip
    assert status == 0
    assert 'on-time top-1 of the oracle' in out
    assert 'on-time top-1 of the best fixed level' in out
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_options_change_the_run(capsys):
    def found(*options):
        status, out, err = run(
            capsys, 'simulate', '--kind', 'none', '--duration-s', '3', '--json', *options
        )
        assert status == 0, err
        return json.loads(out)

    at_15_hz = ('--policy', 'fixed', '--rate-hz', '15', '--limit-ms', '64')
    assert found(*at_15_hz)['frames'] == 45
    assert found(*at_15_hz)['violation_ratio'] < 0.05
    late = found(*at_15_hz, '--scope', 'end_to_end', '--transport-ms', '5')
    assert late['violation_ratio'] > 0.95
    # At 30 Hz, images wait even with the fastest level.
    assert found('--policy', 'fixed', '--fixed-level', '1', '--limit-ms', '60')['violations'] == 0
    waited = found(
        '--policy', 'fixed', '--fixed-level', '1', '--limit-ms', '60', '--scope', 'node'
    )
    assert 0.2 < waited['violation_ratio'] < 0.6
    low = found('--policy', 'fixed', '--fixed-level', '1')
    assert low['mean_accuracy'] == pytest.approx(0.74202)
    assert low['violations'] == 0  # no limit
    assert found('--policy', 'fixed', '--period-ms', '500')['frames'] == 6
    assert found('--policy', 'table', '--limit-ms', '50')['mean_accuracy'] == pytest.approx(
        0.76134
    )
    floor = found('--policy', 'table', '--limit-ms', '50', '--min-accuracy', '0.78',
                  '--priority', 'accuracy')  # fmt: skip
    assert floor['mean_accuracy'] == pytest.approx(0.78346)
    assert found('--policy', 'fixed', '--limit-ms', '61.7', '--noise', '0')['violation_ratio'] == 1


def test_a_scenario_is_simulated_and_plotted(capsys, tmp_path):
    picture = tmp_path / 'two.svg'
    status, out, _ = run(
        capsys, 'simulate', 'two_models', '--policy', 'reactive', '--json', '--output', picture
    )
    assert status == 0
    found = json.loads(out)
    assert list(found['models']) == ['model A', 'model B']
    assert tuple(found['models']['model B']) == SUMMARY
    text = picture.read_text(encoding='utf-8')
    assert '<svg' in text


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ((), 'give one of: a scenario'),
        (('step', '--kind', 'step'), 'scenario and kind given'),
        (('--trace', 'absent.csv'), 'absent.csv cannot be read'),
        (('--kind', 'steep'), "no kind of trace 'steep'"),
        (('--kind', 'step', '--policy', 'best'), "no policy 'best'"),
        (
            ('--kind', 'step', '--policy', 'alert', '--window', '3'),
            'alert has no options, found window',
        ),
        (('--kind', 'step', '--scope', 'camera'), "latency_scope is 'camera'; it must be one of"),
        (('--kind', 'step', '--rate-hz', '1e9'), 'images, too many to simulate'),
        (('--kind', 'step', '--output', 'run.abc'), 'its name must end with .png, .pdf, .svg'),
        (('--kind', 'step', '--platform', 'x'), 'a platform can be chosen only for a family'),
        (
            ('--kind', 'step', '--rate-hz', '30', '--period-ms', '9'),
            'set the same value; give one',
        ),
        (('--kind', 'none', '--duration-s', '86400'), 'images, too many to simulate'),
        (('--kind', 'step', '--family', 'nothing'), 'neither a level file nor a family'),
        (('--kind', 'step', '--policy', 'fixed', '--fixed-level', '9'), 'fixed_level is 9'),
        (('nothing',), 'there is no scenario nothing'),
        (('step', '--limit-ms', '60'), '--limit-ms requires a trace'),
        (('two_models', '--policy', 'oracle'), 'the oracle requires a trace'),
    ],
)
def test_invalid_arguments_are_reported(capsys, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, 'simulate', *arguments)
    assert status == 2
    assert out == ''
    assert err.startswith('dynamic-ofa: ')
    assert expected in err
    assert 'Traceback' not in err
    assert list(tmp_path.iterdir()) == []


def test_a_trace_with_thirty_thousand_rows_is_read(capsys, tmp_path):
    path = tmp_path / 'long.csv'
    rows = ''.join(f'{i / 5:.1f},{1 + (i % 7) / 20}\n' for i in range(30_000))
    path.write_text('time_ms,slowdown\n' + rows, encoding='utf-8')
    status, out, _ = run(capsys, 'simulate', '--trace', path, '--policy', 'table', '--json')
    assert status == 0
    assert json.loads(out)['frames'] == 84


def test_the_help_lists_scenarios_and_policies(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['simulate', '--help'])
    assert ended.value.code == 0
    text = ' '.join(capsys.readouterr().out.split())
    assert f'Shipped scenarios: {", ".join(scenario_names())}.' in text
    for kind in trace_kinds():
        assert kind in text
