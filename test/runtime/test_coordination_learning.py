"""How a device is shared: predicted by hand, learnt from frames, and what was measured counts."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from coordination_fakes import PERIOD_MS, shared_frames, status

from dynamic_ofa_ros.runtime.coordination.choice import options
from dynamic_ofa_ros.runtime.coordination.frames import FrameLog, Observation, offsets_ms
from dynamic_ofa_ros.runtime.coordination.learning import (
    changed_since_ns,
    fit,
    unknown_sharing,
)
from dynamic_ofa_ros.runtime.coordination.record import REMEMBERED_NS, Record
from dynamic_ofa_ros.runtime.coordination.sharing import Sharing, predict
from dynamic_ofa_ros.runtime.coordination.status import Frame

SPREAD = 0.02
LATER_NS = 60_000_000_000


def sharing(*demands: float, lightness: float = 0.0, pace: float = 1.0) -> Sharing:
    count = len(demands)
    return Sharing(np.array(demands), np.full(count, lightness), pace, np.full(count, SPREAD))


def late(everyone, known, *levels, offsets=None):
    found = predict(everyone, known, np.array([levels]), offsets)
    return found.share[0]


def logged(works_ms, demands, starts_ms, levels, pace=1.0, **changes):
    """Return a log of two models' frames, the statuses that told them, and the frames."""
    frames = shared_frames(works_ms, demands, starts_ms, levels, pace)
    log, everyone = FrameLog(), []
    for name, level, own in zip('ab', levels, frames, strict=True):
        told = status(name, level=level, frames=own, time_ns=LATER_NS, **changes)
        everyone.append(told)
        log.take(told)
    return log, everyone, frames


def test_prediction_by_hand() -> None:
    """Two frames of 40 ms that share everything take 80; that need half each take 40."""
    for demand, expected_ms in ((1.0, 80.0), (0.75, 60.0), (0.5, 40.0), (0.2, 40.0)):
        for limit_ms, is_late in ((1.15 * expected_ms, False), (expected_ms / 1.15, True)):
            everyone = [status('a', limit_ms=limit_ms), status('b')]
            share = late(everyone, sharing(demand, demand), 4, 4)
            assert share[0] == pytest.approx(float(is_late), abs=0.01)
            assert share[1] == 0.0, 'no limit, never late'


def test_a_short_peer_costs_its_own_time_and_a_lighter_level_asks_for_less() -> None:
    everyone = [status('a', limit_ms=55.0), status('b')]
    assert late(everyone, sharing(1.0, 1.0), 4, 1)[0] < 0.01, '40 + 10 ms'
    assert late(everyone, sharing(1.0, 1.0), 4, 2)[0] > 0.99, '40 + 20 ms'
    assert late(everyone, sharing(0.5, 0.5, lightness=1.0), 4, 2)[0] < 0.01, 'it fits beside'


def test_a_peer_that_is_always_busy_and_one_that_is_never_there() -> None:
    everyone = [status('a', limit_ms=60.0), status('b', interval_ms=1.0)]
    assert late(everyone, sharing(1.0, 1.0), 4, 1)[0] > 0.99
    paused = [everyone[0], replace(everyone[1], interval_ms=math.inf)]
    assert late(paused, sharing(1.0, 1.0), 4, 1)[0] < 0.01


def test_cameras_that_keep_step_need_not_meet() -> None:
    everyone = [status('a', limit_ms=50.0), status('b', limit_ms=50.0)]
    assert late(everyone, sharing(1.0, 1.0), 4, 4)[0] > 0.99
    apart = np.array([0.0, 50.0])
    assert late(everyone, sharing(1.0, 1.0), 4, 4, offsets=apart).max() < 0.01


@pytest.mark.parametrize('demand', [1.0, 0.7])
def test_the_demands_are_learnt_from_frames_that_overlap_more_or_less(demand: float) -> None:
    starts = ([100.0 * i for i in range(8)], [105.0 * i for i in range(8)])
    log, everyone, frames = logged((40.0, 40.0), (demand, demand), starts, (4, 4))
    assert len(log.observe(['a', 'b'])) == 16
    found = fit(everyone, log.observed(), unknown_sharing(2))
    assert found.demands.sum() == pytest.approx(2.0 * demand, abs=0.1)
    assert found.pace == pytest.approx(1.0, abs=0.05)
    assert frames[0][0].latency_ms > 1.3 * frames[0][-1].latency_ms


def test_frames_that_never_overlap_tell_nothing_of_the_demands_and_all_of_the_pace() -> None:
    starts = ([100.0 * i for i in range(12)], [100.0 * i + 60.0 for i in range(12)])
    log, everyone, _ = logged((20.0, 20.0), (1.0, 1.0), starts, (2, 2), pace=1.5)
    log.observe(['a', 'b'])
    found = unknown_sharing(2)
    for _ in range(4):  # the more the frames turn out to be off, the less they look like outliers
        found = fit(everyone, log.observed(), found)
    assert found.pace == pytest.approx(1.5, abs=0.1)
    assert found.demands.tolist() == pytest.approx([0.5, 0.5], abs=0.05), 'as believed'


def test_without_frames_nearly_the_worst_is_taken_for_granted() -> None:
    everyone = [status('a'), status('b')]
    assert fit(everyone, [], unknown_sharing(2)).demands.tolist() == [1.0, 1.0]


