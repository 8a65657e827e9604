from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from families import make_random_family

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import (
    Family,
    LatencyProfile,
    LevelLatency,
    default_family,
    read_profile,
    resolve_family,
    write_profile,
)


@pytest.fixture(scope='module')
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_family(tmp_path_factory.mktemp('family') / 'random', levels=3)


@pytest.fixture
def family(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / 'family'))


def edit(family: Path, change: Callable[[dict], None]) -> None:
    path = family / 'family.yaml'
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))


def test_a_written_family_can_be_loaded(family: Path) -> None:
    loaded = Family.load(family)
    assert [level.index for level in loaded.levels] == [1, 2, 3]
    assert len(loaded.labels) == loaded.backbone.classes
    assert loaded.level(2) is loaded.levels[1]
    assert Family.load(str(family)).checksum == loaded.checksum


def test_the_checksum_changes_with_the_contents(family: Path) -> None:
    before = Family.load(family).checksum
    edit(family, lambda d: d.update(name='other'))
    assert Family.load(family).checksum != before


@pytest.mark.parametrize('index', [0, 4, -1])
def test_unknown_levels_are_rejected(family: Path, index: int) -> None:
    with pytest.raises(FamilyError, match=f'levels 1 to 3, not {index}'):
        Family.load(family).level(index)


@pytest.mark.parametrize(
    'name', ['family.yaml', 'backbone.safetensors', 'batch_norm.safetensors', 'labels.txt']
)
def test_a_missing_file_is_named(family: Path, name: str) -> None:
    (family / name).unlink()
    with pytest.raises(FamilyError, match=rf'{name} is missing'):
        Family.load(family)


@pytest.mark.parametrize('name', ['backbone.safetensors', 'batch_norm.safetensors', 'labels.txt'])
def test_a_damaged_file_is_named_with_both_checksums(family: Path, name: str) -> None:
    data = bytearray((family / name).read_bytes())
    data[len(data) // 2] ^= 1
    (family / name).write_bytes(bytes(data))
    with pytest.raises(FamilyError, match=rf'{name} is damaged .* SHA-256 .* lists'):
        Family.load(family)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.update(format='zip'), "format is 'zip', expected 'dynamic_ofa_family'"),
        (lambda d: d.update(version=99), 'version is 99; this release reads version 1'),
        (lambda d: d.pop('levels'), 'levels is missing'),
        (lambda d: d.update(levels=[]), r'levels is \[\], expected a non-empty list'),
        (lambda d: d['levels'][1].update(index=5), r'levels\[1\].index is 5'),
        (lambda d: d['levels'][1].update(accuracy=93.0), 'accuracies are fractions'),
        (lambda d: d['levels'][0].update(accuracy=float('nan')), 'finite number above 0'),
        (lambda d: d['levels'][0].update(accuracy=10**400), 'finite number above 0'),
        (lambda d: d['levels'][0].update(macs='many'), "macs is 'many', expected a positive"),
        (lambda d: d['levels'][2]['architecture'].pop('ks'), r'levels\[2\].architecture: .*ks'),
        (
            lambda d: d['levels'][1]['architecture'].update(d=[2, 2, 2, 2, 9]),
            r'levels\[1\].*d\[4\] is 9',
        ),
        (lambda d: d['backbone'].update(kind='vit'), "backbone.kind is 'vit'; this release knows"),
        (lambda d: d['backbone'].update(kind='ofa_resnet50'), r'levels\[0\].*ks has 20 values'),
        (lambda d: d['backbone'].update(classes=7), 'labels; random has 7 classes'),
        (lambda d: d['preprocessing'].update(crop_fraction=2.0), 'crop_fraction'),
        (lambda d: d['preprocessing'].update(std=[0.1, 0.0, 0.1]), 'positive std'),
        (lambda d: d['preprocessing'].update(mean=[0.1]), 'expected three numbers'),
        (lambda d: d['files'].pop('labels.txt'), 'files lists no checksum for labels.txt'),
        (lambda d: d['files'].update({'../escape': '0'}), 'outside the family'),
        (lambda d: d.update(backbone='none'), 'expected a mapping'),
    ],
)
def test_an_invalid_value_in_family_yaml_is_named(
    family: Path, change: Callable[[dict], None], message: str
) -> None:
    edit(family, change)
    with pytest.raises(FamilyError, match=message):
        Family.load(family)


@pytest.mark.parametrize('text', ['', '[1, 2', '\x00', '- a', 'a: !!python/object:os.system {}'])
def test_a_family_yaml_that_is_not_a_mapping_is_rejected(family: Path, text: str) -> None:
    (family / 'family.yaml').write_text(text)
    with pytest.raises(FamilyError, match=r'family\.yaml'):
        Family.load(family)


