from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.simulation.processor import (
    Job,
    Processor,
    Timeline,
    alone_duration_ms,
    training_job,
)
from dynamic_ofa_ros.simulation.steps import Steps

DEMANDS = st.lists(st.one_of(st.just(0.0), st.floats(0.01, 1.0)), min_size=1, max_size=6)
TIMES_MS = st.floats(0.0, 1e6)
CLOCKS = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(
    sharing=st.sampled_from(['proportional', 'time_slicing']),
    demands=DEMANDS,
    clocks=CLOCKS,
    time_ms=TIMES_MS,
)
def test_the_total_use_never_exceeds_the_device(sharing, demands, clocks, time_ms):
    frequency = Steps(tuple(1e5 * i for i in range(len(clocks))), tuple(clocks))
    processor = Processor(sharing, frequency=frequency)
    speeds = processor.speeds(time_ms, demands)
    clock = frequency.at(time_ms)
    used = sum(speed * demand for speed, demand in zip(speeds, demands, strict=True))
    assert used <= clock * (1.0 + 1e-9)
    assert all(0.0 <= speed <= clock for speed in speeds)
    assert all(speed == 0.0 for speed, demand in zip(speeds, demands, strict=True) if not demand)
    if sum(demands) > 0.0:
        assert max(speeds) > 0.0  # the device is never idle while a workload waits
    if sharing == 'proportional' and sum(demands) > 1.0:
        assert used == pytest.approx(clock)


def test_proportional_sharing_by_hand():
    processor = Processor()
    assert processor.speeds(0.0, (0.5, 0.0, 0.4)) == (1.0, 0.0, 1.0)
    assert processor.speeds(0.0, (0.8, 0.8)) == (pytest.approx(0.625),) * 2
    half = Processor(frequency=Steps((0.0, 100.0), (1.0, 0.5)))
    assert half.speeds(99.0, (0.5,)) == (1.0,)
    assert half.speeds(100.0, (0.5,)) == (0.5,)
    assert half.next_change_ms(0.0) == 100.0


def test_time_slicing_runs_one_workload_at_a_time():
    processor = Processor('time_slicing', slice_ms=5.0)
    turns = [processor.speeds(t, (0.5, 0.0, 0.9)).index(1.0) for t in (0.0, 4.9, 5.0, 9.0, 10.0)]
    assert turns == [0, 0, 2, 2, 0]
    assert processor.speeds(7.0, (0.3, 0.0, 0.0)) == (1.0, 0.0, 0.0)
    assert processor.next_change_ms(7.0) == 10.0


@settings(deadline=None, max_examples=60)
@given(
    begin_ms=st.floats(0.0, 1e4),
    period_ms=st.floats(1.0, 500.0),
    share=st.floats(0.05, 1.0),
    time_ms=st.floats(0.0, 2e4),
)
def test_the_next_change_of_a_job_is_correct(begin_ms, period_ms, share, time_ms):
    job = Job('job', 0.5, begin_ms, 1.5e4, period_ms, share * period_ms)
    next_ms = job.next_change_ms(time_ms)
    assert next_ms > time_ms
    until_ms = min(next_ms, 2e4)
    now = job.demand_at(time_ms)
    # Farther from the edges than the tolerance for rounding.
    for fraction in (0.25, 0.5, 0.75):
        between_ms = time_ms + fraction * (until_ms - time_ms)
        if until_ms - time_ms > 1e-3:
            assert job.demand_at(between_ms) == now


def test_jobs_by_hand():
    job = Job('job', 0.5, begin_ms=100.0, end_ms=1000.0, period_ms=50.0, busy_ms=20.0)
    assert [job.demand_at(t) for t in (99.0, 100.0, 119.0, 120.0, 149.0, 150.0, 1000.0)] == [
        0.0, 0.5, 0.5, 0.0, 0.0, 0.5, 0.0,
    ]  # fmt: skip
    assert [job.next_change_ms(t) for t in (0.0, 100.0, 120.0, 150.0, 999.0, 1000.0)] == [
        100.0, 120.0, 150.0, 170.0, 1000.0, math.inf,
    ]  # fmt: skip
    always = Job('job', 0.5, 10.0, 20.0)
    assert [always.demand_at(t) for t in (5.0, 10.0, 19.9, 20.0)] == [0.0, 0.5, 0.5, 0.0]
    assert always.next_change_ms(15.0) == 20.0
    training = training_job(0.0)
    busy = sum(training.demand_at(t + 0.5) > 0.0 for t in range(1300))
    assert busy == 1200


def test_alone_duration_equals_the_simulated_duration():
    timeline = Timeline()
    timeline.append(0.0, (0.8, 0.0))
    timeline.append(20.0, (0.8, 0.8))  # the other workload starts: speed 0.625
    timeline.append(52.0, (0.8, 0.0))

    def duration_ms(work_ms, start_ms=0.0, demand=0.8):
        segment = max(i for i, t in enumerate(timeline.times_ms) if t <= start_ms)
        return alone_duration_ms(Processor(), timeline, segment, 0, start_ms, work_ms, demand)

    assert duration_ms(20.0) == pytest.approx(20.0)
    assert duration_ms(30.0) == pytest.approx(20.0 + 10.0 / 0.625)
    assert duration_ms(50.0) == pytest.approx(20.0 + 32.0 + 10.0)  # 20 + 20 + 10 of work
    assert duration_ms(10.0, start_ms=20.0) == pytest.approx(16.0)
    assert duration_ms(10.0, start_ms=20.0, demand=0.2) == pytest.approx(10.0)


def test_the_timeline_stores_changes_only():
    timeline = Timeline()
    for time_ms, demands in ((0.0, (0.0,)), (0.0, (0.5,)), (5.0, (0.5,)), (9.0, (0.0,))):
        timeline.append(time_ms, demands)
    assert (timeline.times_ms, timeline.demands) == ([0.0, 9.0], [(0.5,), (0.0,)])


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: Processor('fair'), "sharing is 'fair'; it must be one of: proportional"),
        (lambda: Processor('time_slicing', slice_ms=0.0), 'slice_ms is 0'),
        (lambda: Processor(frequency=Steps((0.0,), (1.5,))), 'frequency is 1.5'),
        (lambda: Job('x', 0.0), 'demand of job x is 0'),
        (lambda: Job('x', 1.5), 'demand of job x is 1.5'),
        (lambda: Job('x', 0.5, 10.0, 5.0), 'from 10 to 5 ms'),
        (lambda: Job('x', 0.5, period_ms=10.0, busy_ms=20.0), 'works 20 of every 10 ms'),
        (lambda: Job('x', 0.5, period_ms=10.0), 'works 0 of every 10 ms'),
    ],
)
def test_invalid_arguments_are_rejected(make, message):
    with pytest.raises(SimulationError, match=message):
        make()
