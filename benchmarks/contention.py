"""Policies under real contention on this machine's CPU: the runtime alone, then the whole node.

    python -m benchmarks.contention [--family published|NAME] [--seconds 9] [--repeats 3]

Classifier and competitors share one CPU, so the number of busy processes is what they share it
with. Every segment is alone for its first quarter, contended for the next half, alone again; the
policies take turns, in another order in every round, so that what else the machine does hits all
alike. The limit is 1.5 times the top level's median alone; frames come at 0.6 over that median.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.published import published_family
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.family import Family, LatencyProfile
from dynamic_ofa_ros.runtime.classifier import Classifier
from dynamic_ofa_ros.runtime.decisions import Measurement
from dynamic_ofa_ros.runtime.engine import create_engine, profile_engine
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings

POLICIES = {
    'fixed, highest': PolicySettings('fixed'),
    'fixed, lowest': PolicySettings('fixed', fixed_level=1),
    'reactive': PolicySettings('reactive'),
    'predictive': PolicySettings('predictive'),
}
CONDITIONS = {
    'alone': ('busy', 0),
    '1 busy': ('busy', 1),
    '2 busy': ('busy', 2),
    '4 busy': ('busy', 4),
    'memory': ('memory', 1),
    'training': ('training', 1),
}
NODE_CONDITIONS = ('1 busy', 'training')
LIMIT_FACTOR = 1.5
LOAD_STARTS, LOAD_ENDS = 0.25, 0.75
HIGHEST_RATE_HZ = 30.0
LOAD_SCRIPT = Path(sys.modules['dynamic_ofa_ros'].__path__[0]) / 'nodes' / 'load.py'


@dataclass(frozen=True)
class FrameRecord:
    """One frame of a segment; time from the segment's start."""

    time_s: float
    level: int
    latency_ms: float


@dataclass(frozen=True)
class Setting:
    """What all segments of a run have in common."""

    accuracies: tuple[float, ...]
    limit_ms: float
    rate_hz: float
    seconds: float


