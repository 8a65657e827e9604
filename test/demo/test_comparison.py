"""The result sentence and the summary of the demo."""

import json
import math
from dataclasses import replace

import pytest
from demo.made_up import measured, three_runs

from dynamic_ofa_ros.demo.comparison import (
    HIGHEST,
    LOWEST,
    SWITCHING,
    note_without_gain,
    sentence,
    write_summary,
)


def test_the_sentence_has_the_five_numbers():
    found = measured()
    assert sentence(found) == (
        f'highest level: {100 * found[HIGHEST].late:.1f} % late; '
        f'lowest: {100 * found[LOWEST].right_on_time:.1f} % right; '
        f'switching: 0.0 % late, {100 * found[SWITCHING].right_on_time:.1f} % right'
    )


def test_a_note_says_that_switching_was_not_better():
    found = measured()
    assert note_without_gain(found, 0.0) == ''
    found[SWITCHING] = replace(found[SWITCHING], right_on_time=found[LOWEST].right_on_time)
    text = note_without_gain(found, 0.42)
    for part in ('was not better', 'the lowest level', 'may be busy', '42%'):
        assert part in text


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
