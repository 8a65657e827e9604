from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from offline import pool_data
from offline.pool_data import Noise, make_backbone

from dynamic_ofa_ros.errors import ArchitectureError, EvaluationError
from dynamic_ofa_ros.offline.accuracy.evaluation_pool import EvaluationPool
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

DEADLINE_S = 120.0


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedBackbone:
    return make_backbone(tmp_path_factory.mktemp('pool') / 'backbone')


def candidates(trained: TrainedBackbone, count: int) -> list[SubnetArchitecture]:
    rng = np.random.default_rng(4)
    return [trained.space.sample(rng) for _ in range(count)]


@pytest.fixture(scope='module')
def alone(trained: TrainedBackbone) -> dict[int, float]:
    """What one process finds."""
    with EvaluationPool(trained, Noise(30), Noise(120, seed=1), threads=1) as pool:
        return dict(pool.judge_many(candidates(trained, 5)))


def test_two_processes_find_what_one_finds(
    trained: TrainedBackbone, alone: dict[int, float]
) -> None:
    assert len(set(alone.values())) > 2, 'the candidates can be told apart'
    with EvaluationPool(trained, Noise(30), Noise(120, seed=1), workers=2, threads=1) as pool:
        assert dict(pool.judge_many(candidates(trained, 5))) == alone
        children = multiprocessing.active_children()
        assert len(children) == 2
        # The same workers serve again.
        assert dict(pool.judge_many(candidates(trained, 2))) == {i: alone[i] for i in (0, 1)}
        assert multiprocessing.active_children() == children
        # What is wrong there is raised here, and they live on.
        with pytest.raises(ArchitectureError, match=r'd\[0\] is 9'):
            list(pool.judge_many([replace(trained.space.smallest(), d=(9,) * 5)]))
        assert multiprocessing.active_children() == children
    assert not multiprocessing.active_children()


def test_a_ray_cluster_finds_what_one_process_finds(
    trained: TrainedBackbone, alone: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('ray')
    # Ray's workers import what the test does.
    paths = [str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')]
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))
    held_out = Noise(120, seed=1)
    with EvaluationPool(trained, Noise(30), held_out, workers=2, ray_address='local') as pool:
        assert dict(pool.judge_many(candidates(trained, 5))) == alone


@pytest.mark.long
def test_a_worker_that_dies_once_is_replaced(
    trained: TrainedBackbone,
    alone: dict[int, float],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    held_out = Noise(120, seed=1, fault='exit once', marker=str(tmp_path / 'marker'))
    with (
        caplog.at_level(logging.WARNING),
        EvaluationPool(trained, Noise(30), held_out, workers=2, threads=1) as pool,
    ):
        found = dict(pool.judge_many(candidates(trained, 2)))
    assert found == {i: alone[i] for i in (0, 1)}
    assert caplog.text.count('a worker ended with exit code 3; another one tries') == 1


def test_an_architecture_that_ends_two_workers_is_named(trained: TrainedBackbone) -> None:
    deadly = Noise(8, fault='exit always')
    with (
        EvaluationPool(trained, Noise(8), deadly, workers=2) as pool,
        pytest.raises(EvaluationError, match=r"two workers ended .*'ks': .* with exit code 3"),
    ):
        list(pool.judge_many([trained.space.smallest()]))


def test_an_unforeseen_error_names_the_architecture(trained: TrainedBackbone) -> None:
    with (
        EvaluationPool(trained, Noise(8, fault='refuse'), Noise(8)) as pool,
        pytest.raises(EvaluationError, match=r"judge .*'ks': .*ZeroDivisionError: no such thing"),
    ):
        list(pool.judge_many([trained.space.smallest()]))


@pytest.mark.long
def test_workers_end_with_a_killed_parent(trained: TrainedBackbone, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, pool_data.__file__, str(trained.directory), str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join((str(root), str(root / 'test')))},
    )
    deadline = time.monotonic() + DEADLINE_S
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(map(_lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_lives, workers))


def test_bad_requests_are_explained(
    trained: TrainedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EvaluationError, match='--workers is 0; give 1 or more'):
        EvaluationPool(trained, Noise(8), Noise(8), workers=0)
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(EvaluationError, match=r'install it with: pip install .*\[ray\]'):
        EvaluationPool(trained, Noise(8), Noise(8), ray_address='local')


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