class Competitors:
    """Processes that work only while they are told to."""

    def __init__(self, workload: str, count: int, cpu: int) -> None:
        command = [sys.executable, str(LOAD_SCRIPT), workload, '--cpus', str(cpu)]
        command += ['--duty-cycle', '0']
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(count)
        ]

    def work(self, share: float) -> None:
        """Tell all of them which share of the time to work."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({'duty_cycle': share}) + '\n')
            process.stdin.flush()

    def close(self) -> None:
        """End them: they end with the pipe."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def main() -> None:
    """Measure, print the tables, draw, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default='published', help="'published', a name or a path")
    parser.add_argument('--seconds', type=float, default=9.0, help='length of a segment')
    parser.add_argument('--repeats', type=int, default=3, help='segments of each kind')
    parser.add_argument('--skip-node', action='store_true', help='measure the runtime only')
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of JSON and plots')
    options = parser.parse_args()
    load = OthersLoad()
    cpu = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        os.environ['DYNAMIC_OFA_CACHE'] = str(Path(folder) / 'cache')
        if options.family == 'published':
            family = published_family(Path(folder) / 'published')
        else:
            family = Family.load(options.family)
        results: dict[str, Any] = {'runtime': measure_runtime(family, cpu, options)}
        if not options.skip_node:
            results['node'] = measure_node(family, cpu, Path(folder), options)
    write_results(
        'contention',
        results,
        configuration={
            'family': family.name,
            'seconds': options.seconds,
            'repeats': options.repeats,
            'limit': f'{LIMIT_FACTOR} x top level alone',
            'one_cpu_for_all': True,
        },
        input_checksum=family.checksum,
        load=load,
        folder=options.output,
    )


def measure_runtime(family: Family, cpu: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run all conditions without ROS, in this process."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})  # before the engine makes its threads
    engine = create_engine(family, device='cpu', engine='onnxruntime', progress=print)
    try:
        profile = profile_engine(engine, family)
        setting = setting_of(family, profile, options.seconds)
        classifier = Classifier(family, engine)
        print_levels(profile, setting)

        def segment(policy: PolicySettings, change_load: Callable[[float], None]) -> Any:
            manager = RuntimeManager(
                family.levels,
                profile,
                constraints=Constraints(max_latency_ms=setting.limit_ms),
                policy=policy,
            )
            return run_segment(classifier, manager, setting, change_load)

        records = {
            name: in_rounds(workload, count, cpu, options.repeats, segment)
            for name, (workload, count) in CONDITIONS.items()
        }
    finally:
        engine.close()
        os.sched_setaffinity(0, everywhere)
    plot = options.output / 'contention_runtime.png'
    draw(records['1 busy'], setting, plot, 'one busy process on the same CPU, no ROS')
    return report('Runtime, no ROS', records, setting)


def in_rounds(
    workload: str, count: int, cpu: int, repeats: int, segment: Callable[..., Any]
) -> dict[str, list[list[FrameRecord]]]:
    """Run every policy `repeats` times under one kind of load, in rotating order."""
    competitors = Competitors(workload, count, cpu)
    records: dict[str, list[list[FrameRecord]]] = {name: [] for name in POLICIES}
    names = list(POLICIES)
    try:
        time.sleep(2.0 if workload == 'training' else 0.5)  # imports
        for turn in range(repeats):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                records[name].append(segment(POLICIES[name], competitors.work))
    finally:
        competitors.close()
    return records


def run_segment(
    classifier: Classifier,
    manager: RuntimeManager,
    setting: Setting,
    change_load: Callable[[float], None],
) -> list[FrameRecord]:
    """Classify at the camera's rate while the load comes and goes; a late frame is skipped."""
    image = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    frames: list[FrameRecord] = []
    changes = [(setting.seconds * LOAD_STARTS, 1.0), (setting.seconds * LOAD_ENDS, 0.0)]
    start_s = time.perf_counter()
    number = 0
    while (now_s := time.perf_counter() - start_s) < setting.seconds:
        due_s = number / setting.rate_hz
        if now_s < due_s:
            time.sleep(due_s - now_s)
        number = math.floor((time.perf_counter() - start_s) * setting.rate_hz) + 1
        while changes and time.perf_counter() - start_s >= changes[0][0]:
            change_load(changes.pop(0)[1])
        manager.decide(time.perf_counter_ns())
        level = manager.active_level
        result = classifier.classify(image, level)
        manager.observe(
            Measurement(
                time_ns=time.perf_counter_ns(),
                level=level,
                inference_ms=result.inference_ms,
                node_ms=result.processing_ms,
                end_to_end_ms=result.processing_ms,
            )
        )
        frames.append(FrameRecord(time.perf_counter() - start_s, level, result.inference_ms))
    change_load(0.0)
    time.sleep(0.1)
    return frames


