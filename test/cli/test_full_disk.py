"""With a full disk, every command names the file in one sentence and leaves no output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from families import make_random_backbone, make_random_family
from full_disk import files_up_to
from image_files import write_noise
from offline.fake_device import pretend_device, profile_quickly
from offline.pool_data import CLASSES

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.supernet.trained import open_backbone

FITS_BYTES = 100


def calibrate(folder: Path, output: Path, patch: pytest.MonkeyPatch) -> list[str]:
    make_random_family(folder / 'family', levels=2, width_mult=0.1)
    for split in ('train', 'val'):
        write_noise(folder / 'photos' / split, [f'class {label}' for label in range(8)], 4)
    patch.setattr('dynamic_ofa_ros.offline.accuracy.calibration.top1', lambda *_: 0.5)
    arguments = ['calibrate', '--family', str(folder / 'family'), '--data', str(folder / 'photos')]
    return [*arguments, '--output', str(output), '--device', 'cpu', '--threads', '1']


def measure(folder: Path, output: Path, patch: pytest.MonkeyPatch) -> list[str]:
    profile_quickly(patch)
    make_random_family(output, levels=2, width_mult=0.1)
    return ['measure', str(output), '--device', 'cpu', '--engine', 'pytorch']


def latency_model(folder: Path, output: Path, patch: pytest.MonkeyPatch) -> list[str]:
    make_random_backbone(folder / 'backbone', CLASSES)
    pretend_device(patch)
    return ['profile', '--backbone', str(folder / 'backbone'), '--output', str(output)]


def predictor(folder: Path, output: Path, patch: pytest.MonkeyPatch) -> list[str]:
    space = open_backbone(make_random_backbone(folder / 'backbone', CLASSES)).space
    rng = np.random.default_rng(2)
    rows = [
        json.dumps({'architecture': space.sample(rng).to_mapping(), 'top1': 0.3 + i / 100})
        for i in range(24)
    ]
    (folder / 'pairs.jsonl').write_text('\n'.join(rows) + '\n')
    return ['predictor', 'fit', '--pairs', str(folder / 'pairs.jsonl'), '--output', str(output)]


@pytest.mark.parametrize('prepare', [calibrate, measure, latency_model, predictor])
def test_a_full_disk_is_reported_with_the_file(
    prepare: Callable[[Path, Path, pytest.MonkeyPatch], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path / 'cache'))
    output = tmp_path / 'new' / 'output.npz'
    command = prepare(tmp_path, output, monkeypatch)
    before = set(output.parent.rglob('*'))
    with files_up_to(FITS_BYTES):
        assert main(command) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith('dynamic-ofa: ')
    assert 'File too large' in sentence
    assert str(tmp_path) in sentence, 'the sentence does not name the file'
    left = set(output.parent.rglob('*')) - before
    assert not [path for path in left if path.is_file() and '.journal' not in path.name]
