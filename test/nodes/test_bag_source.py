"""Images of a bag: times, stamps, true classes and error messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bags import BEGIN_NS, PERIOD_NS, drive, drive_with_truth, header, image, jpeg, write_bag
from sensor_msgs.msg import CompressedImage, Image

from dynamic_ofa_ros.errors import RecordingError
from dynamic_ofa_ros.nodes.bag_source import BagSource
from dynamic_ofa_ros.nodes.camera_sources import SourceError
from dynamic_ofa_ros.recordings.messages import stamp_of

PERIOD_S = PERIOD_NS / 1e9


def first_of(count, path, **options):
    return list(itertools.islice(BagSource(str(path), **options).pictures(), count))


def all_of(path, **options):
    return list(BagSource(str(path), loop=False, **options).pictures())


@pytest.mark.parametrize('kind', [image, jpeg])
def test_images_are_yielded_in_order_with_their_recording_times(tmp_path, kind):
    pictures = all_of(write_bag(tmp_path / 'drive', drive(5, kind=kind)))
    assert [p.rgb.shape for p in pictures] == [(12, 16, 3)] * 5
    assert [int(p.rgb[0, 0, 0]) for p in pictures] == pytest.approx([0, 10, 20, 30, 40], abs=1)
    assert [p.due_s for p in pictures] == pytest.approx([n * PERIOD_S for n in range(5)])
    assert {(p.stamp_ns, p.frame_id, p.class_id) for p in pictures} == {(None, '', -1)}


@pytest.mark.parametrize('rate', [0.5, 4.0])
def test_the_rate_divides_the_times(tmp_path, rate):
    path = write_bag(tmp_path / 'drive', drive(3))
    due_s = [p.due_s for p in all_of(path, rate=rate)]
    assert due_s == pytest.approx([n * PERIOD_S / rate for n in range(3)])


def test_a_loop_continues_one_period_after_the_last_image(tmp_path):
    path = write_bag(tmp_path / 'drive', drive(3))
    pictures = first_of(7, path)
    assert [p.due_s for p in pictures] == pytest.approx([n * PERIOD_S for n in range(7)])
    assert [int(p.rgb[0, 0, 0]) for p in pictures] == [0, 10, 20, 0, 10, 20, 0]


def test_a_bag_with_a_single_image_repeats_it_every_second(tmp_path):
    path = write_bag(tmp_path / 'drive', drive(1))
    assert [p.due_s for p in first_of(3, path, rate=2.0)] == [0.0, 0.5, 1.0]


def test_recorded_stamps_and_frame_ids_are_kept_on_request(tmp_path):
    path = write_bag(tmp_path / 'drive', drive(3))
    pictures = all_of(path, has_own_stamps=True)
    assert [p.stamp_ns for p in pictures] == [stamp_of(image(n).header) for n in range(3)]
    assert {p.frame_id for p in pictures} == {'eye'}


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_the_truth_is_found_if_it_was_recorded_before_or_after_its_image(tmp_path, storage):
    path = write_bag(tmp_path / 'drive', drive_with_truth(7), storage=storage)
    source = BagSource(str(path), loop=False)
    assert source.labels == ('stop', 'yield', 'works')
    assert [p.class_id for p in source.pictures()] == [0, 1, 2, 0, 1, 2, 0]


def test_an_image_without_recorded_truth_has_no_class(tmp_path):
    messages = drive_with_truth(4)
    lost = [m for topic, m, _ in messages if topic == '/ground_truth'][1]
    path = write_bag(tmp_path / 'drive', [item for item in messages if item[1] is not lost])
    assert [p.class_id for p in all_of(path)] == [0, -1, 2, 0]


def test_images_are_resized_to_the_given_size(tmp_path):
    path = write_bag(tmp_path / 'drive', drive(1))
    assert all_of(path, width=8)[0].rgb.shape == (6, 8, 3)


def test_one_of_several_topics_is_chosen_by_name(tmp_path):
    other = [('/front/image', *item[1:]) for item in drive(4)[1:]]
    path = write_bag(tmp_path / 'drive', [*drive(2), *other])
    with pytest.raises(SourceError, match=r'several image topics.*: /front/image, /image_raw$'):
        BagSource(str(path))
    with pytest.raises(SourceError, match=r'no images on /left.*: /front/image, /image_raw$'):
        BagSource(str(path), topic='left')
    for name in ('/front/image', 'front/image'):
        assert len(all_of(path, topic=name)) == 4
    assert len(all_of(path, topic='/image_raw')) == 2


def test_a_bag_without_images_names_its_topics(tmp_path):
    path = write_bag(tmp_path / 'drive', drive(0))
    with pytest.raises(SourceError, match=r'no image topic; its topics: /note$'):
        BagSource(str(path))


def test_a_topic_without_messages_is_reported(tmp_path):
    from rosbags.rosbag2 import StoragePlugin, Writer

    from dynamic_ofa_ros.cli.ros_bag import BAG_VERSION, types_of

    path = tmp_path / 'drive'
    with Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        kind = 'sensor_msgs/msg/Image'
        writer.add_connection('/image_raw', kind, typestore=types_of(kind))
    with pytest.raises(SourceError, match='contains no image on /image_raw'):
        BagSource(str(path))


def test_damaged_images_of_a_bag_are_left_out_and_reported(tmp_path):
    messages = drive(3, '/image_raw/compressed', jpeg)
    for number, data in ((3, b'nothing like an image'), (4, b'')):
        message = CompressedImage(header=image(number).header, format='h264', data=data)
        messages.append(('/image_raw/compressed', message, BEGIN_NS + number * PERIOD_NS))
    problems = []
    pictures = all_of(write_bag(tmp_path / 'drive', messages), on_problem=problems.append)
    assert len(pictures) == 3
    assert len(problems) == 2
    assert 'neither JPEG nor PNG' in problems[0]


def test_a_bag_with_an_unknown_encoding_is_reported_with_the_reason(tmp_path):
    message = Image(
        header=header(BEGIN_NS), encoding='32FC1', width=2, height=1, step=8, data=bytes(8)
    )
    path = write_bag(tmp_path / 'drive', [('/depth', message, BEGIN_NS)])
    problems = []
    with pytest.raises(SourceError, match='none of the 1 images on /depth'):
        all_of(path, on_problem=problems.append)
    assert '32FC1' in problems[0]


@pytest.mark.parametrize('encoding', ['bgr8', 'mono8'])
def test_every_encoding_is_decoded_to_rgb(tmp_path, encoding):
    messages = drive(3, kind=lambda number: image(number, encoding))
    pictures = all_of(write_bag(tmp_path / 'drive', messages))
    assert all(np.array_equal(p.rgb, np.full((12, 16, 3), 10 * n)) for n, p in enumerate(pictures))


def test_damage_inside_a_bag_is_reported_when_it_is_read(tmp_path):
    path = write_bag(tmp_path / 'drive', drive(20))
    (file,) = path.glob('*.mcap')
    source = BagSource(str(path))
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(RecordingError, match='is incomplete'):
        list(source.pictures())


def test_a_missing_bag_is_named(tmp_path):
    with pytest.raises(RecordingError, match=r'nowhere does not exist; give the folder'):
        BagSource(str(tmp_path / 'nowhere'))
    with pytest.raises(SourceError, match='path is empty'):
        BagSource('')
