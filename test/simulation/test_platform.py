from __future__ import annotations

import json
import shutil

import pytest
import yaml
from reference import reference_file

from dynamic_ofa_ros.errors import FamilyError, LevelFileError, SimulationError
from dynamic_ofa_ros.family import (
    Family,
    LatencyProfile,
    LevelLatency,
    default_family,
    families_directory,
    write_profile,
)
from dynamic_ofa_ros.simulation.platform import ASSUMED_NOISE, PEAK_DEMAND, load_platform
from dynamic_ofa_ros.space.spaces import search_space


def test_the_published_levels_equal_the_reference_data():
    published = json.loads(reference_file('levels_xavier_nx.json').read_text())['gpu']
    platform = load_platform()
    assert platform.latencies_ms == pytest.approx([level['latency_ms'] for level in published])
    assert platform.accuracies == pytest.approx([level['top1'] / 100 for level in published])
    assert [level.macs for level in platform.levels] == [level['macs'] for level in published]
    assert 'Dynamic-OFA' in platform.source


def test_demands_are_proportional_to_macs_per_millisecond():
    platform = load_platform()
    rates = [
        level.macs / ms for level, ms in zip(platform.levels, platform.latencies_ms, strict=True)
    ]
    assert platform.demands == pytest.approx([PEAK_DEMAND * rate / max(rates) for rate in rates])


def test_the_noise_is_that_of_the_profile_by_default():
    for noise, expected in ((None, ASSUMED_NOISE), (0.1, 0.1), (0.0, 0.0)):
        levels = load_platform(noise=noise).profile.levels
        assert [level.sd_ms / level.mean_ms for level in levels] == pytest.approx([expected] * 6)
    with pytest.raises(SimulationError, match=r'noise is -0\.1'):
        load_platform(noise=-0.1)


def test_other_latencies_keep_the_noise():
    platform = load_platform().with_latencies((48.8, 53.0, 58.8, 62.1, 71.5, 79.6), 'figure 4a')
    assert platform.latencies_ms == (48.8, 53.0, 58.8, 62.1, 71.5, 79.6)
    assert platform.noise_sigmas == pytest.approx(load_platform().noise_sigmas)


def test_a_family_is_simulated_on_a_measured_platform(tmp_path):
    directory = tmp_path / 'family'
    shutil.copytree(families_directory() / default_family(), directory)
    shutil.rmtree(directory / 'platforms')
    count = len(Family.load(directory).levels)
    with pytest.raises(SimulationError, match='not measured on any platform'):
        load_platform(str(directory))
    for name in ('cpu', 'gpu'):
        latency = LevelLatency(5.0, 5.1, 0.51, 6.0, 6.5, 100)
        profile = LatencyProfile(name, (latency,) * count, '2026-01-01T00:00:00+00:00')
        write_profile(profile, directory / 'platforms' / f'{name}.yaml')
    with pytest.raises(SimulationError, match=r'on 2 platforms \(cpu, gpu\); choose one'):
        load_platform(str(directory))
    with pytest.raises(SimulationError, match='not measured on tpu; its platforms are: cpu, gpu'):
        load_platform(str(directory), 'tpu')
    platform = load_platform(str(directory), 'gpu')
    assert platform.latencies_ms == (5.0,) * count
    assert platform.noise_sigmas == pytest.approx([0.0998] * count, abs=1e-4)


@pytest.mark.parametrize('kind', ['ofa_proxyless', 'ofa_resnet50'])
def test_levels_of_every_kind_of_backbone_are_loaded(kind, tmp_path):
    space = search_space(kind, (128,))
    architectures = (space.smallest(), space.largest())
    levels = [
        {'architecture': architecture.to_mapping(), 'accuracy': 0.7 + 0.1 * i, 'latency_ms': 9 + i}
        for i, architecture in enumerate(architectures)
    ]
    document = {
        'format': 'dynamic_ofa_levels',
        'version': 1,
        'name': 'mine',
        'source': 'a test',
        'platform': 'mine',
        'backbone': {'name': 'mine', 'kind': kind, 'width_mult': 1.0, 'classes': 10},
        'levels': levels,
    }
    path = tmp_path / 'levels.yaml'
    path.write_text(yaml.safe_dump(document))
    macs = [level.macs for level in load_platform(str(path)).levels]
    assert macs == [space.count_cost(a, 1.0, 10).macs for a in architectures]


def test_other_files_are_rejected_as_platforms(tmp_path):
    with pytest.raises(SimulationError, match='nothing is neither a level file nor a family'):
        load_platform('nothing')
    with pytest.raises(LevelFileError, match='there is no level file'):
        load_platform(str(tmp_path / 'absent.yaml'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises((SimulationError, FamilyError)):
        load_platform(str(tmp_path / 'empty'))
