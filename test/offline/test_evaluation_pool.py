from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import psutil
import pytest
import torch
from families import make_random_backbone
from offline import pool_data
from offline.pool_data import CLASSES, Noise

from dynamic_ofa_ros.errors import ArchitectureError, EvaluationError
from dynamic_ofa_ros.offline.accuracy.evaluation_pool import Assignment, EvaluationPool
from dynamic_ofa_ros.offline.accuracy.evaluation_ray import _connect, worker_count
from dynamic_ofa_ros.offline.accuracy.sending import sent
from dynamic_ofa_ros.offline.data.datasets import ClassFolder, Subset
from dynamic_ofa_ros.offline.data.store import build_store
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.supernet.trained import TrainedBackbone, open_backbone

DEADLINE_S = 120.0


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedBackbone:
    folder = tmp_path_factory.mktemp('pool') / 'backbone'
    return open_backbone(make_random_backbone(folder, CLASSES))


def candidates(trained: TrainedBackbone, count: int) -> list[SubnetArchitecture]:
    rng = np.random.default_rng(4)
    return [trained.space.sample(rng) for _ in range(count)]


@pytest.fixture(scope='module')
def alone(trained: TrainedBackbone) -> dict[int, float]:
    """The results of one process."""
    with EvaluationPool(trained, Noise(30), Noise(120, seed=1), threads=1) as pool:
        return dict(pool.evaluate_many(candidates(trained, 5)))


def test_two_processes_give_the_results_of_one(
    trained: TrainedBackbone, alone: dict[int, float]
) -> None:
    assert len(set(alone.values())) > 2, 'the candidates can be told apart'
    with EvaluationPool(trained, Noise(30), Noise(120, seed=1), workers=2, threads=1) as pool:
        assert dict(pool.evaluate_many(candidates(trained, 5))) == alone
        children = multiprocessing.active_children()
        assert len(children) == 2
        # The same workers are used again.
        assert dict(pool.evaluate_many(candidates(trained, 2))) == {i: alone[i] for i in (0, 1)}
        assert multiprocessing.active_children() == children
        # Their errors are raised here, and they continue.
        with pytest.raises(ArchitectureError, match=r'd\[0\] is 9'):
            list(pool.evaluate_many([replace(trained.space.smallest(), d=(9,) * 5)]))
        assert multiprocessing.active_children() == children
    assert not multiprocessing.active_children()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Ray with workers that can import the modules of the test."""
    ray = pytest.importorskip('ray')
    paths = [str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')]
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    yield ray
    ray.shutdown()


@pytest.mark.long
def test_a_ray_cluster_gives_the_results_of_one_process(
    trained: TrainedBackbone, alone: dict[int, float], ray: ModuleType, tmp_path: Path
) -> None:
    """The folders of the backbone and of the images exist only on the machine of the command."""
    mine = tmp_path / 'mine'
    shutil.copytree(trained.directory, mine)
    held_out = Noise(120, seed=1)
    store = _class_folder(tmp_path / 'images', held_out)
    pool = EvaluationPool(
        replace(trained, directory=mine), Noise(30), store, workers=2, ray_address='local'
    )
    with pool:
        shutil.rmtree(mine)
        shutil.rmtree(tmp_path / 'images')
        assert dict(pool.evaluate_many(candidates(trained, 5))) == alone
    assert not ray.is_initialized()


@pytest.mark.long
def test_more_ray_workers_than_gpus_do_not_hang(
    trained: TrainedBackbone, ray: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray is told that there is a GPU: the worker starts, but finds none."""
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    with EvaluationPool(
        trained, Noise(8), Noise(8), workers=3, ray_address='local', device='cuda:1'
    ) as pool:
        assert 'can run 1 of 3 workers' in caplog.text
        if not torch.cuda.is_available():
            with pytest.raises(EvaluationError, match='could not evaluate'):
                list(pool.evaluate_many(candidates(trained, 3)))


