"""`debug_image`: the camera image with the result, the levels and the latency drawn in.

A separate thread draws the newest frame, only while the topic has subscribers.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image

from dynamic_ofa_ros.adaptation import is_late
from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.nodes import conversions, qos
from dynamic_ofa_ros.runtime.image import ImageArray, Pixels
from dynamic_ofa_ros.runtime.mailbox import Frame, Mailbox
from dynamic_ofa_ros.runtime.telemetry import FrameTelemetry

MIN_WIDTH_PX = 640
"""Smaller images are enlarged, so that the text is readable."""

MAX_ENLARGED_PX = 2048
"""Maximum side of an enlarged image: a column of 1x32768 px would require 40 GB otherwise."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, GREY, GREEN, RED, AMBER = (
    (255, 255, 255), (120, 120, 120), (80, 220, 100), (240, 70, 60), (250, 190, 60)
)  # fmt: skip
BAR_FULL_SCALE = 1.5
"""Full scale of the latency bar, as a multiple of the limit."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Picture:
    """An image source that draws a frame and its result when it is decoded."""

    frame: Frame
    telemetry: FrameTelemetry
    latency_ms: float

    def pixels(self) -> Pixels:
        """Return the image with everything drawn in."""
        return Pixels(self.decode())

    def decode(self) -> ImageArray:
        """Return the image with everything drawn in."""
        return annotated(self.frame.image.decode(), self.telemetry, self.latency_ms)


class DebugImage:
    """Draws and publishes annotated images. publish: called with a publisher and a message."""

    def __init__(self, node: Any, publish: Callable[[Any, Any], None]) -> None:
        self._publish = publish
        self._context = node.context
        self._publisher = node.create_publisher(
            Image, 'debug_image', qos.of_publisher(node, 'debug_image', qos.DEBUG_IMAGE)
        )
        self._mailbox = Mailbox()
        self._thread = threading.Thread(target=self._run, name='debug image', daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def show(self, frame: Frame, telemetry: FrameTelemetry, latency_ms: float) -> None:
        """Draw and publish a frame, unless nobody subscribes or a newer frame replaces it.

        latency_ms: latency in the scope of the limit.
        """
        if self.is_watched:
            self._mailbox.put(Frame(_Picture(frame, telemetry, latency_ms), frame.header))

    @property
    def is_watched(self) -> bool:
        """Whether the topic has subscribers."""
        try:
            return bool(self._publisher.get_subscription_count())
        except Exception:  # a shutdown invalidated the publisher
            if self._context.ok():
                raise
            return False

    def close(self) -> None:
        """End the thread."""
        self._mailbox.close()
        if self._thread.ident is not None:
            self._thread.join(2.0)

    def _run(self) -> None:
        while (picture := self._mailbox.get()) is not None:
            try:
                rgb = picture.image.decode()
            except (ImageError, cv2.error) as error:
                _log.debug('no debug image: %s', error)
                continue
            self._publish(self._publisher, conversions.image_message(rgb, picture.header, 'rgb8'))


def annotated(rgb: ImageArray, telemetry: FrameTelemetry, latency_ms: float) -> ImageArray:
    """Return a copy of an image, (H, W, 3) uint8 RGB, with label, levels and latency drawn in.

    Images narrower than 640 px are enlarged; text and bars grow with larger ones.
    """
    wanted, largest = math.ceil(MIN_WIDTH_PX / rgb.shape[1]), MAX_ENLARGED_PX // max(rgb.shape)
    factor = max(1, min(wanted, largest))
    size = (rgb.shape[1] * factor, rgb.shape[0] * factor)
    canvas = cv2.resize(rgb, size, interpolation=cv2.INTER_NEAREST) if factor > 1 else rgb.copy()
    pen = _Pen(canvas)
    _draw_answer(pen, telemetry)
    _draw_ladder(pen, telemetry)
    _draw_latency(pen, telemetry, latency_ms)
    return np.asarray(canvas, np.uint8)


class _Pen:
    """Draws in units of a 640 px wide image."""

    def __init__(self, canvas: Any) -> None:
        self._canvas = canvas
        self.scale = canvas.shape[1] / MIN_WIDTH_PX
        self.height = canvas.shape[0] / self.scale

    def _px(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self.scale), round(y * self.scale)

    def shade(self, x: float, y: float, width: float, height: float) -> None:
        """Darken an area, so that light text stands out."""
        (left, top), (right, bottom) = self._px(x, y), self._px(x + width, y + height)
        area = self._canvas[max(0, top) : bottom, max(0, left) : right]
        area[:] = area // 4

    def box(self, x: float, y: float, width: float, height: float, colour: Any) -> None:
        """Fill a rectangle."""
        cv2.rectangle(
            self._canvas, self._px(x, y), self._px(x + width, y + height), colour, cv2.FILLED
        )

    def text(self, x: float, y: float, text: str, colour: Any, size: float = 0.5) -> None:
        """Draw a line of text; (x, y) is its left end, on the baseline."""
        thickness = max(1, round(self.scale * size * 2))
        plain = text.encode('ascii', 'replace').decode()  # OpenCV's font has only ASCII
        cv2.putText(
            self._canvas, plain, self._px(x, y), FONT, size * self.scale, colour, thickness,
            cv2.LINE_AA,
        )  # fmt: skip


def _draw_answer(pen: _Pen, telemetry: FrameTelemetry) -> None:
    pen.shade(0, 0, MIN_WIDTH_PX, 36)
    if telemetry.top1_class_id < 0:
        pen.text(10, 25, 'no class above the threshold', AMBER, 0.7)
        return
    answer = f'{telemetry.top1_label}  {100.0 * telemetry.top1_score:.0f} %'
    pen.text(10, 25, answer, WHITE, 0.7)


def _draw_ladder(pen: _Pen, telemetry: FrameTelemetry) -> None:
    """Draw a bar for each level at the left, and the accuracy of the active level."""
    count, bottom = telemetry.level_count, pen.height - 64
    step = min(22.0, (bottom - 44) / max(1, count))
    pen.shade(6, bottom - step * count - 4, 96, step * count + 8)
    for level in range(1, count + 1):
        y = bottom - step * level
        is_active = level == telemetry.level
        width, colour = (18, GREEN) if is_active else (8, GREY)
        pen.box(12, y + 2, width, max(2.0, step - 4), colour)
        if is_active:
            accuracy = f'{level}: {100.0 * telemetry.level_accuracy:.1f} %'
            pen.text(34, y + step - 4, accuracy, GREEN, 0.42)


def _draw_latency(pen: _Pen, telemetry: FrameTelemetry, latency_ms: float) -> None:
    """Draw the latency, the limit, the slowdown and the platform at the bottom."""
    top = pen.height - 52
    pen.shade(0, top, MIN_WIDTH_PX, 52)
    limit_ms = telemetry.max_latency_ms
    has_limit = not math.isnan(limit_ms)
    full_ms = BAR_FULL_SCALE * (limit_ms if has_limit else max(latency_ms, 1e-3))
    bar, text = (RED, RED) if is_late(latency_ms, limit_ms) else (GREEN, WHITE)
    pen.box(10, top + 8, 300, 12, GREY)
    pen.box(10, top + 8, 300 * min(1.0, latency_ms / full_ms), 12, bar)
    if has_limit:
        pen.box(10 + 300 / BAR_FULL_SCALE, top + 4, 2, 20, WHITE)
    against = f' of {limit_ms:.4g} ms' if has_limit else ' ms, no limit'
    pen.text(320, top + 19, f'{latency_ms:.2f}{against}', text)
    state = '' if telemetry.feasible else '  no level fits'
    pen.text(
        10, top + 42, f'slowdown {telemetry.slowdown:.2f}  {telemetry.platform}{state}',
        AMBER if telemetry.contended or not telemetry.feasible else WHITE, 0.45,
    )  # fmt: skip
