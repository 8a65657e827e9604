from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import make_random_family

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.offline.accuracy.precision import measure_precision
from dynamic_ofa_ros.offline.data.datasets import RenderedSigns
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.runtime import engine
from dynamic_ofa_ros.runtime.engines.openvino import shared_core

CLASSES = 28
HAS_BF16 = 'BF16' in shared_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason='this processor does not compute in bf16')


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setitem(engine.TOLERANCES, 'bf16', 0.25)  # weights are random


@pytest.fixture
def family(tmp_path: Path) -> Family:
    torch.manual_seed(1)
    return Family.load(make_random_family(tmp_path / 'random', classes=CLASSES))


@needs_bf16
def test_accuracies_and_agreement_are_measured_on_the_images(family: Family) -> None:
    images = RenderedSigns(2 * CLASSES, split='held_out', height=96)
    seen: list[int] = []
    report = measure_precision(
        family, DeviceSettings('cpu', 'openvino', 1, 'bf16'), images, seen.append
    )
    assert report.images == seen[-1] == 2 * CLASSES
    assert len(report.accuracies) == len(report.in_fp32) == len(family.levels)
    assert 0.5 <= report.agreement <= 1.0  # of random weights; trained ones agree in 99 %
    assert all(0.0 <= share <= 1.0 for share in (*report.accuracies, *report.in_fp32))


def test_fp32_agrees_with_itself(family: Family) -> None:
    images = RenderedSigns(CLASSES, split='held_out', height=96)
    report = measure_precision(family, DeviceSettings('cpu', 'onnxruntime'), images)
    assert report.agreement == 1.0
    assert report.accuracies == report.in_fp32


def test_damaged_images_are_left_out(
    family: Family, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = RenderedSigns.image

    def image(self: RenderedSigns, index: int) -> object:
        if index == 3:
            raise DatasetError('scene 3 is damaged')
        return right(self, index)

    monkeypatch.setattr(RenderedSigns, 'image', image)
    images = RenderedSigns(10, split='held_out', height=96)
    assert measure_precision(family, DeviceSettings('cpu', 'onnxruntime'), images).images == 9
    assert 'scene 3 is damaged' in caplog.text


@needs_bf16
def test_measure_writes_the_accuracies_into_the_profile(
    family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['measure', str(family.directory), '--device', 'cpu', '--precision', 'bf16']
    assert main([*arguments, '--data', 'signs', '--images', '28']) == 0
    assert 'bf16 on 28 images' in capsys.readouterr().err
    (profile,) = Family.load(family.directory).platforms.values()
    assert profile.platform.endswith('-openvino-bf16-t1')
    assert profile.conditions['precision'] == 'bf16'
    assert len(profile.accuracies) == len(family.levels)
    in_bf16 = Family.load(family.directory).in_precision('openvino', 'bf16')
    assert in_bf16 is not None
    assert tuple(level.accuracy for level in in_bf16.levels) == profile.accuracies
