"""What a run amounts to, and the demo's last sentence."""

import json
import math
from dataclasses import replace

import pytest
from demo.made_up import LEVELS, LIMIT_MS, RELIEF_S, frame, run_at, three_runs, unanswered

from dynamic_ofa_ros.demo.comparison import (
    HIGHEST,
    LOWEST,
    SWITCHING,
    Run,
    defeat,
    interval,
    measure,
    sentence,
    write_summary,
)


def measured():
    return {run.title: measure(run) for run in three_runs()}


def test_late_wrong_and_unanswered_images_count_as_they_should():
    frames = [
        frame(),
        frame(label='yield'),
        frame(latency_ms=LIMIT_MS + 0.1),
        frame(latency_ms=LIMIT_MS + 0.1, label='yield', is_loaded=True),
        unanswered(is_loaded=True),
    ]
    found = measure(Run('x', 1.0, frames, level_count=LEVELS))
    assert (found.images, found.answered) == (5, 4)
    assert found.late == pytest.approx(3 / 5)
    assert found.late_loaded == 1.0
    assert found.right_on_time == pytest.approx(1 / 5)
    assert found.right == pytest.approx(2 / 4)
    assert found.levels == {LEVELS: 4}


def test_a_run_without_images_or_answers_has_measures():
    for frames in ([], [unanswered()]):
        found = measure(Run('x', 1.0, frames))
        assert math.isnan(found.p95_ms)
        assert not found.back_at_top


def test_the_runs_are_as_they_were_made():
    found = measured()
    assert found[HIGHEST].late == pytest.approx(7 / 17, abs=0.01)
    assert found[HIGHEST].late_loaded == 1.0
    assert not found[HIGHEST].reaction.is_over
    assert found[LOWEST].late == found[SWITCHING].late == 0.0
    assert found[SWITCHING].switches == 2
    assert found[SWITCHING].quiet_switches == 0
    assert found[SWITCHING].back_at_top
    assert found[SWITCHING].recovery.frames == 0
    assert not found[LOWEST].back_at_top


def test_restlessness_and_a_level_that_never_comes_back_are_seen():
    frames = list(run_at(SWITCHING, LEVELS, 3).frames)
    frames[3] = replace(frames[3], level=2)
    frames = [
        replace(f, level=3, level_accuracy=0.9) if f.time_s > RELIEF_S else f for f in frames
    ]
    found = measure(replace(run_at(SWITCHING, LEVELS, 3), frames=frames))
    assert found.quiet_switches == 2
    assert not found.back_at_top


def test_the_sentence_has_the_five_numbers():
    found = measured()
    assert sentence(found) == (
        f'highest level: {100 * found[HIGHEST].late:.1f} % late; '
        f'lowest: {100 * found[LOWEST].right_on_time:.1f} % right; '
        f'switching: 0.0 % late, {100 * found[SWITCHING].right_on_time:.1f} % right'
    )


def test_a_defeat_is_told_and_a_win_is_not():
    found = measured()
    assert defeat(found, 0.0) == ''
    found[SWITCHING] = replace(found[SWITCHING], right_on_time=found[LOWEST].right_on_time)
    text = defeat(found, 0.42)
    for part in ('did not win', 'the lowest level', 'may be busy', '42%'):
        assert part in text


def test_intervals_are_wilsons():
    # From E. B. Wilson's formula, by hand, for 80 of 100.
    assert interval(0.8, 100) == pytest.approx((0.7112, 0.8666), abs=1e-4)
    assert interval(math.nan, 0) == (0.0, 1.0)


def test_the_summary_is_strict_json_with_all_runs(tmp_path):
    path = tmp_path / 'summary.json'
    write_summary({'family': 'signs', 'unknown': math.nan}, three_runs(), path)
    document = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert document['unknown'] is None
    assert [run['title'] for run in document['runs']] == [HIGHEST, LOWEST, SWITCHING]
    switching = document['runs'][-1]
    low, high = switching['right_on_time_interval']
    assert low < switching['right_on_time'] < high
    assert switching['levels'] == {'3': 140, '8': 200}
    assert switching['switches_explained'][0]['reason'] == 'from 8 to 3'
