from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from families import CLASSES, make_random_family

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import DatasetError, FamilyError
from dynamic_ofa_ros.family import Family, LatencyProfile, LevelLatency, write_profile
from dynamic_ofa_ros.offline.accuracy.calibration import (
    CalibrationSettings,
    Relabelled,
    StudySettings,
    calibrate_family,
    study,
)
from dynamic_ofa_ros.offline.accuracy.evaluation import PreparedImages, top1
from dynamic_ofa_ros.supernet.batch_norm import statistics_of
from dynamic_ofa_ros.supernet.network import extract_subnet, load_level, load_supernet

# Two memory layouts may disagree on an image or so.
NEAR = 0.02
LABELS = tuple(f'class {i}' for i in range(CLASSES))


@dataclass(frozen=True)
class Noise:
    """Random pictures, each class a shade of its own; `broken` ones cannot be read."""

    count: int
    seed: int = 1
    classes: tuple[str, ...] = LABELS
    broken: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        return index % len(self.classes)

    def image(self, index: int) -> np.ndarray:
        if index in self.broken:
            raise DatasetError(f'{index}.jpg is not a JPEG or PNG image, or it is damaged')
        rng = np.random.default_rng([self.seed, index])
        return (rng.integers(0, 160, (40, 48, 3)) + 6 * self.label(index)).astype(np.uint8)


@pytest.fixture(scope='module')
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = make_random_family(
        tmp_path_factory.mktemp('family') / 'random', levels=2, width_mult=0.1
    )
    latency = LevelLatency(1.0, 1.0, 0.1, 1.2, 1.3, 10)
    profile = LatencyProfile('here', (latency, latency), '2026-01-01')
    write_profile(profile, folder / 'platforms' / 'here.yaml')
    return Family.load(folder)


def test_a_family_is_written_anew_with_other_statistics(family: Family, tmp_path: Path) -> None:
    held_out = Noise(96, seed=2)
    report = calibrate_family(
        family, Noise(80), held_out, tmp_path / 'new', CalibrationSettings(images=64)
    )
    new = Family.load(tmp_path / 'new')
    assert report.family == new
    assert (report.calibration_images, report.held_out_images) == (64, 96)
    assert new.platforms.keys() == family.platforms.keys()
    assert new.provenance['calibration']['images'] == 64
    assert new.provenance['calibration']['calibrated_from'] == family.checksum
    assert new.weights_path.read_bytes() == family.weights_path.read_bytes()
    images = PreparedImages(held_out, new.preprocessing, (32, 64))
    for level, change in zip(new.levels, report.levels, strict=True):
        subnet = load_level(new, level.index)
        assert top1(subnet, level.resolution, images) == pytest.approx(change.after, abs=NEAR)
        assert level.accuracy == pytest.approx(change.after, abs=1e-5)
        old = load_level(family, level.index)
        assert top1(old, level.resolution, images) == pytest.approx(change.before, abs=NEAR)
        one, other = statistics_of(subnet), statistics_of(old)
        assert not all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['new'], 'nothing else is left behind'


def test_augmented_images_give_other_statistics_the_same_each_time(
    family: Family, tmp_path: Path
) -> None:
    means = []
    for index, augmented in enumerate((False, True, True)):
        settings = CalibrationSettings(images=32, augment=augmented)
        output = tmp_path / str(index)
        new = calibrate_family(family, Noise(40), Noise(64), output, settings).family
        means.append(torch.cat([v.ravel() for v in statistics_of(load_level(new, 1)).values()]))
    assert torch.equal(means[1], means[2])
    assert not torch.allclose(means[0], means[1])


