"""Latency scopes: levels take 10, 20 and 40 ms, images arrive every 30 ms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation.examples import make_platform

from dynamic_ofa_ros.constraints import LATENCY_SCOPES, Constraints
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.contenders import contender_names
from dynamic_ofa_ros.simulation.metrics import measure
from dynamic_ofa_ros.simulation.platform import load_platform
from dynamic_ofa_ros.simulation.processor import Job, Processor
from dynamic_ofa_ros.simulation.run import play, run, run_fixed_levels
from dynamic_ofa_ros.simulation.runner import SimulatedModel
from dynamic_ofa_ros.simulation.steps import Steps
from dynamic_ofa_ros.simulation.traces import Trace, make_trace, trace_kinds

PUBLISHED = load_platform()
CAMERA = Timing(camera_period_ms=30.0, switch_ms=0.0, transport_ms=3.0)
ALONE = Trace('alone', Steps((0.0,), (1.0,)), 600.0, overhead_ms=Steps((0.0, 300.0), (2.0, 7.0)))


def fixed(level, scope, limit_ms=50.0, trace=ALONE, timing=CAMERA):
    policy = PolicySettings('fixed', fixed_level=level)
    limit = Constraints(limit_ms, latency_scope=scope)
    return run(trace, make_platform(), policy, limit, timing=timing)


def late(record):
    return [frame.is_violation for frame in record.frames]


@pytest.mark.parametrize(
    ('scope', 'before', 'after'),
    [('inference', 20.0, 20.0), ('node', 22.0, 27.0), ('end_to_end', 25.0, 30.0)],
)
def test_a_frame_without_waiting_time(scope, before, after):
    frames = fixed(2, scope).frames
    assert [f.start_ms for f in frames[:3]] == [3.0, 33.0, 63.0]
    assert {f.inference_ms for f in frames} == {20.0}
    assert {f.wait_ms for f in frames} == {0.0}
    assert {f.latency_ms for f in frames if f.start_ms < 300.0} == {before}
    assert {f.latency_ms for f in frames if f.start_ms >= 300.0} == {after}
    outside_ms = before - 20.0
    assert frames[0].level_latencies_ms == pytest.approx([ms + outside_ms for ms in (10, 20, 40)])
    assert frames[0].level_expected_ms == frames[0].level_latencies_ms


def test_images_wait_for_a_level_slower_than_the_camera():
    frames = fixed(3, 'node').frames
    # A frame takes 42 ms. Images arrive at 3, 33, 63, 93, ... ms.
    assert [(f.camera_frame, f.start_ms, f.wait_ms) for f in frames[:5]] == [
        (0, 3.0, 0.0), (1, 45.0, 12.0), (2, 87.0, 24.0), (4, 129.0, 6.0), (5, 171.0, 18.0),
    ]  # fmt: skip
    assert [f.latency_ms for f in frames[:4]] == [42.0, 54.0, 66.0, 48.0]
    assert frames[1].level_latencies_ms == (24.0, 34.0, 54.0)
    assert frames[1].level_expected_ms == (12.0, 22.0, 42.0)


def test_overhead_delays_the_next_frame_in_every_scope():
    starts = [[f.start_ms for f in fixed(3, scope).frames] for scope in LATENCY_SCOPES]
    assert starts[0] == starts[1] == starts[2]
    assert [f.wait_ms for f in fixed(3, 'inference').frames[:3]] == [0.0, 0.0, 0.0]
    assert not any(late(fixed(3, 'inference')))


def test_a_wait_caused_by_the_policy_counts_as_avoidable():
    record = fixed(3, 'node', limit_ms=30.0)
    hopeless = [f for f in record.frames if min(f.level_latencies_ms) > 30.0]
    assert hopeless, 'images that waited so long that no level could have met the limit'
    found = measure(record)
    assert found.violation_ratio == 1.0
    assert found.oracle_violation_ratio == 0.0
    assert found.on_time_accuracy == 0.0


def test_time_outside_inference_can_exceed_the_limit_at_every_level():
    found = measure(fixed(1, 'node', limit_ms=16.0))
    assert found.oracle_violation_ratio == found.violation_ratio == pytest.approx(0.5, abs=0.05)


def test_every_latency_reaches_the_manager(monkeypatch):
    told = []
    observe = RuntimeManager.observe

    def listen(manager, measurement):
        told.append(measurement)
        return observe(manager, measurement)

    monkeypatch.setattr(RuntimeManager, 'observe', listen)
    frames = fixed(3, 'inference').frames
    assert len(told) == len(frames)
    assert [(m.inference_ms, m.node_ms, m.end_to_end_ms) for m in told[:3]] == [
        (40.0, 42.0, 45.0), (40.0, 54.0, 57.0), (40.0, 66.0, 69.0),
    ]  # fmt: skip
    assert [m.time_ns for m in told[:2]] == [45_000_000, 87_000_000]
    assert {(m.level, m.platform) for m in told} == {(3, make_platform().profile.platform)}


def test_the_scope_can_change_with_the_constraints():
    schedule = [
        (0.0, Constraints(50.0)),
        (200.0, Constraints(50.0, latency_scope='end_to_end')),
    ]
    record = run(ALONE, make_platform(), 'fixed', schedule, timing=CAMERA)
    assert {f.latency_ms for f in record.frames if f.start_ms < 200.0} == {40.0}
    assert min(f.latency_ms for f in record.frames if f.start_ms >= 200.0) >= 45.0


@pytest.mark.parametrize('scope', ['node', 'end_to_end'])
@pytest.mark.parametrize('kind', trace_kinds())
def test_the_oracle_knows_every_part_of_the_next_frame(kind, scope):
    trace = replace(
        make_trace(kind, 3, 6.0), overhead_ms=Steps((0.0, 2000.0, 4000.0), (2.0, 9.0, 4.0))
    )
    limit = Constraints(65.0, latency_scope=scope)
    timing = Timing(camera_period_ms=60.0, transport_ms=1.5)
    for policy in contender_names():
        record = run(trace, PUBLISHED, policy, limit, seed=2, timing=timing)
        found = measure(record)
        assert found.violation_ratio >= found.oracle_violation_ratio
        assert found.on_time_accuracy <= found.oracle_on_time_accuracy
        for frame in record.frames:
            if not frame.is_first_after_switch or policy == 'oracle':
                assert frame.latency_ms == frame.level_latencies_ms[frame.level - 1]
            if policy == 'oracle':
                assert frame.level == record.oracle_level(frame)


def test_stalls_add_equal_times_and_affect_long_frames_more_often():
    stalls_ms = tuple((50.0 + 97.0 * i, 60.0 + 97.0 * i) for i in range(500))
    trace = Trace('stalls', Steps((0.0,), (1.0,)), 48_000.0, stalls_ms=stalls_ms)
    hit = {}
    for level, alone_ms in ((1, 10.0), (2, 20.0), (3, 40.0)):
        frames = fixed(level, 'inference', trace=trace, timing=Timing(97.2, 0.0, 0.0)).frames
        delays_ms = [f.inference_ms - alone_ms for f in frames]
        assert max(delays_ms) == pytest.approx(10.0)
        hit[level] = sum(delay_ms > 1e-6 for delay_ms in delays_ms) / len(frames)
        assert frames[0].level_expected_ms == (10.0, 20.0, 40.0)  # noise, not a change
    for level, length_ms in ((1, 20.0), (2, 30.0), (3, 50.0)):
        assert hit[level] == pytest.approx(length_ms / 97.0, abs=0.03)


def test_every_fixed_level_has_its_own_waiting_times():
    limit = Constraints(45.0, latency_scope='node')
    records = run_fixed_levels(ALONE, make_platform(), limit, timing=CAMERA)
    assert [{f.level for f in record.frames} for record in records] == [{1}, {2}, {3}]
    assert [max(f.wait_ms for f in record.frames) > 0.0 for record in records] == [
        False, False, True,
    ]  # fmt: skip
    found = measure(records[1], fixed=records)
    assert found.best_fixed_on_time_accuracy == pytest.approx(0.7)
    assert measure(records[1]).best_fixed_on_time_accuracy is None


def test_scopes_on_a_shared_processor():
    model = SimulatedModel(
        'a',
        make_platform(),
        PolicySettings('fixed', fixed_level=3),
        Constraints(60.0, latency_scope='end_to_end'),
        CAMERA,
    )
    job = Job('job', 0.5, 300.0, 600.0)
    (record,) = play([model], Processor(), [job], duration_ms=900.0)
    assert len({f.wait_ms for f in record.frames}) > 2
    for frame in record.frames:
        assert frame.latency_ms == pytest.approx(frame.wait_ms + frame.inference_ms + 3.0)
        assert frame.level_latencies_ms[2] == pytest.approx(frame.latency_ms)
        assert frame.level_expected_ms[2] == pytest.approx(frame.inference_ms + 3.0)
    assert max(f.inference_ms for f in record.frames) == pytest.approx(60.0)
    found = measure(record)
    assert 0.0 < found.violation_ratio < 1.0