def test_a_device_that_changes_is_noticed_and_one_that_does_not_is_not() -> None:
    starts = ([100.0 * i for i in range(6)], [100.0 * i + 20.0 for i in range(6)])
    log, everyone, _ = logged((40.0, 40.0), (1.0, 1.0), starts, (4, 4))
    log.observe(['a', 'b'])
    found = fit(everyone, log.observed(), unknown_sharing(2))
    assert changed_since_ns(everyone, log.observed(), found) is None
    for pace in (0.7, 1.4):
        other = replace(found, pace=found.pace * pace)
        assert changed_since_ns(everyone, log.observed(), other) is not None
    assert changed_since_ns(everyone, log.observed()[:3], other) is None, 'too few frames'


def test_a_frame_waits_until_its_neighbours_are_told() -> None:
    log, names = FrameLog(), ['a', 'b']
    frame = Frame(140_000_000, 40.0, 4)
    log.take(status('a', frames=(frame,), time_ns=150_000_000))
    log.take(status('b', time_ns=150_000_000))
    assert not log.observe(names), 'b may still be at work on one'
    log.take(status('b', frames=(Frame(160_000_000, 50.0, 2),), time_ns=170_000_000))
    assert not log.observe(names), 'nor is it known what b does next'
    told = (Frame(160_000_000, 50.0, 2), Frame(260_000_000, 60.0, 2))
    log.take(status('b', frames=told, time_ns=270_000_000))
    (observation,) = log.observe(names)
    assert observation.levels == (('a', 4), ('b', 2))
    assert [(ms, len(work)) for ms, work in observation.pieces] == [(10.0, 1), (30.0, 2)]


def test_repeated_frames_count_once_and_what_a_dead_peer_slowed_is_left_out() -> None:
    log = FrameLog()
    frames = tuple(Frame(100_000_000 * i, 20.0, 2) for i in range(1, 6))
    for told in (frames[:3], frames):
        log.take(status('a', frames=told, time_ns=LATER_NS))
    log.take(status('gone', time_ns=frames[2].end_ns))
    assert log.observe(['a']) == [], 'the dead one may have run beside any of them'
    later = Frame(LATER_NS, 20.0, 2)
    log.take(status('a', frames=(*frames, later), time_ns=LATER_NS))
    assert [o.frame for o in log.observe(['a'])] == [later]


def test_cameras_that_keep_step_are_seen_and_others_are_not() -> None:
    def log_of(period_b_ms, jitter_ms=0.0):
        log = FrameLog()
        for name, first_ms, period_ms in (('a', 0.0, PERIOD_MS), ('b', 30.0, period_b_ms)):
            shifts = itertools.cycle((0.0, jitter_ms))
            log.take(
                status(
                    name,
                    frames=tuple(
                        Frame(round(1e6 * (first_ms + i * period_ms + next(shifts) + 20)), 20.0, 2)
                        for i in range(15)
                    ),
                )
            )
        return log

    kept = offsets_ms(['a', 'b'], log_of(PERIOD_MS))
    assert kept is not None
    assert kept.tolist() == pytest.approx([0.0, 30.0], abs=1e-3)
    assert offsets_ms(['a', 'b'], log_of(0.97 * PERIOD_MS)) is None
    assert offsets_ms(['a', 'b'], log_of(PERIOD_MS, jitter_ms=70.0)) is None
    assert offsets_ms(['a', 'nobody'], log_of(PERIOD_MS)) is None


def measured(record, latency_ms, levels, times=20, end_ns=1):
    for name in 'ab':
        for _ in range(times):
            known = tuple(zip('ab', levels, strict=True))
            record.note(['a', 'b'], Observation(name, Frame(end_ns, latency_ms, 1), (), known))


def test_what_was_measured_corrects_the_prediction_there_above_and_below() -> None:
    everyone = [status(name, limit_ms=46.0) for name in 'ab']
    half = sharing(0.6, 0.6)

    def shares(record):
        found = options(everyone, half, record)
        return {
            tuple(levels): late
            for levels, late in zip(
                found.combinations.tolist(), found.late.max(axis=1).tolist(), strict=True
            )
        }

    fresh = shares(Record())
    assert fresh[3, 3] < 0.01 < 0.3 < fresh[4, 4]
    record = Record()
    measured(record, 60.0, (2, 3))
    assert shares(record)[2, 3] > 0.5
    assert shares(record)[3, 3] > 0.5, 'more load is late no less often'
    assert shares(record)[2, 2] == fresh[2, 2], 'of less load it says nothing'
    record = Record()
    measured(record, 45.0, (4, 4), times=60)
    assert shares(record)[4, 4] < 0.2
    assert shares(record)[3, 4] < 0.2


def test_what_was_measured_long_ago_is_forgotten_and_one_late_frame_is_an_outlier() -> None:
    everyone = [status(name, limit_ms=50.0) for name in 'ab']
    record = Record()
    measured(record, 60.0, (2, 2), times=1)
    assert options(everyone, sharing(0.5, 0.5), record).late.min() < 0.01
    ((levels, frames, late_frames),) = record.measured(everyone)
    assert (levels, frames.tolist(), late_frames.tolist()) == ((2, 2), [1, 1], [1, 1])
    measured(record, 40.0, (3, 3), end_ns=REMEMBERED_NS + 2)
    assert [levels for levels, _, _ in record.measured(everyone)] == [(3, 3)]


def test_who_left_a_combination_speaks_against_it() -> None:
    everyone = [status(name, limit_ms=500.0) for name in 'ab']
    record = Record()
    record.refuse((4, 4), 1)
    found = options(everyone, sharing(0.5, 0.5), record)
    best = found.combinations[found.best()].tolist()
    assert best != [4, 4]
    assert found.meets(found.best())
