"""Compare our search with the published results, the paper's Algorithm 1 and random search.

    python -m benchmarks.search [--seeds 5] [--evaluations 20000] [--front-evaluations 200000]

Uses the published latency tables, accuracy predictor and search results of the reference folder,
which is required. Accuracies are those of the predictor.

Evaluations are those of the accuracy predictor; a gradient counts as three evaluations. Latencies
come from the table and are not counted, so no search evaluates an architecture that is too slow.

Hypervolume is the area dominated by the best points at the ten limits (`ten_limits`) or by all
points found (`front`), up to a reference point: the slowest limit, and the worst published
accuracy less one point (`near`) or 0.75 (`far`, the published search's own lower bound).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import median, print_table, reference_directory, write_results
from dynamic_ofa_ros.errors import SearchError
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor
from dynamic_ofa_ros.offline.latency.table import read_table
from dynamic_ofa_ros.offline.search.algorithm1 import Algorithm1Settings, find_with_algorithm_1
from dynamic_ofa_ros.offline.search.objectives import EFFECTS_COST
from dynamic_ofa_ros.offline.search.pareto import hypervolume
from dynamic_ofa_ros.offline.search.search import Objectives, SearchResult, find_front, result_of
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.space.genome import Genetics

PREDICTOR = 'acc_predictor.npz'
FAR_ACCURACY = 0.75
# Predictions for the same network with another library differ by less.
GAIN_TOLERANCE = 1e-6
# Window of the published search.
ALGORITHM_1 = Algorithm1Settings(min_accuracy=FAR_ACCURACY)


def main() -> None:
    """Run all searches with both tables, print the comparison and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--evaluations', type=int, default=20000)
    parser.add_argument('--front-evaluations', type=int, default=200000)
    parser.add_argument('--front-seeds', type=int, default=1, help='for the larger search')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    folder = reference_directory()
    names = [PREDICTOR, *(f'{name}_{device}.json' for device in ('gpu', 'cpu')
                          for name in ('lut_xavier_nx', 'published_search'))]  # fmt: skip
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        print(f'{folder} has no {", ".join(missing)}, which this benchmark requires')
        return
    load = OthersLoad()
    digest = hashlib.sha256(b''.join((folder / name).read_bytes() for name in names))
    write_results(
        'search',
        {device: _compare(folder, device, options) for device in ('gpu', 'cpu')},
        configuration={
            'seeds': options.seeds,
            'evaluations': options.evaluations,
            'front_evaluations': options.front_evaluations,
            'front_seeds': options.front_seeds,
            'evaluation': 'one forward pass of the accuracy predictor for one architecture; a '
            f'gradient counts as {EFFECTS_COST}; latencies from the table are not counted',
            'hypervolume': 'reference point: slowest limit; worst published accuracy - 0.01 '
            f'(near) or {FAR_ACCURACY} (far)',
        },
        input_checksum=digest.hexdigest(),
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def _compare(folder: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    document = json.loads((folder / f'published_search_{device}.json').read_text())
    published = document['found']
    limits_ms = [float(found['constraint']) for found in published]
    theirs = np.array([found['pred_acc'] for found in published])
    points = [found['pred_lat'] for found in published], theirs.tolist()
    references = {
        'near': (max(limits_ms), float(theirs.min()) - 0.01),
        'far': (max(limits_ms), FAR_ACCURACY),
    }
    table, predictor = (
        read_table(folder / f'lut_xavier_nx_{device}.json'),
        read_predictor(folder / PREDICTOR),
    )

    def objectives() -> Objectives:
        return Objectives(
            Genetics(table.space),
            table.predict,
            lambda g: predictor.predict(g, table.space),
            effects=lambda g: predictor.effects(g, table.space),
        )

    small, large = options.evaluations, options.front_evaluations
    entries = {
        f'nsga2 {small}': (_ours, small, options.seeds),
        f'algorithm 1 {small}': (_algorithm_1, small, options.seeds),
        f'random {small}': (_random, small, options.seeds),
        f'nsga2 {large}': (_ours, large, options.front_seeds),
    }
    results: dict[str, Any] = {
        'published': {
            'evaluations': document['total_evals'],
            'seconds': document['total_cpu_s'],
            'accuracy': theirs.tolist(),
            'hypervolume': {name: hypervolume(*points, r) for name, r in references.items()},
        }
    }
    for name, (search, evaluations, seeds) in entries.items():
        gains, runs = [], []
        for seed in range(1, seeds + 1):
            try:
                result = search(objectives(), limits_ms, evaluations, seed)
            except SearchError as error:
                print(f'  {device}, {name}, seed {seed}: {error}', flush=True)
                continue
            gains.append([found.accuracy for found in result.at_limits] - theirs)
            runs.append(_summary(result, points, references))
        if not runs:
            results[name] = {'failed_seeds': seeds}
            continue
        results[name] = {
            'evaluations': median([run['evaluations'] for run in runs]),
            'seconds': round(median([run['seconds'] for run in runs]), 3),
            'gain_median': np.median(gains, axis=0).round(6).tolist(),
            'gain_worst': np.min(gains, axis=0).round(6).tolist(),
            'seeds_at_least_as_good_everywhere': sum(
                bool((g >= -GAIN_TOLERANCE).all()) for g in gains
            ),
            'failed_seeds': seeds - len(runs),
            'hypervolume_ratio': {
                kind: {r: round(median([run[kind][r] for run in runs]), 4) for r in references}
                for kind in ('ten_limits', 'front')
            },
        }
        print(f'  {device}: {name} done', flush=True)
    _print(device, limits_ms, results)
    return {'limits_ms': limits_ms, **results}


def _summary(
    result: SearchResult,
    published: tuple[list[float], list[float]],
    references: dict[str, tuple[float, float]],
) -> dict[str, Any]:
    """Return effort and hypervolume of one run, relative to the published result."""
    ratios: dict[str, dict[str, float]] = {'ten_limits': {}, 'front': {}}
    for kind, found in (('ten_limits', result.at_limits), ('front', result.front)):
        ours = [f.latency_ms for f in found], [f.accuracy for f in found]
        for name, reference in references.items():
            ratios[kind][name] = hypervolume(*ours, reference) / hypervolume(*published, reference)
    return {'evaluations': result.evaluations, 'seconds': result.seconds, **ratios}


def _ours(
    objectives: Objectives, limits: list[float], evaluations: int, seed: int
) -> SearchResult:
    return find_front(objectives, limits, evaluations, seed)


def _algorithm_1(
    objectives: Objectives, limits: list[float], evaluations: int, seed: int
) -> SearchResult:
    return find_with_algorithm_1(objectives, limits, evaluations, seed, ALGORITHM_1)[0]


def _random(
    objectives: Objectives, limits: list[float], evaluations: int, seed: int
) -> SearchResult:
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    while objectives.evaluations < evaluations:
        genomes = objectives.genetics.sample(rng, evaluations)
        genomes = genomes[objectives.latency(genomes) <= max(limits)]
        objectives.evaluate(genomes[: evaluations - objectives.evaluations])
    return result_of(objectives, limits, time.perf_counter() - started)


def _print(device: str, limits_ms: list[float], results: dict[str, Any]) -> None:
    rows: list[list[object]] = []
    for name, entry in results.items():
        if 'gain_median' in entry:
            gains = [f'{100 * gain:+.2f}' for gain in entry['gain_median']]
            front = entry['hypervolume_ratio']['front']
            rows.append([name, entry['seconds'], *gains, front['near'], front['far']])
    print_table(
        f'{device}: top-1 over the published search in points, median of the seeds, by limit in '
        'ms; hypervolume of the front over the published',
        ['search', 's', *(f'{limit:g}' for limit in limits_ms), 'hv near', 'hv far'],
        rows,
    )


if __name__ == '__main__':
    main()
