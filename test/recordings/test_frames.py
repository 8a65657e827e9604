"""The CSV file with one row per image."""

import csv
import math

from demo.made_up import frame, unanswered

from dynamic_ofa_ros.recordings.frames import write_frames
from dynamic_ofa_ros.recordings.measures import Run, measure


def test_the_csv_has_a_row_per_image_and_blanks_for_missing_values(tmp_path):
    path = tmp_path / 'frames.csv'
    write_frames([frame(label='yield', latency_ms=20.0), unanswered(limit_ms=math.nan)], path)
    with path.open() as file:
        wrong, missing = csv.DictReader(file)
    assert (wrong['is_late'], wrong['is_right'], wrong['latency_ms']) == ('1', '0', '20')
    assert missing['latency_ms'] == missing['inference_ms'] == missing['limit_ms'] == ''


def test_the_share_of_right_answers_is_unknown_without_the_truth():
    unknown = frame(truth='', latency_ms=8.0)
    assert math.isnan(measure(Run('x', 1.0, [unknown])).right_on_time)
    assert unknown.by_level.accuracy == 0.97
    assert unanswered().by_level.accuracy == 0.0