def test_an_error_shows_only_the_beginning_of_a_value(family: Path) -> None:
    """Anchors repeat a value 10^40 times, which would fill the memory."""
    names = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN'
    lines = [
        'a: &a [1, 1]',
        *(f'{y}: &{y} [{", ".join([f"*{x}"] * 10)}]' for x, y in pairwise(names)),
    ]
    text = (family / 'family.yaml').read_text().replace('name: ', 'was: ', 1)
    (family / 'family.yaml').write_text('\n'.join([*lines, f'name: *{names[-1]}', text]))
    with pytest.raises(FamilyError, match=r'name is .*, expected text') as caught:
        Family.load(family)
    assert len(str(caught.value)) < 500


def test_the_error_for_an_unknown_name_lists_the_known_families() -> None:
    with pytest.raises(FamilyError, match=r'no family at nowhere: .*known families \(signs'):
        resolve_family('nowhere')


@pytest.mark.parametrize('name', ['', '  '])
def test_an_empty_name_is_rejected(name: str) -> None:
    with pytest.raises(FamilyError, match='no family is given'):
        resolve_family(name)


def test_another_folder_does_not_hide_a_known_family(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = resolve_family('signs')
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'signs'
    folder.mkdir()
    assert resolve_family('signs') == shipped
    assert resolve_family(folder) == folder.resolve()
    shutil.copy(family / 'family.yaml', folder)
    assert resolve_family('signs') == folder.resolve()


def test_a_file_is_rejected_as_a_family(family: Path) -> None:
    with pytest.raises(FamilyError, match='is a file'):
        resolve_family(family / 'family.yaml')


PROFILE = LatencyProfile(
    platform='cpu-test',
    levels=tuple(LevelLatency(m, m, 0.1, m + 0.5, m + 1.0, 50) for m in (1.0, 2.0, 3.0)),
    measured_at='2026-01-01T00:00:00+00:00',
    conditions={'batch': '1'},
)


def test_a_written_profile_can_be_read(family: Path) -> None:
    write_profile(PROFILE, family / 'platforms' / 'cpu-test.yaml')
    assert Family.load(family).platforms['cpu-test'] == PROFILE


IN_BF16 = replace(
    PROFILE,
    platform='cpu-x-openvino-bf16-t1',
    conditions={'engine': 'openvino', 'precision': 'bf16'},
    accuracies=(0.5, 0.6, 0.7),
)


def test_accuracies_of_a_precision_are_written_and_read(family: Path) -> None:
    write_profile(PROFILE, family / 'platforms' / 'cpu-test.yaml')
    write_profile(IN_BF16, family / 'platforms' / f'{IN_BF16.platform}.yaml')
    loaded = Family.load(family)
    assert loaded.platforms[IN_BF16.platform] == IN_BF16
    in_bf16 = loaded.in_precision('openvino', 'bf16')
    assert in_bf16 is not None
    assert [level.accuracy for level in in_bf16.levels] == [0.5, 0.6, 0.7]
    assert loaded.in_precision('openvino', 'fp32') == loaded
    assert loaded.in_precision('openvino', 'fp16') is None
    assert loaded.in_precision('pytorch', 'bf16') is None


@pytest.mark.parametrize('wrong', ['[0.5, 0.6]', '[0.5, 0.6, 1.5]', "[0.5, 0.6, 'x']", '[]'])
def test_invalid_accuracies_are_rejected(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / 'p.yaml'
    write_profile(IN_BF16, path)
    path.write_text(path.read_text().split('accuracies')[0] + f'accuracies: {wrong}\n')
    with pytest.raises(FamilyError, match=r'p.yaml: accuracies'):
        read_profile(path)


def test_a_profile_of_another_family_is_rejected(family: Path) -> None:
    short = LatencyProfile('cpu-test', PROFILE.levels[:2], 'now')
    write_profile(short, family / 'platforms' / 'cpu-test.yaml')
    with pytest.raises(FamilyError, match='latencies of 2 levels; the family has 3'):
        Family.load(family)


def test_an_invalid_value_in_a_profile_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'p.yaml'
    write_profile(PROFILE, path)
    path.write_text(path.read_text().replace('median_ms: 2.0', 'median_ms: -2.0'))
    with pytest.raises(FamilyError, match=r'levels\[1\].median_ms is -2.0'):
        read_profile(path)


def test_the_shipped_family_meets_the_requirements() -> None:
    family = Family.load(default_family())
    accuracies = [level.accuracy for level in family.levels]
    assert len(family.levels) >= 5
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] >= 0.90
    assert accuracies[-1] - accuracies[0] >= 0.06
    for profile in family.platforms.values():
        latencies = [level.median_ms for level in profile.levels]
        assert latencies == sorted(latencies)
        assert latencies[-1] / latencies[0] >= 2.5
    size = sum(p.stat().st_size for p in family.directory.rglob('*') if p.is_file())
    assert size <= 4 * 2**20
