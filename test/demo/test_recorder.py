import math
from types import SimpleNamespace

import pytest
from demo.records import frame

from dynamic_ofa_ros.demo.recorder import Recorder

START_NS = 1_700_000_000_000_000_000


def header(stamp_ns):
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9))


def answer(stamp_ns, class_id):
    results = [SimpleNamespace(class_id=class_id)] if class_id else []
    return SimpleNamespace(header=header(stamp_ns), results=results)


def telemetry(stamp_ns, **changes):
    record = frame()
    values = {
        name: getattr(record, name)
        for name in record.__dataclass_fields__
        if name not in ('time_s', 'stamp_ns', 'phase', 'has_competitor', 'truth', 'label')
    }
    values.update(
        contended=False, feasible=True, top1_score=0.9, top1_label='stop', header=header(stamp_ns)
    )
    return SimpleNamespace(**{**values, **changes})


def names(*pairs):
    return SimpleNamespace(
        class_map=[SimpleNamespace(class_id=number, class_name=name) for number, name in pairs]
    )


def feed(recorder, time_s, truth='0', label='0', **changes):
    """Give the recorder all messages of a frame stamped at `time_s`."""
    stamp_ns = START_NS + round(time_s * 1e9)
    recorder.add_truth(answer(stamp_ns, truth))
    recorder.add_label(answer(stamp_ns, label))
    recorder.add_telemetry(telemetry(stamp_ns, **changes))


@pytest.fixture
def recorder():
    recorder = Recorder()
    recorder.set_truth_names(names((0, 'stop'), (1, 'yield')))
    recorder.set_label_names(names((0, 'yield'), (1, 'stop')))
    return recorder


def test_labels_are_compared_by_name_not_by_number(recorder):
    recorder.start(START_NS)
    feed(recorder, 1.0, truth='0', label='1')
    feed(recorder, 2.0, truth='0', label='0')
    assert [(f.truth, f.label) for f in recorder.frames] == [('stop', 'stop'), ('stop', 'yield')]
    assert (recorder.tally.correct, recorder.tally.known) == (1, 2)


def test_no_label_at_all_counts_as_wrong(recorder):
    recorder.start(START_NS)
    feed(recorder, 1.0, label='')
    assert recorder.frames[0].is_correct is False


def test_time_is_when_the_label_was_published(recorder):
    recorder.start(START_NS)
    feed(recorder, 1.0, input_age_ms=2.0, end_to_end_ms=30.0)
    feed(recorder, 2.0, input_age_ms=math.nan, end_to_end_ms=30.0)
    assert [f.time_s for f in recorder.frames] == pytest.approx([1.032, 2.030])


def test_frames_belong_to_the_phase_of_their_time_however_late_they_are_handled(recorder):
    recorder.start(START_NS)
    recorder.begin_phase('first', START_NS)
    recorder.begin_phase('second', START_NS + 2 * 10**9)
    recorder.mark_competitor(True, START_NS + 2 * 10**9)
    recorder.mark_competitor(False, START_NS + 3 * 10**9)
    for time_s in (2.5, 1.0, 3.5):
        feed(recorder, time_s)
    recording = recorder.recording(START_NS + 4 * 10**9, {})
    assert [(f.phase, f.has_competitor) for f in recording.frames] == [
        ('first', False),
        ('second', True),
        ('second', False),
    ]
    assert recording.phase_starts_s == (('first', 0.0), ('second', 2.0))
    assert recording.end_s == pytest.approx(4.0)


def test_what_was_measured_while_preparing_is_forgotten(recorder):
    feed(recorder, -1.0)
    assert recorder.has_telemetry
    recorder.add_switch(switch(2, 3), START_NS)
    recorder.start(START_NS)
    recorder.begin_phase('first', START_NS)
    feed(recorder, -0.5)
    feed(recorder, 0.5)
    recording = recorder.recording(START_NS + 10**9, {})
    assert [f.time_s for f in recording.frames] == [pytest.approx(0.5063)]
    assert recording.switches == ()
    assert recording.published_frames == 2
    assert recorder.tally.known == 1


def test_frames_without_truth_are_kept_in_the_recording(recorder):
    recorder.start(START_NS)
    recorder.begin_phase('first', START_NS)
    recorder.add_telemetry(telemetry(START_NS + 10**9))
    assert recorder.frames == []
    (only,) = recorder.recording(START_NS + 2 * 10**9, {}).frames
    assert only.is_correct is None
    assert only.label == 'stop'


def switch(from_level, to_level):
    return SimpleNamespace(
        from_level=from_level, to_level=to_level, reason='why', switch_ms=0.1, feasible=True
    )


def test_the_first_choice_is_no_switch(recorder):
    recorder.start(START_NS)
    recorder.add_switch(switch(0, 5), START_NS)
    recorder.add_switch(switch(5, 3), START_NS + 10**9)
    assert [(s.time_s, s.from_level, s.to_level) for s in recorder.switches] == [(1.0, 5, 3)]


def test_free_run_slowdown_is_the_median_of_the_later_frames(recorder):
    assert math.isnan(recorder.free_run_slowdown())
    recorder.start(START_NS)
    for index, latency_ms in enumerate([40.0, 40.0, 40.0, 5.0, 6.0, 60.0]):
        feed(recorder, float(index), inference_ms=latency_ms, level_latency_ms=4.0)
    assert recorder.free_run_slowdown() == pytest.approx(1.5)


def test_history_reaches_back_some_seconds(recorder):
    recorder.start(START_NS)
    for time_s in range(40):
        feed(recorder, float(time_s))
    history = recorder.history(39.5)
    assert history[0].time_s == pytest.approx(25.0063)
    assert history[-1].time_s == pytest.approx(39.0063)
