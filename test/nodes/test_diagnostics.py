from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.nodes.diagnostics import (
    Diagnostician,
    InputMonitor,
    InputSnapshot,
    Severity,
    Snapshot,
    idle_statuses,
)
from dynamic_ofa_ros.runtime.decisions import ManagerState

NAN = math.nan
SECOND_NS = 1_000_000_000
MANAGER = ManagerState(
    level=3,
    policy='reactive',
    is_feasible=True,
    is_contended=False,
    slowdown=1.0,
    latency_ms=2.0,
    predicted_latency_ms=2.0,
    violations=0,
    consecutive_violations=0,
    switch_count=0,
    reason='quiet',
    constraints=Constraints(),
)
LIMITED = replace(MANAGER, constraints=Constraints(max_latency_ms=5.0, quantile=0.9))
RECEIVING = InputSnapshot(
    frames=100, rate_node_hz=30.0, rate_msg_hz=29.0, delay_ms=4.0, silence_s=0.01
)
FIRST = Snapshot(
    time_ns=0,
    input=RECEIVING,
    topic='/image_raw',
    manager=MANAGER,
    last=None,
    is_enabled=True,
    publishers=1,
    qos_problem='',
    processed_frames=100,
    lost_frames=0,
    dropped_frames=2,
    dropped_old=0,
    dropped_age_ms=NAN,
    max_frame_age_ms=0.0,
    rejected={},
    rejection='step is 1 byte',
    failed_frames=0,
    inference_error='',
    rejected_constraints=0,
    level_count=5,
    level_accuracy=0.8,
)


def later(snapshot=FIRST, **changes):
    return replace(snapshot, time_ns=snapshot.time_ns + SECOND_NS, **changes)


def diagnose(*snapshots):
    """Return the statuses of the last snapshot by task."""
    diagnostician = Diagnostician()
    for snapshot in snapshots:
        statuses = diagnostician.diagnose(snapshot)
    return {status.task: status for status in statuses}


def test_four_tasks_are_well_and_have_bare_numbers():
    statuses = diagnose(FIRST, later())
    assert list(statuses) == ['Latency', 'Input', 'Runtime manager', 'Device']
    for status in statuses.values():
        assert status.severity is Severity.OK
        assert status.message
        assert all(isinstance(value, (int, float)) for value in status.values.values())


def test_input_has_the_keys_that_other_tools_read():
    values = diagnose(FIRST)['Input'].values
    assert values['frame_rate_node'] == 30.0
    assert values['frame_rate_msg'] == 29.0
    assert values['current_delay_from_realtime_ms'] == 4.0
    assert values['total_dropped_frames'] == 2
    assert math.isnan(values['expected_frequency'])


@pytest.mark.parametrize(
    ('violations', 'severity'), [(0, Severity.OK), (10, Severity.OK), (11, Severity.WARN)]
)
def test_latency_warns_when_more_frames_than_allowed_break_the_limit(violations, severity):
    before = replace(FIRST, manager=LIMITED)
    after = later(before, processed_frames=200, manager=replace(LIMITED, violations=violations))
    status = diagnose(before, after)['Latency']
    assert status.severity is severity
    assert status.values['violation_ratio'] == pytest.approx(violations / 100)


def test_old_violations_are_forgotten():
    snapshots = [
        replace(FIRST, manager=LIMITED),
        later(processed_frames=200, manager=replace(LIMITED, violations=100)),
    ]
    for _ in range(6):
        last = snapshots[-1]
        snapshots.append(later(last, processed_frames=last.processed_frames + 100))
    assert diagnose(*snapshots[:2])['Latency'].severity is Severity.WARN
    assert diagnose(*snapshots)['Latency'].severity is Severity.OK


