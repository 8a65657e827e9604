from __future__ import annotations

from pathlib import Path

import pytest
from families import make_random_family
from noise_images import Noise

from benchmarks.calibration import Row, measure
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.offline.accuracy.calibration import CalibrationSettings, calibrate_family
from dynamic_ofa_ros.offline.accuracy.evaluation import PreparedImages, top1
from dynamic_ofa_ros.supernet.network import extract_subnet, load_supernet

# Two memory layouts may give different answers for single images.
NEAR = 0.02
HELD_OUT = Noise(64, seed=2)


@pytest.fixture(scope='module')
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp('family') / 'random'
    return Family.load(make_random_family(folder, levels=2, width_mult=0.1))


@pytest.fixture(scope='module')
def rows(family: Family) -> list[Row]:
    return measure(family, Noise(40), HELD_OUT, (1,), (0, 8, 40), (1, 2))


def test_each_kind_of_calibration_has_a_row(rows: list[Row]) -> None:
    assert [(row.images, row.augment) for row in rows] == [
        (0, False), (8, False), (8, True), (40, False), (40, True),
    ]  # fmt: skip
    # The seed has no effect without images, or with all images and no augmentation.
    assert [len(row.top1) for row in rows] == [1, 2, 2, 1, 2]
    assert rows[1].mean == pytest.approx(sum(rows[1].top1) / 2)
    assert rows[1].spread == pytest.approx(abs(rows[1].top1[0] - rows[1].top1[1]))


def test_without_images_the_statistics_of_the_supernet_are_used(
    family: Family, rows: list[Row]
) -> None:
    level = family.level(1)
    images = PreparedImages(HELD_OUT, family.preprocessing, (level.resolution,))
    plain = extract_subnet(load_supernet(family), level.architecture)
    assert rows[0].mean == pytest.approx(top1(plain, level.resolution, images), abs=NEAR)


def test_the_command_and_the_benchmark_calibrate_alike(
    family: Family, rows: list[Row], tmp_path: Path
) -> None:
    for row in rows[1:3]:
        settings = CalibrationSettings(8, row.augment, mirror=False, seed=2)
        output = tmp_path / str(row.augment)
        report = calibrate_family(family, Noise(40), HELD_OUT, output, settings)
        assert report.levels[0].after == row.top1[1]
