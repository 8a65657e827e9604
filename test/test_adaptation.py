from __future__ import annotations

import math

import pytest

from dynamic_ofa_ros.adaptation import (
    Delay,
    TimedFrame,
    is_late,
    late_share,
    mean_accuracy,
    on_time_accuracy,
    reaction,
    recovery,
    switch_count,
)

LIMIT_MS = 10.0


def frames(latencies_ms: str, levels: str = '') -> list[TimedFrame]:
    """Build a frame every 10 ms: `.` on time, `L` late, `x` without an answer."""
    latency_ms = {'.': 5.0, 'L': 20.0, 'x': math.inf}
    return [
        TimedFrame(10.0 * i, latency_ms[letter], LIMIT_MS, int(level), int(level) / 10)
        for i, (letter, level) in enumerate(
            zip(latencies_ms, levels or '5' * len(latencies_ms), strict=True)
        )
    ]


@pytest.mark.parametrize('limit_ms', [math.nan, math.inf])
def test_without_a_limit_no_frame_is_late(limit_ms: float) -> None:
    assert not is_late(1e9, limit_ms)


def test_a_frame_is_late_above_the_limit_and_without_an_answer() -> None:
    assert not is_late(10.0, 10.0)
    assert is_late(10.001, 10.0)
    assert is_late(math.inf, 10.0)


def test_late_frames_count_as_zero_and_unanswered_frames_as_late() -> None:
    run = frames('..Lx')
    assert late_share(run) == 0.5
    assert on_time_accuracy(run) == pytest.approx(0.25)
    assert mean_accuracy(run) == pytest.approx(0.5)
    assert late_share([]) is on_time_accuracy([]) is mean_accuracy([]) is None


def test_reaction_ends_at_the_first_of_three_frames_on_time() -> None:
    assert reaction(frames('..L.L...L'), onset_ms=15.0) == Delay(3, 35.0)


def test_reaction_is_none_without_a_late_frame_soon_after_the_onset() -> None:
    assert reaction(frames('LL......'), onset_ms=20.0) is None
    late_afterwards = [*frames('...'), TimedFrame(5000.0, 20.0, LIMIT_MS)]
    assert reaction(late_afterwards, onset_ms=0.0) is None


def test_reaction_is_not_over_when_the_run_ends_first() -> None:
    assert reaction(frames('.LLL..'), onset_ms=10.0) == Delay(5, 40.0, is_over=False)


def test_recovery_ends_when_an_equally_accurate_level_runs() -> None:
    run = frames('......', levels='522235')
    assert recovery(run, relief_ms=25.0, accuracy=0.5) == Delay(2, 25.0)
    assert recovery(run[:-1], relief_ms=25.0, accuracy=0.5) == Delay(2, 15.0, is_over=False)
    assert recovery(run, relief_ms=100.0, accuracy=0.5) is None


def test_switches_are_changes_from_frame_to_frame() -> None:
    assert switch_count([1, 1, 2, 2, 1]) == 2
    assert switch_count([]) == 0
