"""Fit an accuracy predictor for any supernet to measured (architecture, top-1) pairs.

The model is a ridge regression. Its inputs are the one-hot features of the architecture and their
sums over the blocks of a stage and over all blocks. The sums make it accurate with few pairs,
because blocks have similar effects. The result is a linear function of the one-hot features, which
is stored like the published predictor, as a network of one layer.
`benchmarks/accuracy_predictors.py` compares it with the regressors of scikit-learn.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import ArchitectureError, PredictorError
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import AccuracyPredictor
from dynamic_ofa_ros.offline.accuracy.agreement import Agreement
from dynamic_ofa_ros.space.architecture import BLOCK_LISTS, SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

FEWEST_PAIRS = 20
FOLDS = 5
# Maximum number of resolutions with a feature of their own, as in the published predictor; others
# are interpolated.
MOST_RESOLUTIONS = 8
PENALTIES = np.logspace(-3, 3, 25)
# Larger features have a smaller penalty. The resolution has the largest effect.
RESOLUTION_SCALE = 3.0


@dataclass(frozen=True)
class PredictorReport:
    """The result of the cross-validation; errors are fractions, like the accuracies.

    held_out: the agreement of the `predictor`, and of the `mean` of the pairs, with pairs that
    they were not fitted to; pairs: number of distinct architectures; spread: standard deviation
    of their accuracies.
    """

    pairs: int
    folds: int
    spread: float
    held_out: Mapping[str, Agreement]

    @property
    def held_out_mae(self) -> float:
        """Return the mean absolute error on unseen pairs."""
        return self.held_out['predictor'].mae

    @property
    def held_out_rmse(self) -> float:
        """Return the root mean square error on unseen pairs."""
        return self.held_out['predictor'].rmse

    @property
    def kendall_tau(self) -> float:
        """Return the rank correlation on unseen pairs."""
        return self.held_out['predictor'].kendall_tau


def fit_predictor(
    genomes: Genomes, top1: npt.ArrayLike, space: SearchSpace, seed: int = 1
) -> tuple[AccuracyPredictor, PredictorReport]:
    """Fit (N, genes) genomes to (N,) top-1, fractions; the result depends only on the seed.

    Raise PredictorError for too few pairs and for invalid accuracies.
    """
    accuracies = np.asarray(top1, np.float64)
    _check(genomes, accuracies)
    encoding = GenomeEncoding(space)
    genomes, accuracies = _distinct(encoding.canonical(genomes), accuracies)
    _check_count(len(genomes))
    resolutions = _known_resolutions(encoding.resolutions(genomes))
    template = AccuracyPredictor((), (), resolutions, is_interpolating=True, kind=space.kind)
    features = template.features(genomes, space).astype(np.float64)
    sums = _sums(space, len(resolutions))
    fold = np.random.default_rng([seed, 1]).permutation(len(genomes)) % FOLDS
    held_out = {name: np.empty(len(genomes)) for name in ('predictor', 'mean')}
    for k in range(FOLDS):
        out = fold == k
        slopes, offset = _fit_ridge(features[~out] @ sums, accuracies[~out])
        held_out['predictor'][out] = features[out] @ sums @ slopes + offset
        held_out['mean'][out] = accuracies[~out].mean()
    slopes, offset = _fit_ridge(features @ sums, accuracies)
    predictor = AccuracyPredictor(
        ((sums @ slopes)[None].astype(np.float32),),
        (np.array([offset], np.float32),),
        resolutions,
        is_interpolating=True,
        kind=space.kind,
    )
    agreements = {name: Agreement.of(values, accuracies) for name, values in held_out.items()}
    return predictor, PredictorReport(len(genomes), FOLDS, float(accuracies.std()), agreements)


def encode_pairs(
    architectures: Sequence[SubnetArchitecture], space: SearchSpace, source: str
) -> Genomes:
    """Return the genomes of measured architectures; raise PredictorError if one is invalid."""
    encoding = GenomeEncoding(space)
    rows = []
    for number, architecture in enumerate(architectures, start=1):
        try:
            rows.append(encoding.encode([architecture])[0])
        except ArchitectureError as error:
            raise PredictorError(
                f'{source}: architecture {number} does not belong to {space.kind}: {error}'
            ) from None
    return np.array(rows, np.int64).reshape(len(rows), len(encoding.choices))


def check_accuracies(top1: npt.ArrayLike) -> FloatArray:
    """Return top-1 as (N,) float64; raise PredictorError unless all are fractions."""
    accuracies = np.asarray(top1, np.float64)
    wrong = np.flatnonzero(~np.isfinite(accuracies))
    if len(wrong):
        raise PredictorError(
            f'the accuracy of pair {wrong[0] + 1} is {accuracies[wrong[0]]}, which is not a number'
        )
    if accuracies.max() > 1.0 or accuracies.min() < 0.0:
        odd = accuracies.max() if accuracies.max() > 1.0 else accuracies.min()
        raise PredictorError(
            f'an accuracy is {odd:g}; give top-1 as a fraction from 0 to 1 (0.765, not 76.5)'
        )
    return accuracies


def _check(genomes: Genomes, accuracies: FloatArray) -> None:
    if len(genomes) != len(accuracies):
        raise PredictorError(
            f'there are {len(genomes)} architectures and {len(accuracies)} accuracies'
        )
    _check_count(len(genomes))
    check_accuracies(accuracies)
    if accuracies.max() - accuracies.min() < 1e-9:
        raise PredictorError(
            f'all {len(accuracies)} accuracies are {accuracies[0]:g}: check that the backbone is '
            'trained, and that the images show its classes'
        )


def _check_count(pairs: int) -> None:
    if pairs < FEWEST_PAIRS:
        raise PredictorError(
            f'{pairs} different architectures with accuracies are too few for a predictor; '
            f'measure at least {FEWEST_PAIRS}, preferably 200'
        )


def _distinct(genomes: Genomes, accuracies: FloatArray) -> tuple[Genomes, FloatArray]:
    """Average the accuracies of equal networks, which must not be in two folds."""
    distinct, inverse, counts = np.unique(genomes, axis=0, return_inverse=True, return_counts=True)
    if len(distinct) < len(genomes):
        logger.info('%d of %d pairs are repetitions', len(genomes) - len(distinct), len(genomes))
    totals = np.bincount(inverse.reshape(-1), weights=accuracies)
    return distinct, totals / counts


def _known_resolutions(pixels: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Return the measured resolutions, or some of them, evenly spread, if there are many."""
    measured = np.unique(pixels)
    number = min(len(measured), MOST_RESOLUTIONS)
    chosen = np.unique(np.linspace(0, len(measured) - 1, number).round().astype(int))
    return tuple(int(r) for r in measured[chosen])


