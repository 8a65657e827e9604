"""Periodic loads are predicted, other loads are not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation.examples import make_platform

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.runtime.rhythm import FEWEST, GUARD_FRAMES, Rhythm
from dynamic_ofa_ros.simulation.run import run
from dynamic_ofa_ros.simulation.steps import Steps
from dynamic_ofa_ros.simulation.traces import Trace

FRAME_NS = 50_000_000
SECOND_NS = 1_000_000_000
HEIGHT = 0.3


def after_rises(*times_s: float) -> Rhythm:
    rhythm = Rhythm()
    for time_s in times_s:
        rhythm.step(round(time_s * SECOND_NS), 0.0, HEIGHT, FRAME_NS)
    return rhythm


def expected_at(rhythm: Rhythm, until_s: float, from_s: float) -> list[float]:
    """Return the ends of all frames at which a load is predicted, in s."""
    times_ns = range(round(from_s * SECOND_NS), round(until_s * SECOND_NS), FRAME_NS)
    return [
        (time_ns + FRAME_NS) / SECOND_NS
        for time_ns in times_ns
        if rhythm.due(time_ns, 0.0, FRAME_NS)
    ]


@given(st.floats(1.0, 20.0), st.integers(FEWEST, 20), st.randoms(use_true_random=False))
def test_the_next_load_is_predicted_for_any_frame_rate(
    period_s: float, count: int, chance: random.Random
) -> None:
    """Rises are observed up to half a frame early or late."""
    off = [chance.uniform(-0.5, 0.5) * FRAME_NS / SECOND_NS for _ in range(count)]
    rhythm = after_rises(*(beat * period_s + off[beat] for beat in range(count)))
    found = expected_at(rhythm, count * period_s + 1.0, (count - 1) * period_s + 0.2)
    if found:  # the deviation of the first three rises may exceed the tolerance
        assert found[0] < count * period_s + off[-1] + 0.5 * FRAME_NS / SECOND_NS
        assert found[-1] >= count * period_s - FRAME_NS / SECOND_NS
        assert len(found) <= 2 * (GUARD_FRAMES + 0.5) + 3
    if max(map(abs, off)) < 0.2 * FRAME_NS / SECOND_NS:
        assert found


def test_two_rises_are_not_a_rhythm() -> None:
    assert expected_at(after_rises(0.0, 5.0), 12.0, 5.2) == []
    assert expected_at(after_rises(0.0, 5.0, 10.0), 16.0, 10.2) != []


def test_random_loads_are_not_predicted() -> None:
    assert expected_at(after_rises(0.0, 5.0, 11.0, 14.0), 25.0, 14.2) == []


def test_a_new_rhythm_replaces_the_old_one() -> None:
    rhythm = after_rises(0.0, 5.0, 10.0, 15.0, 18.0, 21.0, 24.0)
    (first, *_) = expected_at(rhythm, 30.0, 24.2)
    assert first == pytest.approx(27.0, abs=0.2)


def test_a_missing_load_ends_the_rhythm() -> None:
    rhythm = after_rises(0.0, 5.0, 10.0)
    assert expected_at(rhythm, 16.0, 10.2) != []
    assert expected_at(rhythm, 60.0, 16.0) == []


def test_no_rise_is_predicted_during_the_load() -> None:
    assert after_rises(0.0, 5.0, 10.0).due(15 * SECOND_NS, HEIGHT, FRAME_NS) == 0.0


def test_a_further_rise_during_a_load_is_ignored() -> None:
    rhythm = Rhythm()
    for time_s in (0, 5, 10):
        rhythm.step(time_s * SECOND_NS, 0.0, HEIGHT, FRAME_NS)
        rhythm.step((time_s + 1) * SECOND_NS, HEIGHT, 2 * HEIGHT, FRAME_NS)
    (first, *_) = expected_at(rhythm, 20.0, 11.2)
    assert first == pytest.approx(15.0, abs=0.2)


def test_periods_of_a_few_frames_are_ignored() -> None:
    assert expected_at(after_rises(0.0, 0.3, 0.6, 0.9), 2.0, 0.95) == []


def test_small_steps_are_ignored() -> None:
    rhythm = Rhythm()
    for time_s in (0, 5, 10):
        rhythm.step(time_s * SECOND_NS, 0.0, 0.02, FRAME_NS)
    assert expected_at(rhythm, 16.0, 10.2) == []


def test_predictive_moves_down_before_a_periodic_load() -> None:
    """Frames are on time from about the fourth load on, and the reason names the load."""
    pairs = [(0.0, 1.0)]
    for start_ms in range(5000, 60000, 5000):
        pairs += [(start_ms, 1.3), (start_ms + 2000.0, 1.0)]
    platform = make_platform()
    limit_ms = 1.1 * platform.latencies_ms[-1]
    record = run(
        Trace('periodic', Steps.of(pairs), 60000.0),
        platform,
        'predictive',
        Constraints(max_latency_ms=limit_ms),
    )
    late_s = [f.start_ms / 1e3 for f in record.frames if f.latency_ms > f.limit_ms]
    assert len([time_s for time_s in late_s if time_s < 16.0]) >= 3
    assert len([time_s for time_s in late_s if time_s > 19.0]) <= 1, 'one of eight loads'
    reasons = [decision.reason for decision in record.decisions if decision.time_ns > 19e9]
    assert sum('periodic load expected' in reason for reason in reasons) >= 5
