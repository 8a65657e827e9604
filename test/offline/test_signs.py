from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.offline.data.signs import drift, render_scene, sample_scene, sign_names


def scene(seed: int = 1, class_id: int = 0):
    return sample_scene(np.random.default_rng(seed), class_id)


def test_there_are_enough_different_signs() -> None:
    names = sign_names()
    assert len(names) == len(set(names)) >= 16


def test_the_same_scene_gives_the_same_image() -> None:
    assert np.array_equal(render_scene(scene()), render_scene(scene()))


@pytest.mark.parametrize('size', [(640, 480), (320, 240), (100, 200)])
def test_images_have_the_requested_size(size: tuple[int, int]) -> None:
    picture = render_scene(scene(), *size)
    assert picture.shape == (size[1], size[0], 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 5


def test_every_sign_looks_different_in_the_same_scene() -> None:
    plain = replace(scene(), exposure=1.0, noise_sigma=0.0, occlusion=0.0, size=0.8)
    pictures = [
        render_scene(replace(plain, class_id=c), 160, 120) for c in range(len(sign_names()))
    ]
    for i, first in enumerate(pictures):
        for second in pictures[:i]:
            assert np.abs(first.astype(int) - second).max() > 50


def test_the_sign_is_inside_the_centre_square() -> None:
    plain = replace(scene(), noise_sigma=0.0, occlusion=0.0)
    for seed in range(20):
        sampled = sample_scene(np.random.default_rng(seed), 3)
        assert max(abs(c) for c in sampled.centre) + sampled.size / 2 <= 0.5 + 1e-9
    moved = replace(plain, class_id=1)
    changed = np.abs(render_scene(plain).astype(int) - render_scene(moved)).sum(2) > 30
    columns = np.flatnonzero(changed.any(0))
    assert columns.min() >= 80 - 20
    assert columns.max() < 560 + 20


def test_scale_does_not_change_the_scene() -> None:
    large, small = render_scene(scene(7), 640, 480), render_scene(scene(7), 320, 240)
    shrunk = large.reshape(240, 2, 320, 2, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 8


def test_signs_are_near_and_far_and_far_ones_are_recognisable() -> None:
    scenes = [scene(seed) for seed in range(400)]
    sizes = np.array([s.size for s in scenes])
    assert sizes.min() < 0.13
    assert sizes.max() > 0.8
    assert 0.3 < np.mean(sizes < 0.25) < 0.45, 'more than a third require a large input'
    blurs = np.array([np.hypot(s.motion_blur_px, s.focus_blur_px) for s in scenes])
    assert (blurs / (sizes * 480)).max() < 0.1, 'relative to the height of the sign'


def test_drift_moves_the_sign_slightly() -> None:
    first = scene()
    second = drift(first, np.random.default_rng(0))
    assert second != first
    assert second.class_id == first.class_id
    assert second.background_seed == first.background_seed
    assert max(abs(a - b) for a, b in zip(first.centre, second.centre, strict=True)) < 0.03


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(DatasetError, match='no sign of class 99'):
        render_scene(replace(scene(), class_id=99))
    with pytest.raises(DatasetError, match='8x8 pixels is too small'):
        render_scene(scene(), 8, 8)
