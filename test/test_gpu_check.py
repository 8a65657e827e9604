"""`make gpu-check` with a fake GPU, and its metrics for synthetic frames."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks import gpu_check, gpu_load
from benchmarks.adapting import choose_limit, figures
from benchmarks.gpu_contention import FrameRecord, Run, Segments, rate_for

SEGMENTS = Segments(1.0, 2.0, 1.0)
RATE_HZ = 10.0
LIMIT_MS = 5.0
FIGURES = {'late', 'on_time_top1', 'mean_top1', 'switches_per_minute', 'reaction_ms'}


def frames_of(latencies_ms, levels=None):
    levels = levels or [2] * len(latencies_ms)
    return tuple(
        FrameRecord(number / RATE_HZ, level, 'cuda', latency_ms, latency_ms)
        for number, (latency_ms, level) in enumerate(zip(latencies_ms, levels, strict=True))
    )


def test_a_complete_check_with_a_fake_gpu(tmp_path, capsys):
    status = gpu_check.main(
        [
            '--quick', '--seconds', '0.4', '--runs', '5', '--repeats', '1',
            '--output', str(tmp_path), '--plots', str(tmp_path / 'plots'),
            '--frames', str(tmp_path / 'frames.csv.gz'),
        ]
    )  # fmt: skip
    assert status == 0
    document = json.loads((tmp_path / 'gpu_check.json').read_text())
    assert document['configuration']['is_fake']
    family = document['results']['families']['signs']
    assert family['missing'] == {'fake other': 'not here'}
    assert family['largest_difference'] == {'fake cuda': 0.0, 'fake cpu': 0.0}
    assert len(family['levels']) == 8
    highest = family['levels'][-1]
    assert highest['fake cuda']['median_ms'] < highest['fake eager']['median_ms']
    switching = family['switching']
    assert switching['resident']['median_ms'] < switching['published_method']['median_ms']
    for name in ('training', 'classifier'):
        beside = document['results']['contention'][name]
        assert len(beside['policies']) == 6
        assert beside['skipped'] == []
        for found in beside['policies'].values():
            assert found.keys() >= FIGURES
            assert found['frames'] > 0
        assert (tmp_path / 'plots' / f'gpu_contention_{name}.png').stat().st_size > 10_000
    assert (tmp_path / 'plots' / 'gpu_levels.png').stat().st_size > 10_000
    with gzip.open(tmp_path / 'frames.csv.gz', 'rt') as file:
        rows = list(csv.DictReader(file))
    assert {(row['load'], row['policy']) for row in rows} >= {('training', 'reactive')}
    options = [(row['level'], row['platform']) for row in rows]
    for (before, row), (old, new) in zip(pairwise(rows), pairwise(options), strict=True):
        if (row['load'], row['policy']) == (before['load'], before['policy']):
            assert bool(row['reason']) == (new != old)
    assert 'signs beside training' in capsys.readouterr().out


def test_runs_outside_the_time_budget_are_skipped_and_reported(tmp_path):
    gpu_check.main(
        [
            '--quick', '--seconds', '0.3', '--runs', '5', '--repeats', '1', '--budget-s', '0',
            '--output', str(tmp_path), '--plots', str(tmp_path),
        ]
    )  # fmt: skip
    document = json.loads((tmp_path / 'gpu_check.json').read_text())
    beside = document['results']['contention']['training']
    assert beside['policies'] == {}
    assert 'predictive' in beside['skipped']


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_the_error_without_a_gpu_says_what_is_missing(capsys, tmp_path):
    assert gpu_check.main(['--output', str(tmp_path)]) == 2
    assert 'finds no NVIDIA GPU' in capsys.readouterr().err


def test_the_limit_makes_a_middle_level_the_best_if_possible():
    random = np.random.default_rng(0)
    contended_ms = {
        level: median_ms + 0.1 * random.standard_normal(200)
        for level, median_ms in ((1, 2.0), (2, 3.0), (3, 4.0), (4, 4.2), (5, 6.0))
    }
    limit = choose_limit(contended_ms, [1.5] * 100)
    assert limit.is_separable
    assert limit.middle == 4
    assert 4.2 < limit.limit_ms < 6.0
    assert rate_for(limit.limit_ms) == 60.0


def test_a_disturbed_trial_without_load_does_not_raise_the_limit():
    contended_ms = {1: [2.0] * 50, 2: [3.0] * 50, 3: [9.0] * 50}
    limit = choose_limit(contended_ms, [200.0] * 50)
    assert limit.limit_ms < 20.0


def test_a_limit_that_does_not_separate_levels_is_reported():
    same = {level: [20.0 + 0.01 * level] * 50 for level in (1, 2, 3)}
    limit = choose_limit(same, [3.0] * 50)
    assert not limit.is_separable
    assert limit.sentence.startswith('no limit separates the levels')
    assert rate_for(limit.limit_ms) == 30.0


def evaluate(frames, times_s=None):
    run = Run(frames, times_s or tuple(frame.time_s for frame in frames))
    return figures([run.timeline(LIMIT_MS, (0.6, 0.8), SEGMENTS)])


def test_metrics_include_the_whole_run_and_frames_without_a_result():
    latencies_ms = [3.0] * 10 + [9.0] * 5 + [4.0] * 15 + [3.0] * 10
    levels = [2] * 15 + [1] * 15 + [1, 1, *[2] * 8]
    answered = frames_of(latencies_ms, levels)
    times_s = (*(frame.time_s for frame in answered), *(3.91 + 0.01 * i for i in range(10)))
    found = evaluate(answered, times_s)
    assert (found['frames'], found['dropped']) == (40, 10)
    assert found['late'] == pytest.approx(15 / 50)
    assert found['late_under_load'] == pytest.approx(5 / 20)
    assert found['late_free'] == pytest.approx(10 / 30, abs=1e-4)
    assert found['mean_top1'] == pytest.approx((17 * 0.6 + 23 * 0.8) / 40, abs=1e-4)
    assert found['on_time_top1'] == pytest.approx((17 * 0.6 + 18 * 0.8) / 50, abs=1e-4)
    assert found['switches_per_minute'] == pytest.approx(30.0)
    assert found['reaction_ms'] == pytest.approx(500.0)
    assert found['recovery_ms'] == pytest.approx(200.0)


def test_a_reaction_ends_only_after_three_frames_on_time():
    waver = evaluate(frames_of([3.0] * 10 + [9.0, 3.0, 3.0] * 6 + [9.0, 9.0] + [3.0] * 10))
    assert waver['reaction_ms'] == pytest.approx(1900.0)
    assert not waver['reaction_is_over']
    assert evaluate(frames_of([3.0] * 40))['reaction_ms'] is None


def test_a_level_that_never_returns_has_no_recovery():
    assert evaluate(frames_of([3.0] * 40, [2] * 10 + [1] * 30))['recovery_ms'] is None


def test_a_switch_of_the_platform_counts():
    moved = [replace(frame, platform='cpu') for frame in frames_of([3.0] * 3)]
    frames = (*frames_of([3.0] * 3), *moved)
    run = Run(frames, tuple(frame.time_s for frame in frames))
    assert run.timeline(LIMIT_MS, (0.6, 0.8), SEGMENTS).switches == 1


def test_the_training_job_trains(monkeypatch):
    """Run the ResNet-50 on the CPU with small images."""
    monkeypatch.setattr(gpu_load, 'BATCH', 2)
    monkeypatch.setattr(gpu_load, 'RESOLUTION', 32)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    networks = []
    original = torch.nn.Sequential.to
    monkeypatch.setattr(
        torch.nn.Sequential, 'to', lambda self, device: networks.append(self) or self
    )
    for name in ('rand', 'randint'):
        on_cpu = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, device, make=on_cpu: make(*size))
    step = gpu_load.training()
    monkeypatch.setattr(torch.nn.Sequential, 'to', original)
    parameters = sum(p.numel() for p in networks[0].parameters())
    assert parameters == 25_557_032
    before = networks[0][-1].weight.detach().clone()
    step()
    assert not torch.equal(networks[0][-1].weight, before)
