from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from reference import reference_file

from dynamic_ofa_ros.errors import LevelFileError
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.spaces import search_space
from dynamic_ofa_ros.supernet.network import published_backbone
from dynamic_ofa_ros.supernet.published.level_file import read_levels, resolve_level_file

XAVIER = 'ofa_mbv3_w12_xavier_nx_gpu'


def test_the_shipped_file_lists_the_six_levels_of_the_paper() -> None:
    found = read_levels(XAVIER)
    assert found.backbone == published_backbone('ofa_mbv3_d234_e346_k357_w1.2')
    assert 'CVPR Workshops 2021' in found.source
    assert 'Xavier NX' in found.platform
    assert [level.architecture.r for level in found.levels] == [176, 176, 192, 208, 224, 224]
    accuracies = [level.accuracy for level in found.levels]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == 0.74202
    assert [level.latency_ms for level in found.levels][-1] == 61.7347
    space = search_space('ofa_mobilenetv3')
    found.check_fits(found.backbone, space)
    assert len({a.canonical(space) for a in found.architectures}) == 6


def test_the_shipped_file_states_the_published_values() -> None:
    published = json.loads(reference_file('levels_xavier_nx.json').read_text())['gpu']
    found = read_levels(XAVIER)
    space = search_space(found.backbone.kind)
    for mine, theirs in zip(found.levels, published, strict=True):
        assert mine.architecture == SubnetArchitecture.from_mapping(theirs)
        assert mine.accuracy == pytest.approx(theirs['top1'] / 100)
        assert mine.latency_ms == theirs['latency_ms']
        cost = space.count_cost(mine.architecture, found.backbone.width_mult, 1000)
        assert (cost.macs, cost.parameters) == (theirs['macs'], theirs['params'])


def write(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the shipped file after applying `change` to the document."""
    document = yaml.safe_load(resolve_level_file(XAVIER).read_text())
    change(document)
    path = tmp_path / 'levels.yaml'
    path.write_text(yaml.safe_dump(document))
    return path


def first(document: dict[str, Any]) -> dict[str, Any]:
    level: dict[str, Any] = document['levels'][0]
    return level


def leave_only_architectures(document: dict[str, Any]) -> None:
    document['levels'] = [{'architecture': e['architecture']} for e in document['levels']]


def test_accuracy_latency_and_cost_are_optional(tmp_path: Path) -> None:
    found = read_levels(write(tmp_path, leave_only_architectures))
    assert found.architectures == read_levels(XAVIER).architectures
    assert {(level.accuracy, level.latency_ms) for level in found.levels} == {(None, None)}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: first(d)['architecture']['ks'].pop(), 'level 1: ks has 19 values'),
        (lambda d: first(d)['architecture'].update(r='x'), 'level 1: r'),
        (lambda d: first(d)['architecture'].pop('e'), "level 1: .*'e'"),
        (lambda d: first(d)['architecture']['d'].__setitem__(0, 5), r'level 1: d\[0\] is 5'),
        (lambda d: first(d)['architecture'].update(r=180), 'level 1: macs is 235467152, but'),
        (lambda d: first(d).update(parameters=1), 'level 1: parameters is 1, but .* correct one'),
        (lambda d: first(d).update(accuracy=74.2), r'level 1: accuracy is 74\.2; .* fractions'),
        (lambda d: first(d).update(latency_ms=0), r'levels\[0\]\.latency_ms is 0'),
        (lambda d: first(d).update(latency_ms=99), 'level 2 takes .* from the fastest to'),
        (lambda d: first(d).pop('architecture'), r'levels\[0\]\.architecture is missing'),
        (lambda d: d.update(levels=[]), 'levels is '),
        (lambda d: d['levels'].insert(0, d['levels'][0]), 'levels 1 and 2 are equal'),
        (lambda d: d.update(levels=['all']), r'levels\[0\] must be a mapping'),
        (lambda d: d.pop('backbone'), 'backbone is missing'),
        (lambda d: d['backbone'].update(kind='vit'), "unknown kind of backbone 'vit'"),
        (lambda d: d.update(format='dynamic_ofa_family'), "format is 'dynamic_ofa_family'"),
        (lambda d: d.update(version=2), 'version 2; this release reads'),
    ],
)
def test_invalid_values_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = write(tmp_path, change)
    with pytest.raises(LevelFileError, match=message) as caught:
        read_levels(path)
    assert str(path) in str(caught.value) or 'kind of backbone' in message


def test_missing_files_and_invalid_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(LevelFileError, match=f'no level file nowhere; shipped ones are {XAVIER}'):
        read_levels('nowhere')
    with pytest.raises(LevelFileError, match='is a folder'):
        read_levels(tmp_path)
    for data in (b'levels: [', b'\xff\xfe\xfd', b'- 1'):
        (tmp_path / 'x.yaml').write_bytes(data)
        with pytest.raises(LevelFileError, match=r'x\.yaml'):
            read_levels(tmp_path / 'x.yaml')


def test_levels_of_another_backbone_are_rejected() -> None:
    found = read_levels(XAVIER)
    space = search_space('ofa_mobilenetv3')
    fine_tuned = BackboneSpec('mine', 'ofa_mobilenetv3', 1.2, 10)
    found.check_fits(fine_tuned, space)
    with pytest.raises(LevelFileError, match=r'mine is ofa_mobilenetv3, width 1: give the'):
        found.check_fits(BackboneSpec('mine', 'ofa_mobilenetv3', 1.0, 1000), space)
    with pytest.raises(LevelFileError, match='level 1 is not a sub-network of mine: r is 176'):
        found.check_fits(fine_tuned, search_space('ofa_mobilenetv3', (160, 224)))
