import json
import math

import numpy as np
import pytest
from demo.records import frame, synthetic_recording
from hypothesis import given
from hypothesis import strategies as st

from dynamic_ofa_ros.demo.recording import Recording, SwitchRecord
from dynamic_ofa_ros.demo.summary import (
    longest_reaction,
    percentile,
    summarise,
    wilson_interval,
    write_summary,
)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.0, 1.0))
def test_percentile_is_numpys(values, share):
    assert percentile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-6)


def test_percentile_leaves_out_what_was_not_measured():
    assert percentile([math.nan, 3.0, math.nan], 0.95) == 3.0
    assert math.isnan(percentile([math.nan], 0.5))
    assert math.isnan(percentile([], 0.5))


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_contains_the_share(counts):
    correct, total = counts
    low, high = wilson_interval(correct, total)
    assert 0.0 <= low <= correct / total + 1e-12
    assert correct / total - 1e-12 <= high <= 1.0


def test_wilson_interval_against_a_published_value():
    # 8 of 10: 0.490 to 0.943 (Brown, Cai and DasGupta 2001, and every table of it).
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def timed(latencies_ms, limit_ms=2.0):
    return [
        frame(time_s=0.1 * i, inference_ms=latency, max_latency_ms=limit_ms)
        for i, latency in enumerate(latencies_ms)
    ]


def test_reaction_is_from_the_onset_to_the_first_frame_that_meets_the_limit():
    reaction = longest_reaction(timed([1, 3, 1, 3, 3, 3, 1, 1]))
    assert reaction.frames == 3
    assert reaction.ms == pytest.approx(300.0)
    assert reaction.is_over


def test_a_violation_that_lasts_to_the_end_is_not_over():
    reaction = longest_reaction(timed([1, 1, 3, 3]))
    assert (reaction.frames, reaction.is_over) == (2, False)
    assert reaction.ms == pytest.approx(100.0)


@pytest.mark.parametrize('frames', [[], timed([1, 2, 2]), timed([9, 9], math.nan)])
def test_no_violation_no_reaction(frames):
    assert longest_reaction(frames) is None


def test_phases_are_told_apart():
    recording = Recording(
        frames=(
            frame(time_s=-0.5, phase='preparing', inference_ms=99.0),
            frame(time_s=0.0, phase='a', inference_ms=1.0, level=5, dropped_frames=7),
            frame(time_s=1.0, phase='a', inference_ms=3.0, level=5, dropped_frames=9, label='x'),
            frame(
                time_s=2.0,
                phase='b',
                inference_ms=3.0,
                max_latency_ms=2.0,
                level=4,
                dropped_frames=12,
                truth='',
            ),
            frame(time_s=3.0, phase='b', inference_ms=1.0, max_latency_ms=2.0, level=3),
        ),
        switches=(
            SwitchRecord(0.9, 5, 4, ''),
            SwitchRecord(2.1, 4, 3, ''),
            SwitchRecord(2.2, 3, 4, ''),
        ),
        phase_starts_s=(('a', 0.0), ('b', 1.5)),
        end_s=4.0,
    )
    first, second = summarise(recording).phases
    assert (first.frames, first.known, first.correct, first.accuracy) == (2, 2, 1, 0.5)
    assert (first.p50_ms, first.p95_ms) == (2.0, pytest.approx(2.9))
    assert (first.violations, first.reaction, first.switches, first.dropped) == (0, None, 1, 2)
    assert first.levels == {5: 2}
    assert math.isnan(first.limit_ms)
    assert (first.start_s, first.end_s) == (0.0, 1.5)
    assert (second.frames, second.known, second.correct) == (2, 1, 1)
    assert (second.violations, second.reaction.frames, second.switches) == (1, 1, 2)
    assert second.levels == {3: 1, 4: 1}
    assert second.limit_ms == 2.0
    assert second.end_s == 4.0
    whole = summarise(recording).whole
    assert (whole.frames, whole.known, whole.correct, whole.switches) == (4, 3, 2, 3)


def test_drops_count_from_the_last_frame_of_the_phase_before():
    recording = Recording(
        frames=(
            frame(time_s=0.0, phase='a', dropped_frames=3),
            frame(time_s=2.0, phase='b', dropped_frames=10),
            frame(time_s=2.1, phase='b', dropped_frames=11),
        ),
        phase_starts_s=(('a', 0.0), ('b', 1.0)),
        end_s=3.0,
    )
    summary = summarise(recording)
    assert [phase.dropped for phase in summary.phases] == [0, 8]
    assert summary.whole.dropped == 8


def test_an_interrupted_run_has_empty_phases():
    recording = Recording(frames=(), phase_starts_s=(('a', 0.0),), end_s=1.0)
    (phase,) = summarise(recording).phases
    assert (phase.frames, phase.dropped, phase.levels) == (0, 0, {})
    assert math.isnan(phase.accuracy)
    assert math.isnan(phase.p95_ms)


def test_the_file_is_strict_json_with_the_same_numbers(tmp_path):
    summary = summarise(synthetic_recording(20.0))
    path = tmp_path / 'summary.json'
    write_summary(summary, path)

    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    document = json.loads(path.read_text(), parse_constant=refuse)
    assert document['family'] == 'signs'
    assert [phase['name'] for phase in document['phases']] == [
        'free run',
        'tight limit',
        'competitor',
        'recovery',
        'limit lifted',
    ]
    competitor = document['phases'][2]
    assert competitor['levels'] == {'1': competitor['frames']}
    assert competitor['slowdown'] == 2.0
    assert competitor['violations'] == 0
    assert document['phases'][0]['limit_ms'] is None
    assert document['phases'][0]['reaction'] is None
    assert document['whole_run']['frames'] == 600
    assert document['whole_run']['accuracy'] == pytest.approx(summary.whole.accuracy)
    assert len(document['switches']) == 4
    assert document['switches'][0]['switch_ms'] is None
