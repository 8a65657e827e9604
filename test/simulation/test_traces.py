from __future__ import annotations

import math
from itertools import pairwise

import pytest

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.simulation.steps import Steps
from dynamic_ofa_ros.simulation.traces import Trace, make_trace, read_trace, trace_kinds

KINDS = (
    'none', 'step', 'ramp', 'burst', 'periodic', 'random_walk', 'bimodal', 'second_model',
    'frequency', 'stalls',
)  # fmt: skip

BAD_FILES = {
    'empty': ('', 'is empty'),
    'no rows': ('time_ms,slowdown\n', 'has no row'),
    'other columns': ('time_ms,factor\n0,1\n', 'no column slowdown; it has time_ms, factor'),
    'no header': ('0,1\n5,2\n', 'no column time_ms and no column slowdown'),
    'not ascending': ('time_ms,slowdown\n0,1\n10,1\n10,2\n', 'line 4: time_ms is 10 after 10'),
    'descending': ('time_ms,slowdown\n5,1\n4,1\n', 'line 3: time_ms is 4 after 5'),
    'zero': ('time_ms,slowdown\n0,0\n', 'line 2: slowdown is 0; it must lie in'),
    'negative': ('time_ms,slowdown\n0,-1.5\n', 'slowdown is -1.5'),
    'NaN': ('time_ms,slowdown\n0,nan\n', 'slowdown is nan; it must be finite'),
    'infinite time': ('time_ms,slowdown\ninf,1\n', 'time_ms is inf; it must be finite'),
    'too large': ('time_ms,slowdown\n0,1e9\n', 'slowdown is 1e'),
    'text': ('time_ms,slowdown\n0,fast\n', "slowdown is 'fast'; it must be a number"),
    'long': ('time_ms,slowdown\n-1e300,1\n1e300,1\n', 'lasts 4e+297 s; the duration must'),
    'negative overhead': ('time_ms,slowdown,overhead_ms\n0,1,-2\n', 'overhead_ms is -2; it must'),
    'NaN overhead': ('time_ms,slowdown,overhead_ms\n0,1,nan\n', 'overhead_ms is nan; it must'),
    'no overhead': ('time_ms,slowdown,overhead_ms\n0,1,2\n9,1\n', "line 3: overhead_ms is ''"),
    'huge overhead': ('time_ms,slowdown,overhead_ms\n0,1,1e9\n', 'overhead_ms is 1e+09; it must'),
    'short row': ('time_ms,slowdown\n0,1\n10\n', "line 3: slowdown is ''"),
}


@pytest.fixture
def write(tmp_path):
    def _write(text, name='trace.csv'):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def test_a_step_is_valid_until_the_next():
    steps = Steps.of([(0.0, 1.0), (10.0, 2.0), (30.0, 3.0)])
    assert [steps.at(t) for t in (-5.0, 0.0, 9.999, 10.0, 29.0, 30.0, 99.0)] == [
        1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0,
    ]  # fmt: skip
    assert steps.next_change_ms(9.0) == 10.0
    assert steps.next_change_ms(10.0) == 30.0
    assert steps.next_change_ms(30.0) == math.inf


def test_all_kinds_of_traces_are_listed():
    assert trace_kinds() == KINDS


@pytest.mark.parametrize('kind', KINDS)
def test_a_trace_is_reproducible(kind):
    trace = make_trace(kind, seed=3, duration_s=20.0)
    assert trace == make_trace(kind, seed=3, duration_s=20.0)
    assert trace.duration_ms == 20000.0
    if kind != 'none':
        assert trace != make_trace(kind, seed=4, duration_s=20.0)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('seed', range(1, 6))
def test_a_trace_is_valid(kind, seed):
    trace = make_trace(kind, seed, 30.0)
    times, values = trace.slowdown.times_ms, trace.slowdown.values
    assert len(times) == len(values)
    assert times[0] == 0.0
    assert all(before < after for before, after in pairwise(times))
    # Steps may be stored beyond the end of the trace, but stalls must not start there.
    assert [t for t in times if t > trace.duration_ms][1:] == []
    assert min(values) >= 1.0
    assert max(values) < 1.7
    assert (max(values) > 1.0) == (kind not in ('none', 'stalls'))
    assert bool(trace.stalls_ms) == (kind == 'stalls')


def test_bimodal_has_two_modes_and_neither_is_rare():
    values = make_trace('bimodal', 1, 60.0).slowdown.values
    assert len(set(values)) == 2
    share = sum(value > 1.0 for value in values) / len(values)
    assert 0.08 < share < 0.42


