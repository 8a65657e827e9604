"""Records for the demo's tests: frames with telling defaults, and a whole synthetic run."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

from dynamic_ofa_ros.demo.recording import FrameRecord, LevelRecord, Recording, SwitchRecord
from dynamic_ofa_ros.demo.scenario import Progress, default_scenario
from dynamic_ofa_ros.demo.snapshot import Preparation, Snapshot, Tally

LATENCIES_MS = (1.0, 1.5, 2.0, 3.0, 4.0)
ACCURACIES = (0.85, 0.9, 0.93, 0.95, 0.97)
LIMIT_MS = 2.4

_FRAME = FrameRecord(
    time_s=0.0,
    stamp_ns=10**18,
    sequence=1,
    phase='free run',
    has_competitor=False,
    truth='stop',
    label='stop',
    score=0.9,
    level=5,
    level_count=5,
    level_accuracy=0.97,
    level_latency_ms=4.0,
    inference_ms=4.0,
    preprocess_ms=0.3,
    postprocess_ms=0.05,
    processing_ms=4.4,
    queue_wait_ms=0.1,
    end_to_end_ms=4.8,
    input_age_ms=1.5,
    predicted_latency_ms=4.0,
    max_latency_ms=math.nan,
    min_accuracy=math.nan,
    slowdown=1.0,
    is_contended=False,
    is_feasible=True,
    dropped_frames=0,
    rejected_frames=0,
    switch_count=0,
    throughput_hz=30.0,
    device_load=0.4,
    device_temperature_celsius=math.nan,
    device_power_w=math.nan,
)


def frame(**changes: Any) -> FrameRecord:
    """Return a frame at the highest level, labelled right, with some fields changed."""
    return dataclasses.replace(_FRAME, **changes)


def synthetic_recording(seconds: float = 40.0, rate_hz: float = 30.0) -> Recording:
    """Return a run with an ideal manager: level 3 under the limit, level 1 under contention."""
    rng = random.Random(1)
    scenario = default_scenario(seconds)
    level_of = {0: 5, 1: 3, 2: 1, 3: 3, 4: 5}
    frames, switches = [], []
    for number in range(int(seconds * rate_hz)):
        time_s = number / rate_hz
        index = scenario.index_at(time_s)
        level = level_of[index]
        slowdown = 2.0 if index == 2 else 1.0
        if frames and frames[-1].level != level:
            switches.append(SwitchRecord(time_s, frames[-1].level, level, 'because'))
        is_right = rng.random() < ACCURACIES[level - 1]
        frames.append(
            frame(
                time_s=time_s,
                stamp_ns=10**18 + number,
                sequence=number + 1,
                phase=scenario.phases[index].name,
                has_competitor=index == 2,
                label='stop' if is_right else 'yield',
                level=level,
                level_accuracy=ACCURACIES[level - 1],
                level_latency_ms=LATENCIES_MS[level - 1],
                inference_ms=LATENCIES_MS[level - 1] * slowdown * rng.uniform(0.95, 1.05),
                max_latency_ms=LIMIT_MS if 1 <= index <= 3 else math.nan,
                slowdown=slowdown,
                is_contended=index == 2,
            )
        )
    return Recording(
        frames=tuple(frames),
        switches=tuple(switches),
        levels=tuple(
            LevelRecord(i + 1, f'level {i + 1}', 32 + 8 * i, ACCURACIES[i], LATENCIES_MS[i], 9.0)
            for i in range(5)
        ),
        phase_starts_s=tuple(
            (phase.name, scenario.start_s(i)) for i, phase in enumerate(scenario.phases)
        ),
        end_s=seconds,
        family='signs',
        platform='cpu-test-onnxruntime',
        published_frames=len(frames) + 2,
    )


def snapshot_at(
    time_s: float, recording: Recording | None = None, preparation: Preparation | None = None
) -> Snapshot:
    """Return what the demo would show at a moment of a recording."""
    recording = recording or synthetic_recording()
    scenario = default_scenario()
    index = scenario.index_at(time_s)
    frames = tuple(f for f in recording.frames if time_s - 15.0 < f.time_s <= time_s)
    return Snapshot(
        now_s=time_s,
        phases=scenario.phases,
        progress=Progress(index, time_s, time_s - scenario.start_s(index), False),
        preparation=preparation,
        command='' if index == 0 else 'ros2 param set /classifier constraints.max_latency_ms 2.4',
        frames=frames,
        tally=Tally(correct=90, known=100, recent_correct=28, recent_known=30),
        switches=tuple(s for s in recording.switches if s.time_s <= time_s),
        levels=recording.levels,
        family=recording.family,
        platform=recording.platform,
        output='/somewhere',
        hint='Ctrl-C ends it.',
    )
