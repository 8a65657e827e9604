"""Rendered road and warehouse signs in cluttered scenes, the data of the demo family."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.offline.data.sign_art import (
    ART_PX,
    BLACK,
    BLUE,
    GLYPHS,
    GREEN,
    RED,
    WHITE,
    YELLOW,
    art_of,
    sign_names,
    text_strokes,
)

__all__ = ['Scene', 'drift', 'render_scene', 'sample_scene', 'sign_names']

UInt8 = npt.NDArray[np.uint8]

# Heights of the farthest and the nearest sign, as fractions of the image height.
SMALLEST, LARGEST = 0.12, 0.85


@dataclass(frozen=True)
class Scene:
    """Everything that determines an image, in units of its height.

    centre: (x, y) of the sign from the centre of the image; size: height of the sign; roll, yaw
    and pitch in radians; exposure multiplies the light; blur and noise: pixels and grey levels at
    480 px.
    """

    class_id: int
    background_seed: int
    centre: tuple[float, float]
    size: float
    roll: float
    yaw: float
    pitch: float
    exposure: float
    contrast: float
    tint: tuple[float, float, float]
    fading: float
    focus_blur_px: float
    motion_blur_px: float
    motion_angle: float
    noise_sigma: float
    noise_seed: int
    occluder_seed: int
    occlusion: float


def sample_scene(rng: np.random.Generator, class_id: int) -> Scene:
    """Draw a scene with the sign `class_id`: near or far, tilted, dark, blurred, partly hidden.

    A far sign is small, so it requires a large network input. It is blurred less than a near one,
    because it moves more slowly in the image, and because cameras focus on distant objects.
    """
    size = math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST)))
    reach = 0.5 - 0.5 * size
    return Scene(
        class_id=class_id,
        background_seed=int(rng.integers(2**31)),
        centre=(rng.uniform(-reach, reach), rng.uniform(-reach, reach)),
        size=size,
        roll=rng.normal(0.0, math.radians(7.0)),
        yaw=rng.uniform(-1.0, 1.0) * math.radians(50.0),
        pitch=rng.uniform(-1.0, 1.0) * math.radians(22.0),
        exposure=math.exp(rng.uniform(math.log(0.3), math.log(1.35))),
        contrast=rng.uniform(0.6, 1.0),
        tint=(rng.uniform(0.85, 1.15), 1.0, rng.uniform(0.85, 1.15)),
        fading=rng.uniform(0.0, 0.45),
        focus_blur_px=max(0.0, rng.normal(0.0, 3.0 * size)),
        motion_blur_px=max(0.0, rng.normal(0.0, 9.0 * size)),
        motion_angle=rng.uniform(0.0, math.pi),
        noise_sigma=abs(rng.normal(0.0, 6.0)) + 1.0,
        noise_seed=int(rng.integers(2**31)),
        occluder_seed=int(rng.integers(2**31)),
        occlusion=float(rng.uniform(0.1, 0.3)) if rng.random() < 0.2 else 0.0,
    )


def drift(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the same scene a moment later, as seen by a moving camera."""
    reach = 0.5 - 0.5 * scene.size
    return replace(
        scene,
        centre=tuple(  # type: ignore[arg-type]
            float(np.clip(c + rng.normal(0.0, 0.004), -reach, reach)) for c in scene.centre
        ),
        roll=scene.roll + rng.normal(0.0, 0.004),
        yaw=float(np.clip(scene.yaw + rng.normal(0.0, 0.01), -0.87, 0.87)),
        noise_seed=int(rng.integers(2**31)),
    )


def render_scene(scene: Scene, width: int = 640, height: int = 480) -> UInt8:
    """Render a scene; return (height, width, 3) uint8, RGB."""
    if width < 16 or height < 16:
        raise DatasetError(f'a scene of {width}x{height} pixels is too small; at least 16x16')
    image = _background(scene.background_seed, width, height).copy()
    _paste_sign(image, scene)
    blur_scale = height / 480.0
    if scene.motion_blur_px * blur_scale > 1.0:
        image = cv2.filter2D(
            image, -1, _motion_kernel(scene.motion_blur_px * blur_scale, scene.motion_angle)
        )
    if scene.focus_blur_px * blur_scale > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), scene.focus_blur_px * blur_scale)
    return _expose(image, scene)


