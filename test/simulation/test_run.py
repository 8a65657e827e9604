from __future__ import annotations

import math
from dataclasses import replace

import pytest
from simulation.examples import LATENCIES_MS, make_platform

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import SimulationError
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.simulation.camera import Camera, FrameNoise, Timing
from dynamic_ofa_ros.simulation.contenders import contender, contender_names, with_options
from dynamic_ofa_ros.simulation.metrics import measure
from dynamic_ofa_ros.simulation.platform import load_platform
from dynamic_ofa_ros.simulation.run import run
from dynamic_ofa_ros.simulation.runner import Stopwatch
from dynamic_ofa_ros.simulation.steps import Steps
from dynamic_ofa_ros.simulation.traces import Trace, make_trace, trace_kinds

PUBLISHED = load_platform()
BACK_TO_BACK = Timing(camera_period_ms=0.0, switch_ms=0.0)
ALONE = Trace('alone', Steps((0.0,), (1.0,)), 1000.0)


def levels_of(record):
    return [frame.level for frame in record.frames]


@pytest.mark.parametrize('kind', trace_kinds())
def test_no_policy_is_better_than_the_oracle(kind):
    trace = make_trace(kind, seed=5, duration_s=4.0)
    for policy in contender_names():
        for limit_ms in (55.0, 65.0):
            record = run(trace, PUBLISHED, policy, Constraints(max_latency_ms=limit_ms), seed=2)
            found = measure(record)
            assert found.violation_ratio >= found.oracle_violation_ratio
            assert found.on_time_accuracy <= found.oracle_on_time_accuracy
            if policy == 'oracle':
                assert found.violation_ratio == found.oracle_violation_ratio
                assert found.on_time_accuracy == pytest.approx(found.oracle_on_time_accuracy)


@pytest.mark.parametrize('policy', contender_names())
def test_a_run_is_reproducible(policy):
    trace, limit = make_trace('burst', 1, 4.0), Constraints(max_latency_ms=60.0)
    first = run(trace, PUBLISHED, policy, limit, seed=7)
    assert first == run(trace, PUBLISHED, policy, limit, seed=7)
    assert first.frames != run(trace, PUBLISHED, policy, limit, seed=8).frames
    assert first.policy == policy


def test_all_policies_have_the_same_noise_for_the_same_image():
    trace, limit = make_trace('none', 1, 3.0), Constraints(max_latency_ms=60.0)
    by_picture = {}
    for policy in ('reactive', 'alert', PolicySettings('fixed', fixed_level=1)):
        for frame in run(trace, PUBLISHED, policy, limit, seed=3).frames:
            known = by_picture.setdefault(frame.camera_frame, frame.level_latencies_ms)
            assert known == frame.level_latencies_ms
    assert len(by_picture) > 50


def test_latency_is_profile_times_slowdown_times_noise():
    trace = Trace('two', Steps((0.0, 500.0), (1.0, 1.5)), 1000.0)
    platform = make_platform(noise=0.02)
    record = run(trace, platform, PolicySettings('fixed', fixed_level=2), timing=BACK_TO_BACK)
    noise = FrameNoise(1)
    for index, frame in enumerate(record.frames):
        factor = 1.0 if frame.start_ms < 500.0 else 1.5
        z = noise.of(index)
        expected = [
            ms * factor * math.exp(sigma * z)
            for ms, sigma in zip(LATENCIES_MS, platform.noise_sigmas, strict=True)
        ]
        assert frame.level_latencies_ms == pytest.approx(expected)
        assert frame.latency_ms == pytest.approx(expected[1])
        assert frame.level_expected_ms == pytest.approx([ms * factor for ms in LATENCIES_MS])
    sigma = platform.noise_sigmas[1]
    assert math.sqrt(math.expm1(sigma**2)) == pytest.approx(0.02)


def test_only_the_newest_image_is_processed():
    platform = make_platform(latencies_ms=(10.0, 20.0, 45.0))
    timing = Timing(camera_period_ms=20.0, switch_ms=0.0)
    record = run(replace(ALONE, duration_ms=200.0), platform, 'fixed', timing=timing)
    # 45 ms each: images 1 and 3 are replaced by 2 and 4 while 0 and 2 are classified.
    assert [(f.camera_frame, f.start_ms) for f in record.frames[:4]] == [
        (0, 0.0), (2, 45.0), (4, 90.0), (6, 135.0),
    ]  # fmt: skip


def test_a_fast_classifier_waits_for_the_next_image():
    fixed = PolicySettings('fixed', fixed_level=1)
    timing = Timing(camera_period_ms=25.0, camera_phase_ms=5.0)
    record = run(replace(ALONE, duration_ms=100.0), make_platform(), fixed, timing=timing)
    assert [(f.camera_frame, f.start_ms) for f in record.frames] == [
        (0, 5.0), (1, 30.0), (2, 55.0), (3, 80.0),
    ]  # fmt: skip