def measure_node(
    family: Family, cpu: int, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Run some conditions with camera, classifier and this program as processes of their own."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'test'))
    from ros_harness import ros

    with ros(folder) as session, classifier_node(session, family, cpu) as (levels, telemetry):
        setting = Setting(
            accuracies=tuple(level.accuracy for level in levels),
            limit_ms=LIMIT_FACTOR * levels[-1].latency_ms,
            rate_hz=rate_for(levels[-1].latency_ms),
            seconds=options.seconds,
        )
        camera = session.start('camera_node', {'rate_hz': setting.rate_hz})
        camera.confine(os.sched_getaffinity(0) - {cpu} or {cpu}, 0)
        set_parameter(session, 'constraints.max_latency_ms', setting.limit_ms)

        def segment(policy: PolicySettings, change_load: Callable[[float], None]) -> Any:
            set_parameter(session, 'manager.fixed_level', policy.fixed_level)
            # Away and back: the policy starts anew, without memory of the last segment.
            set_parameter(session, 'manager.policy', 'table')
            set_parameter(session, 'manager.policy', policy.name)
            return listen(session, telemetry, setting, change_load)

        records = {}
        for name in NODE_CONDITIONS:
            workload, count = CONDITIONS[name]
            records[name] = in_rounds(workload, count, cpu, options.repeats, segment)
    plot = options.output / 'contention_node.png'
    draw(records[NODE_CONDITIONS[0]], setting, plot, 'the whole node beside one busy process')
    return report('The whole node', records, setting)


@contextmanager
def classifier_node(session: Any, family: Family, cpu: int) -> Iterator[tuple[Any, Any]]:
    """Run the classifier on one CPU; yield its levels and its telemetry."""
    from dynamic_ofa_ros.msg import LevelArray, Telemetry
    from dynamic_ofa_ros.nodes import qos

    levels = session.listen(LevelArray, '/classifier/levels', qos.LATCHED)
    telemetry = session.listen(Telemetry, '/classifier/telemetry', qos.TELEMETRY)
    node = session.start(
        'classifier_node',
        {'family': family.directory, 'engine': 'onnxruntime', 'device': 'cpu'},
    )
    session.wait_until(lambda: levels.last, 'the levels', 180.0)
    node.confine({cpu}, 0)
    yield levels.last.levels, telemetry
    node.stop()


def set_parameter(session: Any, name: str, value: Any) -> None:
    """Set a parameter of the classifier."""
    result = session.set_parameter('/classifier', name, value)
    if not result.successful:
        raise RuntimeError(result.reason)


def listen(
    session: Any, telemetry: Any, setting: Setting, change_load: Callable[[float], None]
) -> list[FrameRecord]:
    """Collect telemetry of one segment while the load comes and goes."""
    telemetry.messages.clear()
    start_s = time.monotonic()
    arrivals: list[float] = []
    changes = [(setting.seconds * LOAD_STARTS, 1.0), (setting.seconds * LOAD_ENDS, 0.0)]

    def is_over() -> bool:
        now_s = time.monotonic() - start_s
        arrivals.extend([now_s] * (len(telemetry.messages) - len(arrivals)))
        while changes and now_s >= changes[0][0]:
            change_load(changes.pop(0)[1])
        return now_s > setting.seconds

    session.wait_until(is_over, 'the end of the segment', setting.seconds + 30.0)
    change_load(0.0)
    return [
        FrameRecord(time_s, message.level, message.inference_ms)
        for time_s, message in zip(arrivals, telemetry.messages, strict=False)
    ]


def setting_of(family: Family, profile: LatencyProfile, seconds: float) -> Setting:
    """Choose limit and frame rate from the top level's latency alone."""
    top_ms = profile.latency_ms(len(family.levels))
    return Setting(
        accuracies=tuple(level.accuracy for level in family.levels),
        limit_ms=LIMIT_FACTOR * top_ms,
        rate_hz=rate_for(top_ms),
        seconds=seconds,
    )


def rate_for(top_ms: float) -> float:
    """Return the camera's rate: the top level alone uses 60 % of the time, or less."""
    return min(HIGHEST_RATE_HZ, 600.0 / top_ms)


def contended(frames: Sequence[FrameRecord], setting: Setting) -> list[FrameRecord]:
    """Return the frames that finished while the load was on."""
    start_s, end_s = LOAD_STARTS * setting.seconds, LOAD_ENDS * setting.seconds
    return [frame for frame in frames if start_s < frame.time_s <= end_s]


def reaction(frames: Sequence[FrameRecord], limit_ms: float) -> tuple[int, float] | None:
    """Return frames and ms from the first violation to the next frame within the limit."""
    late = [i for i, frame in enumerate(frames) if frame.latency_ms > limit_ms]
    if not late:
        return None
    first = late[0]
    for count, frame in enumerate(frames[first:]):
        if frame.latency_ms <= limit_ms:
            return count, (frame.time_s - frames[first].time_s) * 1e3
    return len(frames) - first, (frames[-1].time_s - frames[first].time_s) * 1e3


def evaluate(segments: Sequence[Sequence[FrameRecord]], setting: Setting) -> dict[str, Any]:
    """Return the metrics of one policy under one load, over its segments' contended frames."""
    frames = [frame for segment in segments for frame in contended(segment, setting)]
    latency_ms = np.array([frame.latency_ms for frame in frames])
    accuracy = np.array([setting.accuracies[frame.level - 1] for frame in frames])
    late = latency_ms > setting.limit_ms
    reactions = [reaction(contended(s, setting), setting.limit_ms) for s in segments]
    known = [r for r in reactions if r is not None]
    p50, p95, p99 = np.quantile(latency_ms, (0.5, 0.95, 0.99))
    switches = [sum(a.level != b.level for a, b in itertools.pairwise(s)) for s in segments]
    return {
        'frames': len(frames),
        'violation_ratio': round(float(late.mean()), 4),
        'on_time_accuracy': round(float(np.where(late, 0.0, accuracy).mean()), 4),
        'mean_accuracy': round(float(accuracy.mean()), 4),
        'switches_per_segment': round(float(np.mean(switches)), 2),
        'reaction_frames': float(np.median([r[0] for r in known])) if known else None,
        'reaction_ms': round(float(np.median([r[1] for r in known])), 1) if known else None,
        'p50_ms': round(float(p50), 3),
        'p95_ms': round(float(p95), 3),
        'p99_ms': round(float(p99), 3),
    }


def report(
    title: str, records: dict[str, dict[str, list[list[FrameRecord]]]], setting: Setting
) -> dict[str, Any]:
    """Print the table of one part and return its numbers."""
    results = {
        condition: {name: evaluate(segments, setting) for name, segments in by_policy.items()}
        for condition, by_policy in records.items()
    }
    columns = (
        'violation_ratio', 'on_time_accuracy', 'mean_accuracy', 'switches_per_segment',
        'reaction_frames', 'reaction_ms', 'p50_ms', 'p95_ms', 'p99_ms',
    )  # fmt: skip
    print_table(
        f'{title}: contended frames, limit {setting.limit_ms:.1f} ms at {setting.rate_hz:.1f} Hz',
        ('load', 'policy', *columns),
        [
            (condition, name, *('-' if values[c] is None else values[c] for c in columns))
            for condition, by_policy in results.items()
            for name, values in by_policy.items()
        ],
    )
    return {'limit_ms': setting.limit_ms, 'rate_hz': setting.rate_hz, 'conditions': results}


def print_levels(profile: LatencyProfile, setting: Setting) -> None:
    """Print what each level takes alone."""
    print_table(
        f'Levels alone on {profile.platform}',
        ('level', 'median ms', 'p95 ms', 'top-1'),
        [
            (i, level.median_ms, level.p95_ms, accuracy)
            for i, (level, accuracy) in enumerate(
                zip(profile.levels, setting.accuracies, strict=True), start=1
            )
        ],
    )


def draw(
    records: dict[str, list[list[FrameRecord]]], setting: Setting, path: Path, title: str
) -> None:
    """Draw latency over time of the first segment of each policy, coloured by level."""
    from matplotlib.lines import Line2D

    from dynamic_ofa_ros.plot_style import (
        LIMIT,
        SHADE,
        TEXT_SIZE,
        level_colour,
        new_figure,
        style_axes,
    )

    names = [name for name in POLICIES if name != 'fixed, lowest']
    figure = new_figure(1.5 * len(names) + 1.6)
    panels = figure.subplots(len(names), 1, sharex=True, sharey=True)
    count = len(setting.accuracies)
    highest = max(f.latency_ms for name in names for f in records[name][0])
    for axes, name in zip(panels, names, strict=True):
        style_axes(axes)
        axes.axvspan(
            LOAD_STARTS * setting.seconds, LOAD_ENDS * setting.seconds, color=SHADE, zorder=0
        )
        axes.axhline(setting.limit_ms, color=LIMIT, linewidth=1.0)
        for frame in records[name][0]:
            axes.plot(
                frame.time_s, frame.latency_ms, 'o', markersize=3,
                color=level_colour(frame.level, count),
            )  # fmt: skip
        axes.set_title(name, loc='left', fontsize=TEXT_SIZE + 1)
        axes.set_ylim(0.0, min(1.05 * highest, 4.0 * setting.limit_ms))
        axes.set_ylabel('inference, ms')
    panels[-1].set_xlabel('time, s')
    handles: list[Any] = [
        Line2D([], [], linestyle='', marker='o', markersize=4, color=level_colour(i, count),
               label=f'level {i}')
        for i in range(1, count + 1)
    ]  # fmt: skip
    handles.append(Line2D([], [], color=LIMIT, label='limit'))
    figure.legend(
        handles=handles, loc='upper right', ncols=len(handles), fontsize=TEXT_SIZE, frameon=False
    )
    figure.text(
        0.085, 0.02, f'Measured: {title}. Grey: load on. One segment of each policy.',
        fontsize=TEXT_SIZE,
    )  # fmt: skip
    figure.savefig(path)
    print(f'written: {path}')


if __name__ == '__main__':
    main()