def _expose(image: UInt8, scene: Scene) -> UInt8:
    """Apply light, contrast, tint and sensor noise."""
    levels = np.arange(256, dtype=np.float32)
    table = np.empty((1, 256, 3), np.float32)
    for channel, gain in enumerate(scene.tint):
        table[0, :, channel] = (128.0 + (levels - 128.0) * scene.contrast) * scene.exposure * gain
    lit = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))
    noise = np.empty(image.shape, np.int16)
    cv2.setRNGSeed(scene.noise_seed)
    sigma = scene.noise_sigma * image.shape[0] / 480.0
    cv2.randn(noise, np.zeros(3), np.full(3, sigma))
    return np.asarray(cv2.add(lit, noise, dtype=cv2.CV_8U), np.uint8)


def _paste_sign(image: UInt8, scene: Scene) -> None:
    height, width = image.shape[:2]
    art = art_of(scene.class_id)
    centre = np.array([width / 2, height / 2]) + np.array(scene.centre) * height
    corners = _project_corners(scene, centre, scene.size * height)

    foot = centre + np.array([0.0, scene.size * height * 0.45])
    pole = max(2, int(scene.size * height * 0.05))
    cv2.line(
        image,
        (int(foot[0]), int(foot[1])),
        (int(foot[0]), height),
        (120, 122, 125),
        pole,
        cv2.LINE_AA,
    )

    margin = 2
    left, top = np.maximum(np.floor(corners.min(0)).astype(int) - margin, 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + margin, (width, height))
    if right <= left or bottom <= top:
        return
    # A small sign is resized first, because warping alone would cause aliasing.
    shrink = min(1.0, 2.0 * scene.size * height / ART_PX)
    if shrink < 1.0:
        side = max(8, round(ART_PX * shrink))
        art = np.asarray(cv2.resize(art, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    side = art.shape[0]
    source = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    target = (corners - np.array([left, top])).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    warped = cv2.warpPerspective(art, matrix, (int(right - left), int(bottom - top)))
    colour = warped[..., :3].astype(np.float32)
    alpha = warped[..., 3:].astype(np.float32) / 255.0
    colour = colour * (1.0 - scene.fading) + 150.0 * scene.fading * alpha  # premultiplied by alpha
    patch = image[top:bottom, left:right]
    patch[:] = np.clip(colour + patch * (1.0 - alpha), 0, 255).astype(np.uint8)
    if scene.occlusion > 0.0:
        _occlude(patch, scene)


def _project_corners(
    scene: Scene, centre: npt.NDArray[np.float64], side_px: float
) -> npt.NDArray[np.float64]:
    """Return (4, 2): the corners of a tilted square in perspective, clockwise from top left."""
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float64) * 0.5
    cy, sy = math.cos(scene.yaw), math.sin(scene.yaw)
    cp, sp = math.cos(scene.pitch), math.sin(scene.pitch)
    cr, sr = math.cos(scene.roll), math.sin(scene.roll)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    points = square @ (roll @ pitch @ yaw).T
    distance = 3.0
    projected: npt.NDArray[np.float64] = (
        points[:, :2] * (distance / (distance + points[:, 2:])) * side_px + centre
    )
    return projected


def _occlude(patch: UInt8, scene: Scene) -> None:
    """Cover about `scene.occlusion` of the sign from one side with a leaf or a post."""
    rng = np.random.default_rng(scene.occluder_seed)
    height, width = patch.shape[:2]
    colour = tuple(int(c) for c in rng.integers(20, 130, 3))
    if rng.random() < 0.5:
        x = int(rng.uniform(0.1, 0.9) * width)
        thickness = max(1, int(scene.occlusion * 0.7 * width))
        tilt = int(rng.normal(0, 0.2) * width)
        cv2.line(patch, (x - tilt, 0), (x + tilt, height), colour, thickness, cv2.LINE_AA)
        return
    for _ in range(6):
        angle = rng.uniform(0, 2 * math.pi)
        spot = (
            int(width * (0.5 + 0.45 * math.cos(angle))),
            int(height * (0.5 + 0.45 * math.sin(angle))),
        )
        radius = max(1, int(scene.occlusion * 0.4 * min(width, height)))
        cv2.ellipse(
            patch,
            spot,
            (radius, max(1, radius // 2)),
            float(rng.uniform(0, 180)),
            0,
            360,
            colour,
            -1,
            cv2.LINE_AA,
        )


def _motion_kernel(length: float, angle: float) -> npt.NDArray[np.float32]:
    side = math.ceil(length) | 1
    kernel = np.zeros((side, side), np.float32)
    middle = side // 2
    dx, dy = math.cos(angle) * length / 2, math.sin(angle) * length / 2
    cv2.line(
        kernel,
        (round(middle - dx), round(middle - dy)),
        (round(middle + dx), round(middle + dy)),
        1.0,
        1,
    )
    kernel /= kernel.sum()
    return kernel


@lru_cache(maxsize=2)
def _background(seed: int, width: int, height: int) -> UInt8:
    """Return a street or a hall with clutter in the colours and shapes of the signs."""
    rng = np.random.default_rng(seed)
    indoor = rng.random() < 0.4
    sky = np.array([180, 175, 165]) if indoor else np.array([150, 180, 215])
    far = sky + rng.integers(-50, 25) + rng.integers(-20, 20, 3)
    near = rng.integers(60, 140) + rng.integers(-25, 25, 3)
    horizon = rng.uniform(0.4, 0.75)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    ground = (rows > horizon).astype(np.float32)
    shade = 1.0 - 0.3 * np.abs(rows - horizon)
    column = (far * (1 - ground) + near * ground) * shade
    texture = np.zeros((height, width), np.float32)
    for cells, strength in ((6, 26.0), (24, 18.0), (80, 12.0)):
        layer = rng.normal(0, strength, (cells * 3 // 4, cells)).astype(np.float32)
        texture += cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR)
    image = column[:, None, :].astype(np.float32) + texture[..., None]
    picture: UInt8 = np.clip(image, 0, 255, out=image).astype(np.uint8)
    for _ in range(int(rng.integers(8, 26))):
        _clutter(picture, rng)
    return picture


def _clutter(image: UInt8, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
    size = max(2, int(height * math.exp(rng.uniform(math.log(0.02), math.log(0.35)))))
    palette = (RED, BLUE, GREEN, YELLOW, WHITE, BLACK)
    if rng.random() < 0.35:
        base = np.array(palette[rng.integers(len(palette))])
    else:
        base = rng.integers(20, 230, 3)
    colour = tuple(int(c) for c in np.clip(base + rng.integers(-25, 25, 3), 0, 255))
    kind = rng.integers(6)
    if kind == 0:
        corner = (x + size, y + int(size * rng.uniform(0.3, 2.5)))
        cv2.rectangle(image, (x, y), corner, colour, -1 if rng.random() < 0.7 else 2)
    elif kind == 1:
        thickness = -1 if rng.random() < 0.5 else max(1, size // 5)
        cv2.circle(image, (x, y), size // 2, colour, thickness, cv2.LINE_AA)
    elif kind == 2:
        triangle = (np.array([x, y]) + rng.normal(0, size / 2, (3, 2))).astype(np.int32)
        cv2.fillPoly(image, [triangle], colour, cv2.LINE_AA)
    elif kind == 3:
        end = (x + int(rng.normal(0, size * 2)), y + int(rng.normal(0, size * 2)))
        cv2.line(image, (x, y), end, colour, int(rng.integers(1, 8)), cv2.LINE_AA)
    elif kind == 4:
        axes = (size // 2, max(1, int(size * rng.uniform(0.1, 0.5))))
        cv2.ellipse(
            image, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA
        )
    else:
        text = ''.join(rng.choice(list(GLYPHS), int(rng.integers(1, 6))))
        lines = [np.array(line, np.int32) for line in text_strokes(text, x, y, size / 2)]
        cv2.polylines(image, lines, False, colour, max(1, size // 12), cv2.LINE_AA)
