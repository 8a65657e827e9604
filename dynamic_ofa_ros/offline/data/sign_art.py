"""Images of the signs: shapes, symbols, and letters made of strokes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import DatasetError

UInt8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

RED, BLUE, GREEN, YELLOW = (190, 22, 28), (0, 82, 155), (0, 122, 72), (250, 200, 20)
WHITE, BLACK = (245, 245, 245), (20, 20, 20)

# Signs are drawn once, at _FINE times this size, and reduced (anti-aliasing).
ART_PX = 192
_FINE = 4

# Letters as strokes on a grid of 0.6 x 1; unlike OpenCV's fonts, they are equal in all versions.
GLYPHS: dict[str, str] = {
    '0': '3,0 1,1 0,3 0,7 1,9 3,10 5,9 6,7 6,3 5,1 3,0',
    '2': '0,2 1,0 5,0 6,2 6,4 0,10 6,10',
    '3': '0,1 2,0 5,0 6,2 6,4 3,5 6,6 6,8 5,10 2,10 0,9',
    '5': '6,0 0,0 0,4 4,4 6,5 6,8 5,10 1,10 0,9',
    '6': '5,0 2,1 0,5 0,8 1,10 5,10 6,8 6,6 5,5 1,5 0,6',
    '8': '3,5 1,4 0,2 1,0 5,0 6,2 5,4 3,5 1,5 0,7 1,10 5,10 6,7 5,5 3,5',
    'O': '2,0 0,2 0,8 2,10 4,10 6,8 6,2 4,0 2,0',
    'P': '0,10 0,0 4,0 6,1 6,4 4,5 0,5',
    'S': '6,1 4,0 1,0 0,2 0,4 1,5 5,5 6,6 6,8 5,10 1,10 0,9',
    'T': '0,0 6,0 3,0 3,10',
    'X': '0,0 6,10 3,5 6,0 0,10',
    'L': '0,0 0,10 6,10',
}


def text_strokes(
    text: str, left: float, top: float, height: float
) -> list[list[tuple[float, float]]]:
    """Return one polyline per letter, in the units of `left`, `top` and `height`."""
    lines = []
    for position, letter in enumerate(text):
        pairs = [pair.split(',') for pair in GLYPHS[letter].split()]
        x0 = left + 0.8 * height * position
        lines.append([(x0 + int(x) / 10 * height, top + int(y) / 10 * height) for x, y in pairs])
    return lines


class _Canvas:
    """A square RGBA canvas with coordinates from 0 to 1."""

    def __init__(self, side: int) -> None:
        self.pixels = np.zeros((side, side, 4), np.uint8)
        self.side = side

    def point(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self.side), round(y * self.side)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        outline = np.array([self.point(x, y) for x, y in points], np.int32)
        cv2.fillPoly(self.pixels, [outline], (*colour, 255))

    def circle(self, x: float, y: float, radius: float, colour: Colour) -> None:
        cv2.circle(self.pixels, self.point(x, y), round(radius * self.side), (*colour, 255), -1)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        cv2.rectangle(
            self.pixels, self.point(left, top), self.point(right, bottom), (*colour, 255), -1
        )

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        outline = np.array([self.point(x, y) for x, y in points], np.int32)
        cv2.polylines(self.pixels, [outline], False, (*colour, 255), round(width * self.side))

    def text(self, text: str, height: float, colour: Colour) -> None:
        pitch = 0.8 * height
        left = 0.5 - pitch * len(text) / 2
        outlines = text_strokes(text, left + 0.1 * height, 0.5 - height / 2, height)
        pixels = [np.array([self.point(x, y) for x, y in line], np.int32) for line in outlines]
        cv2.polylines(self.pixels, pixels, False, (*colour, 255), round(0.17 * height * self.side))


def _regular(sides: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    angles = [turn + 2 * math.pi * i / sides for i in range(sides)]
    return [(0.5 + radius * math.sin(a), 0.5 - radius * math.cos(a)) for a in angles]


def _stop(c: _Canvas) -> None:
    c.polygon(_regular(8, 0.5, math.pi / 8), WHITE)
    c.polygon(_regular(8, 0.465, math.pi / 8), RED)
    c.text('STOP', 0.27, WHITE)


def _yield(c: _Canvas) -> None:
    c.polygon([(0.01, 0.08), (0.99, 0.08), (0.5, 0.95)], RED)
    c.polygon([(0.2, 0.19), (0.8, 0.19), (0.5, 0.72)], WHITE)


def _no_entry(c: _Canvas) -> None:
    c.circle(0.5, 0.5, 0.49, RED)
    c.box(0.16, 0.41, 0.84, 0.59, WHITE)


def _ring(c: _Canvas) -> None:
    c.circle(0.5, 0.5, 0.49, RED)
    c.circle(0.5, 0.5, 0.38, WHITE)


def _speed_limit(number: str) -> Callable[[_Canvas], None]:
    def paint(c: _Canvas) -> None:
        _ring(c)
        c.text(number, 0.36, BLACK)

    return paint


def _no_overtaking(c: _Canvas) -> None:
    _ring(c)
    for x, colour in ((0.36, RED), (0.64, BLACK)):
        c.box(x - 0.11, 0.46, x + 0.11, 0.62, colour)
        c.box(x - 0.07, 0.37, x + 0.07, 0.47, colour)


def _no_pedestrians(c: _Canvas) -> None:
    _ring(c)
    _person(c, BLACK, 0.5, 0.24, 0.55)
    c.line([(0.24, 0.24), (0.76, 0.76)], 0.06, RED)


def _priority_road(c: _Canvas) -> None:
    c.polygon(_regular(4, 0.5), WHITE)
    c.polygon(_regular(4, 0.37), YELLOW)


def _arrow(c: _Canvas, turn: float, colour: Colour) -> None:
    cos, sin = math.cos(turn), math.sin(turn)
    shape = [
        (-0.06, 0.3),
        (-0.06, -0.05),
        (-0.2, -0.05),
        (0, -0.32),
        (0.2, -0.05),
        (0.06, -0.05),
        (0.06, 0.3),
    ]
    c.polygon([(0.5 + x * cos - y * sin, 0.5 + x * sin + y * cos) for x, y in shape], colour)


def _mandatory(turn: float) -> Callable[[_Canvas], None]:
    def paint(c: _Canvas) -> None:
        c.circle(0.5, 0.5, 0.49, BLUE)
        _arrow(c, turn, WHITE)

    return paint


def _roundabout(c: _Canvas) -> None:
    c.circle(0.5, 0.5, 0.49, BLUE)
    for i in range(3):
        start = 360 / 3 * i
        cv2.ellipse(
            c.pixels,
            c.point(0.5, 0.5),
            (round(0.27 * c.side),) * 2,
            0,
            start,
            start + 70,
            (*WHITE, 255),
            round(0.08 * c.side),
        )
        angle = math.radians(start - 12)
        c.circle(0.5 + 0.27 * math.cos(angle), 0.5 + 0.27 * math.sin(angle), 0.085, WHITE)


def _warning(c: _Canvas) -> None:
    c.polygon([(0.5, 0.05), (0.99, 0.92), (0.01, 0.92)], RED)
    c.polygon([(0.5, 0.25), (0.81, 0.81), (0.19, 0.81)], WHITE)


def _danger(c: _Canvas) -> None:
    _warning(c)
    c.box(0.465, 0.4, 0.535, 0.64, BLACK)
    c.circle(0.5, 0.73, 0.045, BLACK)


def _crossroads(c: _Canvas) -> None:
    _warning(c)
    c.line([(0.38, 0.46), (0.62, 0.76)], 0.07, BLACK)
    c.line([(0.62, 0.46), (0.38, 0.76)], 0.07, BLACK)


def _bend(c: _Canvas) -> None:
    _warning(c)
    c.line([(0.42, 0.78), (0.42, 0.62), (0.58, 0.54), (0.52, 0.42)], 0.07, BLACK)


def _person(c: _Canvas, colour: Colour, x: float, y: float, height: float) -> None:
    h = height
    c.circle(x, y + 0.1 * h, 0.1 * h, colour)
    c.line([(x, y + 0.2 * h), (x, y + 0.6 * h)], 0.17 * h, colour)
    c.line(
        [(x - 0.22 * h, y + 0.52 * h), (x, y + 0.28 * h), (x + 0.22 * h, y + 0.52 * h)],
        0.09 * h,
        colour,
    )
    c.line([(x - 0.2 * h, y + h), (x, y + 0.58 * h), (x + 0.2 * h, y + h)], 0.12 * h, colour)


def _crossing(c: _Canvas) -> None:
    c.box(0.03, 0.03, 0.97, 0.97, BLUE)
    c.polygon([(0.5, 0.13), (0.9, 0.85), (0.1, 0.85)], WHITE)
    _person(c, BLACK, 0.5, 0.33, 0.46)


def _parking(c: _Canvas) -> None:
    c.box(0.03, 0.03, 0.97, 0.97, BLUE)
    c.text('P', 0.62, WHITE)


def _first_aid(c: _Canvas) -> None:
    c.box(0.03, 0.03, 0.97, 0.97, GREEN)
    c.box(0.4, 0.18, 0.6, 0.82, WHITE)
    c.box(0.18, 0.4, 0.82, 0.6, WHITE)


def _emergency_exit(c: _Canvas) -> None:
    c.box(0.03, 0.03, 0.97, 0.97, GREEN)
    c.box(0.58, 0.16, 0.88, 0.84, WHITE)
    _person(c, WHITE, 0.32, 0.2, 0.62)


def _fire_extinguisher(c: _Canvas) -> None:
    c.box(0.03, 0.03, 0.97, 0.97, RED)
    c.box(0.4, 0.36, 0.64, 0.86, WHITE)
    c.circle(0.52, 0.36, 0.12, WHITE)
    c.line([(0.52, 0.26), (0.52, 0.16), (0.28, 0.24), (0.26, 0.5)], 0.06, WHITE)


def _fire_alarm(c: _Canvas) -> None:
    c.box(0.03, 0.03, 0.97, 0.97, RED)
    c.circle(0.5, 0.5, 0.3, WHITE)
    c.circle(0.5, 0.5, 0.21, RED)
    c.circle(0.5, 0.5, 0.11, WHITE)


def _hazard(c: _Canvas) -> None:
    c.polygon([(0.5, 0.05), (0.99, 0.92), (0.01, 0.92)], BLACK)
    c.polygon([(0.5, 0.14), (0.92, 0.87), (0.08, 0.87)], YELLOW)


def _electricity(c: _Canvas) -> None:
    _hazard(c)
    c.polygon(
        [(0.56, 0.3), (0.38, 0.62), (0.5, 0.62), (0.42, 0.83), (0.64, 0.53), (0.51, 0.53)], BLACK
    )


def _forklift(c: _Canvas) -> None:
    _hazard(c)
    c.box(0.34, 0.6, 0.56, 0.74, BLACK)
    c.line([(0.38, 0.6), (0.41, 0.46), (0.53, 0.46), (0.56, 0.6)], 0.035, BLACK)
    c.circle(0.39, 0.77, 0.055, BLACK)
    c.circle(0.53, 0.77, 0.055, BLACK)
    c.line([(0.61, 0.44), (0.61, 0.8), (0.74, 0.8)], 0.04, BLACK)


def _laser(c: _Canvas) -> None:
    _hazard(c)
    for i in range(8):
        angle = math.pi * i / 4
        c.line(
            [(0.5, 0.62), (0.5 + 0.17 * math.cos(angle), 0.62 + 0.17 * math.sin(angle))],
            0.03,
            BLACK,
        )
    c.circle(0.5, 0.62, 0.07, BLACK)


_SIGNS: dict[str, Callable[[_Canvas], None]] = {
    'stop': _stop,
    'yield': _yield,
    'no_entry': _no_entry,
    'speed_limit_20': _speed_limit('20'),
    'speed_limit_30': _speed_limit('30'),
    'speed_limit_50': _speed_limit('50'),
    'speed_limit_60': _speed_limit('60'),
    'speed_limit_80': _speed_limit('80'),
    'no_overtaking': _no_overtaking,
    'no_pedestrians': _no_pedestrians,
    'priority_road': _priority_road,
    'straight_ahead': _mandatory(0.0),
    'turn_left': _mandatory(-math.pi / 2),
    'turn_right': _mandatory(math.pi / 2),
    'keep_right': _mandatory(math.pi * 0.75),
    'roundabout': _roundabout,
    'danger': _danger,
    'crossroads': _crossroads,
    'bend': _bend,
    'pedestrian_crossing': _crossing,
    'parking': _parking,
    'first_aid': _first_aid,
    'emergency_exit': _emergency_exit,
    'fire_extinguisher': _fire_extinguisher,
    'fire_alarm': _fire_alarm,
    'electrical_hazard': _electricity,
    'forklift_traffic': _forklift,
    'laser_beam': _laser,
}


@cache
def art_of(class_id: int) -> UInt8:
    """Return the sign as (192, 192, 4) uint8 RGBA, with premultiplied alpha."""
    names = sign_names()
    if not 0 <= class_id < len(names):
        raise DatasetError(
            f'there is no sign of class {class_id}; classes are 0 to {len(names) - 1}'
        )
    canvas = _Canvas(ART_PX * _FINE)
    _SIGNS[names[class_id]](canvas)
    art = cv2.resize(canvas.pixels, (ART_PX, ART_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(art, np.uint8)


def sign_names() -> tuple[str, ...]:
    """Return the class names in the order of their class index."""
    return tuple(_SIGNS)
