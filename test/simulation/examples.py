"""Small platforms and records whose metrics can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

from runtime_fakes import make_levels, make_profile

from dynamic_ofa_ros.family import LatencyProfile, LevelLatency
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform
from dynamic_ofa_ros.simulation.record import Record, SimulatedFrame

ACCURACIES = (0.5, 0.7, 0.8)
LATENCIES_MS = (10.0, 20.0, 40.0)
DEMANDS = (0.25, 0.5, 1.0)


def make_platform(
    latencies_ms: Sequence[float] = LATENCIES_MS,
    accuracies: Sequence[float] = ACCURACIES,
    *,
    noise: float = 0.0,
    demands: Sequence[float] = DEMANDS,
) -> SimulatedPlatform:
    profile = make_profile(latencies_ms)
    if noise == 0.0:
        levels = tuple(LevelLatency(ms, ms, 0.0, ms, ms, 1) for ms in latencies_ms)
        profile = LatencyProfile(profile.platform, levels, profile.measured_at)
    return SimulatedPlatform('example', make_levels(accuracies), profile, tuple(demands), 'hand')


def make_record(
    rows: Sequence[tuple[int, float]], limit_ms: float, noise: Sequence[float] | None = None
) -> Record:
    """Return a record of (level, slowdown) rows on the example platform, without pauses.

    noise: a factor per frame, 1 by default.
    """
    frames, start_ms = [], 0.0
    for index, (level, slowdown) in enumerate(rows):
        factor = slowdown * (1.0 if noise is None else noise[index])
        frames.append(
            SimulatedFrame(
                camera_frame=index,
                start_ms=start_ms,
                level=level,
                latency_ms=LATENCIES_MS[level - 1] * factor,
                limit_ms=limit_ms,
                slowdown=slowdown,
                is_first_after_switch=False,
                level_latencies_ms=tuple(ms * factor for ms in LATENCIES_MS),
                level_expected_ms=tuple(ms * slowdown for ms in LATENCIES_MS),
            )
        )
        start_ms += frames[-1].latency_ms
    return Record('hand', 'hand', 1, make_platform(), tuple(frames))
