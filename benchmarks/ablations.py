"""Ablations of the policy `predictive`: complete, and without one mechanism at a time.

    python -m benchmarks.ablations [--seeds 4] [--workers 2] [--output DIR]
    python -m benchmarks.ablations --record     # records real contention again: 11 minutes

There are three tests. On the simulated traces of `benchmarks.policies`: regret in points, and
switches per minute. On simulated slow frames at a high rate, where each makes several images wait:
late frames, while the lowest levels are always on time. On recorded contention: inference
latencies of every level of the ImageNet family on one core, alone and beside 1, 2 and 4 busy
processes, are replayed to the manager with alternating load, once as recorded and once with
stalls: from time to time, for a second or two, most frames take longer at every level, as if the
whole machine had stopped. All variants and the best fixed level in hindsight get the same frames.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from benchmarks.common import checksum, machine, print_table, write_results
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.family import Family, LatencyProfile, Level, LevelLatency, OnnxNetwork
from dynamic_ofa_ros.runtime import experience
from dynamic_ofa_ros.runtime.decisions import Measurement
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import predictive
from dynamic_ofa_ros.runtime.policies.common import Situation
from dynamic_ofa_ros.runtime.rhythm import Rhythm
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.metrics import measure
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform, load_platform
from dynamic_ofa_ros.simulation.run import run, run_fixed_levels
from dynamic_ofa_ros.simulation.steps import Steps
from dynamic_ofa_ros.simulation.traces import Trace, make_trace

RECORDING = Path(__file__).parent / 'data' / 'recorded_contention.json'
LIMITS_MS = (55.0, 65.0)
TRACES = ('step', 'ramp', 'burst', 'periodic', 'random_walk', 'bimodal', 'none')
RATE_HZ, WARM_UP = 20.0, 5
# Busy processes, alternating seconds with and without load, limit in ms.
CASES = ((1, 10, 27.0), (1, 10, 20.0), (2, 15, 20.0), (2, 15, 30.0), (4, 10, 30.0), (1, 20, 12.0))
REPLAY_S = 120
# Stalls: mean seconds between two bursts, their seconds, share of frames, mean extra ms / limit.
BETWEEN_S, BURST_S, STALLED, STALL = 12.0, (0.5, 3.0), 0.7, (0.3, 1.5)

Floats = npt.NDArray[np.float64]
Latencies = Mapping[tuple[int, int], Floats]


def _no_rhythm(*_: object) -> float:
    return 0.0


def _no_own(*_: object) -> None:
    return None


def _no_trial(*_: object) -> bool:
    return False


def _is_measured(_: object, situation: Situation) -> bool:
    return not math.isnan(situation.latency_ms)


def _accuracy_alone(policy: Any, option: Any, *_: object) -> float:
    return float(policy._table.accuracy(option))


VARIANTS: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    'complete': (),
    'no forecast of periodic loads': ((Rhythm, 'due', _no_rhythm),),
    'no own frames of a level': ((experience.Experience, '_own_frames', _no_own),),
    'no trials of uncertain levels': (
        (predictive.PredictivePolicy, '_is_worth_a_try', _no_trial),
    ),
    'no step assumed after one slow frame': ((experience, 'CREDIBLE', 2.0),),
    'noise of the profile counts as one frame': ((experience, 'PRIOR_FRAMES', 1),),
    'the most accurate level, late or not': (
        (predictive.PredictivePolicy, '_on_time', _accuracy_alone),
    ),
    'no tolerance before a level is left': (
        (predictive, 'STAY', 1.0),
        (predictive, 'LEAST_GAIN', 0.0),
    ),
    'no caution for moves up': ((predictive, 'CAUTION', 1.0),),
    'no compensation of excess late frames': ((predictive, 'MOST_EXCESS', 0.0),),
    'frames that are late at every level count, too': (
        (predictive.PredictivePolicy, '_is_counted', _is_measured),
    ),
    'no use of spare late frames': ((predictive, 'MOST_SPARE', 0.0),),
    'no margin for moves up': ((predictive, 'MARGIN_SD', 0.0),),
    'constant hold time': (
        (predictive, 'SHORTEST_HOLD', 1.0),
        (predictive, 'LONGEST_HOLD', 1.0),
    ),
}


def main() -> None:
    """Run every variant, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=4)
    parser.add_argument('--workers', type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    parser.add_argument('--record', action='store_true', help='record real contention only')
    options = parser.parse_args()
    if options.record:
        record()
        return
    with ProcessPoolExecutor(max_workers=max(1, options.workers)) as pool:
        rows = list(pool.map(evaluate, VARIANTS, [options.seeds] * len(VARIANTS)))
    found = dict(zip(VARIANTS, rows, strict=True))
    columns = list(rows[0])
    print_table(
        'the policy predictive without one mechanism at a time',
        ['', *columns],
        [[name, *row.values()] for name, row in found.items()],
    )
    best = best_fixed_percent(read_recording())
    print(f'recorded: best fixed level in hindsight on time {best:.2f} %')
    write_results(
        'ablations',
        {'variants': found, 'best_fixed_on_time_percent': best},
        configuration={
            'seeds': options.seeds,
            'limits_ms': LIMITS_MS,
            'replayed': [
                {'busy_processes': load, 'on_and_off_s': seconds, 'limit_ms': limit_ms}
                for load, seconds, limit_ms in CASES
            ],
            'replay_s': REPLAY_S,
            'rate_hz': RATE_HZ,
        },
        input_checksum=checksum(list(read_recording().values())),
        **({'folder': options.output} if options.output else {}),
    )


@contextmanager
def patched(variant: str) -> Iterator[None]:
    """Leave out the mechanism of a variant."""
    with ExitStack() as stack:
        for owner, name, value in VARIANTS[variant]:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def evaluate(variant: str, seeds: int) -> dict[str, float]:
    """Return the results of one variant, simulated and on the recording."""
    with patched(variant):
        recording = read_recording()
        return {
            **simulated(seeds),
            'slow frames: late, %': slow_frames_late_percent(recording, seeds),
            **replayed(recording, seeds, 'recorded'),
            **replayed(recording, seeds, 'with stalls'),
        }


def simulated(seeds: int) -> dict[str, float]:
    """Return the regret in points by trace, and the switches per minute over all traces."""
    platform, row, switches = load_platform(), {}, []
    for kind in TRACES:
        lost = []
        for seed in range(1, seeds + 1):
            trace = make_trace(kind, seed, 60.0)
            for limit_ms in LIMITS_MS:
                limit = Constraints(max_latency_ms=limit_ms)
                fixed = run_fixed_levels(trace, platform, limit, seed=seed)
                got = measure(run(trace, platform, 'predictive', limit, seed=seed), fixed)
                ideal = got.oracle_on_time_accuracy
                if kind == 'bimodal':  # frames are independent, so the next one is unpredictable
                    ideal = got.best_fixed_on_time_accuracy
                lost.append(100.0 * ((ideal or 0.0) - (got.on_time_accuracy or 0.0)))
                switches.append(got.switches_per_minute)
        row[f'{kind}: regret, points'] = round(float(np.mean(lost)), 2)
    row['switches/min'] = round(float(np.mean(switches)), 1)
    return row


def slow_frames_late_percent(latencies_ms: Latencies, seeds: int) -> float:
    """Return the share of late frames if 3 % of frames are slow and the overhead increases."""
    levels = recorded_levels()
    profile = profile_of(latencies_ms, levels)
    demands = tuple(np.linspace(0.3, 1.0, len(levels)).tolist())
    platform = SimulatedPlatform('recorded', levels, profile, demands, 'recorded')
    limit, timing = Constraints(22.7, latency_scope='node'), Timing(camera_period_ms=1e3 / 60)
    times_ms = np.arange(0.0, 60_000.0, 10.0)
    overheads = Steps.of(list(zip(times_ms.tolist(), (times_ms / 6_000.0).tolist(), strict=True)))
    late = []
    for seed in range(1, seeds + 1):
        is_slow = np.random.default_rng(seed).random(len(times_ms)) < 0.03
        slowdowns = np.where(is_slow, 3.0, 1.0)
        steps = Steps.of(list(zip(times_ms.tolist(), slowdowns.tolist(), strict=True)))
        trace = Trace('slow frames', steps, 60_000.0, overheads)
        record = run(trace, platform, 'predictive', limit, timing=timing, seed=seed)
        late.append(measure(record).violation_ratio)
    return round(100.0 * float(np.mean(late)), 2)


def replayed(latencies_ms: Latencies, seeds: int, name: str) -> dict[str, float]:
    """Return on-time top-1, late frames and switches per minute on the recording.

    name: 'recorded', or 'with stalls'.
    """
    levels = recorded_levels()
    profile = profile_of(latencies_ms, levels)
    right, late, switches = [], [], []
    for load, seconds, limit_ms in CASES:
        for seed in range(seeds):
            manager = RuntimeManager(levels, profile, constraints=Constraints(limit_ms))
            # Every level has its own position in the recording.
            rng = np.random.default_rng(seed)
            places = {key: int(rng.integers(len(values))) for key, values in latencies_ms.items()}
            extra_ms = np.zeros(round(REPLAY_S * RATE_HZ))
            if name == 'with stalls':
                extra_ms = stalls_ms(seed, limit_ms)
            for frame in range(len(extra_ms)):
                is_on = frame / RATE_HZ % (2 * seconds) >= seconds
                now_ns = round(1e9 * frame / RATE_HZ)
                manager.decide(now_ns)
                level = manager.active_level
                key = (load if is_on else 0, level)
                values = latencies_ms[key]
                places[key] = (places[key] + 1) % len(values)
                took_ms = float(values[places[key]] + extra_ms[frame])
                is_late = took_ms > limit_ms
                late.append(is_late)
                right.append(0.0 if is_late else levels[level - 1].accuracy)
                end_ns = now_ns + round(1e6 * took_ms)
                decision = manager.observe(Measurement(end_ns, level, took_ms, took_ms))
                switches.append(decision is not None)
    return {
        f'{name}: on-time top-1, %': round(100.0 * float(np.mean(right)), 2),
        f'{name}: late, %': round(100.0 * float(np.mean(late)), 2),
        f'{name}: switches/min': round(60.0 * RATE_HZ * float(np.mean(switches)), 1),
    }


def stalls_ms(seed: int, limit_ms: float) -> Floats:
    """Return the extra latency of every frame at any level, (frames,)."""
    rng = np.random.default_rng((seed, 1))
    extra_ms, begin_s = np.zeros(round(REPLAY_S * RATE_HZ)), 0.0
    while begin_s < REPLAY_S:
        end_s = begin_s + rng.uniform(*BURST_S)
        burst = extra_ms[round(begin_s * RATE_HZ) : round(end_s * RATE_HZ)]
        is_stalled = rng.random(len(burst)) < STALLED
        burst[:] = is_stalled * rng.exponential(limit_ms * rng.uniform(*STALL), len(burst))
        begin_s = end_s + rng.exponential(BETWEEN_S)
    return extra_ms


def best_fixed_percent(latencies_ms: Latencies) -> float:
    """Return the on-time top-1 of the best fixed level in hindsight of every case."""
    levels, best = recorded_levels(), []
    for load, _, limit_ms in CASES:
        best.append(
            max(
                level.accuracy
                * np.mean([(latencies_ms[n, level.index] <= limit_ms).mean() for n in (0, load)])
                for level in levels
            )
        )
    return round(100.0 * float(np.mean(best)), 2)


def profile_of(latencies_ms: Latencies, levels: tuple[Level, ...]) -> LatencyProfile:
    """Return the profile from the recording without load."""
    alone = [latencies_ms[0, level.index] for level in levels]
    rows = tuple(
        LevelLatency(
            float(np.median(a)), float(a.mean()), float(a.std()),
            float(np.quantile(a, 0.95)), float(np.quantile(a, 0.99)), len(a),
        )
        for a in alone
    )  # fmt: skip
    return LatencyProfile('cpu', rows, 'recorded')


def recorded_levels() -> tuple[Level, ...]:
    """Return the levels that were recorded; the installed family may have others."""
    document = json.loads(RECORDING.read_text())
    return tuple(
        Level(index, name, OnnxNetwork(f'{name}.onnx', int(name.split('_r')[1])), top1, 1, 1)
        for index, (name, top1) in enumerate(
            zip(document['levels'], document['accuracies'], strict=True), start=1
        )
    )


def read_recording() -> Latencies:
    """Return the latencies in ms by busy processes and level."""
    rows = json.loads(RECORDING.read_text())['latencies_ms']
    return {
        (int(load), level): np.asarray(values_ms[WARM_UP:])
        for load, by_level in rows.items()
        for level, values_ms in enumerate(by_level, start=1)
    }


def record() -> None:
    """Measure every level at 20 Hz on one core, alone and beside busy processes."""
    from dynamic_ofa_ros.runtime.engine import create_engine, probe_input

    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    family = Family.load('imagenet')
    engine = create_engine(family, device='cpu', engine='onnxruntime')
    found: dict[str, list[list[float]]] = {}
    for load, seconds in ((0, 8.0), (1, 20.0), (2, 20.0), (4, 20.0)):
        busy = [sys.executable, '-c', 'while True: sum(range(100000))']
        processes = [subprocess.Popen(busy) for _ in range(load)]
        try:
            time.sleep(1.0)
            found[str(load)] = [
                _latencies_ms(engine.infer, level, probe_input(level.resolution), seconds)
                for level in family.levels
            ]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    RECORDING.parent.mkdir(exist_ok=True)
    document = {
        'machine': machine(),
        'levels': [level.name for level in family.levels],
        'accuracies': [level.accuracy for level in family.levels],
        'latencies_ms': found,
    }
    RECORDING.write_text(json.dumps(document))


def _latencies_ms(
    infer: Callable[[int, Any], Any], level: Level, image: Any, seconds: float
) -> list[float]:
    found, due_s = [], time.perf_counter()
    for _ in range(round(seconds * RATE_HZ)):
        time.sleep(max(0.0, due_s - time.perf_counter()))
        begin_s = time.perf_counter()
        infer(level.index, image)
        end_s = time.perf_counter()
        found.append(round(1e3 * (end_s - begin_s), 2))
        due_s = max(due_s + 1.0 / RATE_HZ, end_s)
    return found


if __name__ == '__main__':
    main()