def test_manager_warns_when_infeasible_and_says_why():
    state = replace(MANAGER, is_feasible=False, reason='no level meets the limit of 0.10 ms')
    status = diagnose(replace(FIRST, manager=state))['Runtime manager']
    assert status.severity is Severity.WARN
    assert '0.10 ms' in status.message
    assert status.values['feasible'] == 0.0


@pytest.mark.parametrize(
    ('changes', 'severity', 'word'),
    [
        ({'input': replace(RECEIVING, silence_s=2.5)}, Severity.WARN, 'no image for 2 s'),
        ({'input': InputSnapshot()}, Severity.WARN, 'no image yet'),
        ({'input': replace(RECEIVING, silence_s=2.5), 'publishers': 0}, Severity.WARN, '0 publis'),
        ({'input': InputSnapshot(), 'publishers': 0}, Severity.OK, 'waiting for a publisher'),
        ({'qos_problem': 'incompatible DURABILITY'}, Severity.WARN, 'incompatible DURABILITY'),
        ({'lost_frames': 7}, Severity.WARN, '7 image(s) lost in transport'),
        (
            {'dropped_old': 30, 'dropped_age_ms': 5e6, 'max_frame_age_ms': 100.0},
            Severity.WARN,
            'every image is dropped, 5000000 ms old: raise max_frame_age_ms (100)',
        ),
        ({'dropped_old': 30, 'processed_frames': 101}, Severity.OK, 'receiving'),
        ({'input': InputSnapshot(), 'is_enabled': False}, Severity.OK, 'disabled'),
        ({'input': InputSnapshot(open_s=0.5)}, Severity.OK, 'waiting for a publisher'),
        ({'input': InputSnapshot(open_s=2.5)}, Severity.WARN, 'no image yet'),
        ({'input': InputSnapshot(open_s=NAN)}, Severity.OK, 'not active'),
        ({'input': replace(RECEIVING, silence_s=9.0, open_s=NAN)}, Severity.OK, 'not active'),
        ({'input': replace(RECEIVING, zero_stamps=1)}, Severity.WARN, 'no stamp'),
        ({'input': replace(RECEIVING, future_stamps=1)}, Severity.WARN, 'future'),
        (
            {'rejected': {'step': 2, 'size': 1}},
            Severity.WARN,
            '3 image(s) rejected: step is 1 byte',
        ),
    ],
)
def test_input_warns(changes, severity, word):
    status = diagnose(FIRST, later(**changes))['Input']
    assert status.severity is severity
    assert word in status.message


def test_rejected_images_are_counted_by_cause_and_warned_of_once():
    damaged = later(rejected={'encoding': 3})
    assert diagnose(FIRST, damaged)['Input'].values['rejected_encoding'] == 3
    assert diagnose(FIRST, damaged, later(damaged))['Input'].severity is Severity.OK


def test_damage_in_the_first_second_is_warned_of_too():
    assert diagnose(replace(FIRST, rejected={'step': 1}))['Input'].severity is Severity.WARN


def test_a_problem_is_logged_when_it_begins_and_not_again():
    diagnostician = Diagnostician()
    logged = []
    for silence_s in (0.1, 3.0, 4.0, 0.1, 3.0):
        diagnostician.diagnose(later(input=replace(RECEIVING, silence_s=silence_s)))
        logged.append(len(diagnostician.new_warnings()))
    assert logged == [0, 1, 0, 0, 1]


def test_throughput_falls_to_zero_with_a_dead_camera():
    last = SimpleNamespace(throughput_hz=30.0)
    for name in ('inference', 'processing', 'executor_wait', 'queue_wait', 'node', 'end_to_end'):
        setattr(last, f'{name}_ms', 1.0)
    last.latency_p50_ms = last.latency_p95_ms = last.last_switch_ms = 1.0
    alive = replace(FIRST, last=last)
    dead = later(alive, input=replace(RECEIVING, silence_s=3.0))
    assert diagnose(alive)['Latency'].values['throughput_hz'] == 30.0
    assert diagnose(alive, dead)['Latency'].values['throughput_hz'] == 0.0


