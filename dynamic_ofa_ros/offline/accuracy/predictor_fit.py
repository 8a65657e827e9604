"""Fit an accuracy predictor for any supernet from measured (architecture, top-1) pairs.

Two models compete in a cross-validation: ridge regression, which does well on few pairs, and an
ensemble of small networks that learn what ridge leaves over; with ridge they are one network of
the published predictor's size, three hidden layers of 400 (and one unit for ridge). The better one
is fitted on all pairs, the simpler one when they are as good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dynamic_ofa_ros.errors import ArchitectureError, PredictorError
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import (
    AccuracyPredictor,
    Float32Array,
)
from dynamic_ofa_ros.offline.accuracy.agreement import Agreement
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FEWEST_PAIRS = 20
FOLDS = 5
# More classes of resolution than this are not learned from some hundreds of pairs: as many as the
# published predictor has; others lie between two of them.
MOST_RESOLUTIONS = 8

# The ensemble: each member stops at its best step on pairs that it does not learn from.
MEMBERS = 5
HIDDEN = 80
HIDDEN_LAYERS = 3
STEPS = 400
PATIENCE_STEPS = 40
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1.0
INNER_SHARE = 0.15

# The ensemble's error, relative to that of ridge, below which its complexity pays.
WORTH = 0.98
FEATURES_AT_FIRST = 0.2

RIDGE_PENALTIES = np.logspace(-3, 3, 25)


@dataclass(frozen=True)
class PredictorReport:
    """What the cross-validation found; errors are fractions, as the accuracies are.

    model: the one that was chosen, 'ensemble' or 'ridge'; held_out: the agreement of each model,
    and of 'mean' (always the mean of the pairs), with pairs that it had not seen; pairs: distinct
    architectures; spread: standard deviation of their accuracies.
    """

    model: str
    pairs: int
    folds: int
    spread: float
    held_out: Mapping[str, Agreement]

    @property
    def held_out_mae(self) -> float:
        """Return the chosen model's mean absolute error on unseen pairs."""
        return self.held_out[self.model].mae

    @property
    def held_out_rmse(self) -> float:
        """Return the chosen model's root mean square error on unseen pairs."""
        return self.held_out[self.model].rmse

    @property
    def kendall_tau(self) -> float:
        """Return the chosen model's rank correlation on unseen pairs."""
        return self.held_out[self.model].kendall_tau


def fit_predictor(
    genomes: Genomes, top1: npt.ArrayLike, space: SearchSpace, seed: int = 1
) -> tuple[AccuracyPredictor, PredictorReport]:
    """Fit (N, genes) genomes to (N,) top-1, fractions; the same for the same seed.

    Raise PredictorError for too few pairs and for accuracies that make no sense.
    """
    accuracies = np.asarray(top1, np.float64)
    _check(genomes, accuracies)
    encoding = GenomeEncoding(space)
    genomes, accuracies = _distinct(encoding.canonical(genomes), accuracies)
    _check_count(len(genomes))
    resolutions = _resolution_classes(encoding.resolutions(genomes))
    template = AccuracyPredictor((), (), resolutions, True, space.kind)
    features = template.features(genomes, space)

    fold = np.random.default_rng([seed, 1]).permutation(len(genomes)) % FOLDS
    # The last "fold" holds nothing out: it trains what is kept.
    training = np.stack([fold != k for k in range(FOLDS)] + [np.ones(len(genomes), bool)])
    with _one_thread():  # more only get in each other's way with matrices this small
        ridges = [_fit_ridge(features[chosen], accuracies[chosen]) for chosen in training]
        candidates = {
            'ensemble': _fit_ensembles(features, accuracies, training, ridges, seed),
            'ridge': ridges,
        }
    held_out = {
        'mean': np.array([accuracies[fold != k].mean() for k in fold]),
        **{
            name: np.array([models[k].predict(features[[i]])[0] for i, k in enumerate(fold)])
            for name, models in candidates.items()
        },
    }
    agreements = {name: Agreement.of(values, accuracies) for name, values in held_out.items()}
    is_worth_it = agreements['ensemble'].rmse < WORTH * agreements['ridge'].rmse
    best = 'ensemble' if is_worth_it else 'ridge'
    layers = candidates[best][-1]
    predictor = AccuracyPredictor(
        layers.weights, layers.biases, resolutions, is_interpolating=True, kind=space.kind
    )
    report = PredictorReport(best, len(genomes), FOLDS, float(accuracies.std()), agreements)
    return predictor, report


def encode_pairs(
    architectures: Sequence[SubnetArchitecture], space: SearchSpace, source: str
) -> Genomes:
    """Return the genomes of measured architectures; raise PredictorError naming one outside."""
    encoding = GenomeEncoding(space)
    rows = []
    for number, architecture in enumerate(architectures, start=1):
        try:
            rows.append(encoding.encode([architecture])[0])
        except ArchitectureError as error:
            raise PredictorError(
                f'{source}: architecture {number} is not one of a {space.kind} backbone: {error}'
            ) from None
    return np.array(rows, np.int64).reshape(len(rows), len(encoding.choices))


