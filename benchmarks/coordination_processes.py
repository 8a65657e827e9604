"""Compare coordinated and independent choice for two real classifiers on one core.

    python -m benchmarks.coordination_processes [--family imagenet] [--limits 30 24] \
        [--importance 4 1] [--rate 20] [--seconds 20] [--repetitions 3]

Each classifier is a process with ONNX Runtime, a RuntimeManager, a Coordinator and its own camera;
statuses are sent through pipes. Both run on the same core. In the first half, both have the same
importance; in the second half, the first one is more important. Contenders are measured
alternately.

Printed for each model and half: share of late frames, on-time accuracy (with late frames counted
as 0), mean level, switches per minute; and the accuracy weighted by importance.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import checksum, print_table, write_results
from dynamic_ofa_ros.adaptation import (
    TimedFrame,
    late_share,
    mean_accuracy,
    on_time_accuracy,
    switch_count,
)
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime.coordination import STATUS_PERIOD_NS, Coordinator, FrameInterval
from dynamic_ofa_ros.runtime.decisions import Measurement
from dynamic_ofa_ros.runtime.engine import create_engine, load_or_measure_profile, probe_input
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings

CONTENDERS = ('none', 'collective')
WARM_UP_S = 3.0
"""Time at the start of each half that is not measured, so that the levels can settle."""


@dataclass(frozen=True)
class Model:
    """One of the two classifiers; importance: for each half."""

    name: str
    family: str
    limit_ms: float
    importance: tuple[float, float]
    period_s: float
    offset_s: float


def main() -> None:
    """Measure all contenders, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default='imagenet')
    parser.add_argument('--limits', type=float, nargs=2, default=(30.0, 24.0), help='ms')
    parser.add_argument('--importance', type=float, default=10.0, help='of the first, later')
    parser.add_argument('--rate', type=float, default=20.0, help='Hz')
    parser.add_argument('--seconds', type=float, default=20.0, help='of each half')
    parser.add_argument('--repetitions', type=int, default=3)
    parser.add_argument('--contenders', nargs='+', default=CONTENDERS)
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    period_s = 1.0 / options.rate
    models = [
        Model('a', options.family, options.limits[0], (1.0, options.importance), period_s, 0.0),
        # The rates differ slightly, so that all offsets between the cameras occur.
        Model(
            'b', options.family, options.limits[1], (1.0, 1.0), 1.013 * period_s, 0.4 * period_s
        ),
    ]
    rows: list[dict[str, Any]] = []
    for repetition in range(options.repetitions):
        turn = repetition % len(options.contenders)
        for contender in [*options.contenders[turn:], *options.contenders[:turn]]:
            rows += [
                {'contender': contender, 'repetition': repetition, **row}
                for row in play(models, contender, options.seconds)
            ]
            print_table('', list(rows[-1]), [list(row.values()) for row in rows[-6:]])
    write_results(
        'coordination_processes',
        {'rows': rows},
        configuration={**vars(options), 'output': None, 'warm_up_s': WARM_UP_S},
        input_checksum=checksum([np.array(options.limits)]),
        **({'folder': options.output} if options.output else {}),
    )


def play(models: list[Model], contender: str, seconds: float) -> list[dict[str, Any]]:
    """Return one row per half and model, and one for both models."""
    context = multiprocessing.get_context('spawn')
    queues = {model.name: context.SimpleQueue() for model in models}
    results = {model.name: context.Queue() for model in models}
    barrier = context.Barrier(len(models))
    processes = [
        context.Process(
            target=_classify,
            args=(model, contender, seconds, queues, results[model.name], barrier),
        )
        for model in models
    ]
    for process in processes:
        process.start()
    found = {model.name: results[model.name].get() for model in models}
    for process in processes:
        process.join()
    rows = []
    for half in range(2):
        weighted, weight = 0.0, 0.0
        for model in models:
            begin_ms = 1e3 * half * seconds
            frames = [
                f
                for f in found[model.name]
                if begin_ms + 1e3 * WARM_UP_S <= f.time_ms < begin_ms + 1e3 * seconds
            ]
            right, share = on_time_accuracy(frames) or 0.0, late_share(frames) or 0.0
            weighted += model.importance[half] * right
            weight += model.importance[half]
            rows.append(
                {
                    'half': half + 1,
                    'model': model.name,
                    'late %': round(100 * share, 1),
                    'on-time %': round(100 * right, 2),
                    'mean %': round(100 * (mean_accuracy(frames) or 0.0), 2),
                    'level': round(float(np.mean([f.level for f in frames])), 2),
                    'switches/min': round(
                        60 * switch_count([f.level for f in frames]) / (seconds - WARM_UP_S), 1
                    ),
                }
            )
        rows.append(
            {
                'half': half + 1,
                'model': 'both',
                'late %': '',
                'on-time %': round(100 * weighted / weight, 2),
                'mean %': '',
                'level': '',
                'switches/min': '',
            }
        )
    return rows


