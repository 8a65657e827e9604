"""`dynamic-ofa search` in every search space, from a table and a predictor to architectures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from offline.fake_device import pretend_device

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
from dynamic_ofa_ros.offline.accuracy import predictor_fit
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import save_predictor
from dynamic_ofa_ros.offline.latency.measure_model import measure_operator_table
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.space.spaces import SPACES, search_space
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

RESOLUTIONS = (32, 48)


@pytest.mark.parametrize('algorithm', ['nsga2', 'algorithm1'])
@pytest.mark.parametrize('kind', SPACES)
def test_every_space_can_be_searched(
    kind: str, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    device = pretend_device(monkeypatch)
    space = search_space(kind, RESOLUTIONS)
    trained = TrainedBackbone(
        Path('nowhere'),
        BackboneSpec('test', kind, 0.35, 4),
        Preprocessing(),
        ('a', 'b', 'c', 'd'),
        RESOLUTIONS,
        {},
    )
    measure_operator_table(trained, tmp_path / 'lut.json')
    rng = np.random.default_rng(1)
    genomes = GenomeEncoding(space).encode([space.sample(rng) for _ in range(60)])
    predictor, _ = predictor_fit.fit_predictor(genomes, genomes.mean(axis=1) / 10 + 0.5, space)
    save_predictor(predictor, tmp_path / 'predictor.npz')
    capsys.readouterr()
    ends_ms = [device.network_ms(trained, a) for a in (space.smallest(), space.largest())]
    limits_ms = [ends_ms[0] + share * (ends_ms[1] - ends_ms[0]) for share in (0.3, 0.6)]
    command = ['search', '--lut', str(tmp_path / 'lut.json'), '--predictor',
               str(tmp_path / 'predictor.npz'), '--evaluations', '600', '--algorithm', algorithm,
               '--json']  # fmt: skip
    for limit_ms in limits_ms:
        command += ['--limit-ms', str(limit_ms)]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row['limit_ms'] for row in rows] == limits_ms
    for row in rows:
        architecture = SubnetArchitecture.from_mapping(row['architecture'])
        space.validate(architecture)
        assert row['latency_ms'] <= row['limit_ms']
        assert row['latency_ms'] == pytest.approx(device.network_ms(trained, architecture))
    own = space.count_cost(architecture, 0.35, 4).macs
    for option, result in (('--max-macs', 0), ('--classes=5 --max-macs', 2)):
        assert main([*command, *option.split(), str(own)]) == result
    assert '--classes is 5, but' in capsys.readouterr().err
    if algorithm == 'nsga2':  # one search for all limits; Algorithm 1 runs once per limit
        assert rows[1]['accuracy'] >= rows[0]['accuracy']
