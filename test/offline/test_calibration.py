from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch
from families import make_random_family
from noise_images import LABELS, Noise

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import DatasetError, FamilyError
from dynamic_ofa_ros.family import Family, LatencyProfile, LevelLatency, write_profile
from dynamic_ofa_ros.offline.accuracy.calibration import (
    CalibrationSettings,
    Relabelled,
    calibrate_family,
)
from dynamic_ofa_ros.offline.accuracy.evaluation import PreparedImages, top1
from dynamic_ofa_ros.supernet.batch_norm import statistics_of
from dynamic_ofa_ros.supernet.network import load_level

# Results of two memory layouts may differ for an image.
NEAR = 0.02


@pytest.fixture(scope='module')
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = make_random_family(
        tmp_path_factory.mktemp('family') / 'random', levels=2, width_mult=0.1
    )
    latency = LevelLatency(1.0, 1.0, 0.1, 1.2, 1.3, 10)
    profile = LatencyProfile('here', (latency, latency), '2026-01-01')
    write_profile(profile, folder / 'platforms' / 'here.yaml')
    return Family.load(folder)


def test_a_family_is_written_with_new_statistics(family: Family, tmp_path: Path) -> None:
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
    assert sorted(p.name for p in tmp_path.iterdir()) == ['new'], 'no other files remain'


def test_augmented_images_give_other_reproducible_statistics(
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


def test_damaged_images_are_skipped_and_not_counted(
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
    assert '2 of 30 images are damaged and skipped' in caplog.text


def test_a_last_batch_of_one_image_is_accepted(family: Family, tmp_path: Path) -> None:
    """At 32 px, the last feature maps have one point, so a single image has no variance there."""
    for augmented in (False, True):
        settings = CalibrationSettings(images=101, augment=augmented)
        output = tmp_path / str(augmented)
        report = calibrate_family(family, Noise(101), Noise(64), output, settings)
        assert report.calibration_images == 101


def test_invalid_calibrations_are_explained(family: Family, tmp_path: Path) -> None:
    settings = CalibrationSettings(images=32)
    (tmp_path / 'there').mkdir()
    with pytest.raises(FamilyError, match='exists already'):
        calibrate_family(family, Noise(8), Noise(8), tmp_path / 'there', settings)
    with pytest.raises(DatasetError, match='--images is 1; at least 2 are required'):
        calibrate_family(family, Noise(8), Noise(8), tmp_path / 'x', CalibrationSettings(1))
    strange = Noise(8, classes=('class 1', 'cow', 'emu'))
    with pytest.raises(DatasetError, match='that the family lacks: cow, emu; it has'):
        calibrate_family(family, Noise(8), strange, tmp_path / 'x', settings)
    # The same image with two labels cannot be classified correctly twice.
    refused = []
    for label in LABELS[:2]:
        try:
            once = Noise(1, classes=(label,))
            calibrate_family(family, Noise(8), once, tmp_path / label, settings)
        except DatasetError as error:
            refused.append(label)
            assert 'classifies all 1 held-out images wrongly' in str(error)  # noqa: PT017
    assert refused
    assert not any((tmp_path / label).exists() for label in refused)


def test_classes_are_matched_by_name() -> None:
    some = Relabelled.to(LABELS, Noise(6, classes=('class 7', 'class 2')))
    assert [some.label(i) for i in range(3)] == [7, 2, 7]
    assert len(some) == 6
    assert some.classes == LABELS


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of four classes of the family, in class folders."""
    root = tmp_path_factory.mktemp('photos')
    for split, count in (('train', 12), ('val', 24)):
        noise = Noise(4 * count, seed=len(split))
        for index in range(4 * count):
            folder = root / split / LABELS[index % 4]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{index}.png'), noise.image(index))
    return root


def test_the_command_calibrates_on_class_folders(
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
    if not torch.cuda.is_available():
        assert main([*base, '--output', str(tmp_path / 'x'), '--device', 'cuda']) == 2
        assert 'use --device cpu' in capsys.readouterr().err
