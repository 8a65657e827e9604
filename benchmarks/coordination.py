"""Simulate two and three coordinated models on one processor: met limits and accuracy.

    python -m benchmarks.coordination [--first 5001] [--seeds 1000] [--workers 2] [--output DIR]

A scenario is drawn from its seed: models (the published levels for the GPU of a Jetson Xavier NX,
or a fictitious family), one common camera or one per model with its own period, limits,
importance, time slicing or proportional sharing, lost messages. In half of the scenarios there is
a change after 2.5 s: a model starts or fails, a limit or an importance changes. Results are
measured for 4 s, starting 2 s after the last change.

An exhaustive search simulates every combination of fixed levels with the same processor, cameras
and noise (benchmarks/combinations.py, without approximation). A combination is feasible if at most
5 % of the frames of each model are late; the best one has the highest weighted accuracy.

- met: share of feasible scenarios in which each model has at most 5 % late frames.
- loss: weighted accuracy of the best combination minus that of the contender, in points, if met.
- settled: time of the last switch after the last external change, if feasible.
- restless: scenarios in which a model switches more than MAX_CHANGES times in the 4 s.

    python -m benchmarks.coordination --ablations --seeds 200

repeats this for the collective without one of its parts at a time.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.combinations import all_combinations, late_shares
from benchmarks.common import checksum, print_table, write_results
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.family import LatencyProfile, Level, LevelLatency
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.coordination import choice, proposer, sharing
from dynamic_ofa_ros.simulation.camera import Timing
from dynamic_ofa_ros.simulation.platform import SimulatedPlatform, load_platform
from dynamic_ofa_ros.simulation.processor import SHARINGS, Processor
from dynamic_ofa_ros.simulation.record import Record
from dynamic_ofa_ros.simulation.run import play
from dynamic_ofa_ros.simulation.runner import SimulatedModel
from dynamic_ofa_ros.simulation.several import CollectiveModel, Network, play_together
from dynamic_ofa_ros.simulation.steps import Steps
from dynamic_ofa_ros.space.architecture import SubnetArchitecture

CHANGE_MS, SETTLING_MS, JUDGED_MS = 2500.0, 2000.0, 4000.0
CHANGES = ('start', 'stop', 'limit', 'importance')
CAMERAS = ('one camera', 'separate cameras')
QUANTILE = 0.95
MAX_CHANGES = 4
MAX_LOSS_POINTS = 1.0
CONTENDERS = ('collective', 'predictive', 'reactive')
Patch = tuple[Any, str, Any]


def _no_error(
    self: choice.Device, ladders: Any, margin: float, choose: Any = choice.Device.choose
) -> Any:
    return choose(self, ladders, max(margin, 0.0))


ABLATIONS: dict[str, tuple[Patch, ...]] = {
    'no learning of the demand': ((sharing.Sharing, '_fit', lambda *_: None),),
    'same demand at all levels': ((sharing, 'POWERS', np.zeros((1, 1))),),
    'no learning of the spread': (
        (sharing, 'MIN_SPREAD', sharing.SPREAD),
        (sharing, 'MAX_SPREAD', sharing.SPREAD),
    ),
    'no correction by the prediction error': ((choice.Device, 'choose', _no_error),),
    'no minimum relief after late frames': ((proposer, 'LIGHTER', 1.0),),
    'no restriction to lighter levels after late frames': (
        (choice.Device, 'ladders_below', lambda _, ladders, __: ladders),
    ),
    'no shorter hold time after a change': ((proposer, 'EARLY_NS', 0),),
    'no trials beyond the prediction': ((proposer, 'MAX_MARGIN', 0.0),),
    'no learning of unavoidable late frames': (
        (proposer.Proposer, '_learn_unavoidable', lambda *_: None),
    ),
    'no detection of models that stay at their level': (
        (proposer.Proposer, '_detect_stubborn', lambda *_: False),
    ),
}
"""Replacements for each part of the collective."""

MADE_UP_ACCURACIES = (0.640, 0.690, 0.722, 0.741, 0.752)
MADE_UP_LATENCIES_MS = (12.0, 18.0, 26.0, 37.0, 52.0)
MADE_UP_DEMANDS = (0.35, 0.45, 0.55, 0.7, 0.9)
MADE_UP_NOISE = 0.03


@dataclass(frozen=True)
class Scenario:
    """A scenario; results are measured between from_ms and duration_ms with the last limits."""

    models: tuple[CollectiveModel, ...]
    processor: Processor
    network: Network
    camera: str
    change: str
    change_ms: float
    limits_ms: tuple[float, ...]
    seed: int

    @property
    def from_ms(self) -> float:
        """Return the start of the measurement."""
        return self.change_ms + SETTLING_MS

    @property
    def duration_ms(self) -> float:
        """Return the end of the measurement."""
        return self.from_ms + JUDGED_MS


@dataclass(frozen=True)
class Outcome:
    """The result of a contender in a scenario; loss_points is NaN if limits were not met."""

    models: int
    sharing: str
    camera: str
    change: str
    is_feasible: bool
    is_met: bool
    worst_late_share: float
    loss_points: float
    settled_ms: float
    changes: int


def main() -> None:
    """Simulate all scenarios, print the table and the targets, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--first', type=int, default=5001, help='1 to 1000 were used for tuning')
    parser.add_argument('--seeds', type=int, default=1000, help='how many')
    parser.add_argument('--contenders', nargs='+', choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument('--ablations', action='store_true', help='remove one part at a time')
    parser.add_argument('--workers', type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    contenders = ['collective', *ABLATIONS] if options.ablations else options.contenders
    found: list[dict[str, Outcome]] = []
    with (
        ProcessPoolExecutor(max_workers=max(1, options.workers)) as pool,
        progress('coordination', len(seeds)) as report,
    ):
        evaluated = pool.map(partial(evaluate, contenders=contenders), seeds, chunksize=4)
        for outcomes in evaluated:
            found.append(outcomes)
            report.update(len(found))
    name = 'coordination_ablations' if options.ablations else 'coordination'
    report_results(found, seeds, name, options.output)


def report_results(
    found: Sequence[dict[str, Outcome]], seeds: range, name: str, folder: Path | None
) -> None:
    """Print the tables of results for these seeds, and write the JSON file."""
    tables = {
        group: {
            contender: summary(_of_group([outcomes[contender] for outcomes in found], group))
            for contender in found[0]
        }
        for group in ('all', '2 models', '3 models', *SHARINGS, *CAMERAS, 'none', *CHANGES)
    }
    for group, table in tables.items():
        print_table(
            f'{group}: {len(found)} scenarios' if group == 'all' else group,
            ['', *table['collective']],
            [[contender, *row.values()] for contender, row in table.items()],
        )
    limits = np.array([limit for seed in seeds for limit in draw(seed).limits_ms])
    write_results(
        name,
        tables,
        configuration={
            'seeds': f'{seeds[0]} to {seeds[-1]}',
            'change_ms': CHANGE_MS,
            'settling_ms': SETTLING_MS,
            'judged_ms': JUDGED_MS,
            'quantile': QUANTILE,
            'max_changes': MAX_CHANGES,
        },
        input_checksum=checksum([limits]),
        **({'folder': folder} if folder else {}),
    )


@lru_cache(maxsize=1)
def platforms() -> tuple[SimulatedPlatform, SimulatedPlatform]:
    """Return the published levels and the fictitious family."""
    return load_platform(), made_up_platform()


def made_up_platform() -> SimulatedPlatform:
    """Return five fictitious levels with larger differences in latency than the published ones."""
    architecture = SubnetArchitecture(ks=(3,) * 20, e=(3,) * 20, d=(2,) * 5, r=160)
    levels = tuple(
        Level(i, f'level {i}', architecture, accuracy, 0, 0)
        for i, accuracy in enumerate(MADE_UP_ACCURACIES, start=1)
    )
    latencies = tuple(
        LevelLatency(ms, ms, MADE_UP_NOISE * ms, 1.05 * ms, 1.07 * ms, 0)
        for ms in MADE_UP_LATENCIES_MS
    )
    profile = LatencyProfile('made up', latencies, 'never', {})
    return SimulatedPlatform('made up', levels, profile, MADE_UP_DEMANDS, 'made up')


def draw(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    rng = np.random.default_rng([seed, *b'coordination'])
    count = int(rng.integers(2, 4))
    change = str(rng.choice(CHANGES)) if rng.random() < 0.5 else 'none'
    changing = int(rng.integers(count))
    is_shared = bool(rng.random() < 0.5)
    shared = Timing(float(rng.uniform(50.0, 150.0)))
    models, limits_ms = [], []
    for index in range(count):
        platform = platforms()[int(rng.integers(2))]
        fastest_ms, slowest_ms = min(platform.latencies_ms), max(platform.latencies_ms)

        def draw_limit(low: float = 1.1 * fastest_ms, high: float = 2.0 * slowest_ms) -> float:
            return float(rng.uniform(low, high))

        period_ms = float(rng.uniform(50.0, 150.0))
        timing = Timing(period_ms, float(rng.uniform(0.0, period_ms)))
        timing = shared if is_shared else timing
        first_ms, then_ms = draw_limit(), draw_limit()
        weight, later = (float(np.exp(rng.normal(0.0, 0.5))) for _ in range(2))
        what = change if index == changing else 'none'
        schedule = [(0.0, Constraints(first_ms, quantile=QUANTILE))]
        if what == 'limit':
            schedule.append((CHANGE_MS, Constraints(then_ms, quantile=QUANTILE)))
        importance = [(0.0, weight)]
        if what == 'importance':
            importance.append((CHANGE_MS, later))
        model = SimulatedModel(
            'abc'[index],
            platform,
            'predictive',
            schedule,
            timing,
            begin_ms=CHANGE_MS if what == 'start' else 0.0,
            end_ms=CHANGE_MS if what == 'stop' else math.inf,
        )
        models.append(CollectiveModel(model, Steps.of(importance)))
        limits_ms.append(then_ms if what == 'limit' else first_ms)
    return Scenario(
        tuple(models),
        Processor(str(rng.choice(SHARINGS))),
        Network(float(rng.uniform(0.5, 20.0)), float(rng.choice([0.0, 0.0, 0.1, 0.3]))),
        CAMERAS[0] if is_shared else CAMERAS[1],
        change,
        0.0 if change == 'none' else CHANGE_MS,
        tuple(limits_ms),
        seed,
    )


def evaluate(seed: int, contenders: Sequence[str] = CONTENDERS) -> dict[str, Outcome]:
    """Simulate a scenario with each contender, and compare it with all combinations of levels."""
    scenario = draw(seed)
    best = best_accuracy(scenario)
    return {name: outcome(scenario, play_with(scenario, name), best) for name in contenders}


def best_accuracy(scenario: Scenario) -> float:
    """Return the highest weighted accuracy of a feasible combination; NaN if there is none."""
    models = [member.model for member in scenario.models]
    combinations = all_combinations(models)
    late = late_shares(
        models,
        scenario.processor,
        combinations,
        scenario.limits_ms,
        duration_ms=scenario.duration_ms,
        from_ms=scenario.from_ms,
        seed=scenario.seed,
    )
    is_feasible = (late <= 1.0 - QUANTILE).all(axis=1)
    accuracy = np.column_stack(
        [np.array(m.platform.accuracies)[combinations[:, i] - 1] for i, m in enumerate(models)]
    )
    weighted = accuracy @ weights(scenario)
    return float(weighted[is_feasible].max()) if is_feasible.any() else math.nan


def weights(scenario: Scenario) -> Any:
    """Return the weight of each model in the weighted accuracy; 0 for models that have ended."""
    importance = np.array(
        [
            member.importance.at(scenario.duration_ms)
            if member.model.end_ms > scenario.from_ms
            else 0.0
            for member in scenario.models
        ]
    )
    return importance / importance.sum()


def play_with(scenario: Scenario, contender: str) -> tuple[Record, ...]:
    """Simulate a scenario with coordination (complete or without a part), or with a policy."""
    if contender == 'collective' or contender in ABLATIONS:
        with ExitStack() as stack:
            for where, what, instead in ABLATIONS.get(contender, ()):
                stack.enter_context(mock.patch.object(where, what, instead))
            return play_together(
                scenario.models,
                scenario.processor,
                duration_ms=scenario.duration_ms,
                seed=scenario.seed,
                network=scenario.network,
                has_alternatives=False,
            )
    return play(
        [replace(member.model, policy=contender) for member in scenario.models],
        scenario.processor,
        duration_ms=scenario.duration_ms,
        seed=scenario.seed,
        has_alternatives=False,
    )


def outcome(scenario: Scenario, records: Sequence[Record], best: float) -> Outcome:
    """Compute the result of a simulated scenario."""
    share = weights(scenario)
    late, reached, changes, settled_ms = [], 0.0, 0, 0.0
    for record, limit_ms, weight in zip(records, scenario.limits_ms, share, strict=True):
        if weight == 0.0:
            continue
        frames = [frame for frame in record.frames if frame.start_ms >= scenario.from_ms]
        late.append(sum(f.latency_ms > limit_ms for f in frames) / max(1, len(frames)))
        accuracies = record.platform.accuracies
        reached += weight * math.fsum(accuracies[f.level - 1] for f in frames) / len(frames)
        times_ms = [decision.time_ns / 1e6 for decision in record.decisions]
        changes = max(changes, sum(ms >= scenario.from_ms for ms in times_ms))
        settled_ms = max([settled_ms, *(ms - scenario.change_ms for ms in times_ms)])
    is_feasible = not math.isnan(best)
    is_met = max(late) <= 1.0 - QUANTILE
    return Outcome(
        models=len(records),
        sharing=scenario.processor.sharing,
        camera=scenario.camera,
        change=scenario.change,
        is_feasible=is_feasible,
        is_met=is_met,
        worst_late_share=max(late),
        loss_points=100.0 * (best - reached) if is_feasible and is_met else math.nan,
        settled_ms=settled_ms,
        changes=changes,
    )


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the values of the table for some scenarios; see the module's docstring."""
    feasible = [found for found in outcomes if found.is_feasible]
    met = [found for found in feasible if found.is_met]
    loss = np.array([found.loss_points for found in met] or [math.nan])
    settled_ms = np.array([found.settled_ms for found in feasible] or [math.nan])

    def percent(part: int, whole: int) -> float:
        return round(100.0 * part / max(1, whole), 2)

    return {
        'feasible': len(feasible),
        'met, %': percent(len(met), len(feasible)),
        'a model > 10 % late, %': percent(
            sum(f.worst_late_share > 0.1 for f in feasible), len(feasible)
        ),
        'mean loss, points': round(float(loss.mean()), 3),
        '95 % loss, points': round(float(np.quantile(loss, 0.95)), 3),
        'loss <= 1 point, %': percent(int((loss <= MAX_LOSS_POINTS).sum()), len(met)),
        'median time to settle, s': round(float(np.median(settled_ms)) / 1e3, 2),
        'settled within 2 s, %': percent(int((settled_ms <= SETTLING_MS).sum()), len(feasible)),
        'switches/min': round(
            float(np.mean([f.changes for f in feasible] or [0])) * 60e3 / JUDGED_MS, 2
        ),
        'restless, %': percent(sum(f.changes > MAX_CHANGES for f in outcomes), len(outcomes)),
    }


def _of_group(outcomes: Sequence[Outcome], group: str) -> list[Outcome]:
    if group == 'all':
        return list(outcomes)
    return [f for f in outcomes if group in (f'{f.models} models', f.sharing, f.camera, f.change)]


if __name__ == '__main__':
    main()
