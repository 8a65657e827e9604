"""Fakes for errors and clocks: an engine without a network, levels and a profile."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from dynamic_ofa_ros.family import LatencyProfile, Level, LevelLatency
from dynamic_ofa_ros.runtime.telemetry import FrameTelemetry
from dynamic_ofa_ros.space.architecture import SubnetArchitecture

PLATFORM = 'cpu-fake-engine-fp32-t1'


class FakeEngine:
    """Returns fixed logits; first raises the given errors, one per call."""

    name = 'fake'

    def __init__(
        self,
        level_count: int,
        classes: int,
        errors: Sequence[Exception] = (),
        platform: str = PLATFORM,
    ) -> None:
        self.platform = platform
        self.device = platform.partition('-')[0]
        self.delay_s = 0.0
        self.notes: tuple[str, ...] = ()
        self.residents = None
        self.level_count = level_count
        self.levels_run: list[int] = []
        self.errors = list(errors)
        self._logits = np.arange(classes, dtype=np.float32)

    def buffer(self, index: int) -> None:
        return None

    def infer(self, index: int, tensor: np.ndarray) -> np.ndarray:
        self.levels_run.append(index)
        if self.errors:
            raise self.errors.pop(0)
        if self.delay_s:
            time.sleep(self.delay_s)
        return self._logits

    def close(self) -> None:
        pass


class TimedEngine(FakeEngine):
    """Takes a known time at each level, by a clock that only this engine advances.

    slowed_by: slowdown of each level.
    """

    def __init__(self, latencies_ms: Sequence[float], drift_per_run: float = 0.0) -> None:
        super().__init__(len(latencies_ms), 16)
        self.latencies_ms = tuple(latencies_ms)
        self.slowed_by = (1.0,) * len(latencies_ms)
        self._drift = drift_per_run
        self.now_ns = 0

    def infer(self, index: int, tensor: np.ndarray) -> np.ndarray:
        factor = self.slowed_by[index - 1] * (1.0 + self._drift * len(self.levels_run))
        self.now_ns += round(self.latencies_ms[index - 1] * factor * 1e6)
        return super().infer(index, tensor)

    def clock(self) -> int:
        return self.now_ns


def make_levels(accuracies: Sequence[float]) -> tuple[Level, ...]:
    architecture = SubnetArchitecture(ks=(3,) * 20, e=(3,) * 20, d=(2,) * 5, r=32)
    return tuple(
        Level(index, f'level {index}', architecture, accuracy, 1_000_000 * index, 100_000)
        for index, accuracy in enumerate(accuracies, start=1)
    )


def make_profile(latencies_ms: Sequence[float], platform: str = PLATFORM) -> LatencyProfile:
    return LatencyProfile(
        platform=platform,
        levels=tuple(
            LevelLatency(ms, ms, 0.02 * ms, 1.05 * ms, 1.1 * ms, 100) for ms in latencies_ms
        ),
        measured_at='2026-01-01T00:00:00+00:00',
    )


def make_telemetry(**changes):
    """Return the telemetry of one ordinary frame."""
    kinds = {'int': 1, 'float': 1.0, 'bool': False, 'str': 'text'}
    values = {field.name: kinds[field.type] for field in dataclasses.fields(FrameTelemetry)}
    return FrameTelemetry(**{**values, 'feasible': True, **changes})