@pytest.mark.parametrize(
    ('wanted', 'threads', 'on_gpu', 'expected'),
    [(0, 1, False, 10), (3, 1, False, 3), (0, 4, False, 2), (0, 1, True, 2), (9, 2, True, 2)],
)
def test_the_number_of_ray_workers_fits_the_resources(
    wanted: int, threads: int, on_gpu: bool, expected: int
) -> None:
    # The third machine has GPUs, but only one core.
    nodes = [{'CPU': 4.0}, {'CPU': 5.0, 'GPU': 2.0}, {'CPU': 1.0, 'GPU': 4.0}]
    assert worker_count(wanted, threads, on_gpu, nodes[: 2 if on_gpu else 3]) == expected
    with pytest.raises(EvaluationError, match='has 9 CPU cores and a GPU for a worker'):
        worker_count(wanted, 9, True, nodes)


def test_a_sent_assignment_requires_no_files(trained: TrainedBackbone, tmp_path: Path) -> None:
    mine = tmp_path / 'mine'
    shutil.copytree(trained.directory, mine)
    folder = _class_folder(tmp_path / 'images', Noise(6))
    build_store(folder, tmp_path / 'store.npy', 16)
    store = build_store(folder, tmp_path / 'store.npy', 16)
    before = [folder.image(i) for i in range(6)], [store.image(i) for i in range(6)]
    assignment = Assignment(replace(trained, directory=mine), folder, Subset(store, (4, 2)))
    weights = assignment.supernet().state_dict()
    package = pickle.dumps(sent(assignment))
    for path in (mine, tmp_path / 'images'):
        shutil.rmtree(path)
    (tmp_path / 'store.npy').unlink()
    arrived = pickle.loads(package)
    assert all(torch.equal(weights[n], w) for n, w in arrived.supernet().state_dict().items())
    assert [arrived.calibration.label(i) for i in range(6)] == [folder.label(i) for i in range(6)]
    for index in range(6):
        np.testing.assert_array_equal(arrived.calibration.image(index), before[0][index])
    np.testing.assert_array_equal(arrived.held_out.image(0), before[1][4])
    assert [arrived.held_out.label(i) for i in (0, 1)] == [store.label(4), store.label(2)]


def _class_folder(root: Path, images: Noise) -> ClassFolder:
    """Write images as PNG into class folders, in the same order within each class."""
    for index in range(len(images)):
        folder = root / images.classes[images.label(index)]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = cv2.cvtColor(images.image(index), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f'{index:04}.png'), pixels)
    return ClassFolder.open(root)


@pytest.mark.long
def test_a_dead_worker_is_replaced(
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
        found = dict(pool.evaluate_many(candidates(trained, 2)))
    assert found == {i: alone[i] for i in (0, 1)}
    assert caplog.text.count('a worker died with exit code 3; its architecture') == 1


def test_an_architecture_that_kills_two_workers_is_named(trained: TrainedBackbone) -> None:
    deadly = Noise(8, fault='exit always')
    with (
        EvaluationPool(trained, Noise(8), deadly, workers=2) as pool,
        pytest.raises(EvaluationError, match=r"two workers died .*'ks': .* with exit code 3"),
    ):
        list(pool.evaluate_many([trained.space.smallest()]))


def test_an_unexpected_error_names_the_architecture(trained: TrainedBackbone) -> None:
    with (
        EvaluationPool(trained, Noise(8, fault='refuse'), Noise(8)) as pool,
        pytest.raises(
            EvaluationError, match=r"evaluate .*'ks': .*ZeroDivisionError: no such thing"
        ),
    ):
        list(pool.evaluate_many([trained.space.smallest()]))


@pytest.mark.long
def test_workers_end_when_their_parent_is_killed(trained: TrainedBackbone, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ('address', 'reason'),
    [
        ('127.0.0.1:{}', 'Connection refused'),
        ('127.0.0.1:ray', 'invalid literal'),
    ],
)
def test_an_address_without_a_ray_cluster_is_explained_at_once(address: str, reason: str) -> None:
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        address = address.format(unused.getsockname()[1])
        with pytest.raises(
            EvaluationError, match=f'no Ray cluster answers at {address} .*{reason}'
        ):
            _connect(None, address, 1)


def test_invalid_arguments_are_explained(
    trained: TrainedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EvaluationError, match='--workers is 0; give 1 or more'):
        EvaluationPool(trained, Noise(8), Noise(8), workers=0)
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(EvaluationError, match=r'install it with: pip install .*\[ray\]'):
        EvaluationPool(trained, Noise(8), Noise(8), ray_address='local')


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
