"""The annotated image: its contents; nothing is drawn without subscribers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from runtime_fakes import make_telemetry
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from dynamic_ofa_ros.nodes.debug_image import GREEN, RED, DebugImage, annotated
from dynamic_ofa_ros.runtime.image import RgbImage
from dynamic_ofa_ros.runtime.mailbox import Frame

GREY = np.full((480, 640, 3), 128, np.uint8)
TELEMETRY = make_telemetry(level=3, level_count=5, max_latency_ms=10.0)


def has_colour(rgb, colour):
    return bool((np.abs(rgb.astype(int) - colour).max(axis=2) == 0).any())


@pytest.mark.parametrize(
    ('size', 'drawn'),
    [
        ((480, 640), (480, 640)),
        ((48, 64), (480, 640)),
        ((1080, 1920), (1080, 1920)),
        ((1, 1), (640, 640)),
        ((1, 32768), (1, 32768)),
        ((32768, 1), (32768, 1)),
        ((1000, 10), (2000, 20)),
    ],
)
def test_small_images_are_enlarged_and_the_original_is_unchanged(size, drawn):
    rgb = np.full((*size, 3), 128, np.uint8)
    result = annotated(rgb, TELEMETRY, 5.0)
    assert result.shape == (*drawn, 3)
    assert result.dtype == np.uint8
    assert (rgb == 128).all()
    assert not (result == 128).all()


def test_the_bar_is_red_for_late_and_green_for_other_frames():
    late, in_time = (annotated(GREY, TELEMETRY, latency_ms) for latency_ms in (12.0, 5.0))
    bar = np.s_[480 - 46 : 480 - 34, 10:300]
    assert has_colour(late[bar], RED)
    assert not has_colour(late[bar], GREEN)
    assert has_colour(in_time[bar], GREEN)
    assert not has_colour(in_time[bar], RED)


@pytest.mark.parametrize('level', [1, 5])
def test_the_ladder_shows_the_active_level(level):
    result = annotated(GREY, replace(TELEMETRY, level=level), 5.0)
    rows = np.flatnonzero(
        (np.abs(result[:420, 12:28].astype(int) - GREEN).max(axis=2) == 0).any(1)
    )
    bottom = 480 - 64
    assert bottom - 22 * level <= rows.min() <= rows.max() <= bottom - 22 * (level - 1)


@pytest.mark.parametrize(
    'changes',
    [
        {'max_latency_ms': math.nan},
        {'top1_class_id': -1, 'top1_label': '', 'top1_score': math.nan},
        {'top1_label': 'Ausfahrt für Straßenbahnen'},
        {'level_count': 1000, 'level': 1000},
        {'feasible': False, 'contended': True},
    ],
)
def test_any_telemetry_can_be_drawn(changes):
    assert annotated(GREY, replace(TELEMETRY, **changes), 5.0).shape == (480, 640, 3)


def test_the_debug_image_has_the_header_and_is_published_only_to_subscribers(domain):
    sent = []
    debug = DebugImage(domain.node, lambda publisher, message: sent.append(message))
    debug.start()
    frame = Frame(RgbImage(GREY), Header(frame_id='eye'))
    damaged = Frame(RgbImage(GREY[:0]), Header(frame_id='eye'))
    try:
        debug.show(frame, TELEMETRY, 5.0)
        assert debug._mailbox.received == 0
        domain.listen(Image, 'debug_image', 1)
        domain.wait_until(
            lambda: sent,
            'an image',
            meanwhile=lambda: (
                debug.show(damaged, TELEMETRY, 5.0),
                debug.show(frame, TELEMETRY, 5.0),
            ),
        )
    finally:
        debug.close()
    assert sent[0].header.frame_id == 'eye'
    assert (sent[0].width, sent[0].height, sent[0].encoding) == (640, 480, 'rgb8')
