from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from offline.fake_device import FACTOR, OFFSET_MS, PLATFORM, FakeDevice, pretend_device

from dynamic_ofa_ros.errors import CheckpointError, LatencyTableError
from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
from dynamic_ofa_ros.offline.latency import measure_model
from dynamic_ofa_ros.offline.latency.measure_model import (
    GROUP_OPERATORS,
    measure_latency_predictor,
    measure_operator_table,
)
from dynamic_ofa_ros.offline.latency.table import read_document, read_table
from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.supernet.trained import TrainedBackbone, open_backbone

RESOLUTIONS = (32, 48)
WITHOUT_WEIGHTS = TrainedBackbone(
    directory=Path('nowhere'),
    backbone=BackboneSpec('test', 'ofa_mobilenetv3', 0.35, 4),
    preprocessing=Preprocessing(),
    labels=('a', 'b', 'c', 'd'),
    resolutions=RESOLUTIONS,
    training={},
)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    return pretend_device(monkeypatch)


def test_a_table_predicts_the_latency_of_networks(device: FakeDevice, tmp_path: Path) -> None:
    output = tmp_path / 'lut.json'
    table = measure_operator_table(WITHOUT_WEIGHTS, output)
    assert table.correction.offset_ms == pytest.approx(OFFSET_MS, abs=1e-6)
    assert table.correction.factor == pytest.approx(FACTOR, abs=1e-6)
    space = WITHOUT_WEIGHTS.space
    architectures = [space.sample(np.random.default_rng(seed)) for seed in range(20)]
    expected = [device.network_ms(WITHOUT_WEIGHTS, a) for a in architectures]
    read = read_table(output)
    for model in (table, read):
        predicted = model.predict(GenomeEncoding(space).encode(architectures))
        np.testing.assert_allclose(predicted, expected, rtol=1e-6)
    assert (read.platform, read.space) == (PLATFORM, space)
    assert len(device.timed) == len(set(device.timed)) == 96 * len(RESOLUTIONS)
    assert [entry.name for entry in tmp_path.iterdir()] == ['lut.json']


def test_the_file_contains_measurements_and_conditions(device: FakeDevice, tmp_path: Path) -> None:
    measure_operator_table(WITHOUT_WEIGHTS, tmp_path / 'lut.json', networks=7)
    document = read_document(tmp_path / 'lut.json')
    assert document['operators']['stem'] == {
        'median_ms': [pytest.approx(device.operator_ms('stem', i)) for i in (0, 1)],
        'mean_ms': [1.0, 1.0],
        'sd_ms': [0.1, 0.1],
        'count': [30, 30],
    }
    assert document['backbone']['width_mult'] == 0.35
    assert document['conditions']['engine'] == 'pytorch'
    assert set(document['correction']['leave_one_out']) == {
        'mean_error', 'largest_error', 'within_10_percent', 'kendall_tau',
    }  # fmt: skip
    sums = [network['sum_ms'] for network in document['networks']]
    assert len(sums) == 7
    # The networks are spread over the whole range of latencies.
    table = read_table(tmp_path / 'lut.json')
    extremes = GenomeEncoding(table.space).encode([table.space.smallest(), table.space.largest()])
    ends = (table.predict(extremes) - OFFSET_MS) / FACTOR
    assert min(sums) == pytest.approx(ends[0], rel=1e-3)
    assert max(sums) == pytest.approx(ends[1], rel=1e-3)


