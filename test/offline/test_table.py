from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference import reference_file

from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.offline.latency.operator_layout import OperatorLayout
from dynamic_ofa_ros.offline.latency.table import (
    Correction,
    fit_correction,
    read_table,
)
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.space.spaces import search_space

TABLES = ('gpu', 'cpu')


@pytest.mark.parametrize('device', TABLES)
def test_sums_of_the_published_levels_equal_the_published_ones(device: str) -> None:
    table = read_table(reference_file(f'lut_xavier_nx_{device}.json'))
    levels = json.loads(reference_file('levels_xavier_nx.json').read_text())['gpu']
    genomes = GenomeEncoding(table.space).encode(
        [SubnetArchitecture.from_mapping(x) for x in levels]
    )
    expected = [level['lut_latency_ms'][device] for level in levels]
    np.testing.assert_allclose(table.predict(genomes), expected, rtol=2e-6)  # rounded there


@pytest.mark.parametrize('device', TABLES)
def test_sums_of_the_published_search_equal_the_published_ones(device: str) -> None:
    table = read_table(reference_file(f'lut_xavier_nx_{device}.json'))
    found = json.loads(reference_file(f'published_search_{device}.json').read_text())['found']
    architectures = [
        SubnetArchitecture.from_mapping({**f['arch'], 'r': f['arch']['r'][0]}) for f in found
    ]
    predicted = table.predict(GenomeEncoding(table.space).encode(architectures))
    np.testing.assert_allclose(predicted, [f['pred_lat'] for f in found], rtol=1e-12)


def test_the_correction_of_the_published_levels_is_accurate() -> None:
    """The measured GPU latencies are 11.2 ms + 1.657 x sum (README of the reference data)."""
    levels = json.loads(reference_file('levels_xavier_nx.json').read_text())['gpu']
    report = fit_correction(
        np.array([level['lut_latency_ms']['gpu'] for level in levels]),
        np.array([level['latency_ms'] for level in levels]),
    )
    assert report.correction.offset_ms == pytest.approx(11.2, abs=0.1)
    assert report.correction.factor == pytest.approx(1.657, abs=0.005)
    assert report.largest_error < 0.05
    assert report.within_10_percent == 1.0
    assert report.kendall_tau == pytest.approx(1.0)


def test_a_linear_relation_is_fitted_exactly() -> None:
    x = np.array([1.0, 2.0, 4.0])
    report = fit_correction(x, 3.0 + 2.0 * x)
    assert report.correction.offset_ms == pytest.approx(3.0)
    assert report.correction.factor == pytest.approx(2.0)
    assert report.largest_error < 1e-12


def test_two_networks_are_too_few() -> None:
    with pytest.raises(LatencyTableError, match='at least 3 measured networks, found 2'):
        fit_correction(np.ones(2), np.ones(2))


def small_table(resolutions: list[int]) -> dict:
    names = ['stem', 'block0', 'final_expand', 'avgpool', 'feature_mix', 'classifier']
    names += [
        f's{s}.b{b}.k{k}.e{e}'
        for s in range(5)
        for b in (0, 1)
        for k in (3, 5, 7)
        for e in (3, 4, 6)
    ]
    return {
        'platform': 'test',
        'resolutions': resolutions,
        'ops': {name: {'mean': [1.0] * len(resolutions)} for name in names},
    }


