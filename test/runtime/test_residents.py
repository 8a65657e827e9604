from __future__ import annotations

import threading

import numpy as np
import pytest
from programs import wait_until

from dynamic_ofa_ros.runtime.engines import residents as residents_module
from dynamic_ofa_ros.runtime.engines.residents import Residents

LEVELS = 6
DEADLINE_S = 10.0


class Memory:
    """A process with levels of 10 MB each; `loads` are the loaded levels in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: list[int] = []
        self.used_mb = 100.0
        self.failing: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        monkeypatch.setattr(residents_module, '_process_mb', lambda: self.used_mb)

    def load(self, index: int) -> str:
        assert self.gate.wait(DEADLINE_S)
        self.loads.append(index)
        if index in self.failing:
            raise MemoryError
        self.used_mb += 10.0
        return f'level {index}'


@pytest.fixture
def memory(monkeypatch):
    return Memory(monkeypatch)


def await_levels(residents: Residents[str], *expected: int) -> None:
    wait_until(lambda: residents.levels == expected, f'levels {expected}')


def test_without_a_budget_all_levels_are_in_memory(memory):
    before = threading.active_count()
    residents = Residents(memory.load, LEVELS)
    assert residents.levels == (1, 2, 3, 4, 5, 6)
    assert residents.get(3) == 'level 3'
    assert threading.active_count() == before
    residents.close()
    assert residents.levels == ()


@pytest.mark.parametrize(
    ('budget_mb', 'wanted', 'expected'),
    [
        (35.0, 1, (1, 2, 3)),
        (35.0, 4, (1, 3, 4)),
        (45.0, 4, (1, 3, 4, 5)),
        (45.0, 6, (1, 4, 5, 6)),
        (5.0, 1, (1,)),
        (5.0, 5, (1, 5)),
        (1000.0, 3, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_the_nearest_levels_within_the_budget_are_in_memory(memory, budget_mb, wanted, expected):
    residents = Residents(memory.load, LEVELS, budget_mb)
    residents.approach(wanted, wanted)
    await_levels(residents, *expected)
    residents.close()


def test_other_levels_run_while_one_is_being_loaded(memory):
    residents = Residents(memory.load, LEVELS, 25.0)
    residents.approach(2, 2)
    await_levels(residents, 1, 2)
    memory.gate.clear()
    residents.approach(5, 2)
    assert residents.get(2) == 'level 2'
    assert not residents.is_ready(5)
    memory.gate.set()
    await_levels(residents, 1, 2, 5)  # the level in use stays for any budget
    residents.approach(5, 5)
    await_levels(residents, 1, 5)
    residents.close()


def test_a_level_that_cannot_be_loaded_is_skipped(memory, caplog):
    residents = Residents(memory.load, LEVELS, 35.0)
    residents.approach(1, 1)
    await_levels(residents, 1, 2, 3)
    memory.failing = {5}
    residents.approach(5, 3)
    wait_until(lambda: 'level 5 cannot be loaded' in caplog.text, 'the failure')
    assert not residents.is_ready(5)
    assert residents.notes == ('level 5 is not used, because it cannot be loaded: MemoryError',)
    residents.approach(2, 2)
    await_levels(residents, 1, 2, 3)
    memory.failing = set()
    residents.approach(5, 3)
    await_levels(residents, 1, 3, 5)
    wait_until(lambda: residents.notes == (), 'the end of the failure')
    residents.close()


def test_get_loads_a_level_that_is_not_in_memory(memory):
    residents = Residents(memory.load, LEVELS, 25.0)
    residents.approach(1, 1)
    await_levels(residents, 1, 2)
    assert residents.get(6) == 'level 6'
    assert residents.is_ready(6)
    residents.close()


def test_the_other_levels_follow_in_the_background(memory):
    before = threading.active_count()
    residents = Residents(memory.load, LEVELS, first=[1, 4])
    assert residents.levels == (1, 4)
    assert residents.is_ready(5)  # on demand, as long as no level is in use
    residents.approach(5, 5)
    assert 5 in residents.levels
    await_levels(residents, 1, 2, 3, 4, 5, 6)
    assert memory.loads == [1, 4, 5, 6, 3, 2]
    wait_until(lambda: threading.active_count() == before, 'the end of the thread')
    residents.close()


def test_a_level_is_not_ready_before_the_background_thread_has_loaded_it(memory):
    residents = Residents(memory.load, LEVELS, first=[1, 4])
    memory.gate.clear()
    residents.approach(4, 4)
    assert residents.get(4) == 'level 4'
    assert not residents.is_ready(3)
    memory.gate.set()
    wait_until(lambda: residents.is_ready(3), 'level 3')
    residents.close()


def test_a_level_that_fails_its_check_is_not_used(memory, caplog):
    residents = Residents(memory.load, LEVELS, first=[1])

    def check(index: int, level: str) -> None:
        if level == 'level 3':
            raise ValueError(f'level {index} is wrong')

    residents.check = check
    residents.approach(1, 1)
    await_levels(residents, 1, 2, 4, 5, 6)
    assert 'level 3 cannot be loaded: level 3 is wrong' in caplog.text
    assert not residents.is_ready(3)
    with pytest.raises(ValueError, match='level 3 is wrong'):
        residents.get(3)
    residents.close()


@pytest.mark.parametrize('name', ['onnxruntime', 'openvino'])
def test_engines_compute_the_same_results_within_a_budget(random_family, warm_cache, name):
    from dynamic_ofa_ros.runtime.engine import create_engine, probe_input

    whole = create_engine(random_family, device='cpu', engine=name, cache_dir=warm_cache)
    tight = create_engine(
        random_family, device='cpu', engine=name, max_resident_mb=0.1, cache_dir=warm_cache
    )
    for level in random_family.levels:
        tensor = probe_input(level.resolution)
        np.testing.assert_array_equal(
            tight.infer(level.index, tensor), whole.infer(level.index, tensor)
        )
    assert tight.residents is not None
    tight.residents.approach(2, 2)
    await_levels(tight.residents, 1, 2)
    tight.close()
    whole.close()
