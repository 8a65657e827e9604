from __future__ import annotations

from types import SimpleNamespace

import pytest
from runtime_fakes import FakeEngine, make_profile

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime import assembly
from dynamic_ofa_ros.runtime.assembly import Assembly, Callbacks, Request, assemble
from dynamic_ofa_ros.runtime.classifier import WorkerSettings
from dynamic_ofa_ros.runtime.policies import PolicySettings

LATENCIES_MS = {'cuda-fake': (1.0, 2.0, 4.0), 'cpu-fake': (5.0, 10.0, 20.0)}


class Engines:
    """Fake engines of a GPU and a CPU; `failing` cannot be profiled, `closed` were closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *failing: str) -> None:
        self.closed: list[str] = []
        self._failing = failing
        monkeypatch.setattr(assembly, 'create_engines', self._create)
        monkeypatch.setattr(assembly, 'load_or_measure_profile', self._profile)

    def _create(self, *_: object, **__: object) -> list[FakeEngine]:
        engines = [FakeEngine(3, 16, platform=platform) for platform in LATENCIES_MS]
        for engine in engines:
            engine.close = lambda name=engine.platform: self.closed.append(name)
        return engines

    def _profile(self, engine: FakeEngine, _: object) -> object:
        if engine.platform in self._failing:
            raise EngineError('fake failed at level 3: out of memory')
        return make_profile(LATENCIES_MS[engine.platform], engine.platform)


def assembled(family: object, **request: object) -> Assembly:
    nothing = SimpleNamespace(on_result=None, on_telemetry=None, on_error=None, on_switch=None)
    return assemble(
        Request(str(family.directory), **request),
        Callbacks(**vars(nothing)),
        constraints=Constraints(max_latency_ms=50.0),
        policy=PolicySettings(),
        settings=WorkerSettings(),
        progress=lambda _: None,
    )


def test_both_platforms_are_assembled(random_family, monkeypatch):
    engines = Engines(monkeypatch)
    parts = assembled(random_family)
    assert [profile.platform for profile in parts.profiles] == list(LATENCIES_MS)
    assert (parts.device, parts.notes, engines.closed) == ('cuda', (), [])


def test_accuracies_that_were_not_measured_in_a_precision_are_noted(random_family, monkeypatch):
    Engines(monkeypatch)
    parts = assembled(random_family, precision='bf16')
    assert parts.notes == (
        'accuracies are those of fp32, because none were measured in bf16: run '
        'dynamic-ofa measure --precision bf16 --data FOLDER',
    )
    assert parts.family == random_family


def test_preprocessing_uses_as_many_threads_as_inference(random_family, monkeypatch):
    monkeypatch.setattr(assembly.cv2, 'setNumThreads', (asked := []).append)
    Engines(monkeypatch)
    assembled(random_family)
    assert asked == [1]


@pytest.mark.parametrize(
    ('failing', 'left', 'device'),
    [('cuda-fake', 'cpu-fake', 'cpu'), ('cpu-fake', 'cuda-fake', 'cuda')],
)
def test_a_platform_that_fails_during_profiling_is_not_used(
    random_family, monkeypatch, failing, left, device
):
    engines = Engines(monkeypatch, failing)
    parts = assembled(random_family)
    assert [engine.platform for engine in parts.engines] == [left]
    assert [profile.platform for profile in parts.profiles] == [left]
    assert parts.device == device
    assert engines.closed == [failing]
    assert parts.notes == (f'{failing} is not used: fake failed at level 3: out of memory',)


def test_an_error_is_raised_if_no_platform_can_be_profiled(random_family, monkeypatch):
    engines = Engines(monkeypatch, *LATENCIES_MS)
    with pytest.raises(EngineError, match='fake failed at level 3'):
        assembled(random_family)
    assert sorted(engines.closed) == sorted(LATENCIES_MS)
