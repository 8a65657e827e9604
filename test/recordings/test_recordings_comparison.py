"""The measures of recordings, and differences that make a comparison doubtful."""

from __future__ import annotations

import math

import pytest
from bags import telemetry, told, truths, write_bag

from dynamic_ofa_ros.msg import LevelArray
from dynamic_ofa_ros.recordings.comparison import differences, summary
from dynamic_ofa_ros.recordings.reading import read


@pytest.fixture
def recorded(tmp_path):
    """Return a function that creates a recording from messages."""
    made = []

    def record(messages):
        made.append(write_bag(tmp_path / f'{len(made)}', messages))
        return read(str(made[-1]), 'x')

    return record


def answers(count, **changes):
    return told(telemetry(number, **changes) for number in range(count))


def test_measures_are_those_of_the_images(recorded):
    """The first four of ten answers are late at level 3, two are wrong, and one image is lost."""
    late = {'node_ms': 12.0, 'level': 3, 'level_accuracy': 0.95, 'preprocess_ms': 6.75}
    messages = [
        telemetry(n, violations=min(n + 1, 4), lost_frames=int(n > 6), **(late if n < 4 else {}))
        for n in range(10)
    ]
    found = summary(recorded([*told(messages), *truths(10, wrong=[0, 8])]))
    assert (found['images'], found['answered'], found['drops']['lost_frames']) == (11, 10, 1)
    assert found['late'] == pytest.approx(5 / 11)
    assert found['on_time'] == pytest.approx(6 / 11)
    assert found['right'] == pytest.approx(8 / 10)
    assert found['right_on_time'] == pytest.approx(5 / 11)
    assert found['level_accuracy'] == pytest.approx((4 * 0.95 + 6 * 0.9) / 10)
    assert found['level_accuracy_on_time'] == pytest.approx(6 * 0.9 / 11)
    assert found['switches'] == 1
    assert found['scope'] == 'node'
    assert found['late_under_load'] is found['reaction'] is found['recovery'] is None
    assert found['latency_ms']['node_ms'] == pytest.approx({'p50': 6.0, 'p95': 12.0, 'p99': 12.0})
    assert found['latency_ms']['preprocess_ms']['p95'] == pytest.approx(6.75)


def test_values_that_were_not_measured_are_none(recorded):
    found = summary(recorded(answers(3, input_age_ms=math.nan, max_latency_ms=math.nan)))
    assert found['latency_ms']['input_age_ms'] == {'p50': None, 'p95': None, 'p99': None}
    assert found['limits_ms'] == []
    assert (found['late'], found['right'], found['right_on_time']) == (0.0, None, None)


def test_similar_recordings_have_no_differences(recorded):
    table = [('/classifier/levels', LevelArray(family='signs'), answers(1)[0][2])]
    messages = [*table, *answers(20), *truths(20)]
    other = [*table, *answers(19, policy='table', level=1), *truths(19)]
    assert differences(recorded(messages), recorded(other)) == []


@pytest.mark.parametrize(
    ('count', 'changes', 'words'),
    [
        (20, {'max_latency_ms': 8.0}, 'limits: A 10 ms, B 8 ms'),
        (20, {'max_latency_ms': math.nan}, 'limits: A 10 ms, B none'),
        (20, {'platform': 'gpu'}, 'platforms: A cpu, B gpu'),
        (20, {'level_count': 3}, 'numbers of levels: A 8, B 3'),
        (10, {}, 'lengths: A 0.2 s, B 0.1 s'),
    ],
)
def test_each_difference_is_one_sentence(recorded, count, changes, words):
    (found,) = differences(recorded(answers(20)), recorded(answers(count, **changes)))
    assert words in found


def test_a_changing_limit_is_reported_as_a_range(recorded):
    changing = [telemetry(n, max_latency_ms=8.0 if n < 5 else 12.0) for n in range(20)]
    (found,) = differences(recorded(answers(20)), recorded(told(changing)))
    assert 'A 10 ms, B 8 to 12 ms' in found


def test_different_families_and_scopes_are_reported(recorded):
    def one(family, **changes):
        table = ('/classifier/levels', LevelArray(family=family), answers(1)[0][2])
        messages = [telemetry(n, violations=n, **changes) for n in range(9)]
        return recorded([table, *told(messages)])

    found = differences(one('signs', node_ms=11.0), one('mine', inference_ms=11.0))
    assert any('families: A signs, B mine' in text for text in found)
    assert any('A node, B inference' in text for text in found)


def test_missing_truth_and_thinned_telemetry_are_reported(recorded):
    thinned = told(telemetry(n, sequence=1 + 4 * n) for n in range(20))
    found = differences(recorded([*answers(20), *truths(20)]), recorded(thinned))
    assert found[0] == 'the ground truth is known in A only'
    assert found[1].startswith('B has telemetry of 20 of 77 answers')