def test_latency_is_the_sum_of_fixed_operators_and_active_blocks(tmp_path: Path) -> None:
    document = {**small_table([64, 96]), 'correction': {'offset_ms': 5.0, 'factor': 2.0}}
    (tmp_path / 't.json').write_text(json.dumps(document))
    table = read_table(tmp_path / 't.json')
    genomes = GenomeEncoding(table.space).encode([table.space.smallest(), table.space.largest()])
    assert table.correction == Correction(5.0, 2.0)
    assert table.predict(genomes).tolist() == [5.0 + 2.0 * (6 + 10), 5.0 + 2.0 * (6 + 20)]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.pop('ops'), 'no "ops"'),
        (lambda d: d['ops'].pop('stem'), 'lacks operator stem'),
        (lambda d: d['ops'].pop('s4.b1.k7.e6'), 'lacks operator s4.b1.k7.e6'),
        (lambda d: d['ops']['stem'].update(mean=[1.0]), 'must contain 2 positive milliseconds'),
        (lambda d: d['ops']['stem'].update(mean=[1.0, -1.0]), 'must contain 2 positive'),
        (lambda d: d['ops']['stem'].update(mean=[1.0, math.inf]), 'must contain 2 positive'),
        (lambda d: d['resolutions'].reverse(), 'must be an ascending list of input sizes'),
        (lambda d: d.update(resolutions=[160, 160]), 'must be an ascending list of input sizes'),
        (
            lambda d: d['ops']['stem'].update(mean='fast'),
            'stem: "mean" must be a list of milliseconds',
        ),
        (lambda d: d.update(resolutions='all'), '"resolutions" must be an ascending list'),
    ],
)
def test_damaged_tables_are_explained(tmp_path: Path, change, message: str) -> None:
    document = small_table([64, 96])
    change(document)
    (tmp_path / 't.json').write_text(json.dumps(document))
    with pytest.raises(LatencyTableError, match=message):
        read_table(tmp_path / 't.json')


def test_missing_and_unreadable_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(LatencyTableError, match=r't\.json cannot be read'):
        read_table(tmp_path / 't.json')
    (tmp_path / 't.json').write_text('{')
    with pytest.raises(LatencyTableError, match=r't\.json is not JSON'):
        read_table(tmp_path / 't.json')


def own_table(resolutions: list[int], kind: str = 'ofa_proxyless') -> dict:
    names = OperatorLayout(search_space(kind, resolutions)).names
    return {
        'format': 'dynamic_ofa_latency_table',
        'version': 1,
        'platform': 'cpu-test',
        'backbone': {'kind': kind},
        'resolutions': resolutions,
        'operators': {name: {'median_ms': [1.0, 2.0]} for name in names},
        'correction': {'offset_ms': 5.0, 'factor': 2.0},
    }


def test_tables_of_all_kinds_of_backbones_are_read(tmp_path: Path) -> None:
    document = own_table([64, 96], 'ofa_resnet50')
    document['operators']['stem1.w0']['median_ms'] = [
        0.0,
        10.0,
    ]  # faster than the measurement resolves
    (tmp_path / 't.json').write_text(json.dumps(document))
    table = read_table(tmp_path / 't.json')
    space = search_space('ofa_resnet50', (64, 96))
    small = space.smallest()
    with_middle = replace(small, d=(2, *small.d[1:]), r=96)
    genomes = GenomeEncoding(space).encode([small, with_middle])
    # Stem without middle layer, pool, the least blocks, pool, classifier.
    assert table.predict(genomes).tolist() == [5.0 + 2.0 * 15, 5.0 + 2.0 * (2 * 15 + 10)]
    assert (table.platform, table.space) == ('cpu-test', space)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.update(version=7), 'version is 7; this release reads version 1'),
        (lambda d: d.update(backbone='big'), "unknown kind of backbone 'None'"),
        (lambda d: d['operators'].pop('s5.b0.k7.e6'), r'lacks operator s5\.b0\.k7\.e6'),
        (lambda d: d['operators']['stem'].update(median_ms=[1.0]), 'must contain 2 positive'),
        (
            lambda d: d['operators']['stem'].update(median_ms=[1.0, -1.0]),
            'must contain 2 positive',
        ),
        (lambda d: d.update(correction='none'), '"correction" must contain the numbers'),
        (lambda d: d.update(correction={'factor': math.nan}), '"correction" must contain'),
        (
            lambda d: d.update(correction={'offset_ms': []}),
            '"correction" must contain the numbers',
        ),
    ],
)
def test_damaged_tables_of_our_format_are_explained(tmp_path: Path, change, message: str) -> None:
    document = own_table([64, 96])
    change(document)
    (tmp_path / 't.json').write_text(json.dumps(document))
    with pytest.raises(LatencyTableError, match=message):
        read_table(tmp_path / 't.json')


def test_a_list_is_not_a_table(tmp_path: Path) -> None:
    (tmp_path / 't.json').write_text('[]')
    with pytest.raises(LatencyTableError, match='is not an operator table'):
        read_table(tmp_path / 't.json')
