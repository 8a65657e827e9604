from __future__ import annotations

import itertools
import os
import threading

import cv2
import numpy as np
import pytest
from image_files import png_header, write_image

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.nodes import camera_sources
from dynamic_ofa_ros.nodes.camera_sources import (
    FolderSource,
    Picture,
    Prefetcher,
    SignsSource,
    SourceError,
    VideoSource,
    WebcamSource,
    resized,
)
from dynamic_ofa_ros.offline.data.datasets import RenderedSigns

TIMEOUT_S = 10.0
COLOURS = {'blue': (0, 0, 255), 'green': (0, 255, 0), 'red': (255, 0, 0)}


def write_colour(path, rgb=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((12, 16, 3), rgb[::-1], np.uint8))


@pytest.fixture
def class_folders(tmp_path):
    for name, colour in COLOURS.items():
        for number in range(4):
            write_colour(tmp_path / name / 'deeper' / f'{number}.png', colour)
    return tmp_path


def take(source, count):
    return list(itertools.islice(source.pictures(), count))


def test_the_seed_determines_the_signs():
    one, again, other = (
        take(SignsSource(seed, frames_per_scene=1, width=64, height=48), 3) for seed in (1, 1, 2)
    )
    for a, b in zip(one, again, strict=True):
        assert a.class_id == b.class_id
        assert np.array_equal(a.rgb, b.rgb)
    assert not any(np.array_equal(a.rgb, b.rgb) for a, b in zip(one, other, strict=True))


def test_every_round_shows_each_sign_once():
    source = SignsSource(frames_per_scene=1, width=64, height=48)
    classes = [picture.class_id for picture in take(source, 2 * len(source.labels))]
    half = len(source.labels)
    assert sorted(classes[:half]) == sorted(classes[half:]) == list(range(half))
    assert classes[:half] != classes[half:]


def test_a_scene_lasts_for_some_frames_and_moves():
    first, second, third = take(SignsSource(frames_per_scene=2, width=64, height=48), 3)
    assert first.class_id == second.class_id
    assert not np.array_equal(first.rgb, second.rgb)
    difference = np.abs(first.rgb.astype(int) - second.rgb).mean()
    assert difference < np.abs(first.rgb.astype(int) - third.rgb).mean()


def test_scenes_are_distributed_like_the_held_out_ones_but_differ_from_them():
    source = SignsSource(seed=1, frames_per_scene=1)
    held_out = RenderedSigns(count=len(source.labels), seed=1, split='held_out')
    picture = take(source, 1)[0]
    assert picture.rgb.shape == held_out.image(0).shape == (480, 640, 3)
    assert source.labels == held_out.classes
    assert not np.array_equal(picture.rgb, held_out.image(picture.class_id))


def test_class_folders_give_the_truth(class_folders):
    source = FolderSource(str(class_folders), loop=False)
    assert source.labels == ('blue', 'green', 'red')
    pictures = take(source, 100)
    assert len(pictures) == 12
    for picture in pictures:
        assert tuple(picture.rgb[0, 0]) == COLOURS[source.labels[picture.class_id]]
        assert picture.rgb.shape == (12, 16, 3)


def test_a_data_set_with_splits_gives_its_held_out_images(tmp_path):
    for split in ('Train', 'Val'):
        for name in COLOURS:
            write_colour(tmp_path / split / name / f'{split}.png')
    source = FolderSource(str(tmp_path), loop=False)
    assert source.labels == tuple(sorted(COLOURS))
    assert len(take(source, 100)) == 3


