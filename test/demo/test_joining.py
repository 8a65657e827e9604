from types import SimpleNamespace

from dynamic_ofa_ros.demo.joining import FrameJoiner

TELEMETRY = SimpleNamespace(top1_label='from telemetry')


def test_messages_join_by_stamp_in_any_order():
    joiner = FrameJoiner()
    assert joiner.add_telemetry(1, TELEMETRY) == []
    assert joiner.add_truth(2, 'b') == []
    assert joiner.add_label(1, 'x') == []
    (first,) = joiner.add_truth(1, 'a')
    assert (first.stamp_ns, first.truth, first.label) == (1, 'a', 'x')
    assert first.telemetry is TELEMETRY
    assert joiner.add_label(2, 'y') == []
    (second,) = joiner.add_telemetry(2, TELEMETRY)
    assert (second.truth, second.label) == ('b', 'y')
    assert joiner.flush() == []


def test_an_empty_label_is_a_label():
    joiner = FrameJoiner()
    joiner.add_truth(1, 'a')
    joiner.add_telemetry(1, TELEMETRY)
    (joined,) = joiner.add_label(1, '')
    assert joined.label == ''


def test_frames_that_were_never_classified_are_forgotten():
    joiner = FrameJoiner(pending_max=3)
    for stamp in range(10):
        assert joiner.add_truth(stamp, 'a') == []
    assert joiner.flush() == []


def test_a_frame_without_truth_goes_out_when_it_has_waited_long_enough():
    joiner = FrameJoiner(pending_max=3)
    joiner.add_telemetry(0, TELEMETRY)
    out = [joined for stamp in (1, 2, 3) for joined in joiner.add_truth(stamp, 'a')]
    assert [(j.stamp_ns, j.truth, j.label) for j in out] == [(0, '', 'from telemetry')]


def test_flush_returns_what_still_waits():
    joiner = FrameJoiner()
    joiner.add_telemetry(1, TELEMETRY)
    joiner.add_label(1, 'x')
    joiner.add_truth(2, 'a')
    assert [(j.stamp_ns, j.label) for j in joiner.flush()] == [(1, 'x')]