@dataclass(frozen=True)
class _Layers:
    weights: tuple[Float32Array, ...]
    biases: tuple[Float32Array, ...]

    def predict(self, features: Float32Array) -> FloatArray:
        return AccuracyPredictor(self.weights, self.biases).forward(features)


def check_accuracies(top1: npt.ArrayLike) -> FloatArray:
    """Return top-1 as (N,) float64; raise PredictorError unless all are fractions."""
    accuracies = np.asarray(top1, np.float64)
    wrong = np.flatnonzero(~np.isfinite(accuracies))
    if len(wrong):
        raise PredictorError(
            f'the accuracy of pair {wrong[0] + 1} is {accuracies[wrong[0]]}, which is no number'
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
            f'all {len(accuracies)} accuracies are {accuracies[0]:g}: there is nothing to learn; '
            'is the backbone trained, and are these its classes?'
        )


def _check_count(pairs: int) -> None:
    if pairs < FEWEST_PAIRS:
        raise PredictorError(
            f'{pairs} different architectures with their accuracy are too few to fit a predictor; '
            f'measure at least {FEWEST_PAIRS}, better 200'
        )


def _distinct(genomes: Genomes, accuracies: FloatArray) -> tuple[Genomes, FloatArray]:
    """Average the accuracies of equal networks: none may be learned from and tested on."""
    distinct, inverse, counts = np.unique(genomes, axis=0, return_inverse=True, return_counts=True)
    if len(distinct) < len(genomes):
        logger.info('%d of %d pairs are repetitions', len(genomes) - len(distinct), len(genomes))
    sums = np.bincount(inverse.reshape(-1), weights=accuracies)
    return distinct, sums / counts