def test_the_seed_determines_the_order_of_class_folders(class_folders):
    orders = [
        [p.class_id for p in take(FolderSource(str(class_folders), seed=seed), 12)]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_flat_folder_is_sorted_recursive_and_without_truth(tmp_path):
    for number, name in enumerate(('b.png', 'a.jpg', 'sub/c.jpeg')):
        write_colour(tmp_path / name, (number * 50, 0, 0))
    (tmp_path / 'notes.txt').write_text('no image')
    source = FolderSource(str(tmp_path), loop=False)
    pictures = take(source, 10)
    assert source.labels == ()
    assert [picture.class_id for picture in pictures] == [-1, -1, -1]
    assert [int(picture.rgb[0, 0, 0]) // 40 for picture in pictures] == [1, 0, 2]


def test_folder_loops_on_request(class_folders):
    assert len(take(FolderSource(str(class_folders), loop=True), 30)) == 30


@pytest.mark.parametrize('data', [b'nothing like an image', png_header(40_000, 40_000)])
def test_a_damaged_image_is_left_out_and_reported(class_folders, data):
    (class_folders / 'red' / os.fsdecode(b'\xe9zz.png')).write_bytes(data)
    problems = []
    source = FolderSource(str(class_folders), loop=False, on_problem=problems.append)
    assert len(take(source, 100)) == 12
    assert len(problems) == 1
    assert r'\xe9zz.png' in problems[0]
    problems[0].encode()  # as the node's log does


def test_a_folder_of_damaged_images_is_reported(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'nothing like an image')
    with pytest.raises(SourceError, match='none of the 1 images'):
        take(FolderSource(str(tmp_path), loop=True), 1)


@pytest.mark.parametrize('kind', [FolderSource, VideoSource])
def test_missing_path_is_named(kind, tmp_path):
    with pytest.raises(DynamicOfaError, match='nowhere'):
        kind(str(tmp_path / 'nowhere'))


@pytest.mark.parametrize('kind', [FolderSource, VideoSource])
def test_an_empty_path_is_not_the_working_directory(kind):
    with pytest.raises(DynamicOfaError, match='path is empty; set it to a '):
        kind(' ')


def test_a_pipe_among_the_images_is_left_out_and_reported(class_folders, caplog):
    os.mkfifo(class_folders / 'red' / 'pipe.png')
    source = FolderSource(str(class_folders), loop=False)
    assert len(take(source, 100)) == 12
    assert 'red/pipe.png' in caplog.text


def test_a_folder_without_images_is_rejected(tmp_path):
    with pytest.raises(DynamicOfaError, match='no images'):
        FolderSource(str(tmp_path))


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'video.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10.0, (32, 24))
    if not writer.isOpened():
        pytest.skip('this OpenCV cannot write videos')
    for number in range(3):
        writer.write(np.full((24, 32, 3), (0, 0, 60 * number), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(('loop', 'frames'), [(False, 3), (True, 7)])
def test_video_gives_its_frames_as_rgb(video, loop, frames):
    pictures = take(VideoSource(str(video), loop=loop), 7)
    assert len(pictures) == frames
    red = [int(picture.rgb[..., 0].mean()) for picture in pictures[:3]]
    assert red == pytest.approx([0, 60, 120], abs=6)
    assert pictures[0].rgb.shape == (24, 32, 3)


def test_a_damaged_video_is_rejected(tmp_path):
    path = tmp_path / 'video.mp4'
    path.write_bytes(b'nothing like a video' * 10)
    with pytest.raises(SourceError, match=r'video\.mp4'):
        VideoSource(str(path))


@pytest.mark.parametrize('path', ['front', 'dev/video0', '-1'])
def test_webcam_needs_an_index_or_a_device(path):
    with pytest.raises(SourceError, match='must be an index or a /dev/'):
        WebcamSource(path)


def test_missing_webcam_is_named(tmp_path):
    with pytest.raises(SourceError, match='OpenCV cannot open webcam 63'):
        WebcamSource('63')
    for name in ('gone', 'circle'):
        link = tmp_path / name
        link.symlink_to('/dev/video63' if name == 'gone' else link)
        with pytest.raises(SourceError, match=f'there is no webcam {link}'):
            WebcamSource(str(link))


class Webcams:
    """A fake of `cv2.VideoCapture`; `plugged`: whether there is a webcam to open.

    An opened one gives as many frames as `frames` says, and then none until it is opened again.
    """

    def __init__(self):
        self.plugged, self.frames = True, 3
        self.opened, self.released = [], 0

    def __call__(self, target):
        self.opened.append(target)
        return Capture(self)


class Capture:
    def __init__(self, webcams):
        self.webcams, self.left = webcams, webcams.frames if webcams.plugged else 0
        self.is_open = webcams.plugged

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.is_open

    def set(self, key, value):
        return True

    def read(self):
        self.left -= 1
        is_good = self.is_open and self.left >= 0
        return is_good, np.full((4, 6, 3), 90, np.uint8) if is_good else None

    def release(self):
        self.webcams.released += self.is_open
        self.is_open = False


class Waits(threading.Event):
    """An event that records the timeouts of `wait` and does not wait."""

    def __init__(self, webcams, unplugged=0):
        super().__init__()
        self.webcams, self.unplugged, self.seconds = webcams, unplugged, []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        self.webcams.plugged = len(self.seconds) > self.unplugged
        return self.is_set()


@pytest.fixture
def webcams(monkeypatch):
    made = Webcams()
    monkeypatch.setattr(camera_sources.cv2, 'VideoCapture', made)
    return made


def test_a_webcam_that_fails_is_reopened_with_longer_and_longer_waits(webcams):
    said = []
    closing = Waits(webcams, unplugged=7)
    source = WebcamSource('2', closing=closing, on_outage=said.append, on_return=said.append)
    pictures = source.pictures()
    for _ in range(4):  # the fourth requires a reopened webcam
        assert next(pictures).rgb.shape == (4, 6, 3)
    assert closing.seconds == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert webcams.opened == [2] * 9
    assert said == [
        'webcam 2 delivers no images and is being reopened: check its cable, and whether another '
        'program uses it',
        'webcam 2 delivers images again',
    ]
    closing.seconds.clear()
    closing.unplugged = 0
    for _ in range(3):
        next(pictures)
    assert closing.seconds == [0.5]  # a new outage starts with the shortest time
    assert len(said) == 4
    pictures.close()
    assert webcams.released == 3


def test_a_webcam_that_opens_but_delivers_nothing_is_one_outage(webcams):
    said = []
    closing = Waits(webcams)
    webcams.frames = 0
    source = WebcamSource('', closing=closing, on_outage=said.append)

    def wait(timeout):
        closing.seconds.append(timeout)
        if len(closing.seconds) == 3:
            closing.set()
        return closing.is_set()

    closing.wait = wait
    assert list(source.pictures()) == []
    assert closing.seconds == [0.5, 1.0, 2.0]
    assert len(said) == 1


def test_closing_ends_the_wait_for_a_webcam_at_once(webcams):
    webcams.frames = 0
    closing, is_out = threading.Event(), threading.Event()
    source = WebcamSource('0', closing=closing, on_outage=lambda text: is_out.set())
    prefetcher = Prefetcher(source)
    assert is_out.wait(TIMEOUT_S)
    closing.set()
    prefetcher.close(TIMEOUT_S)
    assert prefetcher.has_ended
    assert prefetcher.failure is None


def test_links_to_webcams_are_followed_each_time(webcams, tmp_path, monkeypatch):
    numbers = iter((4, 5))
    monkeypatch.setattr(
        camera_sources.Path, 'resolve', lambda self, strict: f'/dev/video{next(numbers)}'
    )
    pictures = WebcamSource('/dev/v4l/by-id/usb-eye', closing=Waits(webcams)).pictures()
    for _ in range(4):
        next(pictures)
    assert webcams.opened == [4, 5]


def test_other_devices_are_passed_to_opencv_as_paths(webcams, tmp_path):
    (tmp_path / 'device').touch()
    (tmp_path / 'link').symlink_to('device')
    WebcamSource(str(tmp_path / 'link'))
    assert webcams.opened == [str(tmp_path.resolve() / 'device')]


@pytest.mark.parametrize(
    ('size', 'expected'),
    [((0, 0), (40, 20)), ((20, 0), (20, 10)), ((0, 10), (20, 10)), ((80, 80), (80, 80))],
)
def test_one_given_side_keeps_the_aspect_ratio(size, expected):
    rgb = np.zeros((20, 40, 3), np.uint8)
    width, height = expected
    assert resized(rgb, *size).shape == (height, width, 3)


class Numbered:
    """A source of images whose class is their number."""

    labels = ()

    def __init__(self, count, *, is_live=False, failure=None):
        self.is_live = is_live
        self.drawn = 0
        self.all_drawn = threading.Event()
        self._count = count
        self._failure = failure

    def pictures(self):
        for number in range(self._count):
            self.drawn += 1
            yield Picture(np.zeros((2, 2, 3), np.uint8), number)
        self.all_drawn.set()
        if self._failure:
            raise self._failure


def test_the_prefetcher_returns_all_images_in_order_and_ends():
    prefetcher = Prefetcher(Numbered(10), depth=2)
    classes = [prefetcher.take(TIMEOUT_S).class_id for _ in range(10)]
    assert classes == list(range(10))
    assert prefetcher.take(TIMEOUT_S) is None
    assert prefetcher.has_ended
    assert prefetcher.failure is None
    prefetcher.close()


def test_the_prefetcher_reads_at_most_its_depth_ahead():
    source = Numbered(100)
    prefetcher = Prefetcher(source, depth=3)
    prefetcher.take(TIMEOUT_S)
    prefetcher.close()
    assert source.drawn <= 1 + 3 + 1


def test_the_prefetcher_keeps_only_the_newest_image_of_a_live_source():
    source = Numbered(50, is_live=True)
    prefetcher = Prefetcher(source, depth=4)
    assert source.all_drawn.wait(TIMEOUT_S)
    assert prefetcher.take(TIMEOUT_S).class_id == 49
    prefetcher.close()


def test_the_prefetcher_stores_the_failure_of_its_source():
    prefetcher = Prefetcher(Numbered(1, failure=SourceError('unplugged')))
    assert prefetcher.take(TIMEOUT_S) is not None
    assert prefetcher.take(TIMEOUT_S) is None
    assert prefetcher.has_ended
    assert str(prefetcher.failure) == 'unplugged'
    prefetcher.close()