def _classify(
    model: Model, contender: str, seconds: float, queues: dict[str, Any], result: Any, barrier: Any
) -> None:
    """Run one of the classifiers in its own process."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    family = Family.load(model.family)
    engine = create_engine(family, device='cpu', engine='onnxruntime')
    profile = load_or_measure_profile(engine, family)
    policy = (
        PolicySettings('fixed', fixed_level=int(contender.split(',')['ab'.index(model.name)]))
        if ',' in contender
        else PolicySettings()
    )
    manager = RuntimeManager(
        family.levels,
        profile,
        constraints=Constraints(model.limit_ms, latency_scope='node'),
        policy=policy,
    )
    inputs = [probe_input(level.resolution) for level in family.levels]
    barrier.wait()
    begin_ns = time.perf_counter_ns() + 500_000_000
    arrived = [0]
    half = [0]
    stopping = threading.Event()
    if contender == 'collective':
        talker = threading.Thread(
            target=_talk, args=(model, manager, queues, arrived, half, stopping), daemon=True
        )
        talker.start()
    frames, number = [], 0
    while True:
        now_s = (time.perf_counter_ns() - begin_ns) / 1e9
        newest = int((now_s - model.offset_s) / model.period_s)
        number = max(number + 1, newest)
        arrival_s = model.offset_s + number * model.period_s
        if arrival_s >= 2 * seconds:
            break
        if arrival_s > now_s:
            time.sleep(arrival_s - now_s)
        arrived[0], half[0] = number, int(arrival_s >= seconds)
        manager.decide(time.perf_counter_ns())
        level = manager.active_level
        start_ns = time.perf_counter_ns()
        engine.infer(level, inputs[level - 1])
        end_ns = time.perf_counter_ns()
        node_ms = (end_ns - begin_ns) / 1e6 - 1e3 * arrival_s
        manager.observe(Measurement(end_ns, level, (end_ns - start_ns) / 1e6, node_ms))
        accuracy = family.level(level).accuracy
        frames.append(TimedFrame(1e3 * arrival_s, node_ms, model.limit_ms, level, accuracy))
    stopping.set()
    result.put(frames)


def _talk(
    model: Model,
    manager: RuntimeManager,
    queues: dict[str, Any],
    arrived: list[int],
    half: list[int],
    stopping: threading.Event,
) -> None:
    """Run the coordination of a classifier on a thread."""
    coordinator, interval = Coordinator(), FrameInterval()
    next_ns = time.perf_counter_ns()
    inbox = queues[model.name]
    while not stopping.is_set():
        now_ns = time.perf_counter_ns()
        while not inbox.empty():
            coordinator.receive(inbox.get(), now_ns)
        if now_ns >= next_ns:
            next_ns = now_ns + STATUS_PERIOD_NS
            status = manager.status(
                model.name,
                dict.fromkeys(manager.table.platforms, 'core'),
                model.importance[half[0]],
                interval.update(now_ns, arrived[0]),
            )
            manager.set_allowance(coordinator.decide(status, now_ns))
            told = coordinator.told(status, now_ns)
            for name, queue in queues.items():
                if name != model.name:
                    queue.put(told)
        time.sleep(0.005)


if __name__ == '__main__':
    main()
