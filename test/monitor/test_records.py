"""The records of classifiers have a limited size and are valid JSON for every message."""

from __future__ import annotations

import json
import math
import time

import pytest

from dynamic_ofa_ros.monitor.records import (
    FRAME_FIELDS,
    MAX_FRAMES,
    MAX_LABEL,
    MAX_SWITCHES,
    RECENT_FRAMES,
    Records,
    frame_of,
)
from dynamic_ofa_ros.msg import ActiveLevel, Level, LevelArray, Telemetry

NAN = math.nan
NAME = '/front/classifier'
PLATFORM = 'cpu-test'


def telemetry(**fields):
    message = Telemetry(level=2, level_count=3, platform=PLATFORM, top1_label='stop')
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def all_nan():
    fields = Telemetry.get_fields_and_field_types()
    return telemetry(**{name: NAN for name, kind in fields.items() if kind == 'double'})


def table(latencies_ms=(2.0, 4.0, 10.0)):
    levels = [
        Level(index=i, accuracy=0.1 * i, latency_ms=ms, latencies_ms=[ms, 2.0 * ms])
        for i, ms in enumerate(latencies_ms, start=1)
    ]
    return LevelArray(family='test', platforms=[PLATFORM, 'gpu-test'], levels=levels)


@pytest.fixture
def records():
    return Records()


@pytest.fixture
def record(records):
    return records.create(NAME)


def updated(records, cursor):
    """Return the update that a page receives."""
    return json.loads(json.dumps(records.update(cursor), allow_nan=False))


def test_a_page_receives_everything_once(records, record):
    record.add_levels(table())
    record.set_parameters({'x': {'name': 'x', 'value': 1.0}})
    record.add_telemetry(telemetry(sequence=1), 100.0)
    record.add_switch(ActiveLevel(from_level=1, to_level=2, reason='safe'), 100.0)
    cursor = {}
    (first,) = updated(records, cursor)
    assert first['name'] == NAME
    assert [level['index'] for level in first['levels']] == [1, 2, 3]
    assert first['parameters'] == [{'name': 'x', 'value': 1.0}]
    assert len(first['frames']) == len(first['switches']) == 1
    (second,) = updated(records, cursor)
    assert second['frames'] == second['switches'] == []
    assert {'levels', 'parameters'}.isdisjoint(second)
    record.add_telemetry(telemetry(sequence=2), 100.1)
    (third,) = updated(records, cursor)
    assert [frame[0] for frame in third['frames']] == [100.1]
    assert third['latest']['sequence'] == 2


def test_pages_are_independent(records, record):
    record.add_telemetry(telemetry(), 100.0)
    early, late = {}, {}
    updated(records, early)
    assert len(updated(records, late)[0]['frames']) == 1


def test_the_news_of_a_classifier_outside_the_window_wait(records, record):
    records.create('/other')
    cursor = {}
    records.update(cursor)
    for time_s in (1.0, 2.0):
        record.add_telemetry(telemetry(), time_s)
        entry, other = records.update(cursor, {'/other'})
        assert entry == {'name': NAME}
        assert other['alive']
    entry, other = records.update(cursor, {NAME})
    assert [frame[0] for frame in entry['frames']] == [1.0, 2.0]
    assert other == {'name': '/other'}


def test_a_picture_is_sent_only_if_a_classifier_of_its_topic_is_in_the_window(records, record):
    record.image_topic = '/image'
    records.set_picture('/image', b'jpeg', (0, 0))
    assert records.pictures(0, {'/other'}) == []
    ((_, answers),) = records.pictures(0, {NAME, '/other'})
    assert list(answers) == [NAME]
    assert records.is_topic_shown('/image')
    records.shown = frozenset(['/other'])
    assert not records.is_topic_shown('/image')


def test_records_do_not_grow_without_limit(records, record):
    for number in range(2 * MAX_FRAMES):
        record.add_telemetry(telemetry(sequence=number), float(number))
        record.add_switch(ActiveLevel(to_level=1), float(number))
    assert len(record.frames) == MAX_FRAMES
    assert len(record.switches) == MAX_SWITCHES
    assert len(record.answers) == RECENT_FRAMES
    (entry,) = updated(records, {})
    assert len(entry['frames']) == MAX_FRAMES
    assert entry['frames'][-1][0] == 2 * MAX_FRAMES - 1
    cursor = {NAME: (5, 5, 0, 0)}  # a page that has missed many frames
    (entry,) = updated(records, cursor)
    assert len(entry['frames']) == MAX_FRAMES
    assert len(entry['switches']) == MAX_SWITCHES


def test_nan_becomes_null(records, record):
    record.add_levels(table((NAN, math.inf, 1.0)))
    record.set_parameters({'x': {'name': 'x', 'value': 1.0}})
    record.set_values([('x', NAN), ('unknown', 1.0)])
    record.add_telemetry(all_nan(), 100.0)
    record.add_switch(ActiveLevel(switch_ms=NAN, slowdown=math.inf), 100.0)
    (entry,) = updated(records, {})
    values = dict(zip(FRAME_FIELDS, entry['frames'][0], strict=True))
    assert {name for name, value in values.items() if value is not None} == {'time_s', 'level'}
    assert entry['latest']['slowdown'] is None
    assert entry['parameters'] == [{'name': 'x', 'value': None}]
    assert entry['predictions_ms'] == [None, None, None]


