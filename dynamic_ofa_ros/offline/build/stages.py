"""The first stages of a build, which end with measured candidates. Each of them can be resumed.

1. The accuracy of sampled sub-networks is measured.
2. An accuracy predictor is fitted to them.
3. A latency model is read, or fitted to networks that are timed here.
4. The search uses both.
5. The best found and sampled sub-networks are measured as carefully as levels.

Without a search, stages 2 to 4 are omitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import AccuracyPredictor
from dynamic_ofa_ros.offline.build.build_context import BuildContext, open_table
from dynamic_ofa_ros.offline.latency.measured import read_measured
from dynamic_ofa_ros.offline.search.candidates import (
    FINALIST,
    SAMPLED,
    Candidate,
    key_of,
    sample_candidates,
    spread,
)
from dynamic_ofa_ros.offline.search.pareto import front
from dynamic_ofa_ros.offline.work_folder import read_result, write_result
from dynamic_ofa_ros.runtime.profiling import warn_when_busy
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
Predict = Callable[[Genomes], FloatArray]

STAGES = 8
SEARCHES = ('nsga2', 'algorithm1', 'none')

# A predictor that is fitted to fewer pairs is less accurate than the measurements.
FEWEST_PAIRS_TO_FIT = 30
# Whole networks that a latency predictor is fitted to.
TIMED_NETWORKS = 60
# Fraction of the finalists that the search finds; the others are the best sampled ones.
FOUND_SHARE = 0.7


@dataclass(frozen=True)
class BuildCandidates:
    """The result of stages 1 to 5: candidates, and statistics of the predictors and the search."""

    candidates: list[Candidate]
    facts: Mapping[str, Any]


def stage(number: int, what: str) -> None:
    """Log that a stage begins."""
    logger.info('stage %d of %d: %s', number, STAGES, what)


def find_candidates(context: BuildContext) -> BuildCandidates:
    """Run stages 1 to 5, or those that an earlier run did not complete."""
    chosen, sampled, facts = hopeful_candidates(context)
    with context.work.timed('5 candidates measured'):
        stage(5, f'measuring {len(chosen)} candidates, accuracy and latency')
        finalists = measure_finalists(context, chosen)
    known = {key_of(c.architecture) for c in finalists}
    others = [c for c in sampled if key_of(c.architecture) not in known]
    return BuildCandidates([*finalists, *others], facts)


def hopeful_candidates(
    context: BuildContext,
) -> tuple[list[Candidate], list[Candidate], dict[str, Any]]:
    """Run stages 1 to 4; return the candidates, the sampled sub-networks and statistics.

    Without those stages, the candidates are the sub-networks that were measured on a robot.
    """
    settings, facts = context.settings, dict[str, Any]()
    if settings.measured:
        networks = read_measured(settings.measured)
        logger.info(
            '%d sub-networks were measured on %s: stages 1 to 4 are omitted',
            len(networks.architectures),
            networks.latencies.platform,
        )
        facts['measured'] = {
            'platform': networks.latencies.platform,
            'measured_at': networks.latencies.measured_at,
        }
        return [Candidate(a, FINALIST, context.macs(a)) for a in networks.architectures], [], facts
    sampled: list[Candidate] = []
    if settings.search == 'none' or not settings.predictor:
        with context.work.timed('1 accuracy pairs'):
            stage(1, f'measuring the accuracy of {settings.candidates} sampled sub-networks')
            sampled = measure_sampled(context)
    obstacle = '' if settings.predictor else _obstacle(sampled)
    if settings.search == 'none' or obstacle:
        if settings.search != 'none':
            logger.info('%s: levels are chosen from them without a search', obstacle)
        chosen = _hopeful(sampled, settings.finalists)
    else:
        with context.work.timed('2 accuracy predictor'):
            stage(2, 'accuracy predictor')
            predictor, facts['accuracy_predictor'] = accuracy_predictor(context, sampled)
        with context.work.timed('3 latency model'):
            stage(3, 'latency model')
            predict_ms, facts['latency_model'], timed = latency_model(context, sampled)
        sampled = [
            replace(c, latency_ms=timed.get(key_of(c.architecture), c.latency_ms)) for c in sampled
        ]
        with context.work.timed('4 search'):
            stage(4, f'searching with {settings.evaluations} evaluations')
            sampled, found = search(context, sampled, predict_ms, predictor, facts)
        chosen = _merged(found, sampled, settings.finalists)
    return chosen, sampled, facts


def _obstacle(sampled: Sequence[Candidate]) -> str:
    """Return why no predictor can be fitted to the sampled sub-networks, or ''."""
    if len(sampled) < FEWEST_PAIRS_TO_FIT:
        return (
            f'{len(sampled)} sampled sub-networks are too few for predictors '
            f'(at least {FEWEST_PAIRS_TO_FIT} are required)'
        )
    first = sampled[0].top1
    if all(c.top1 == first for c in sampled):
        return (
            f'all {len(sampled)} sampled sub-networks have the same top-1 ({100 * first:.1f} %), '
            'so the fastest is the best'
        )
    return ''


def measure_sampled(context: BuildContext) -> list[Candidate]:
    """Stage 1: measure the accuracy of sampled sub-networks on the selection images."""
    space, settings = context.trained.space, context.settings
    architectures = sample_candidates(space, settings.candidates, settings.seed)
    images = settings.sampled_calibration_images
    top1 = context.measure_accuracy(architectures, images, 'sampled')
    check_some_are_right(top1, len(context.selection))
    return [
        Candidate(a, SAMPLED, context.macs(a), t) for a, t in zip(architectures, top1, strict=True)
    ]


def accuracy_predictor(
    context: BuildContext, sampled: Sequence[Candidate]
) -> tuple[AccuracyPredictor, dict[str, Any]]:
    """Stage 2: read the given predictor, or fit one to the sampled sub-networks."""
    from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor, save_predictor
    from dynamic_ofa_ros.offline.accuracy.predictor_fit import fit_predictor

    space, given = context.trained.space, context.settings.predictor
    if given:
        path, facts = Path(given).expanduser(), {'file': Path(given).name}
    else:
        depends_on = {
            'pairs': [[key_of(c.architecture), c.top1] for c in sampled],
            'space': repr(space),
            'seed': context.settings.seed,
        }
        path = context.work.path('accuracy_predictor', depends_on, '.npz')
        report_path = path.with_suffix('.json')
        if not (path.is_file() and read_result(report_path)):
            genomes = GenomeEncoding(space).encode([c.architecture for c in sampled])
            top1 = np.array([c.top1 for c in sampled])
            fitted, report = fit_predictor(genomes, top1, space, seed=context.settings.seed)
            save_predictor(fitted, path)
            write_result(
                report_path,
                {
                    'pairs': report.pairs,
                    'held_out_mae': round(report.held_out_mae, 5),
                    'kendall_tau': round(report.kendall_tau, 4),
                },
            )
        facts = read_result(report_path) or {}
        logger.info('accuracy predictor: %s', _in_words(facts))
    return read_predictor(path), facts


def latency_model(
    context: BuildContext, sampled: Sequence[Candidate]
) -> tuple[Predict, dict[str, Any], dict[str, float]]:
    """Stage 3: read the given table, or fit a predictor to whole networks that are timed here.

    Also return the measured latencies by key.
    """
    from dynamic_ofa_ros.offline.latency.latency_predictor import fit_latency_predictor

    space, settings = context.trained.space, context.settings
    if settings.lut:
        predict, facts = _table(context)
        return predict, facts, {}
    architectures = [c.architecture for c in sampled] or sample_candidates(
        space, settings.candidates, settings.seed
    )
    macs = [context.macs(a) for a in architectures]
    chosen = [architectures[i] for i in spread(macs, TIMED_NETWORKS)]
    measured_ms = np.array(context.time_networks(chosen))
    timed = {key_of(a): float(ms) for a, ms in zip(chosen, measured_ms, strict=True)}
    fitted = fit_latency_predictor(GenomeEncoding(space).encode(chosen), measured_ms, space)
    rounded = {name: round(float(value), 4) for name, value in asdict(fitted.report).items()}
    facts = {'networks': len(chosen), **rounded}
    logger.info('latency predictor: %s', _in_words(facts))
    return fitted.predict, facts, timed


def search(
    context: BuildContext,
    sampled: Sequence[Candidate],
    predict_ms: Predict,
    predictor: AccuracyPredictor,
    facts: dict[str, Any],
) -> tuple[list[Candidate], list[Candidate]]:
    """Stage 4: return the sampled sub-networks with predictions, and those of the search."""
    from dynamic_ofa_ros.offline.search.algorithm1 import find_with_algorithm_1
    from dynamic_ofa_ros.offline.search.search import Objectives, find_front

    encoding = GenomeEncoding(context.trained.space)

    def predict_top1(genomes: Genomes) -> FloatArray:
        return predictor.predict(genomes, encoding.space)

    if sampled:
        genomes = encoding.encode([c.architecture for c in sampled])
        sampled = [
            replace(c, predicted_top1=float(t), predicted_latency_ms=float(ms))
            for c, t, ms in zip(sampled, predict_top1(genomes), predict_ms(genomes), strict=True)
        ]
    ends = encoding.encode([encoding.space.smallest(), encoding.space.largest()])
    slowest_ms, fastest_ms = sorted(predict_ms(ends), reverse=True)
    count = max(2, round(context.settings.finalists * FOUND_SHARE))
    limits_ms = [float(ms) for ms in np.geomspace(fastest_ms * 1.01, slowest_ms, count)]
    depends_on = {
        'space': repr(encoding.space),
        'limits_ms': limits_ms,
        'search': context.settings.search,
        'evaluations': context.settings.evaluations,
        'seed': context.settings.seed,
        # The predictions of a few random networks identify the predictors.
        'predictors': _probed(encoding, predict_ms, predict_top1),
    }
    path = context.work.path('front', depends_on, '.json')
    result = read_result(path)
    if result is None:
        objectives = Objectives(
            encoding,
            predict_ms,
            predict_top1,
            effects=lambda genomes: predictor.effects(genomes, encoding.space),
        )
        how = objectives, limits_ms, context.settings.evaluations, context.settings.seed
        if context.settings.search == 'algorithm1':
            outcome, _ = find_with_algorithm_1(*how, skips_empty=True)
        else:
            best = [sampled[i].architecture for i in _sampled_front(sampled)]
            outcome = find_front(*how, warm_start=best)
        result = {
            'evaluations': outcome.evaluations,
            'seconds': round(outcome.seconds, 2),
            'found': [
                [f.architecture.to_mapping(), f.latency_ms, f.accuracy] for f in outcome.at_limits
            ],
        }
        write_result(path, result)
    facts['search'] = {
        'algorithm': context.settings.search,
        **{name: result[name] for name in ('evaluations', 'seconds')},
    }
    found: dict[str, Candidate] = {}
    for mapping, predicted_ms, predicted_top1 in result['found']:
        architecture = SubnetArchitecture.from_mapping(mapping).canonical(encoding.space)
        candidate = Candidate(
            architecture,
            FINALIST,
            context.macs(architecture),
            predicted_top1=predicted_top1,
            predicted_latency_ms=predicted_ms,
        )
        found.setdefault(key_of(architecture), candidate)
    return list(sampled), list(found.values())


def measure_finalists(context: BuildContext, chosen: Sequence[Candidate]) -> list[Candidate]:
    """Stage 5: measure accuracy, calibrated as for a level, and latency, in turns."""
    architectures = [c.architecture for c in chosen]
    images = context.settings.calibration_images
    top1 = context.measure_accuracy(architectures, images, 'candidates')
    check_some_are_right(top1, len(context.selection))
    profile = context.measure_latency(architectures)
    if context.settings.times_here:
        warn_when_busy(profile.load_of_others, 'a build on an idle machine may differ')
    return [
        replace(c, kind=FINALIST, top1=t, latency_ms=level.median_ms)
        for c, t, level in zip(chosen, top1, profile.levels, strict=True)
    ]


def check_some_are_right(top1: Sequence[float], images: int) -> None:
    """Raise DatasetError if no network classified any image correctly."""
    if not any(top1):
        raise DatasetError(
            f'all {len(top1)} sub-networks classified all {images} held-out images wrongly: '
            'check that the backbone is trained, and that the images show its classes'
        )


def _table(context: BuildContext) -> tuple[Predict, dict[str, Any]]:
    table, predict = open_table(context.settings.lut, context.trained.space)
    name = Path(context.settings.lut).name
    logger.info(
        '%s was measured on %s: the search uses it%s',
        name,
        table.platform,
        '; candidates are timed here' if context.settings.times_here else '',
    )
    return predict, {'file': name, 'platform': table.platform}


def _hopeful(sampled: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the candidates that may be on the front; MACs stand for latency, with a margin."""
    kept = [
        candidate
        for candidate in sampled
        if not any(
            other.macs < 0.7 * candidate.macs and other.top1 > candidate.top1 for other in sampled
        )
    ]
    return [kept[i] for i in spread([c.macs for c in kept], count)]


def _merged(
    found: Sequence[Candidate], sampled: Sequence[Candidate], count: int
) -> list[Candidate]:
    """Return the candidates of the search and the best sampled ones, `count` in total."""
    merged = {key_of(c.architecture): c for c in found}
    best = [sampled[i] for i in _sampled_front(sampled)]
    best = [c for c in best if key_of(c.architecture) not in merged]
    room = max(0, count - len(merged))
    chosen = spread([c.predicted_latency_ms for c in best], room) if room else []
    return [*found, *(best[i] for i in chosen)]


def _sampled_front(sampled: Sequence[Candidate]) -> list[int]:
    return front([c.predicted_latency_ms for c in sampled], [c.top1 for c in sampled])


def _probed(encoding: GenomeEncoding, *predictors: Predict) -> list[list[float]]:
    genomes = encoding.sample(np.random.default_rng(0), 16)
    return [np.round(predict(genomes), 9).tolist() for predict in predictors]


def _in_words(facts: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{name} {value:.3g}' if isinstance(value, float) else f'{name} {value}'
        for name, value in facts.items()
        if isinstance(value, (int, float, str))
    )
