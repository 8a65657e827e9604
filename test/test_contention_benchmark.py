"""`benchmarks.contention`: calculations, order of measurement, resuming, and a complete run."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from contextlib import contextmanager

import pytest

from benchmarks import contention, contention_report
from benchmarks.adapting import Timeline, draws, figures, interval, is_late, on_time_accuracy
from benchmarks.contention_plan import fixed_of, turns, within_budget
from benchmarks.contention_report import (
    family_results,
    timeline_of,
)
from benchmarks.contention_site import LOADS
from benchmarks.journal import Journal, JournalError
from dynamic_ofa_ros.adaptation import TimedFrame
from dynamic_ofa_ros.errors import DynamicOfaError

ACCURACIES = (0.6, 0.7, 0.8)
ALONE_MS = (2.0, 4.0, 8.0)
SLOWED_BY = 3.0
LIMIT_MS = 13.5
RATE_HZ = 20.0
LEVELS = [{'level': i + 1, 'accuracy': ACCURACIES[i], 'latency_ms': ALONE_MS[i]} for i in range(3)]
SETTINGS = {
    'family': 'made up', 'family_sha256': '00' * 32, 'runtime_sha256': '11', 'cpu': 'none',
    'images': 'rendered signs', 'is_truth_known': True, 'segment_s': 20.0, 'trial_s': 1.0,
    'limit_ms': 0.0, 'rate_hz': 0.0,
}  # fmt: skip
NODE = {
    'device': 'cpu', 'platform': 'cpu-none', 'levels': LEVELS, 'rate_hz': RATE_HZ,
    'machine': {'cores': 2}, 'versions': {},
}  # fmt: skip


class FakeSite:
    """A node on a device that is slowed down by a load; an ideal policy unless fixed."""

    levels, platform, rate_hz = LEVELS, 'cpu-none', RATE_HZ

    def __init__(self, *_):
        self.share = 0.0
        self.played = []
        self.dies_after = math.inf

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start_camera(self, rate_hz):
        assert rate_hz == RATE_HZ

    @contextmanager
    def load(self, kind):
        yield self

    def work(self, share):
        self.share = share

    def latency_ms(self, level, is_loaded):
        return ALONE_MS[level - 1] * (SLOWED_BY if is_loaded else 1.0)

    def trial_ms(self, level, seconds):
        return [self.latency_ms(level, self.share > 0.0)] * 20

    def play(self, parameters, load, seconds):
        if len(self.played) >= self.dies_after:
            raise KeyboardInterrupt
        self.played.append(parameters)
        frames = []
        for number in range(round(seconds * RATE_HZ)):
            time_s = number / RATE_HZ
            is_loaded = 0.25 * seconds <= time_s < 0.75 * seconds
            level = parameters.get('manager.fixed_level') or (2 if is_loaded else 3)
            answer = self.latency_ms(level, is_loaded)
            is_right = random.Random(number).random() < ACCURACIES[level - 1]
            frames.append([1e3 * time_s, answer, level, int(is_right)])
        times_ms = {'onset_ms': 250 * seconds, 'relief_ms': 750 * seconds, 'end_ms': 1e3 * seconds}
        return {**times_ms, 'others': 0.1, 'frames': frames}


@pytest.fixture
def site(monkeypatch):
    fake = FakeSite()
    monkeypatch.setattr(contention, 'Site', lambda *_: fake)
    return fake


def run(folder, *arguments):
    return contention.main(
        [
            '--work', str(folder / 'work'), '--output', str(folder / 'results'),
            '--plots', str(folder / 'plots'), *arguments,
        ]
    )  # fmt: skip


def results_of(folder):
    document = json.loads((folder / 'results' / 'contention.json').read_text())
    return document['results']['families']['signs']


def test_a_run_with_a_fake_node(site, tmp_path):
    assert run(tmp_path, '--loads', 'busy-2,busy-4', '--seconds', '4') == 0
    found = results_of(tmp_path)
    assert list(found['loads']) == ['busy-2', 'busy-4']
    assert found['images_per_second'] == pytest.approx(RATE_HZ)
    load = found['loads']['busy-2']
    assert 12.0 < load['limit_ms'] < 24.0
    assert load['feasible_free'] == [1, 2, 3]
    assert load['feasible_under_load'] == [1, 2]
    names = ['fixed 1', 'fixed 2', 'fixed 3', 'alert', 'reactive', 'table', 'predictive']
    assert list(load['policies']) == names
    assert {row['segments'] for row in load['policies'].values()} == {3}
    assert load['policies']['fixed 3']['late'] == pytest.approx(0.5)
    assert load['policies']['fixed 2']['on_time_top1'] == pytest.approx(0.7)
    assert load['policies']['predictive']['on_time_top1'] == pytest.approx(0.75)
    assert load['best_fixed'] == 'fixed 2'
    assert load['aim']['gain'] == pytest.approx(0.05)
    assert load['aim']['is_contest']
    assert load['aim']['is_gain_met']
    assert load['aim']['is_late_met']
    for name in ('contention_signs.png', 'contention_signs_frames.png'):
        assert (tmp_path / 'plots' / name).stat().st_size > 10_000


def test_a_killed_run_is_resumed(site, tmp_path, capsys):
    arguments = ('--loads', 'busy-2', '--seconds', '2')
    site.dies_after = 10
    assert run(tmp_path, *arguments) == 130
    assert 'run the same command again' in capsys.readouterr().err
    site.dies_after = math.inf
    assert run(tmp_path, *arguments) == 0
    assert len(site.played) == 3 * 7  # none is measured twice
    assert run(tmp_path, *arguments) == 0
    assert len(site.played) == 3 * 7
    assert run(tmp_path, *arguments, '--seconds', '3') == 2
    assert 'was started with segment_s 2.0' in capsys.readouterr().err
    assert run(tmp_path, *arguments, '--seconds', '3', '--fresh') == 0


def test_rounds_outside_the_budget_are_reported_and_skipped(site, tmp_path, capsys):
    arguments = ('--loads', 'busy-2,training', '--budget-minutes', '9')
    assert run(tmp_path, *arguments) == 0
    assert 'training: 0 of 3 rounds' in capsys.readouterr().out
    assert list(results_of(tmp_path)['loads']) == ['busy-2']
    assert run(tmp_path, *arguments) == 0
    assert list(results_of(tmp_path)['loads']) == ['busy-2', 'training']


def test_without_a_gpu_the_reason_is_recorded(site, tmp_path, monkeypatch):
    monkeypatch.setattr(contention, 'gpu_problem', lambda: 'there is none')
    assert run(tmp_path, '--loads', 'busy-2,gpu', '--seconds', '2', '--repeats', '1') == 0
    assert results_of(tmp_path)['skipped'] == {'gpu': 'there is none'}
    monkeypatch.setattr(contention, 'gpu_problem', lambda: '')
    assert run(tmp_path, '--loads', 'gpu', '--seconds', '2', '--repeats', '1') == 0
    assert list(results_of(tmp_path)['loads']) == ['busy-2', 'gpu']


@pytest.mark.parametrize(
    'arguments', [['--loads', 'busy-3'], ['--policies', 'best'], ['--fixed', 'some']]
)
def test_invalid_options_of_the_benchmark_are_rejected(arguments, tmp_path):
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, *arguments)
    assert ended.value.code == 2


def test_an_unknown_level_is_reported(site, tmp_path, capsys):
    assert run(tmp_path, '--loads', 'busy-2', '--fixed', '1,12') == 2
    assert 'there is no level 12; the family has 3 levels' in capsys.readouterr().err


def test_every_round_has_another_first_policy():
    names = list('abcdefg')
    order = turns(names, 3)
    rounds = [[policy for turn, policy in order if turn == number] for number in range(3)]
    assert [set(of_round) for of_round in rounds] == [set(names)] * 3
    assert len({of_round[0] for of_round in rounds}) == 3
    mean_place = [sum(of_round.index(name) for of_round in rounds) / 3 for name in names]
    assert max(mean_place) - min(mean_place) < 3.0


@pytest.mark.parametrize(
    ('costs', 'budget_s', 'rounds'),
    [
        ([[10, 10, 10], [10, 10, 10]], 60, [3, 3]),
        ([[10, 10, 10], [10, 10, 10]], 45, [3, 1]),
        ([[10, 10, 10], [1, 1, 1]], 25, [2, 0]),  # cheaper loads are not preferred
        ([[10, 10, 10], [10, 10, 10]], 1, [1, 0]),
        ([[0, 0, 0], [10, 10, 10]], 25, [3, 2]),
        ([[10, 10, 10], [0, 0, 0]], 12, [1, 3]),
    ],
)
def test_rounds_within_a_budget(costs, budget_s, rounds):
    by_load = {str(number): of_load for number, of_load in enumerate(costs)}
    assert list(within_budget(by_load, budget_s).values()) == rounds


def test_likely_levels_are_the_lowest_the_highest_and_the_two_best():
    levels = [{'level': i, 'accuracy': 0.5 + 0.05 * i} for i in range(1, 7)]
    node = {'levels': levels, 'free_ms': {str(i): [2.0 * i] for i in range(1, 7)}}
    limit = {'limit_ms': 15.0, 'contended_ms': {str(i): [4.0 * i] for i in range(1, 7)}}
    assert fixed_of(node, limit, 'likely') == ['fixed 1', 'fixed 2', 'fixed 3', 'fixed 6']
    node['free_ms']['3'] = [99.0]  # other programs disturbed this trial
    assert fixed_of(node, limit, 'likely') == ['fixed 1', 'fixed 2', 'fixed 3', 'fixed 6']
    assert len(fixed_of(node, limit, 'all')) == 6
    assert fixed_of(node, limit, (2, 5)) == ['fixed 2', 'fixed 5']


def test_an_image_without_a_result_is_late_in_all_shares():
    segment = {
        'onset_ms': 100.0, 'relief_ms': 200.0, 'end_ms': 300.0,
        'frames': [[0.0, 5.0, 3, 1], [100.0, None, 0, 0], [150.0, 20.0, 3, 1], [200.0, 5.0, 2, 0]],
    }  # fmt: skip
    line = timeline_of(segment, LEVELS, LIMIT_MS, has_truth=True)
    found = figures([line])
    assert (found['frames'], found['dropped']) == (3, 1)
    assert found['late'] == pytest.approx(0.5)
    assert found['late_under_load'] == pytest.approx(1.0)
    assert found['on_time_top1'] == pytest.approx((0.8 + 0.7) / 4)
    assert found['mean_top1'] == pytest.approx((0.8 + 0.8 + 0.7) / 3, abs=1e-4)
    assert [frame.accuracy for frame in line.with_truth] == [1.0, 0.0, 1.0, 0.0]
    row = contention_report.row_of([line])
    assert row['right_on_time'] == pytest.approx(1 / 4)
    blind = timeline_of(segment, LEVELS, LIMIT_MS, has_truth=False)
    assert contention_report.row_of([blind])['right_on_time'] is None


def line_with(late_shares, seed=0):
    """Return a run of 40 s whose blocks of 2.5 s have these shares of late frames, repeated."""
    rng = random.Random(seed)
    frames = []
    for number in range(800):
        share = late_shares[int(number // 50) % len(late_shares)]
        latency_ms = 20.0 if rng.random() < share else 5.0
        frames.append(TimedFrame(50.0 * number, latency_ms, LIMIT_MS, 1, 0.6))
    return Timeline(tuple(frames), 10_000.0, 30_000.0, 40_000.0)


def test_intervals_contain_the_share_and_are_wider_for_clusters():
    even, clustered = line_with([0.2]), line_with([0.0, 0.4])
    low, high = interval(draws([even], is_late))
    assert low < 0.2 < high
    assert high - low < 0.08
    wide_low, wide_high = interval(draws([clustered], is_late))
    assert wide_high - wide_low > 1.5 * (high - low)
    assert interval(draws([line_with([0.0])], on_time_accuracy)) == (0.6, 0.6)


def test_intervals_do_not_depend_on_the_time_of_the_load():
    """The interval is empty if lateness depends on the load only, whose duration is fixed."""
    line = line_with([0.0])
    frames = tuple(
        frame._replace(latency_ms=20.0) if line.is_loaded(frame) else frame
        for frame in line.frames
    )
    found = Timeline(frames, line.onset_ms, line.relief_ms, line.end_ms)
    assert interval(draws([found], is_late)) == (0.5, 0.5)


def journal_of(folder, levels_late, predictive_late):
    """Return a journal of two busy processes; shares of late images under load by policy."""
    journal = Journal(folder / 'made_up.jsonl', SETTINGS)
    trials = {str(level): [5.0] for level in (1, 2, 3)}
    journal.append('node', {**NODE, 'free_ms': trials})
    limit = {'load': 'busy-2', 'limit_ms': LIMIT_MS, 'why': 'as given'}
    journal.append('limit', {**limit, 'contended_ms': {str(i): [90.0] for i in (1, 2, 3)}})
    shares = {f'fixed {i + 1}': share for i, share in enumerate(levels_late)}
    shares['predictive'] = predictive_late
    for policy, share in shares.items():
        level = int(policy.split()[1]) if ' ' in policy else 2
        frames = [
            [50.0 * n, 20.0 if 100 <= n < 300 and n % 100 < 100 * share else 5.0, level, 1]
            for n in range(400)
        ]
        times = {'onset_ms': 5000.0, 'relief_ms': 15000.0, 'end_ms': 20000.0, 'others': 0.0}
        segment = {'load': 'busy-2', 'policy': policy, 'turn': 0, **times, 'frames': frames}
        journal.append('segment', segment)
    return journal


def aim(folder, levels_late, predictive_late):
    entry = family_results(journal_of(folder, levels_late, predictive_late))
    return entry['loads']['busy-2']['aim']


def test_five_percent_may_be_late_if_a_level_is_on_time(tmp_path):
    found = aim(tmp_path, (0.02, 0.5, 1.0), 0.2)
    assert found['late_allowed'] == pytest.approx(0.05)
    assert found['late'] == pytest.approx(0.1)
    assert found['is_late_met'] is False


def test_the_lowest_level_is_the_reference_if_none_is_on_time(tmp_path):
    found = aim(tmp_path, (0.3, 0.6, 1.0), 0.33)
    assert found['late_allowed'] == pytest.approx(0.15 + 0.02)
    assert found['is_late_met'] is True


def test_the_best_fixed_level_is_chosen_in_hindsight(tmp_path):
    entry = family_results(journal_of(tmp_path, (0.0, 0.1, 1.0), 0.0))
    load = entry['loads']['busy-2']
    assert load['best_fixed'] == 'fixed 2'
    assert load['aim']['gain'] == pytest.approx(0.7 * 0.05)
    assert load['feasible_free'] == [1, 2, 3]
    assert load['feasible_under_load'] == [1]


def test_an_incomplete_line_of_a_killed_process_is_removed(tmp_path):
    path = tmp_path / 'x.jsonl'
    journal = Journal(path, {'a': 1})
    journal.append('segment', {'b': [2.5, None]})
    path.write_bytes(path.read_bytes() + b'{"kind": "seg')
    again = Journal(path, {'a': 1})
    assert again.records == journal.records
    again.append('segment', {'b': 3})
    assert [record['b'] for record in Journal(path, {'a': 1}).find('segment')] == [[2.5, None], 3]
    with pytest.raises(JournalError, match='was started with a 1, but now it is 2'):
        Journal(path, {'a': 2})


def test_a_limit_that_no_level_meets_is_an_error():
    node = {'levels': LEVELS, 'free_ms': {'3': [None] * 5}}
    contended_ms = {str(i): [None] * 5 for i in (1, 2, 3)}
    with pytest.raises(DynamicOfaError, match='lower --rate-hz'):
        contention.chosen_limit('busy-2', node, contended_ms, 0.0)
    assert contention.chosen_limit('busy-2', node, contended_ms, 9.0)['limit_ms'] == 9.0


@pytest.mark.long
def test_the_smallest_run_on_the_real_node(tmp_path):
    """Run all processes, including the launcher of the baseline, with two kinds of load."""
    command = [
        sys.executable, '-m', 'benchmarks.contention', '--loads', 'busy-1,classifier',
        '--policies', 'alert,predictive', '--fixed', '1', '--repeats', '1', '--seconds', '4',
        '--trial-seconds', '0.5', '--rate-hz', '10', '--work', str(tmp_path / 'work'),
        '--output', str(tmp_path / 'results'), '--plots', str(tmp_path / 'plots'),
    ]  # fmt: skip
    root = contention.ROOT
    path = os.pathsep.join(filter(None, (str(root), os.environ.get('PYTHONPATH', ''))))
    done = subprocess.run(
        command, cwd=root, env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True,
        timeout=400.0, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = results_of(tmp_path)
    for name in ('busy-1', 'classifier'):
        load = found['loads'][name]
        assert load['words'] == LOADS[name].words
        assert list(load['policies']) == ['fixed 1', 'alert', 'predictive']
        for row in load['policies'].values():
            assert 20 <= row['frames'] + row['dropped'] <= 42  # the camera may be slowed down
            assert row['frames'] > 0
            assert 0.0 <= row['right_on_time'] <= 1.0
        assert load['policies']['fixed 1']['switches_per_minute'] == 0.0
