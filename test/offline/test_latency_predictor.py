from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.offline.latency.latency_predictor import (
    fit_latency_predictor,
    work_of,
    write_predictor,
)
from dynamic_ofa_ros.offline.latency.table import read_table, report_of
from dynamic_ofa_ros.offline.search.candidates import sample_candidates
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes
from dynamic_ofa_ros.space.spaces import SearchSpace, search_space

NETWORKS = 60
NOISE = 0.02
MS_PER_MAC = 1e-7
MS_PER_BLOCK = 0.2


def networks(space: SearchSpace, seed: int, count: int = NETWORKS) -> tuple[Genomes, np.ndarray]:
    """Return networks with simulated latencies: proportional to MACs and blocks, with noise."""
    architectures = sample_candidates(space, count, seed)
    genomes = GenomeEncoding(space).encode(architectures)
    macs = np.array([space.count_cost(a, 1.0, 10).macs for a in architectures])
    blocks = GenomeEncoding(space).active(genomes).sum(1)
    noise = np.random.default_rng(seed).normal(1.0, NOISE, count)
    return genomes, (1.0 + MS_PER_MAC * macs + MS_PER_BLOCK * blocks) * noise


@pytest.mark.parametrize('kind', ['ofa_mobilenetv3', 'ofa_resnet50'])
def test_new_networks_are_predicted(kind: str) -> None:
    space = search_space(kind, (128, 160, 192, 224))
    genomes, measured_ms = networks(space, seed=1)
    predictor = fit_latency_predictor(genomes, measured_ms, space)
    genomes, measured_ms = networks(space, seed=2)
    report = report_of(predictor.predict(genomes), measured_ms)
    assert report.mean_error < 0.04
    assert report.within_10_percent > 0.95
    assert report.kendall_tau > 0.93
    # The report agrees with the error on new networks.
    assert predictor.report.mean_error == pytest.approx(report.mean_error, abs=0.02)
    assert predictor.report.mean_error > 0.5 * NOISE


def test_inactive_blocks_do_no_work() -> None:
    space = search_space('ofa_mobilenetv3', (64,))
    small = space.smallest()
    changed = replace(small, ks=(3, 3, 3, 7) * 5, e=(3, 3, 3, 6) * 5)
    work = work_of(GenomeEncoding(space).encode([small, changed, space.largest()]), space)
    assert work[0].tolist() == work[1].tolist()
    assert (work[2] >= work[0]).all()
    assert work[2].sum() > work[0].sum()


def test_predictions_do_not_decrease_when_a_network_grows() -> None:
    space = search_space('ofa_mobilenetv3', (64, 96))
    predictor = fit_latency_predictor(*networks(space, seed=3), space)
    extremes = [space.smallest(), replace(space.smallest(), r=96), space.largest()]
    predicted = predictor.predict(GenomeEncoding(space).encode(extremes))
    assert (np.diff(predicted) > 0).all()


def test_too_few_networks_are_rejected() -> None:
    space = search_space('ofa_mobilenetv3', (64,))
    genomes, measured_ms = networks(space, seed=1, count=19)
    with pytest.raises(LatencyTableError, match='at least 20 measured networks, found 19'):
        fit_latency_predictor(genomes, measured_ms, space)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    space = search_space('ofa_proxyless', (64, 96))
    predictor = fit_latency_predictor(*networks(space, seed=1, count=20), space)
    head = {
        'platform': 'test',
        'backbone': {'kind': 'ofa_proxyless'},
        'resolutions': [64, 96],
    }
    write_predictor(tmp_path / 'p.json', predictor, head, [])
    again = read_table(tmp_path / 'p.json')
    genomes, _ = networks(space, seed=2, count=5)
    assert again.predict(genomes).tolist() == predictor.predict(genomes).tolist()
    assert (again.platform, again.space) == ('test', space)
    return tmp_path / 'p.json'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.update(version=2), 'version is 2; this release reads version 1'),
        (lambda d: d.pop('backbone'), "unknown kind of backbone 'None'"),
        (lambda d: d.pop('resolutions'), '"resolutions" must be an ascending list'),
        (lambda d: d.pop('factors'), "is damaged: KeyError: 'factors'"),
        (lambda d: d['factors'].pop(), '"factors" must contain'),
        (lambda d: d['factors'].insert(0, -1.0), '"factors" must contain'),
        (lambda d: d.update(leave_one_out={}), 'is damaged: TypeError'),
    ],
)
def test_damaged_files_are_explained(written: Path, change, message: str) -> None:
    document = json.loads(written.read_text())
    change(document)
    written.write_text(json.dumps(document))
    with pytest.raises(LatencyTableError, match=message):
        read_table(written)