def test_damaged_images_are_left_out_and_not_counted(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for augmented in (False, True):
        report = calibrate_family(
            family,
            Noise(30, broken=(3, 4)),
            Noise(64, broken=(5,)),
            tmp_path / str(augmented),
            CalibrationSettings(images=30, augment=augmented),
        )
        assert (report.calibration_images, report.held_out_images) == (28, 63)
    assert '2 of 30 images are damaged and left out' in caplog.text


def test_a_last_batch_of_one_image_is_no_hindrance(family: Family, tmp_path: Path) -> None:
    """At 32 px the last maps have one point: one image alone has no variance there."""
    for augmented in (False, True):
        settings = CalibrationSettings(images=101, augment=augmented)
        output = tmp_path / str(augmented)
        report = calibrate_family(family, Noise(101), Noise(64), output, settings)
        assert report.calibration_images == 101


def test_what_cannot_be_calibrated_is_a_sentence(family: Family, tmp_path: Path) -> None:
    settings = CalibrationSettings(images=32)
    (tmp_path / 'there').mkdir()
    with pytest.raises(FamilyError, match='exists already'):
        calibrate_family(family, Noise(8), Noise(8), tmp_path / 'there', settings)
    with pytest.raises(DatasetError, match='--images is 1; statistics need 2 images or more'):
        calibrate_family(family, Noise(8), Noise(8), tmp_path / 'x', CalibrationSettings(1))
    strange = Noise(8, classes=('class 1', 'cow', 'emu'))
    with pytest.raises(DatasetError, match='that the family does not know: cow, emu; it knows'):
        calibrate_family(family, Noise(8), strange, tmp_path / 'x', settings)
    # One picture under two names: no network can be right about both.
    refused = []
    for label in LABELS[:2]:
        try:
            once = Noise(1, classes=(label,))
            calibrate_family(family, Noise(8), once, tmp_path / label, settings)
        except DatasetError as error:
            refused.append(label)
            assert 'classifies none of the 1 held-out images rightly' in str(error)  # noqa: PT017
    assert refused
    assert not any((tmp_path / label).exists() for label in refused)


def test_classes_are_matched_by_name() -> None:
    some = Relabelled.to(LABELS, Noise(6, classes=('class 7', 'class 2')))
    assert [some.label(i) for i in range(3)] == [7, 2, 7]
    assert len(some) == 6
    assert some.classes == LABELS


def test_the_study_measures_each_kind_of_calibration(family: Family) -> None:
    settings = StudySettings(counts=(0, 8, 32), seeds=(1, 2), levels=(2,))
    held_out = Noise(64, seed=2)
    seen: list[int] = []
    rows = study(family, Noise(40), held_out, settings, on_row=lambda done, _: seen.append(done))
    assert [(row.images, row.augment) for row in rows] == [
        (0, False), (8, False), (8, True), (32, False), (32, True),
    ]  # fmt: skip
    assert seen == [1, 2, 3, 4, 5]
    assert [len(row.top1) for row in rows] == [1, 2, 2, 2, 2]
    level = family.level(2)
    images = PreparedImages(held_out, family.preprocessing, (level.resolution,))
    # No images: the supernet's own statistics.
    plain = extract_subnet(load_supernet(family), level.architecture)
    (found,) = rows[0].top1
    assert found == pytest.approx(top1(plain, level.resolution, images), abs=NEAR)
    assert rows[3].mean == pytest.approx(sum(rows[3].top1) / 2)
    assert rows[3].spread == pytest.approx(abs(rows[3].top1[0] - rows[3].top1[1]))


def test_the_study_agrees_with_the_calibration(family: Family, tmp_path: Path) -> None:
    held_out = Noise(64, seed=2)
    how = StudySettings(counts=(32,), seeds=(2,), levels=(1,))
    rows = study(family, Noise(40), held_out, how)
    for augmented in (False, True):
        settings = CalibrationSettings(images=32, augment=augmented, seed=2)
        report = calibrate_family(family, Noise(40), held_out, tmp_path / str(augmented), settings)
        assert rows[augmented].top1 == (report.levels[0].after,)


def test_all_images_that_there_are_are_one_draw(family: Family) -> None:
    how = StudySettings(counts=(16,), seeds=(1, 2), levels=(1,))
    rows = study(family, Noise(16), Noise(16, seed=2), how)
    assert [len(row.top1) for row in rows] == [1, 2]
    assert rows[0].spread == 0.0


def test_the_study_says_when_there_are_too_few_images(family: Family) -> None:
    with pytest.raises(DatasetError, match='0 to 50 images; there are 40'):
        study(family, Noise(40), Noise(8), StudySettings(counts=(0, 50)))


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of four of the family's classes, in folders of their names."""
    root = tmp_path_factory.mktemp('photos')
    for split, count in (('train', 12), ('val', 24)):
        noise = Noise(4 * count, seed=len(split))
        for index in range(4 * count):
            folder = root / split / LABELS[index % 4]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{index}.png'), noise.image(index))
    return root


def test_the_command_calibrates_on_a_users_photographs(
    family: Family, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ['calibrate', '--family', str(family.directory), '--data', str(photos)]
    base += ['--device', 'cpu', '--threads', '1']
    assert main([*base, '--output', str(tmp_path / 'new'), '--images', '40', '--json']) == 0
    document = json.loads(capsys.readouterr().out)
    assert document['calibration_images'] == 40
    assert document['held_out_images'] == 96
    assert document['checksum'] == Family.load(tmp_path / 'new').checksum
    assert main([*base, '--output', str(tmp_path / 'new')]) == 2
    assert 'exists already' in capsys.readouterr().err
    assert main(base) == 2
    assert 'give --output FOLDER for the calibrated family, or --study' in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main([*base, '--output', str(tmp_path / 'x'), '--device', 'cuda']) == 2
        assert 'use --device cpu' in capsys.readouterr().err


def test_the_command_studies(
    family: Family, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ['calibrate', '--family', str(family.directory), '--data', str(photos), '--study']
    base += ['--device', 'cpu', '--threads', '1', '--levels', '1', '--seeds', '1']
    base += ['--store', str(tmp_path)]
    assert main([*base, '--counts', '0,16', '--json']) == 0
    rows = json.loads(capsys.readouterr().out)['rows']
    assert [(row['images'], row['augment']) for row in rows] == [
        (0, False), (16, False), (16, True),
    ]  # fmt: skip
    assert main([*base, '--counts', '0,16']) == 0
    assert 'top-1 on 96 held-out images, mean of 1 draws' in capsys.readouterr().out
    assert main([*base, '--counts', 'many']) == 2
    assert "--counts 'many': give whole numbers" in capsys.readouterr().err
    assert main([*base, '--counts', '0,9999']) == 2
    assert '0 to 9999 images; there are 48' in capsys.readouterr().err
