"""The measures of synthetic runs."""

import math
from dataclasses import replace

import pytest
from demo.made_up import (
    HIGHEST,
    LEVELS,
    LIMIT_MS,
    LOWEST,
    RELIEF_S,
    SWITCHING,
    frame,
    measured,
    run_at,
    unanswered,
)

from dynamic_ofa_ros.recordings.measures import Run, interval, measure


def test_late_wrong_and_unanswered_images_are_counted():
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


def test_the_measures_of_the_synthetic_runs_are_as_expected():
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


def test_switches_without_load_and_a_missing_return_to_the_top_are_measured():
    frames = list(run_at(SWITCHING, LEVELS, 3).frames)
    frames[3] = replace(frames[3], level=2)
    frames = [
        replace(f, level=3, level_accuracy=0.9) if f.time_s > RELIEF_S else f for f in frames
    ]
    found = measure(replace(run_at(SWITCHING, LEVELS, 3), frames=frames))
    assert found.quiet_switches == 2
    assert not found.back_at_top


def test_intervals_follow_wilsons_formula():
    # Calculated by hand from E. B. Wilson's formula for 80 of 100.
    assert interval(0.8, 100) == pytest.approx((0.7112, 0.8666), abs=1e-4)
    assert interval(math.nan, 0) == (0.0, 1.0)