def test_the_kind_step_has_one_interval_of_contention():
    for seed in range(10):
        before, during, after = make_trace('step', seed, 60.0).slowdown.values
        assert (before, after) == (1.0, 1.0)
        assert during > 1.1


def test_unknown_kinds_and_invalid_durations_are_rejected():
    with pytest.raises(SimulationError, match=r"no kind of trace 'steep'.*none, step, ramp"):
        make_trace('steep')
    for duration_s in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(SimulationError, match=r'trace step lasts .*86400\] s'):
            make_trace('step', 1, duration_s)


def test_times_in_a_file_are_relative_to_the_first_row(write):
    trace = read_trace(write('time_ms,slowdown\n1000,1.0\n1500,1.5\n2500,1.25\n', 'mine.csv'))
    assert trace.name == 'mine'
    assert trace.slowdown == Steps((0.0, 500.0, 1500.0), (1.0, 1.5, 1.25))
    assert trace.duration_ms == 2500.0  # the last row lasts as long as the one before it


def test_other_columns_bom_and_blank_lines_are_ignored(write):
    text = b'\xef\xbb\xbftime_ms, slowdown ,what\r\n0,1.5,x\r\n\r\n10,2,y\r\n'
    assert read_trace(write(text)).slowdown == Steps((0.0, 10.0), (1.5, 2.0))


def test_one_row_is_a_trace_of_ten_seconds(write):
    trace = read_trace(write('time_ms,slowdown\n70,1.2\n'))
    assert trace.duration_ms == 10000.0
    assert trace.at(5000.0) == 1.2


def test_an_overhead_is_read_and_is_0_by_default(write):
    trace = read_trace(write('time_ms,slowdown,overhead_ms\n5,1,2.5\n10,1,0\n'))
    assert trace.overhead_ms == Steps((0.0, 5.0), (2.5, 0.0))
    assert read_trace(write('time_ms,slowdown\n5,1\n')).overhead_ms.at(3.0) == 0.0


def test_stalls_do_not_overlap_and_have_the_same_length():
    for seed in range(20):
        stalls_ms = make_trace('stalls', seed, 60.0).stalls_ms
        assert all(before[1] <= after[0] for before, after in pairwise(stalls_ms))
        lengths_ms = [end_ms - begin_ms for begin_ms, end_ms in stalls_ms]
        assert lengths_ms == pytest.approx([lengths_ms[0]] * len(lengths_ms))
        assert 4.0 <= lengths_ms[0] <= 15.0
        begin_ms, end_ms = stalls_ms[0][0], stalls_ms[-1][1]
        assert 10e3 < begin_ms < end_ms < 50e3
        assert 1.5 < len(stalls_ms) / (end_ms - begin_ms) * 1e3 < 10.0


def test_work_pauses_during_a_stall():
    trace = Trace('two', Steps((0.0,), (1.0,)), 100.0, stalls_ms=((10.0, 14.0), (20.0, 25.0)))
    assert trace.duration_of_ms(0.0, 10.0) == 10.0  # done when the stall begins
    assert trace.duration_of_ms(0.0, 11.0) == 15.0
    assert trace.duration_of_ms(0.0, 16.0) == 20.0
    assert trace.duration_of_ms(0.0, 17.0) == 26.0  # the first stall delays it into the second one
    assert trace.duration_of_ms(12.0, 3.0) == 5.0  # starts in a stall and waits for its end
    assert trace.duration_of_ms(14.0, 3.0) == 3.0
    assert trace.duration_of_ms(30.0, 50.0) == 50.0


@pytest.mark.parametrize('name', BAD_FILES)
def test_an_invalid_file_is_rejected_with_a_message(name, write):
    text, expected = BAD_FILES[name]
    path = write(text)
    with pytest.raises(SimulationError) as error:
        read_trace(path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)


def test_files_that_cannot_be_read_are_rejected(write, tmp_path):
    with pytest.raises(SimulationError, match=r'absent\.csv cannot be read: No such file'):
        read_trace(tmp_path / 'absent.csv')
    with pytest.raises(SimulationError, match='is not UTF-8 text'):
        read_trace(write('time_ms,slowdown\n0,1\n'.encode('utf-16')))
    with pytest.raises(SimulationError, match='cannot be read: Is a directory'):
        read_trace(tmp_path)