def test_a_node_that_is_not_configured_says_what_it_is_doing():
    (status,) = idle_statuses('measuring level 3')
    assert status.severity is Severity.OK
    assert status.message == 'configuring: measuring level 3'
    assert idle_statuses('')[0].message == 'not configured'


def test_device_is_in_error_when_inference_failed_since_the_last_time():
    failed = later(failed_frames=1, inference_error='out of memory')
    status = diagnose(FIRST, failed)['Device']
    assert status.severity is Severity.ERROR
    assert 'out of memory' in status.message
    assert diagnose(FIRST, failed, later(failed))['Device'].severity is Severity.OK


def test_device_warns_of_what_could_not_be_had():
    status = diagnose(replace(FIRST, engine_notes=('no GPU, so the CPU',)))['Device']
    assert status.severity is Severity.WARN
    assert 'no GPU' in status.message


def test_monitor_measures_rates_by_arrival_and_by_stamp():
    monitor = InputMonitor()
    for frame in range(10):
        stamp_ns = 10 * SECOND_NS + frame * 50_000_000
        age_ms = monitor.add(frame * 100_000_000, stamp_ns, stamp_ns + 7_000_000)
    assert age_ms == pytest.approx(7.0)
    found = monitor.snapshot(1_000_000_000)
    assert found.frames == 10
    assert found.rate_node_hz == pytest.approx(10.0)
    assert found.rate_msg_hz == pytest.approx(20.0)
    assert found.delay_ms == pytest.approx(7.0)
    assert found.silence_s == pytest.approx(0.1)


def test_monitor_knows_no_rate_of_a_silent_topic():
    monitor = InputMonitor()
    for frame in range(5):
        monitor.add(frame, SECOND_NS + frame, SECOND_NS)
    assert math.isnan(monitor.snapshot(3 * SECOND_NS).rate_node_hz)


def test_rates_start_anew_when_a_bag_does():
    monitor = InputMonitor()
    for frame in range(40):
        stamp_ns = 10 * SECOND_NS + frame % 20 * 50_000_000
        monitor.add(frame * 50_000_000, stamp_ns, stamp_ns)
    found = monitor.snapshot(40 * 50_000_000)
    assert found.rate_msg_hz == pytest.approx(20.0)
    assert found.rate_node_hz == pytest.approx(20.0)


def test_rates_and_silence_start_anew_when_the_node_is_activated_again():
    monitor = InputMonitor()
    assert math.isnan(monitor.snapshot(0).open_s)
    monitor.open(0)
    for frame in range(10):
        monitor.add(frame * 100_000_000, SECOND_NS + frame * 100_000_000, 2 * SECOND_NS)
    monitor.close()
    assert math.isnan(monitor.snapshot(60 * SECOND_NS).open_s)
    monitor.open(60 * SECOND_NS)
    found = monitor.snapshot(61 * SECOND_NS)
    assert (found.frames, found.open_s, found.silence_s) == (10, 1.0, math.inf)
    for frame in range(10):
        time_ns = 61 * SECOND_NS + frame * 100_000_000
        monitor.add(time_ns, time_ns, time_ns)
    found = monitor.snapshot(62 * SECOND_NS)
    assert found.rate_node_hz == pytest.approx(10.0)
    assert found.rate_msg_hz == pytest.approx(10.0)


def test_monitor_counts_zero_and_future_stamps():
    monitor = InputMonitor()
    assert math.isnan(monitor.add(1, 0, SECOND_NS))
    assert monitor.add(2, 2 * SECOND_NS, SECOND_NS) == pytest.approx(-1000.0)
    # Simulated time has not started: the age is unknown, without a warning.
    assert math.isnan(monitor.add(3, 2 * SECOND_NS, 0))
    found = monitor.snapshot(4)
    assert (found.zero_stamps, found.future_stamps) == (1, 1)
