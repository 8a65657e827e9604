"""Bags of each kind are read message by message; errors are reported in one sentence."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
import yaml
from bags import BEGIN_NS, PERIOD_NS, drive, drive_with_truth, grey, header, write_bag
from rosbags.rosbag2 import CompressionMode

from dynamic_ofa_ros.errors import RecordingError
from dynamic_ofa_ros.msg import Telemetry
from dynamic_ofa_ros.nodes import conversions
from dynamic_ofa_ros.recordings.bag import Bag
from dynamic_ofa_ros.recordings.messages import class_id_of, named_labels, stamp_of

KINDS = [
    ('mcap', CompressionMode.NONE),
    ('mcap', CompressionMode.STORAGE),
    ('mcap', CompressionMode.MESSAGE),
    ('mcap', CompressionMode.FILE),
    ('sqlite3', CompressionMode.NONE),
    ('sqlite3', CompressionMode.MESSAGE),
    ('sqlite3', CompressionMode.FILE),
]


def storage_file(folder: Path) -> Path:
    (file,) = (file for file in folder.iterdir() if file.suffix in ('.mcap', '.db3'))
    return file


@pytest.mark.parametrize(('storage', 'compression'), KINDS)
def test_messages_are_read_as_they_were_recorded(tmp_path, storage, compression):
    telemetry = Telemetry(header=header(BEGIN_NS), level=3, slowdown=math.nan, top1_label='stop')
    messages = [*drive_with_truth(4), ('/classifier/telemetry', telemetry, BEGIN_NS + 1)]
    path = write_bag(
        tmp_path / 'drive', sorted(messages, key=lambda item: item[2]),
        storage=storage, compression=compression,
    )  # fmt: skip
    with Bag(path) as bag:
        assert bag.topics['/image_raw'] == 'sensor_msgs/msg/Image'
        assert bag.of_type('sensor_msgs/msg/Image') == ['/image_raw']
        found = list(bag.messages({'/image_raw', '/ground_truth'}))
        assert [m.time_ns for m in found if m.topic == '/image_raw'] == [
            BEGIN_NS + number * PERIOD_NS for number in range(4)
        ]
        assert sorted(m.time_ns for m in found) == [m.time_ns for m in found]
        grey = [int(m.value.data[0]) for m in found if m.topic == '/image_raw']
        assert grey == [0, 10, 20, 30]
        truths = [class_id_of(m.value) for m in found if m.topic == '/ground_truth']
        assert truths == [0, 1, 2, 0]
        labels = bag.first('/ground_truth/label_info')
        assert named_labels(labels) == ('stop', 'yield', 'works')
        said = bag.first('/classifier/telemetry')
        assert (said.level, said.top1_label, stamp_of(said.header)) == (3, 'stop', BEGIN_NS)
        assert math.isnan(said.slowdown)
        assert bag.first('/nothing') is None


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_single_file_is_a_bag(tmp_path, storage):
    folder = write_bag(tmp_path / 'drive', drive(3), storage=storage)
    with Bag(storage_file(folder)) as bag:
        assert len(list(bag.messages({'/image_raw'}))) == 3


def test_a_bag_without_definitions_is_read_with_known_definitions(tmp_path):
    """rosbag2 wrote SQLite bags without definitions up to Humble."""
    messages = [
        *drive_with_truth(2),
        ('/classifier/telemetry', Telemetry(level=2, policy='table'), BEGIN_NS + 2 * PERIOD_NS),
    ]
    folder = write_bag(tmp_path / 'drive', messages, storage='sqlite3')
    with sqlite3.connect(storage_file(folder)) as database:
        database.execute('DROP TABLE message_definitions')
        database.execute('DROP TABLE schema')
    database.close()
    with Bag(folder) as bag:
        assert (bag.first('/classifier/telemetry').policy) == 'table'
        assert class_id_of(bag.first('/ground_truth')) == 0
        assert named_labels(bag.first('/ground_truth/label_info'))[1] == 'yield'
        assert bag.first('/image_raw').encoding == 'rgb8'


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_few_messages_are_in_memory_at_a_time(tmp_path, storage):
    frames = 120
    pixels = grey(9, 320, 240)
    messages = drive(
        frames,
        kind=lambda number: conversions.image_message(pixels, header(BEGIN_NS + number), 'rgb8'),
    )
    folder = write_bag(tmp_path / 'drive', messages, storage=storage)
    size = storage_file(folder).stat().st_size
    assert size > frames * pixels.nbytes
    with Bag(folder) as bag:
        tracemalloc.start()
        try:
            count = sum(1 for _ in bag.messages({'/image_raw'}))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count == frames
    assert peak < size / 4


# Errors.


def sentence(path: Path) -> str:
    """Return the error that reading a whole bag raises."""
    with pytest.raises(RecordingError) as caught, Bag(path) as bag:
        for _ in bag.messages(bag.topics):
            pass
    text = str(caught.value)
    assert str(path) in text
    assert '\n' not in text
    assert len(text) - text.count(str(path)) * len(str(path)) <= 200
    return text


EXPECTED = 'give the folder of a rosbag2 recording, or its .mcap or .db3 file'


def folder_with_a_file(path):
    path.mkdir()
    (path / 'a.jpg').touch()


@pytest.mark.parametrize(
    ('make', 'problem'),
    [
        (lambda path: None, 'does not exist'),
        (Path.mkdir, 'is empty'),
        (folder_with_a_file, 'has no metadata.yaml'),
        (Path.touch, 'is not a recording'),
        (os.mkfifo, 'is not a recording'),
    ],
)
def test_what_is_no_bag_is_named_with_what_is_expected(tmp_path, make, problem):
    make(tmp_path / 'drive')
    assert sentence(tmp_path / 'drive').endswith(f'drive {problem}; {EXPECTED}')


def test_the_error_for_a_folder_without_metadata_names_the_file_to_read(tmp_path):
    folder = write_bag(tmp_path / 'drive', drive(2))
    (folder / 'metadata.yaml').unlink()
    text = sentence(folder)
    assert 'drive.mcap' in text
    assert f'ros2 bag reindex {folder}' in text


def test_the_error_for_an_incomplete_recording_says_how_to_recover_it(tmp_path):
    folder = write_bag(tmp_path / 'drive', drive(20))
    file = storage_file(folder)
    file.write_bytes(file.read_bytes()[:-3000])
    assert f'mcap recover {file}' in sentence(folder)
    assert f'mcap recover {file}' in sentence(file)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('keep', [0, 10, 0.5])
def test_truncated_files_are_reported(tmp_path, storage, keep):
    folder = write_bag(tmp_path / 'drive', drive(200), storage=storage)
    file = storage_file(folder)
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    sentence(folder)
    sentence(file)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_damaged_bytes_are_reported_or_ignored(tmp_path, storage):
    """Reading ends with all messages, fewer messages or an error, whichever bytes are damaged."""
    folder = write_bag(tmp_path / 'drive', drive(30), storage=storage)
    file = storage_file(folder)
    data, damages = file.read_bytes(), 40
    problems = 0
    for number in range(damages):
        begin = number * len(data) // damages
        file.write_bytes(data[:begin] + b'\xff' * 64 + data[begin + 64 :])
        try:
            with Bag(folder) as bag:
                assert len(list(bag.messages({'/image_raw'}))) <= 30
        except RecordingError:
            problems += 1
    assert problems > 0


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'compression_mode': 'file', 'compression_format': 'lz9'}, 'lz9'),
        ({'storage_identifier': 'tape'}, 'tape'),
        ({'version': 99}, '99'),
        ({'relative_file_paths': ['gone.mcap']}, 'gone.mcap'),
        ({'message_count': None, 'duration': None}, 'metadata'),
    ],
)
def test_unsupported_metadata_is_reported(tmp_path, changes, words):
    folder = write_bag(tmp_path / 'drive', drive(2))
    file = folder / 'metadata.yaml'
    document = yaml.safe_load(file.read_text())
    document['rosbag2_bagfile_information'].update(changes)
    file.write_text(yaml.safe_dump(document))
    assert words in sentence(folder)


def test_invalid_yaml_metadata_is_reported(tmp_path):
    folder = write_bag(tmp_path / 'drive', drive(2))
    (folder / 'metadata.yaml').write_text('{')
    sentence(folder)
    (folder / 'metadata.yaml').write_text('')
    sentence(folder)


def test_a_moved_bag_is_read(tmp_path):
    folder = write_bag(tmp_path / 'drive', drive(2))
    shutil.move(folder, tmp_path / 'moved')
    with Bag(tmp_path / 'moved') as bag:
        assert len(list(bag.messages({'/image_raw'}))) == 2
