import csv
import dataclasses
import math

import pytest
from demo.records import frame, synthetic_recording

from dynamic_ofa_ros.demo.recording import (
    RecordingError,
    competitor_spans,
    phases_of,
    read_frames,
    write_frames,
)


def test_frames_survive_the_file(tmp_path):
    frames = [
        frame(time_s=1.5, label='a, "b"\nc', truth='', max_latency_ms=2.25, is_feasible=False),
        frame(stamp_ns=1_795_195_154_052_922_654, inference_ms=math.nan),
    ]
    path = tmp_path / 'telemetry.csv'
    write_frames(frames, path)
    for before, after in zip(frames, read_frames(path), strict=True):
        for item in dataclasses.fields(before):
            old, new = getattr(before, item.name), getattr(after, item.name)
            assert type(old) is type(new)
            assert new == old or (math.isnan(new) and math.isnan(old)), item.name


def test_the_file_says_what_was_right_and_what_was_late(tmp_path):
    path = tmp_path / 'telemetry.csv'
    write_frames(
        [
            frame(truth='stop', label='stop', inference_ms=3.0, max_latency_ms=2.0),
            frame(truth='stop', label='yield', inference_ms=1.0, max_latency_ms=2.0),
            frame(truth='', inference_ms=9.0),
        ],
        path,
    )
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['is_correct'] for row in rows] == ['1', '0', '']
    assert [row['is_violation'] for row in rows] == ['1', '0', '0']
    assert rows[2]['max_latency_ms'] == ''


def test_damaged_files_are_named_with_line_and_column(tmp_path):
    path = tmp_path / 'telemetry.csv'
    write_frames([frame(), frame(level=4)], path)
    lines = path.read_text().splitlines()
    column = lines[0].split(',').index('level')
    cells = lines[2].split(',')
    cells[column] = 'four'
    path.write_text('\n'.join([*lines[:2], ','.join(cells)]))
    with pytest.raises(RecordingError, match=r"telemetry\.csv:3: level is 'four'"):
        read_frames(path)
    path.write_text('time_s,level\n1.0,2\n')
    with pytest.raises(RecordingError, match=':2: there is no value for column stamp_ns'):
        read_frames(path)
    with pytest.raises(RecordingError, match='does not exist'):
        read_frames(tmp_path / 'other.csv')


def test_spans_of_phases_and_of_the_competitor():
    recording = synthetic_recording(20.0)
    spans = phases_of(recording.frames)
    assert [name for name, _, _ in spans] == [name for name, _ in recording.phase_starts_s]
    for (_, begin_s, _), (_, start_s) in zip(spans, recording.phase_starts_s, strict=True):
        assert begin_s == pytest.approx(start_s, abs=0.04)
    ((begin_s, end_s),) = competitor_spans(recording.frames)
    assert begin_s == pytest.approx(0.37 * 20.0, abs=0.04)
    assert end_s == pytest.approx(0.65 * 20.0, abs=0.04)


def test_a_competitor_that_comes_twice_gives_two_spans():
    frames = [frame(time_s=t, has_competitor=t in (1, 2, 5)) for t in range(7)]
    assert competitor_spans(frames) == ((1, 2), (5, 5))
    assert competitor_spans([]) == ()