def _resolution_classes(pixels: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Return those measured, or a spread of them where there are many."""
    measured = np.unique(pixels)
    count = min(len(measured), MOST_RESOLUTIONS)
    chosen = np.unique(np.linspace(0, len(measured) - 1, count).round().astype(int))
    return tuple(int(r) for r in measured[chosen])


def _fit_ridge(features: Float32Array, accuracies: FloatArray) -> _Layers:
    """Fit a line with a penalty on its slopes, the one with the least leave-one-out error."""
    mean_x, mean_y = features.mean(0, dtype=np.float64), accuracies.mean()
    centred = torch.from_numpy(features - mean_x)
    left, singular, right = (
        part.numpy() for part in torch.linalg.svd(centred, full_matrices=False)
    )
    projected = left.T @ (accuracies - mean_y)
    best_error, best = np.inf, np.zeros(features.shape[1])
    for penalty in RIDGE_PENALTIES:
        shrunk = singular**2 / (singular**2 + penalty)
        residual = accuracies - mean_y - left @ (shrunk * projected)
        leverage = (left**2) @ shrunk + 1.0 / len(accuracies)
        error = float(((residual / np.maximum(1.0 - leverage, 1e-6)) ** 2).mean())
        if error < best_error:
            slopes = right.T @ (singular / (singular**2 + penalty) * projected)
            best_error, best = error, slopes
    return _Layers(
        (best[None].astype(np.float32),), (np.array([mean_y - mean_x @ best], np.float32),)
    )


def _fit_ensembles(
    features: Float32Array,
    accuracies: FloatArray,
    training: BoolArray,
    ridges: Sequence[_Layers],
    seed: int,
) -> list[_Layers]:
    """Fit an ensemble for each row of `training` (which pairs it may see) to what ridge leaves.

    All networks of all ensembles are trained in the same batched products.
    """
    rng = np.random.default_rng([seed, 2])
    learned = np.repeat(training, MEMBERS, axis=0)
    watched = learned & (rng.random(learned.shape) < INNER_SHARE)
    for row, chosen in zip(watched, learned, strict=True):
        row[rng.choice(np.flatnonzero(chosen), 2, replace=False)] = True  # never none
    learned &= ~watched
    lines = np.stack([ridge.predict(features) for ridge in ridges])
    left = accuracies - lines
    scales = np.array(
        [max(float(rest[row].std()), 1e-6) for rest, row in zip(left, training, strict=True)]
    )
    standards = [_standardised(ridge, line) for ridge, line in zip(ridges, lines, strict=True)]
    inputs = np.stack([np.column_stack([features, s.predict(features)]) for s in standards])
    layers = _train(
        np.repeat(inputs.astype(np.float32), MEMBERS, axis=0),
        np.repeat(left / scales[:, None], MEMBERS, axis=0),
        learned,
        watched,
        seed,
    )
    ensembles = []
    for k, (ridge, standard, scale) in enumerate(zip(ridges, standards, scales, strict=True)):
        members = slice(k * MEMBERS, (k + 1) * MEMBERS)
        own = [(w[members].numpy(), b[members].numpy()) for w, b in layers]
        ensembles.append(_merge(ridge, [_fold(*own[0], standard), *own[1:]], scale))
    return ensembles


def _standardised(ridge: _Layers, line: FloatArray) -> _Layers:
    """Return the line shifted and scaled to mean 0 and deviation 1: one more input."""
    scale = max(float(line.std()), 1e-6)
    return _Layers(
        ((ridge.weights[0] / scale).astype(np.float32),),
        (((ridge.biases[0] - line.mean()) / scale).astype(np.float32),),
    )


def _fold(
    weight: Float32Array, bias: Float32Array, standard: _Layers
) -> tuple[Float32Array, Float32Array]:
    """Return a first layer that computes its last input, a line, from the others."""
    of_line = weight[..., -1]
    return (
        weight[..., :-1] + of_line[..., None] * standard.weights[0][0],
        bias + of_line * standard.biases[0][0],
    )


def _train(
    features: Float32Array,
    targets: FloatArray,
    learned: BoolArray,
    watched: BoolArray,
    seed: int,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return weights (networks, outputs, inputs) and biases (networks, outputs) of every layer.

    features: (networks, pairs, inputs), the last input is ridge's; targets, learned, watched:
    (networks, pairs). Each network is that of its best step on the pairs it watches.
    """
    networks, _, width = features.shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [width, *[HIDDEN] * HIDDEN_LAYERS, 1]
    weights = [
        torch.randn(networks, sizes[i + 1], sizes[i], generator=generator) * (2 / sizes[i]) ** 0.5
        for i in range(len(sizes) - 1)
    ]
    # Mostly how far the line is wrong depends on where on the line one is.
    weights[0][..., :-1] *= FEATURES_AT_FIRST
    weights[0][..., -1] = torch.randn(networks, HIDDEN, generator=generator)
    weights[-1].zero_()  # so that training starts from ridge alone
    biases = [torch.randn(networks, size, generator=generator) * 0.5 for size in sizes[1:]]
    biases[-1].zero_()
    parameters = [*weights, *biases]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    inputs = torch.from_numpy(features)
    wanted = torch.from_numpy(targets.astype(np.float32))
    learn, watch = (torch.from_numpy(m.astype(np.float32)) for m in (learned, watched))
    best = [parameter.detach().clone() for parameter in parameters]
    best_error = torch.full((networks,), float('inf'))
    best_step = torch.zeros(networks)
    for step in range(STEPS):
        values = inputs
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            values = torch.baddbmm(bias[:, None], values, weight.transpose(1, 2))
            values = values.relu() if i < HIDDEN_LAYERS else values
        squared = (values[..., 0] - wanted) ** 2
        error = ((squared * watch).sum(1) / watch.sum(1)).detach()
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_step[is_better] = step
        for kept, parameter in zip(best, parameters, strict=True):
            kept[is_better] = parameter.detach()[is_better]
        if bool((step - best_step > PATIENCE_STEPS).all()):
            break
        optimizer.zero_grad()
        # A sum over networks: each has gradients of its own loss only.
        torch.autograd.backward(((squared * learn).sum(1) / learn.sum(1)).sum())
        optimizer.step()
    count = len(weights)
    return list(zip(best[:count], best[count:], strict=True))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _merge(
    ridge: _Layers, members: Sequence[tuple[Float32Array, Float32Array]], scale: float
) -> _Layers:
    """Write ridge plus the average of several networks as one network.

    The networks lie side by side, not connected in between; ridge passes every ReLU in a unit of
    its own, lifted by 1 so that it is positive there.
    """
    weights: list[Float32Array] = []
    biases: list[Float32Array] = []
    for i, (own, bias) in enumerate(members):
        own_bias = bias.reshape(-1)
        if i == 0:
            weights.append(np.concatenate([*own, ridge.weights[0]]))
            biases.append(np.append(own_bias, ridge.biases[0] + 1.0).astype(np.float32))
        elif i < len(members) - 1:
            count, outputs, inputs = own.shape
            block = np.zeros((count * outputs + 1, count * inputs + 1), np.float32)
            for k in range(count):
                rows = slice(k * outputs, (k + 1) * outputs)
                block[rows, k * inputs : (k + 1) * inputs] = own[k]
            block[-1, -1] = 1.0
            weights.append(block)
            biases.append(np.append(own_bias, np.float32(0.0)))
        else:
            average = own.reshape(1, -1) * (scale / len(own))
            weights.append(np.append(average, [[1.0]], axis=1).astype(np.float32))
            biases.append(np.array([own_bias.mean() * scale - 1.0], np.float32))
    return _Layers(tuple(weights), tuple(biases))
