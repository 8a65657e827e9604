"""Metrics of records that are small enough to compute by hand.

Levels take 10, 20 and 40 ms and have an accuracy of 0.5, 0.7 and 0.8.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from simulation.examples import make_record

from dynamic_ofa_ros.adaptation import Delay
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.simulation.metrics import (
    SUMMARY,
    find_reactions,
    find_recoveries,
    measure,
)
from dynamic_ofa_ros.simulation.record import clairvoyant_level


def test_all_metrics_of_a_small_record():
    # Limit 45 ms; frames of 40, 80 (late), 80 (late), 40, 50 (late; no level can: 50, 100, 200).
    record = make_record([(3, 1.0), (3, 2.0), (3, 2.0), (2, 2.0), (1, 5.0)], 45.0)
    found = measure(record)
    assert found.frames == 5
    assert found.violations == 3
    assert found.violation_ratio == pytest.approx(3 / 5)
    assert found.oracle_violation_ratio == pytest.approx(1 / 5)
    assert found.excess_violation_ratio == pytest.approx(2 / 5)
    assert found.on_time_accuracy == pytest.approx((0.8 + 0.0 + 0.0 + 0.7) / 4)
    assert found.oracle_on_time_accuracy == pytest.approx((0.8 + 0.7 + 0.7 + 0.7) / 4)
    assert found.best_fixed_on_time_accuracy is None
    assert found.mean_accuracy == pytest.approx((0.8 + 0.8 + 0.8 + 0.7 + 0.5) / 5)
    assert found.switches == 2
    assert found.switches_per_minute == pytest.approx(2 / (290.0 / 60e3))
    # There are never three consecutive frames on time, so all four after the onset count.
    assert found.reaction_frames == 4.0
    assert found.reaction_ms == pytest.approx(200.0)
    assert found.recovery_frames is None
    assert tuple(found.summary()) == SUMMARY


def test_without_a_limit_nothing_is_late():
    found = measure(make_record([(3, 1.0), (3, 9.0)], math.inf))
    assert (found.violations, found.oracle_violation_ratio) == (0, 0.0)
    assert found.on_time_accuracy == found.oracle_on_time_accuracy == pytest.approx(0.8)
    assert found.reaction_frames is None


def test_frames_that_no_level_can_meet_are_excluded():
    found = measure(make_record([(3, 10.0), (1, 10.0)], 45.0))
    assert found.violation_ratio == found.oracle_violation_ratio == 1.0
    assert found.on_time_accuracy is None
    assert found.reaction_frames is None


def test_the_best_fixed_level_is_taken_from_the_given_records():
    record = make_record([(3, 1.0), (3, 2.0)], 45.0)
    fixed = [make_record([(level, 1.0), (level, 2.0)], 45.0) for level in (1, 2, 3)]
    assert measure(record, fixed).best_fixed_on_time_accuracy == pytest.approx(0.7)


def test_noise_is_not_a_change_of_the_device():
    record = make_record([(3, 1.0), (3, 1.0), (3, 1.0)], 45.0, noise=(1.0, 1.2, 1.0))
    found = measure(record)
    assert found.violations == 1
    assert found.on_time_accuracy == pytest.approx((0.8 + 0.0 + 0.8) / 3)
    assert found.oracle_on_time_accuracy == pytest.approx((0.8 + 0.7 + 0.8) / 3)
    assert found.reaction_frames is None


def test_a_latency_equal_to_the_limit_is_on_time():
    assert measure(make_record([(3, 1.0)], 40.0)).violations == 0
    assert measure(make_record([(3, 1.0)], 39.999)).violations == 1


def test_reaction_lasts_until_the_first_of_three_frames_on_time():
    rows = [(3, 1.0), (3, 1.5), (3, 1.5), (2, 1.5), (3, 1.5), (2, 1.5), (2, 1.5), (2, 1.5)]
    # 60 60 30 60 ms, then three of 30.
    assert find_reactions(make_record(rows, 45.0)) == [Delay(4, pytest.approx(210.0))]


def test_reaction_starts_at_the_onset_if_it_is_known():
    record = make_record([(3, 1.0), (3, 1.5), (2, 1.5), (2, 1.5), (2, 1.5)], 45.0)
    assert find_reactions(replace(record, changes_ms=(0.0, 30.0))) == [Delay(1, 70.0)]
    assert find_reactions(replace(record, changes_ms=(0.0, 40.0))) == [Delay(1, 60.0)]


def test_there_is_no_reaction_without_a_late_frame():
    record = make_record([(3, 1.0), (2, 1.5), (2, 1.5)], 45.0)
    assert find_reactions(record) == []
    assert measure(record).reaction_frames is None


def test_a_reaction_ended_by_the_run_counts_until_the_end():
    record = make_record([(3, 1.0), (3, 1.5), (3, 1.5)], 45.0)
    assert find_reactions(record) == [Delay(2, pytest.approx(60.0), is_over=False)]


def test_a_wrong_move_up_is_not_a_change_of_the_device():
    record = make_record([(2, 1.5), (3, 1.5), (2, 1.5)], 45.0)
    assert find_reactions(record) == []
    assert measure(record).violations == 1


def test_a_reaction_requires_a_level_that_meets_the_limit():
    rows = [(3, 1.0), (3, 8.0), (3, 8.0), (3, 2.0), (2, 2.0), (2, 2.0), (2, 2.0)]
    assert find_reactions(make_record(rows, 45.0)) == [Delay(1, pytest.approx(80.0))]


def test_a_lower_limit_requires_a_reaction():
    record = make_record([(3, 1.0), (3, 1.0), (2, 1.0), (2, 1.0), (2, 1.0)], 45.0)
    frames = (record.frames[0], *(replace(frame, limit_ms=30.0) for frame in record.frames[1:]))
    assert find_reactions(replace(record, frames=frames)) == [Delay(1, 40.0)]


def test_recovery_starts_when_the_previous_level_is_fast_enough():
    rows = [(3, 1.0), (3, 1.5), (2, 1.5), (2, 1.5), (2, 1.0), (2, 1.0), (3, 1.0)]
    record = make_record(rows, 45.0)
    assert find_recoveries(record) == [Delay(2, pytest.approx(40.0))]
    relief_ms = record.frames[4].start_ms - 5.0
    known = replace(record, changes_ms=(0.0, 40.0, relief_ms))
    assert find_recoveries(known) == [Delay(2, pytest.approx(45.0))]


def test_recovery_restarts_when_contention_returns():
    rows = [(3, 1.0), (2, 1.5), (2, 1.0), (2, 1.5), (2, 1.0), (3, 1.0)]
    assert find_recoveries(make_record(rows, 45.0)) == [Delay(1, pytest.approx(20.0))]


def test_a_recovery_that_never_ends_is_omitted():
    rows = [(3, 1.0), (2, 1.5), (2, 1.0), (2, 1.0)]
    assert find_recoveries(make_record(rows, 45.0)) == []
    assert measure(make_record(rows, 45.0)).recovery_frames is None


def test_a_record_without_frames_is_rejected():
    with pytest.raises(SimulationError, match='ends before its first frame'):
        measure(make_record([], 45.0))


def test_the_clairvoyant_level_is_the_most_accurate_one_on_time():
    accuracies = (0.5, 0.7, 0.8, 0.8)
    assert clairvoyant_level(accuracies, (10.0, 20.0, 40.0, 30.0), 50.0) == 4  # faster, as good
    assert clairvoyant_level(accuracies, (10.0, 20.0, 40.0, 60.0), 40.0) == 3
    assert clairvoyant_level(accuracies, (10.0, 20.0, 40.0, 60.0), 5.0) == 1
    assert clairvoyant_level((0.8, 0.5), (20.0, 30.0), 25.0) == 1
