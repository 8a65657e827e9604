"""Synthetic runs with an ideal manager, for the tests of the demo."""

from __future__ import annotations

import math
import random
from typing import Any

from dynamic_ofa_ros.demo.comparison import HIGHEST, LOWEST, SWITCHING
from dynamic_ofa_ros.recordings.frames import FrameRecord, SwitchRecord
from dynamic_ofa_ros.recordings.measures import Measures, Run, measure

LIMIT_MS = 12.0
LEVELS = 8
ONSET_S, RELIEF_S, SECONDS, RATE_HZ = 5.0, 12.0, 17.0, 20.0
MIDDLE = 3


def frame(**changes: Any) -> FrameRecord:
    """Return a right answer on time, with some fields changed."""
    values: dict[str, Any] = {
        'run': SWITCHING,
        'time_s': 0.0,
        'is_loaded': False,
        'truth': 'stop',
        'label': 'stop',
        'level': LEVELS,
        'level_accuracy': 0.97,
        'latency_ms': 8.0,
        'inference_ms': 5.0,
        'limit_ms': LIMIT_MS,
    }
    return FrameRecord(**values | changes)


def unanswered(**changes: Any) -> FrameRecord:
    """Return an image without an answer."""
    nothing = {'label': '', 'level': 0, 'level_accuracy': math.nan, 'inference_ms': math.nan}
    return frame(latency_ms=math.inf, **nothing, **changes)


def run_at(title: str, free: int, loaded: int) -> Run:
    """Return a run with one level without load and one under load, which triples the latency."""
    rng = random.Random(title)
    frames = []
    for number in range(int(SECONDS * RATE_HZ)):
        time_s = number / RATE_HZ
        is_loaded = ONSET_S <= time_s < RELIEF_S
        level = loaded if is_loaded else free
        accuracy = 0.85 + 0.015 * level
        frames.append(
            frame(
                run=title,
                time_s=time_s,
                is_loaded=is_loaded,
                label='stop' if rng.random() < accuracy else 'yield',
                level=level,
                level_accuracy=accuracy,
                latency_ms=(1.0 + 0.9 * level)
                * (3.0 if is_loaded else 1.0)
                * rng.uniform(0.95, 1.05),
            )
        )
    times = [(ONSET_S, free, loaded), (RELIEF_S, loaded, free)] if free != loaded else []
    switches = [SwitchRecord(time_s, a, b, f'from {a} to {b}') for time_s, a, b in times]
    return Run(title, SECONDS, frames, switches, [(ONSET_S, RELIEF_S)], level_count=LEVELS)


def three_runs() -> list[Run]:
    """Return the three runs of the demo, in which switching is best."""
    return [
        run_at(HIGHEST, LEVELS, LEVELS),
        run_at(LOWEST, 1, 1),
        run_at(SWITCHING, LEVELS, MIDDLE),
    ]


def measured() -> dict[str, Measures]:
    """Return the measures of each run."""
    return {run.title: measure(run) for run in three_runs()}
