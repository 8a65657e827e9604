from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.family import PLATFORMS_FOLDER, Family, default_family
from dynamic_ofa_ros.offline.latency.measured import read_measured, write_measured

Document = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    family = Family.load(default_family())
    profile = next((family.directory / PLATFORMS_FOLDER).glob('*.yaml'))
    write_measured(family, profile, tmp_path / 'robot.yaml')
    return tmp_path / 'robot.yaml'


def test_measured_networks_are_those_of_the_family(file: Path) -> None:
    family, networks = Family.load(default_family()), read_measured(file)
    assert networks.architectures == tuple(level.architecture for level in family.levels)
    (profile,) = (p for name, p in family.platforms.items() if name == networks.latencies.platform)
    assert networks.of(networks.architectures[:1]).levels == profile.levels[:1]


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda d: d['levels'].pop(), 'architectures and'),
        (lambda d: d['levels'][0].update(median_ms=float('nan')), r'median_ms is nan'),
        (lambda d: d['levels'][0].update(median_ms=-1.0), r'median_ms is -1\.0'),
        (lambda d: d.update(version=99), 'version is 99'),
        (lambda d: d.pop('backbone'), 'backbone is missing'),
        (lambda d: d['architectures'][0].update(d=['x']), r'robot\.yaml: d holds'),
        (lambda d: d['architectures'].__setitem__(0, d['architectures'][1]), 'more than once'),
    ],
)
def test_changed_files_are_rejected(
    file: Path, change: Callable[[Document], object], sentence: str
) -> None:
    document = yaml.safe_load(file.read_text())
    change(document)
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(LatencyTableError, match=sentence):
        read_measured(file)


@pytest.mark.parametrize('contents', [b'', b'\x00\xff', b'a: [b', b'[1, 2]', b'hello'])
def test_other_files_are_rejected(file: Path, contents: bytes) -> None:
    file.write_bytes(contents)
    with pytest.raises(LatencyTableError, match=r'robot\.yaml'):
        read_measured(file)
    with pytest.raises(LatencyTableError, match='is not a file; give one written by'):
        read_measured(file.parent)
