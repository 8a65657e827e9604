"""Messages of camera and classifier are joined by the stamp of their image."""

import time
from types import SimpleNamespace

from dynamic_ofa_ros.demo.recording import ANSWER_WITHIN_S, Recorder

SECOND_NS = 10**9


def header(stamp_ns):
    stamp = SimpleNamespace(sec=stamp_ns // SECOND_NS, nanosec=stamp_ns % SECOND_NS)
    return SimpleNamespace(stamp=stamp)


def truth(stamp_ns, class_id):
    results = [SimpleNamespace(class_id=str(class_id))]
    return SimpleNamespace(header=header(stamp_ns), results=results)


def telemetry(stamp_ns, label, **values):
    values = {
        'level': 2, 'level_accuracy': 0.9, 'node_ms': 5.0, 'inference_ms': 3.0,
        'max_latency_ms': 8.0, **values,
    }  # fmt: skip
    return SimpleNamespace(header=header(stamp_ns), top1_label=label, **values)


def test_truth_and_answer_are_joined_in_any_order_and_an_answer_may_be_missing():
    recorder = Recorder(['stop', 'yield'])
    begin_ns = time.time_ns() - 60 * SECOND_NS
    recorder.add_telemetry(telemetry(begin_ns, 'stop'))
    recorder.add_truth(truth(begin_ns, 0))
    recorder.add_truth(truth(begin_ns + SECOND_NS, 1))
    recorder.add_truth(truth(begin_ns + 2 * SECOND_NS, 1))
    recorder.add_telemetry(telemetry(begin_ns + 2 * SECOND_NS, 'stop', node_ms=9.0))
    recorder.add_truth(truth(begin_ns + 9 * SECOND_NS, 1))
    end_ns = begin_ns + 5 * SECOND_NS
    right, missing, wrong = recorder.frames('x', begin_ns, end_ns, begin_ns, [(1.5, 9.0)])
    assert (right.is_right, right.is_late, right.is_loaded) == (True, False, False)
    assert (missing.is_answered, missing.is_late, missing.is_right) == (False, True, False)
    assert (wrong.is_right, wrong.is_late, wrong.is_loaded) == (False, True, True)
    assert [f.time_s for f in (right, missing, wrong)] == [0.0, 1.0, 2.0]
    assert (wrong.truth, wrong.label) == ('yield', 'stop')


def test_an_image_that_may_still_be_answered_is_left_out():
    recorder = Recorder(['stop'])
    now_ns = time.time_ns()
    old_ns = now_ns - round((ANSWER_WITHIN_S + 1.0) * SECOND_NS)
    recorder.add_truth(truth(old_ns, 0))
    recorder.add_truth(truth(now_ns - SECOND_NS // 100, 0))
    frames = recorder.frames('x', old_ns, now_ns, old_ns)
    assert [f.time_s for f in frames] == [0.0]


def test_switches_have_reasons_and_the_first_level_is_not_a_switch():
    recorder = Recorder([])
    for from_level, stamp_ns in ((0, 5), (3, SECOND_NS), (2, 9 * SECOND_NS)):
        message = SimpleNamespace(
            header=header(stamp_ns), from_level=from_level, to_level=1, reason='late'
        )
        recorder.add_switch(message)
    (switch,) = recorder.switches(0, 5 * SECOND_NS, 0)
    assert (switch.time_s, switch.from_level, switch.reason) == (1.0, 3, 'late')