def test_stages_of_a_frame_add_up_to_its_latency():
    message = telemetry(
        input_age_ms=3.0, executor_wait_ms=1.0, queue_wait_ms=0.5, preprocess_ms=2.0,
        inference_ms=5.0, postprocess_ms=0.25, node_ms=9.0, end_to_end_ms=12.0,
    )  # fmt: skip
    frame = dict(zip(FRAME_FIELDS, frame_of(message, 0.0), strict=True))
    assert frame['publish_ms'] == 0.25
    stages = [value for name, value in frame.items() if name.endswith('_ms')][:7]
    assert sum(stages) == frame['end_to_end_ms']
    without_arrival = telemetry(executor_wait_ms=NAN, inference_ms=5.0, node_ms=5.5)
    assert frame_of(without_arrival, 0.0)[FRAME_FIELDS.index('publish_ms')] == 0.5


@pytest.mark.parametrize(
    ('scope', 'expected'), [('node', [11.0, 19.0, 43.0]), ('inference', [9.5, 19.0, 47.5])]
)
def test_predictions_scale_with_inference_only(record, scope, expected):
    """Level 2, with 4 ms in the profile, is predicted to take 19 ms, 3 ms outside inference."""
    record.add_levels(table())
    parameter = 'constraints.latency_scope'
    record.set_parameters({parameter: {'name': parameter, 'value': scope}})
    frame = telemetry(inference_ms=8.0, node_ms=11.0, predicted_latency_ms=19.0)
    record.add_telemetry(frame, 100.0)
    assert record.predictions_ms() == expected


def test_predictions_use_the_profile_of_the_active_platform(record):
    record.add_levels(table())
    record.add_telemetry(telemetry(platform='gpu-test', predicted_latency_ms=8.0), 100.0)
    assert record.predictions_ms() == [4.0, 8.0, 20.0]
    record.add_telemetry(telemetry(platform='unknown', predicted_latency_ms=8.0), 100.0)
    assert record.predictions_ms() == [None, None, None]


def test_a_level_beyond_the_table_has_no_predictions(record):
    record.add_levels(table())
    record.add_telemetry(telemetry(level=9, predicted_latency_ms=8.0), 100.0)
    assert record.predictions_ms() == [None, None, None]


def test_a_picture_is_sent_with_the_answer_of_its_frame(records, record):
    record.image_topic = '/image'
    for second, label in ((1, 'stop'), (2, 'yield'), (3, 'left')):
        message = telemetry(top1_label=label, top1_score=0.5)
        message.header.stamp.sec = second
        record.add_telemetry(message, float(second))
    last = 0
    for stamp, label in (((2, 0), 'yield'), ((7, 0), 'left'), ((0, 0), 'left')):
        records.set_picture('/image', b'jpeg', stamp)
        ((picture, answers),) = records.pictures(last)
        assert picture.jpeg == b'jpeg'
        assert {name: answer['label'] for name, answer in answers.items()} == {NAME: label}
        last = picture.number
        assert records.pictures(last) == []


def test_a_picture_waits_for_the_labels_of_the_running_classifiers_of_its_topic(records):
    names = '/a', '/b', '/stopped', '/other', '/new'
    a, b, stopped, other, _ = (records.create(name) for name in names)
    for record in (a, b, stopped):
        record.image_topic = '/front'
    now_s = time.time()

    def answer(record, sec, time_s=now_s):
        message = telemetry()
        message.header.stamp.sec = sec
        record.add_telemetry(message, time_s)

    answer(stopped, 1, now_s - 10.0)
    answer(other, 1)
    answer(a, 5)
    answer(b, 4)
    assert records.is_answered('/front', (4, 0))
    assert not records.is_answered('/front', (5, 0))
    answer(b, 6)  # has skipped the image
    assert records.is_answered('/front', (5, 0))
    assert not records.is_answered('/front', (6, 1))


def test_a_picture_is_sent_once_for_all_classifiers_of_a_topic(records):
    for name, topic in (('/a', '/front'), ('/b', '/front'), ('/c', '/rear')):
        records.create(name).image_topic = topic
    records.set_picture('/rear', b'rear', (1, 0))
    records.set_picture('/front', b'old', (1, 0))
    records.set_picture('/front', b'front', (2, 0))
    found = [(picture.jpeg, list(answers)) for picture, answers in records.pictures(0)]
    assert found == [(b'rear', ['/c']), (b'front', ['/a', '/b'])]
    records.remove_picture('/rear')
    assert [picture.jpeg for picture, _ in records.pictures(0)] == [b'front']


def test_without_a_class_above_the_threshold_the_label_is_empty(record):
    record.add_telemetry(telemetry(top1_class_id=-1), 1.0)
    assert record.answer_to((0, 0))['label'] == ''


def test_a_long_label_is_truncated(record):
    record.add_telemetry(telemetry(top1_class_id=1, top1_label='x' * 70_000), 100.0)
    assert len(record.answer_to((0, 0))['label']) == MAX_LABEL


def test_a_removed_classifier_is_not_sent_to_pages(records, record):
    record.set_parameters({'x': {'name': 'x', 'value': 1.0}})
    assert records.parameter(NAME, 'x') == {'name': 'x', 'value': 1.0}
    assert records.parameter(NAME, 'y') is None
    cursor = {}
    updated(records, cursor)
    records.remove(NAME)
    assert updated(records, cursor) == []
    assert cursor == {}
    assert records.parameter(NAME, 'x') is None