def _sums(space: SearchSpace, resolutions: int) -> FloatArray:
    """Return (features, columns): each feature, and sums of features of the same kind.

    The sums are over a stage and over all blocks, for each choice and for all choices of a list.
    """
    positions: defaultdict[str, Iterator[int]] = defaultdict(count)
    genes = [
        (group.field, next(positions[group.field]), group.choices)
        for group in space.genes
        for _ in range(group.count)
    ]
    one_hot = zip(*GenomeEncoding(space).one_hot, strict=True)
    members: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for feature, (gene, choice) in enumerate(one_hot):
        field, position, choices = genes[gene]
        if field == 'r':
            continue
        kinds: list[tuple[object, ...]] = [(field,), (field, 'is', choices[choice])]
        if field in BLOCK_LISTS:
            kinds += [(*kind, 'in', space.block_places[position][0]) for kind in kinds]
        for kind in [(feature,), *kinds]:
            members[kind].append(feature)
    blocks = 1 + max(feature for group in members.values() for feature in group)
    columns = np.zeros((blocks + resolutions, len(members) + resolutions))
    for column, group in enumerate(members.values()):
        columns[group, column] = 1.0
    columns[blocks:, len(members) :] = RESOLUTION_SCALE * np.eye(resolutions)
    return columns


def _fit_ridge(inputs: FloatArray, accuracies: FloatArray) -> tuple[FloatArray, float]:
    """Return slopes and offset for the penalty with the smallest leave-one-out error."""
    mean_x, mean_y = inputs.mean(0), float(accuracies.mean())
    left, singular, right = np.linalg.svd(inputs - mean_x, full_matrices=False)
    projected = left.T @ (accuracies - mean_y)
    best_error, slopes = np.inf, np.zeros(inputs.shape[1])
    for penalty in PENALTIES:
        shrunk = singular**2 / (singular**2 + penalty)
        residual = accuracies - mean_y - left @ (shrunk * projected)
        leverage = (left**2) @ shrunk + 1.0 / len(accuracies)
        error = float(((residual / np.maximum(1.0 - leverage, 1e-6)) ** 2).mean())
        if error < best_error:
            best_error = error
            slopes = right.T @ (singular / (singular**2 + penalty) * projected)
    return slopes, mean_y - float(mean_x @ slopes)
