"""Levels on ONNX Runtime share equal weights in memory."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime.build_cache import BuildCache
from dynamic_ofa_ros.runtime.engine import create_engine, probe_input
from dynamic_ofa_ros.runtime.engines import shared_weights
from dynamic_ofa_ros.runtime.engines.shared_weights import ALIGNMENT_BYTES, SharedWeights


@pytest.fixture(scope='module')
def cache(random_family: Family, warm_cache: Path) -> Path:
    """Return a build cache with optimised networks."""
    SharedWeights(random_family, BuildCache(random_family, warm_cache), None)
    return warm_cache


@pytest.fixture
def weights(random_family: Family, cache: Path) -> SharedWeights:
    return SharedWeights(random_family, BuildCache(random_family, cache), None)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the files that were read since the start of the test, with their contents."""
    found = {}
    original = shared_weights._read

    def read_file(path: Path) -> npt.NDArray[np.uint8]:
        found[path.name] = original(path)
        return found[path.name]

    monkeypatch.setattr(shared_weights, '_read', read_file)
    return found


def addresses(tensors: dict[str, Any]) -> set[int]:
    return {value.data_ptr() for value in tensors.values()}


def test_equal_tensors_of_the_levels_are_the_same_memory(weights, random_family):
    of_levels = [weights.tensors(level.index) for level in random_family.levels]
    users: dict[tuple[Any, ...], set[int]] = {}
    levels_of: Counter[int] = Counter()
    for tensors in of_levels:
        levels_of.update(addresses(tensors))
        for value in tensors.values():
            contents = (tuple(value.shape()), value.numpy().tobytes())
            users.setdefault(contents, set()).add(value.data_ptr())
    assert all(len(places) == 1 for places in users.values())
    counts = Counter(levels_of.values())
    assert counts[1] > 0
    assert counts[len(random_family.levels)] > 0


def test_tensors_are_aligned(weights):
    assert all(address % ALIGNMENT_BYTES == 0 for address in addresses(weights.tensors(1)))


def test_weights_are_freed_with_the_last_level_that_uses_them(weights, read):
    first = weights.tensors(1)
    of_first = set(read)
    read.clear()
    third = weights.tensors(3)
    of_third = set(read)
    assert of_first
    assert of_third
    assert not of_first & of_third
    read.clear()
    del first
    first = weights.tensors(1)
    assert set(read) < of_first  # the rest is used by level 3
    read.clear()
    del first, third
    weights.tensors(1)
    assert set(read) == of_first


def test_sessions_use_the_shared_memory_without_a_copy(random_family, cache, read):
    engine = create_engine(random_family, device='cpu', engine='onnxruntime', cache_dir=cache)
    for contents in read.values():
        contents[:] = 0
    for level in random_family.levels:
        image = probe_input(level.resolution)
        np.testing.assert_array_equal(
            engine.infer(level.index, image), engine.infer(level.index, -image)
        )
    engine.close()


def test_networks_are_optimised_again_for_another_cpu_or_release(
    random_family, cache, tmp_path, monkeypatch
):
    shutil.copytree(cache, tmp_path / 'cache', dirs_exist_ok=True)

    def count_builds() -> int:
        steps: list[str] = []
        SharedWeights(random_family, BuildCache(random_family, tmp_path / 'cache'), steps.append)
        return sum('optimising' in step for step in steps)

    assert count_builds() == 0
    monkeypatch.setattr(shared_weights, 'cpu_name', lambda: 'another')
    assert [count_builds(), count_builds()] == [1, 0]
    monkeypatch.setattr(shared_weights, 'cpu_features', lambda: 'sse2')
    assert [count_builds(), count_builds()] == [1, 0]
    monkeypatch.setattr(shared_weights.onnxruntime, '__version__', '1999.1')
    assert [count_builds(), count_builds()] == [1, 0]


@pytest.mark.parametrize('suffix', ['onnx', 'weights', 'json'])
def test_a_truncated_file_is_built_again(random_family, cache, tmp_path, suffix):
    shutil.copytree(cache, tmp_path / 'cache', dirs_exist_ok=True)
    path = next((tmp_path / 'cache').glob(f'*/onnxruntime/*.{suffix}'))
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
    steps: list[str] = []
    for _ in range(2):
        engine = create_engine(
            random_family,
            device='cpu',
            engine='onnxruntime',
            cache_dir=tmp_path / 'cache',
            progress=steps.append,
        )
        engine.close()
    assert steps.count('ONNX Runtime: optimising 3 levels') == 1


def test_a_level_of_a_replaced_build_is_an_error(random_family, cache, tmp_path):
    """Two releases may use the same cache; their networks must not be mixed."""
    shutil.copytree(cache, tmp_path / 'cache', dirs_exist_ok=True)
    weights = SharedWeights(random_family, BuildCache(random_family, tmp_path / 'cache'), None)
    for path in (tmp_path / 'cache').glob('*/onnxruntime/*.weights'):
        path.rename(path.with_stem('another'))
    with pytest.raises(FileNotFoundError):
        weights.tensors(1)