def test_an_image_is_not_skipped_because_of_rounding():
    period_ms = 100.0 / 3.0
    for count in range(2, 60):
        camera = Camera(Timing(camera_period_ms=period_ms))
        camera.next_image(0.0)
        free_at_ms = sum([period_ms] * count)  # not always exactly count x period_ms
        assert camera.next_image(free_at_ms)[::2] == (count, free_at_ms)


def test_the_first_frame_after_a_switch_takes_longer():
    schedule = [(0.0, Constraints(max_latency_ms=45.0)), (400.0, Constraints(max_latency_ms=25.0))]
    timing = Timing(camera_period_ms=0.0, switch_ms=3.0)
    record = run(ALONE, make_platform(), 'table', schedule, timing=timing)
    by_level = {(f.level, f.is_first_after_switch, round(f.latency_ms, 6)) for f in record.frames}
    assert by_level == {(3, False, 40.0), (2, True, 23.0), (2, False, 20.0)}
    assert record.switch_count == len(record.decisions) == 1
    assert record.frames[0].is_first_after_switch is False


def test_new_constraints_apply_to_the_next_frame():
    schedule = [(0.0, Constraints(max_latency_ms=45.0)), (401.0, Constraints(max_latency_ms=25.0))]
    record = run(ALONE, make_platform(), 'reactive', schedule, timing=BACK_TO_BACK)
    assert [(f.start_ms, f.level, f.limit_ms) for f in record.frames[9:12]] == [
        (360.0, 3, 45.0), (400.0, 3, 45.0), (440.0, 2, 25.0),
    ]  # fmt: skip


def test_the_run_ends_with_the_trace():
    record = run(ALONE, make_platform(), 'fixed', timing=BACK_TO_BACK)
    assert len(record.frames) == 25  # 40 ms each in 1 s
    assert record.frames[-1].start_ms == 960.0


def test_policy_fixed_uses_the_given_level():
    trace = make_trace('burst', 2, 3.0)
    record = run(trace, PUBLISHED, PolicySettings('fixed', fixed_level=4))
    assert set(levels_of(record)) == {4}
    assert set(levels_of(run(trace, PUBLISHED, 'fixed'))) == {6}


def test_the_oracle_knows_noise_and_slowdown_of_the_next_frame():
    trace = Trace('steps', Steps((0.0, 300.0, 600.0), (1.0, 2.0, 1.0)), 1000.0)
    record = run(trace, make_platform(), 'oracle', Constraints(max_latency_ms=45.0))
    for frame in record.frames:
        assert frame.level == (2 if 300.0 <= frame.start_ms < 600.0 else 3)
        assert not frame.is_violation


def test_a_stopwatch_changes_nothing():
    trace, limit = make_trace('step', 1, 2.0), Constraints(max_latency_ms=60.0)
    stopwatch = Stopwatch()
    record = run(trace, PUBLISHED, 'reactive', limit, stopwatch=stopwatch)
    assert record == run(trace, PUBLISHED, 'reactive', limit)
    assert len(stopwatch.decision_us) == len(record.frames)
    assert min(stopwatch.decision_us) > 0.0


def test_invalid_simulation_settings_are_rejected():
    platform = make_platform()
    for schedule, message in (
        ([], 'at least one entry'),
        ([(5.0, Constraints()), (5.0, Constraints())], 'must ascend'),
    ):
        with pytest.raises(SimulationError, match=message):
            run(ALONE, platform, 'fixed', schedule)
    with pytest.raises(SimulationError, match='camera_period_ms is -1'):
        Timing(camera_period_ms=-1.0)
    with pytest.raises(SimulationError, match='switch_ms is inf'):
        Timing(switch_ms=math.inf)
    too_fast = Trace('fast', Steps((0.0,), (0.01,)), 1000.0)
    with pytest.raises(SimulationError, match='too short to simulate'):
        run(too_fast, make_platform(latencies_ms=(0.1, 0.2, 0.3)), 'fixed')
    day = replace(ALONE, duration_ms=86.4e6)
    with pytest.raises(SimulationError, match=r'alone would get 2.59e\+06 images, too many'):
        run(day, make_platform(latencies_ms=(40.0, 50.0, 60.0)), 'fixed')


def test_unknown_policies_and_options_are_rejected():
    with pytest.raises(SimulationError, match=r"no policy 'best'.*reactive.*alert.*oracle"):
        contender('best')
    with pytest.raises(SimulationError, match='the oracle requires a trace'):
        contender('oracle')
    assert with_options('reactive', {'window': 5, 'hold_s': None}) == PolicySettings(
        'reactive', window=5
    )
    assert with_options('alert', {'window': None}) == 'alert'
    with pytest.raises(SimulationError, match='policy alert has no options, found window'):
        with_options('alert', {'window': 5})
    with pytest.raises(SimulationError, match="no policy 'best'"):
        with_options('best', {'window': 5})
