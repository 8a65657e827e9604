"""Classifiers on one processor. Levels take 10, 20 and 40 ms with demands of 0.25, 0.5 and 1."""

from __future__ import annotations

import math

import pytest
from simulation.examples import make_platform

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.metrics import measure
from dynamic_ofa_ros.simulation.platform import load_platform
from dynamic_ofa_ros.simulation.processor import Job, Processor, training_job
from dynamic_ofa_ros.simulation.run import play, run
from dynamic_ofa_ros.simulation.runner import SimulatedModel
from dynamic_ofa_ros.simulation.steps import Steps
from dynamic_ofa_ros.simulation.traces import Trace

BACK_TO_BACK = Timing(camera_period_ms=0.0, switch_ms=0.0)
PUBLISHED = load_platform()


def fixed(name, level, **options):
    options = {'timing': BACK_TO_BACK, 'platform': make_platform(), **options}
    return SimulatedModel(name, policy=PolicySettings('fixed', fixed_level=level), **options)


def latencies(record):
    return [round(frame.latency_ms, 6) for frame in record.frames]


def test_a_single_model_runs_as_without_contention():
    (alone,) = play([fixed('a', 2)], Processor(), duration_ms=200.0)
    quiet = Trace('quiet', Steps((0.0,), (1.0,)), 200.0)
    on_trace = run(
        quiet, make_platform(), PolicySettings('fixed', fixed_level=2), timing=BACK_TO_BACK
    )
    assert [f.start_ms for f in alone.frames] == pytest.approx(
        [f.start_ms for f in on_trace.frames]
    )
    assert latencies(alone) == latencies(on_trace) == [20.0] * 10
    assert {f.slowdown for f in alone.frames} == {1.0}


def test_demands_that_fit_do_not_slow_each_other_down():
    a, b = play([fixed('a', 2), fixed('b', 1)], Processor(), duration_ms=100.0)
    assert set(latencies(a)) == {20.0}
    assert set(latencies(b)) == {10.0}


def test_too_high_demands_slow_all_models_down_equally():
    a, b = play([fixed('a', 3), fixed('b', 2)], Processor(), duration_ms=600.0)
    assert set(latencies(a)) == {60.0}  # demands of 1 + 0.5: slowdown of 1.5
    # At the end, b runs alone.
    assert set(latencies(b)) == {30.0}
    assert a.frames[0].slowdown == pytest.approx(1.5)
    # With a at level 1 (0.25) or level 2, the demands would fit.
    assert a.frames[0].level_expected_ms == pytest.approx((10.0, 20.0, 60.0))


def test_a_model_can_start_and_end():
    a, b = play(
        [fixed('a', 3), fixed('b', 3, begin_ms=200.0, end_ms=400.0)], Processor(), duration_ms=800
    )
    assert latencies(a)[:5] == [40.0] * 5
    assert [f.start_ms for f in b.frames] == [200.0, 280.0, 360.0]
    assert set(latencies(b)) == {80.0}
    assert latencies(a)[-3:] == [40.0] * 3


def test_a_training_job_slows_a_classifier_down_while_it_runs():
    (record,) = play(
        [fixed('a', 3)], Processor(), [Job('job', 0.5, 200.0, 500.0)], duration_ms=1000.0
    )
    during = [f.latency_ms for f in record.frames if 200.0 <= f.start_ms <= 440.0]
    assert during == pytest.approx([60.0] * 5)
    assert latencies(record)[:5] == [40.0] * 5
    assert latencies(record)[-3:] == [40.0] * 3


def test_a_lower_clock_slows_everything_down():
    processor = Processor(frequency=Steps((0.0, 100.0), (1.0, 0.5)))
    (record,) = play([fixed('a', 2)], processor, duration_ms=200.0)
    assert latencies(record) == [20.0] * 5 + [40.0] * 3


def test_time_slicing_makes_latency_bimodal():
    processor = Processor('time_slicing', slice_ms=20.0)
    job = Job('job', 0.5, period_ms=30.0, busy_ms=15.0)
    (record,) = play(
        [fixed('a', 1, timing=Timing(camera_period_ms=30.0, switch_ms=0.0))],
        processor,
        [job],
        duration_ms=600.0,
    )
    # Slot 0 (to 20 ms) is ours. Next image at 30 ms: slot of the job until it pauses at 45 ms.
    assert latencies(record)[:2] == [10.0, pytest.approx(20.0)]
    assert 1 < len(set(latencies(record))) < 6


@pytest.mark.parametrize('sharing', ['proportional', 'time_slicing'])
def test_the_actual_latency_is_among_the_alternatives(sharing):
    models = [
        SimulatedModel('a', PUBLISHED, 'reactive', Constraints(max_latency_ms=65.0)),
        SimulatedModel('b', PUBLISHED, 'reactive', Constraints(max_latency_ms=55.0)),
    ]
    for record in play(models, Processor(sharing), [training_job(500.0)], duration_ms=2000.0):
        assert len(record.frames) > 10
        for frame in record.frames:
            if not frame.is_first_after_switch:
                own = frame.level_latencies_ms[frame.level - 1]
                assert own == pytest.approx(frame.latency_ms)
        found = measure(record)
        assert found.violation_ratio >= found.oracle_violation_ratio
        if found.on_time_accuracy is not None:
            assert found.on_time_accuracy <= found.oracle_on_time_accuracy


def test_simulations_are_reproducible():
    def once(seed):
        models = [
            SimulatedModel(name, PUBLISHED, 'reactive', Constraints(max_latency_ms=limit_ms))
            for name, limit_ms in (('a', 65.0), ('b', 55.0))
        ]
        return play(models, Processor(), duration_ms=1500.0, seed=seed)

    assert once(1) == once(1)
    assert once(1)[0].frames != once(2)[0].frames


def test_the_exchange_acts_at_its_times():
    class Talk:
        next_ms = 90.0

        def act(self, now_ms, managers):
            heard.append((now_ms, len(managers)))
            managers[0].set_policy(PolicySettings('fixed', fixed_level=1))
            self.next_ms = math.inf

    heard = []
    a, b = play([fixed('a', 2), fixed('b', 1)], Processor(), duration_ms=200.0, exchange=Talk())
    assert [f.level for f in a.frames[:7]] == [2, 2, 2, 2, 2, 1, 1]
    assert {f.level for f in b.frames} == {1}
    assert heard == [(90.0, 2)]


def test_invalid_arguments_are_rejected():
    with pytest.raises(SimulationError, match='no model'):
        play([], Processor(), duration_ms=100.0)
    with pytest.raises(SimulationError, match='duration is 0 ms'):
        play([fixed('a', 1)], Processor(), duration_ms=0.0)
    with pytest.raises(SimulationError, match='from 5 to 5 ms'):
        fixed('a', 1, begin_ms=5.0, end_ms=5.0)
    with pytest.raises(SimulationError, match='oracle requires a trace'):
        play([SimulatedModel('a', make_platform(), 'oracle')], Processor(), duration_ms=100.0)