def test_a_killed_measurement_is_resumed(device: FakeDevice, tmp_path: Path) -> None:
    whole = tmp_path / 'whole.json'
    measure_operator_table(WITHOUT_WEIGHTS, whole)
    device.timed.clear()
    output = tmp_path / 'lut.json'
    device.groups_before_kill = 2
    with pytest.raises(KeyboardInterrupt):
        measure_operator_table(WITHOUT_WEIGHTS, output)
    assert not output.exists()
    with (tmp_path / 'lut.json.journal').open('a') as journal:
        journal.write('{"name": "s0.b')  # the kill came while a line was written
    device.groups_before_kill = 10**9
    measure_operator_table(WITHOUT_WEIGHTS, output)
    assert len(device.timed) == len(set(device.timed)) == 96 * len(RESOLUTIONS)
    first, second = (read_document(path) for path in (whole, output))
    assert first['operators'] == second['operators']
    assert not (tmp_path / 'lut.json.journal').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'resolutions': (32,)}, r'resolutions \[32, 48\] instead of \[32\]'),
        ({'backbone': BackboneSpec('test', 'ofa_mobilenetv3', 1.0, 4)}, 'width_mult'),
        ('platform', f'platform {PLATFORM} instead of cuda-other'),
    ],
)
def test_the_journal_of_another_measurement_is_rejected(
    device: FakeDevice, tmp_path: Path, change, message: str
) -> None:
    device.groups_before_kill = 1
    with pytest.raises(KeyboardInterrupt):
        measure_operator_table(WITHOUT_WEIGHTS, tmp_path / 'lut.json')
    device.groups_before_kill = 10**9
    trained = WITHOUT_WEIGHTS
    if change == 'platform':
        device.platform = 'cuda-other'
    else:
        trained = replace(trained, **change)
    with pytest.raises(LatencyTableError, match=message):
        measure_operator_table(trained, tmp_path / 'lut.json')
    assert len(device.timed) == GROUP_OPERATORS
    measure_operator_table(trained, tmp_path / 'lut.json', resume=False)
    assert (tmp_path / 'lut.json').exists()


def test_an_existing_output_is_not_overwritten(device: FakeDevice, tmp_path: Path) -> None:
    (tmp_path / 'lut.json').write_text('mine')
    with pytest.raises(LatencyTableError, match='exists already'):
        measure_operator_table(WITHOUT_WEIGHTS, tmp_path / 'lut.json')
    assert (tmp_path / 'lut.json').read_text() == 'mine'


def test_a_predictor_of_whole_networks_is_read_like_a_table(
    device: FakeDevice, tmp_path: Path
) -> None:
    output = tmp_path / 'predictor.json'
    predictor = measure_latency_predictor(WITHOUT_WEIGHTS, output, networks=40)
    assert not device.timed
    read = read_table(output)
    genomes = GenomeEncoding(read.space).sample(np.random.default_rng(1), 10)
    assert read.predict(genomes).tolist() == predictor.predict(genomes).tolist()
    assert read.platform == PLATFORM
    assert len(read_document(output)['networks']) == 40


def test_resolutions_can_be_chosen(device: FakeDevice, tmp_path: Path) -> None:
    table = measure_operator_table(
        replace(WITHOUT_WEIGHTS, resolutions=(64,)), tmp_path / 'lut.json', resolutions=(48, 32)
    )
    assert table.space.resolutions == RESOLUTIONS


def test_a_busy_machine_is_logged(
    device: FakeDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(measure_model.DeviceWatch, 'load_of_others', 0.6)
    with caplog.at_level(logging.WARNING):
        measure_latency_predictor(WITHOUT_WEIGHTS, tmp_path / 'p.json', networks=20)
    assert 'other programs used 60 % of the device' in caplog.text
    assert json.loads((tmp_path / 'p.json').read_text())['conditions']['load_of_others'] == 0.6


def test_a_poor_fit_is_logged(
    device: FakeDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        measure_operator_table(WITHOUT_WEIGHTS, tmp_path / 'good.json')
    assert 'do not search with this file' not in caplog.text
    disturbance = np.random.default_rng(1)
    undisturbed = device.network_ms
    monkeypatch.setattr(
        device, 'network_ms', lambda *a: undisturbed(*a) * disturbance.uniform(1.0, 4.0)
    )
    with caplog.at_level(logging.WARNING):
        measure_operator_table(WITHOUT_WEIGHTS, tmp_path / 'poor.json')
    assert 'do not search with this file' in caplog.text


def test_a_family_can_be_used_as_a_backbone() -> None:
    trained = open_backbone('signs')
    assert trained.backbone.kind == 'ofa_mobilenetv3'
    assert trained.resolutions == tuple(sorted(set(trained.resolutions)))


def test_a_folder_without_a_backbone_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'is not the output folder .* a family'):
        open_backbone(str(tmp_path))
