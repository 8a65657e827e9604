"""A device with known times of operators, instead of measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from torch import nn

from dynamic_ofa_ros.family import Family, LatencyProfile, LevelLatency
from dynamic_ofa_ros.offline.latency import family_profile, measure_model, on_device
from dynamic_ofa_ros.offline.latency.operator_layout import OperatorLayout
from dynamic_ofa_ros.offline.latency.operators import Operator, Timing
from dynamic_ofa_ros.runtime import engine
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

OFFSET_MS, FACTOR = 3.0, 1.5
PLATFORM = 'cpu-test-pytorch-fp32-t1'


class FakeDevice:
    """Times of operators follow from their names; those of networks are linear in the sum."""

    def __init__(self) -> None:
        self.platform = PLATFORM
        self.timed: list[tuple[str, int]] = []
        self.measured = 0
        self.groups_before_kill = 10**9

    def operator_ms(self, name: str, resolution: int) -> float:
        return (1.0 + len(name) + 2.0 * name.count('7') + name.count('6')) * (1 + resolution) / 10

    def network_ms(self, trained: TrainedBackbone, architecture: Any) -> float:
        names = OperatorLayout(trained.space).names_in(architecture)
        index = trained.resolutions.index(architecture.r)
        return OFFSET_MS + FACTOR * sum(self.operator_ms(name, index) for name in names)

    def time_operators(self, places: Sequence[tuple[Operator, int]], *_: object) -> list[Timing]:
        if self.groups_before_kill == 0:
            raise KeyboardInterrupt
        self.groups_before_kill -= 1
        self.timed += [(operator.name, index) for operator, index in places]
        return [Timing(self.operator_ms(o.name, i), 1.0, 0.1, 30) for o, i in places]

    def measure(
        self, trained: TrainedBackbone, _: nn.Module, architectures: Sequence[Any], *__: object
    ) -> LatencyProfile:
        self.measured += len(architectures)
        times = [self.network_ms(trained, a) for a in architectures]
        levels = tuple(LevelLatency(ms, ms, 0.0, ms, ms, 60) for ms in times)
        conditions = {'device': 'cpu', 'engine': 'pytorch', 'threads': '1'}
        return LatencyProfile(self.platform, levels, 'now', conditions)


def pretend_device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """Let `measure_model` time the fake device; no weights are needed."""
    fake = FakeDevice()
    monkeypatch.setattr(TrainedBackbone, 'load', lambda self: nn.Identity())
    monkeypatch.setattr(measure_model, 'extract_subnet', lambda *_: nn.Identity())
    monkeypatch.setattr(measure_model, 'OperatorEngine', lambda *_: None)
    monkeypatch.setattr(
        measure_model,
        'collect_operators',
        lambda _, layout: [Operator(n, nn.Identity(), (), False) for n in layout.names],
    )
    monkeypatch.setattr(measure_model, 'time_operators', fake.time_operators)
    monkeypatch.setattr(on_device, 'measure_architectures', fake.measure)
    return fake


def profile_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the latencies of levels with four frames each, without pauses."""

    def profile_engine(*args: object, **_: object) -> LatencyProfile:
        return engine.profile_engine(*args, runs=4, pause_s=0.0)

    monkeypatch.setattr(family_profile, 'profile_engine', profile_engine)


def replace_latencies(monkeypatch: pytest.MonkeyPatch, int8_ratio: float = 0.5) -> None:
    """Let profiles of families state latencies that follow from cost and precision."""

    def profile(engine: engine.Engine, family: Family, **_: object) -> LatencyProfile:
        levels = [
            (0.1 + level.macs / 1e6) * (int8_ratio if level.network.precision == 'int8' else 1.0)
            for level in family.levels
        ]
        return LatencyProfile(
            engine.platform,
            tuple(LevelLatency(ms, ms, 0.0, ms, ms, 10) for ms in levels),
            '2026-01-01T00:00:00+00:00',
        )

    monkeypatch.setattr(family_profile, 'profile_engine', profile)
