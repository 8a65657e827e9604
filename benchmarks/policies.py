"""Simulate all policies on all traces: late frames and accuracy.

    python -m benchmarks.policies [--seeds 8] [--duration-s 60] [--workers 2] [--output DIR]
        [--scope node --rate-hz 15 --name policies_node]

The levels are the published ones for the GPU of a Jetson Xavier NX, the limits 55 and 65 ms. A run
is one policy on one trace with one seed; trace and noise depend on the seed only, so they are the
same for all policies. Only the decision times depend on the machine.

- late: frames over their limit. avoidable late: those that would be on time at some level.
- on-time top-1: over the frames that some level can meet, with late frames counted as 0.
- best fixed: the same for the best fixed level in hindsight, with its own waiting times.
- regret: on-time top-1 of the oracle on the same frames minus that of the policy. On bimodal, that
  of the best fixed level minus that of the policy: frames are independent, so the next one cannot
  be predicted.
- reaction, recovery: frames; see dynamic_ofa_ros/simulation/metrics.py.

95 % intervals are bootstrapped over the seeds.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import checksum, median, print_table, write_results
from dynamic_ofa_ros.constraints import LATENCY_SCOPES, Constraints
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.policies import PolicySettings
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.metrics import Metrics, measure
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform, load_platform
from dynamic_ofa_ros.simulation.run import run, run_fixed_levels
from dynamic_ofa_ros.simulation.runner import Stopwatch
from dynamic_ofa_ros.simulation.traces import make_trace, trace_kinds

LIMITS_MS = (55.0, 65.0)
CONTENDERS: dict[str, str | PolicySettings] = {
    'fixed highest': PolicySettings('fixed'),
    'fixed lowest': PolicySettings('fixed', fixed_level=1),
    'table': 'table',
    'reactive': 'reactive',
    'predictive': 'predictive',
    'alert': 'alert',
    'alert_tuned': 'alert_tuned',
    'oracle': 'oracle',
}
CONTENDED = tuple(kind for kind in trace_kinds() if kind != 'none')
PREDICTABLE = ('step', 'ramp', 'burst', 'periodic', 'random_walk')
STATIONARY = ('none', 'bimodal')

RESAMPLES = 2000

MAX_REACTION_FRAMES = 3.0
MAX_EXCESS_OF_REACTIVE = 0.10
MAX_REGRET_POINTS = 1.0
MAX_SWITCHES_PER_MINUTE = 6.0
MAX_DECISION_US = 50.0


@dataclass(frozen=True)
class Conditions:
    """The conditions of all runs; scope: scope of the limit."""

    duration_s: float
    scope: str
    rate_hz: float

    @property
    def timing(self) -> Timing:
        """Return the timing of the camera."""
        return Timing(camera_period_ms=1e3 / self.rate_hz)


@dataclass(frozen=True)
class Case:
    """One run."""

    trace: str
    limit_ms: float
    policy: str
    seed: int


Results = dict[Case, Metrics]
Measure = Callable[[Metrics], float | None]


def excess_percent(metrics: Metrics) -> float:
    """Return the share of frames that were late but would be on time at some level."""
    return 100.0 * metrics.excess_violation_ratio


def on_time_percent(metrics: Metrics) -> float | None:
    """Return the on-time top-1."""
    return None if metrics.on_time_accuracy is None else 100.0 * metrics.on_time_accuracy


def regret_points(metrics: Metrics) -> float | None:
    """Return the loss of on-time top-1 against the oracle on the same frames, in points."""
    return _difference(metrics.oracle_on_time_accuracy, metrics.on_time_accuracy)


def causal_regret_points(metrics: Metrics) -> float | None:
    """Return the loss of on-time top-1 against the best fixed level in hindsight, in points."""
    return _difference(metrics.best_fixed_on_time_accuracy, metrics.on_time_accuracy)


def regret_of(trace: str) -> Measure:
    """Return the definition of regret for a trace."""
    return causal_regret_points if trace == 'bimodal' else regret_points


COLUMNS: dict[str, Measure] = {
    'late, %': lambda m: 100.0 * m.violation_ratio,
    'avoidable late, %': excess_percent,
    'on-time top-1, %': on_time_percent,
    'best fixed, %': lambda m: 100.0 * (m.best_fixed_on_time_accuracy or 0.0),
    'regret, points': regret_points,
    'mean top-1, %': lambda m: 100.0 * m.mean_accuracy,
    'switches/min': lambda m: m.switches_per_minute,
    'reaction, frames': lambda m: m.reaction_frames,
    'reaction, ms': lambda m: m.reaction_ms,
    'recovery, frames': lambda m: m.recovery_frames,
    'recovery, ms': lambda m: m.recovery_ms,
}


def main() -> None:
    """Run everything, print the tables and the targets, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=8)
    parser.add_argument('--duration-s', type=float, default=60.0, help='length of each trace')
    parser.add_argument('--workers', type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument('--scope', choices=LATENCY_SCOPES, default='inference')
    parser.add_argument('--rate-hz', type=float, default=30.0, help='of the camera')
    parser.add_argument('--name', default='policies', help='of the JSON file')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    platform = load_platform()
    seeds = range(1, options.seeds + 1)
    conditions = Conditions(options.duration_s, options.scope, options.rate_hz)
    results = run_all(seeds, conditions, options.workers)
    decisions_us = {name: decision_us(platform, name) for name in CONTENDERS}
    tables = tabulate(results, seeds)
    for trace in (*trace_kinds(), 'contended'):
        print_trace(trace, tables[trace])
    print_table(
        'time of a decision on this machine',
        ['policy', 'median us'],
        [[name, value] for name, value in decisions_us.items()],
    )
    targets = evaluate(results, seeds, decisions_us['predictive'])
    print_table(
        'targets of predictive',
        ['', 'target', 'found', '95 % interval', 'verdict'],
        [[t['name'], t['target'], t['found'], _interval_text(t), t['verdict']] for t in targets],
    )
    traces = [
        np.asarray(make_trace(kind, seed, options.duration_s).slowdown.values)
        for kind in trace_kinds()
        for seed in seeds
    ]
    write_results(
        options.name,
        {'targets': targets, 'decision_us': decisions_us, 'traces': tables},
        configuration={
            'levels': platform.name,
            'noise': platform.profile.levels[0].sd_ms / platform.profile.levels[0].mean_ms,
            'limits_ms': LIMITS_MS,
            'seeds': options.seeds,
            'duration_s': options.duration_s,
            'scope': options.scope,
            'camera_period_ms': conditions.timing.camera_period_ms,
            'switch_ms': Timing().switch_ms,
            'resamples': RESAMPLES,
        },
        input_checksum=checksum(traces),
        **({'folder': options.output} if options.output else {}),
    )


def run_all(seeds: Sequence[int], conditions: Conditions, workers: int) -> Results:
    """Run all cases in several processes."""
    jobs = [(kind, seed, conditions) for kind in trace_kinds() for seed in seeds]
    results: Results = {}
    with (
        ProcessPoolExecutor(max_workers=max(1, workers)) as pool,
        progress('policies', len(jobs)) as report,
    ):
        report.update(0)
        for done, found in enumerate(pool.map(run_trace, jobs), start=1):
            results.update(found)
            report.update(done, jobs[done - 1][0])
    return results


def run_trace(job: tuple[str, int, Conditions]) -> Results:
    """Run all policies with all limits on one trace."""
    kind, seed, conditions = job
    platform, trace = load_platform(), make_trace(kind, seed, conditions.duration_s)
    options: dict[str, Any] = {'seed': seed, 'timing': conditions.timing}
    found = {}
    for limit_ms in LIMITS_MS:
        limit = Constraints(max_latency_ms=limit_ms, latency_scope=conditions.scope)
        fixed = run_fixed_levels(trace, platform, limit, **options)
        for name, policy in CONTENDERS.items():
            record = run(trace, platform, policy, limit, **options)
            found[Case(kind, limit_ms, name, seed)] = measure(record, fixed)
    return found


def decision_us(platform: SimulatedPlatform, name: str) -> float:
    """Return the median time of a decision, including the manager."""
    stopwatch = Stopwatch()
    limit = Constraints(max_latency_ms=LIMITS_MS[-1])
    run(make_trace('random_walk'), platform, CONTENDERS[name], limit, stopwatch=stopwatch)
    return round(median(stopwatch.decision_us), 2)


def by_seed(
    results: Results, seeds: Sequence[int], traces: Sequence[str], policy: str, value: Measure
) -> list[float]:
    """Return a metric per seed: the mean over all traces and limits with a value."""
    means = []
    for seed in seeds:
        found = [
            value(results[Case(trace, limit_ms, policy, seed)])
            for trace in traces
            for limit_ms in LIMITS_MS
        ]
        known = [number for number in found if number is not None]
        means.append(math.fsum(known) / len(known) if known else math.nan)
    return means


def interval(
    samples: Sequence[float], statistic: Callable[[Any], Any] = lambda rows: rows.mean(axis=-1)
) -> dict[str, float | None]:
    """Return the mean over seeds and its bootstrapped 95 % interval; None if all are NaN."""
    values = np.asarray([value for value in samples if not math.isnan(value)])
    if not values.size:
        return {'mean': None, 'low': None, 'high': None}
    draws = np.random.default_rng(0).integers(values.size, size=(RESAMPLES, values.size))
    low, high = np.quantile(statistic(values[draws]), (0.025, 0.975))
    numbers = {'mean': statistic(values), 'low': low, 'high': high}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def tabulate(results: Results, seeds: Sequence[int]) -> dict[str, Any]:
    """Return all metrics by trace and policy, as means over both limits."""
    groups = {kind: (kind,) for kind in trace_kinds()} | {'contended': CONTENDED}
    return {
        group: {
            policy: {
                name: interval(by_seed(results, seeds, traces, policy, value))
                for name, value in COLUMNS.items()
            }
            for policy in CONTENDERS
        }
        for group, traces in groups.items()
    }


def print_trace(trace: str, table: dict[str, dict[str, dict[str, float | None]]]) -> None:
    """Print the table of one trace, with intervals for the two main metrics."""
    rows: list[list[object]] = []
    for policy, columns in table.items():
        row: list[object] = [policy]
        for name, numbers in columns.items():
            text = '-' if numbers['mean'] is None else f'{numbers["mean"]:.2f}'
            if name in ('avoidable late, %', 'on-time top-1, %') and numbers['mean'] is not None:
                text += f' ({numbers["low"]:.2f}, {numbers["high"]:.2f})'
            row.append(text)
        rows.append(row)
    title = f'{trace}: mean over limits {LIMITS_MS[0]:g} and {LIMITS_MS[1]:g} ms (95 % interval)'
    print_table(title, ['policy', *COLUMNS], rows)


def evaluate(results: Results, seeds: Sequence[int], decided_us: float) -> list[dict[str, Any]]:
    """Return the targets of the policy `predictive` and the results."""

    def samples(traces: Sequence[str], value: Measure, policy: str = 'predictive') -> list[float]:
        return by_seed(results, seeds, traces, policy, value)

    ours, paper = (samples(CONTENDED, excess_percent, p) for p in ('predictive', 'reactive'))
    ratios = _ratio_interval(ours, paper)
    gains = {
        trace: interval(
            [
                a - b
                for a, b in zip(
                    samples((trace,), on_time_percent),
                    samples((trace,), on_time_percent, 'reactive'),
                    strict=True,
                )
            ]
        )
        for trace in CONTENDED
    }
    least = min(gains, key=lambda trace: gains[trace]['mean'] or 0.0)
    found = [
        _target(
            'reaction to a step, frames',
            MAX_REACTION_FRAMES,
            interval(samples(('step',), lambda m: m.reaction_frames)),
        ),
        _target('avoidable late frames / those of `reactive`', MAX_EXCESS_OF_REACTIVE, ratios),
        _target(f'on-time top-1 over reactive, least ({least})', 0.0, gains[least], is_least=True),
        _target(
            'regret, mean without bimodal',
            MAX_REGRET_POINTS,
            interval(samples(PREDICTABLE, regret_points)),
        ),
    ]
    found += [
        _target(
            f'  regret on {trace}',
            MAX_REGRET_POINTS,
            interval(samples((trace,), regret_of(trace))),
        )
        for trace in (*PREDICTABLE, 'bimodal')
    ]
    found += [
        _target(
            f'switches per minute on {trace}',
            MAX_SWITCHES_PER_MINUTE,
            interval(samples((trace,), lambda m: m.switches_per_minute)),
        )
        for trace in STATIONARY
    ]
    timed = {'mean': decided_us, 'low': None, 'high': None}
    return [*found, _target('time of a decision, us', MAX_DECISION_US, timed)]


def _target(
    name: str, bound: float, numbers: dict[str, float | None], is_least: bool = False
) -> dict[str, Any]:
    """Return a target with its result; `is_least`: the bound is a minimum."""
    found = numbers['mean']
    if found is None:
        return {'name': name, 'target': bound, 'found': None, 'verdict': 'nothing to measure'}
    is_met = found > bound if is_least else found <= bound
    by = abs(found - bound)
    return {
        'name': name,
        'target': f'{">" if is_least else "<="} {bound:g}',
        'found': found,
        'low': numbers['low'],
        'high': numbers['high'],
        'is_met': is_met,
        'verdict': f'{"met" if is_met else "MISSED"} by {by:.3g}',
    }


def _ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    """Return the ratio of two means over the same seeds, with a paired bootstrap."""
    pairs = np.asarray([ours, theirs])
    draws = np.random.default_rng(0).integers(pairs.shape[1], size=(RESAMPLES, pairs.shape[1]))
    drawn = pairs[:, draws].mean(axis=-1)
    low, high = np.quantile(drawn[0] / drawn[1], (0.025, 0.975))
    mean = pairs[0].mean() / pairs[1].mean()
    numbers = {'mean': mean, 'low': low, 'high': high}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def _interval_text(target: dict[str, Any]) -> str:
    if target.get('low') is None:
        return '-'
    return f'{target["low"]:.3f} to {target["high"]:.3f}'


def _difference(best: float | None, found: float | None) -> float | None:
    return None if best is None or found is None else 100.0 * (best - found)


if __name__ == '__main__':
    main()
