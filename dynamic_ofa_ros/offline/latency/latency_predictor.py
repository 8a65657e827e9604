"""Latency of sub-networks, predicted from measurements of about 100 whole ones.

The alternative to the table of operators: a sum over blocks, too, but of what a block's work is
known to grow with (points of the feature map, expand ratio, kernel area), with factors per stage
that are fitted instead of measured one by one. Work costs time, so no factor is negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.offline.latency.table import (
    PREDICTOR_FORMAT,
    PredictionReport,
    backbone_of,
    report_of,
    space_of,
    write_document,
)
from dynamic_ofa_ros.space.architecture import SearchSpace
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes
from dynamic_ofa_ros.space.spaces import ResNet50Space

FloatArray = npt.NDArray[np.float64]

MIN_NETWORKS = 20
SHRINKAGES = (1e-4, 1e-3, 1e-2, 1e-1)
FOLDS = 5
"""Strengths of regularisation to choose from, by cross-validation."""

# By what the feature map is smaller than the image, at the exit of each stage.
_REDUCTIONS = {
    'ofa_mobilenetv3': (4, 8, 16, 16, 32),
    'ofa_proxyless': (4, 8, 16, 16, 32, 32),
    'efficientnet_lite': (4, 8, 16, 16, 32, 32),
    'ofa_resnet50': (4, 8, 16, 32),
}


@dataclass(frozen=True)
class LatencyPredictor:
    """Predicts latency from a network's work; factors: (F,) milliseconds a unit of work."""

    space: SearchSpace
    factors: FloatArray
    report: PredictionReport
    platform: str = ''
    backbone: BackboneSpec | None = None

    def predict(self, genomes: Genomes) -> FloatArray:
        """Return (N,) latencies in milliseconds."""
        latencies: FloatArray = work_of(genomes, self.space) @ self.factors
        return latencies


def fit_latency_predictor(
    genomes: Genomes, measured_ms: npt.ArrayLike, space: SearchSpace
) -> LatencyPredictor:
    """Fit on N >= 20 measured networks, (N, genes) and (N,); they should spread over the range.

    Least squares of the relative error, factors not negative. The report is of predictions by fits
    that had not seen the network (leave one out).
    """
    measured = np.asarray(measured_ms, np.float64)
    if len(genomes) != len(measured) or len(measured) < MIN_NETWORKS:
        raise LatencyTableError(
            f'a latency predictor needs at least {MIN_NETWORKS} measured networks, '
            f'found {len(measured)}'
        )
    work = work_of(genomes, space)
    shrinkage = min(SHRINKAGES, key=lambda s: _held_out_error(work, measured, s))
    held_out = np.array(
        [
            work[i] @ _fit(np.delete(work, i, 0), np.delete(measured, i), shrinkage)
            for i in range(len(measured))
        ]
    )
    return LatencyPredictor(space, _fit(work, measured, shrinkage), report_of(held_out, measured))


def work_of(genomes: Genomes, space: SearchSpace) -> FloatArray:
    """Return (N, F) amounts of work: of every stage's first block, its later ones, and the rest.

    A block's: 1, the expand ratio (squeeze-and-excitation, weights to load), the points of its
    map times the pointwise and times the spatial convolution's size. The rest: 1 and the points
    of the image.
    """
    if space.kind not in _REDUCTIONS:
        raise LatencyTableError(f'the work of a backbone of kind {space.kind!r} is not known')
    encoding = GenomeEncoding(space)
    pixels = encoding.resolutions(genomes).astype(np.float64)
    stages = np.array([stage for stage, _ in space.block_places])
    is_first = np.array([place == 0 for _, place in space.block_places])
    reductions = np.array(_REDUCTIONS[space.kind])[stages]
    points = np.ceil(pixels[:, None] / reductions) ** 2
    expands = np.asarray(space.expand_ratios, np.float64)[encoding.expands(genomes)]
    before, after = _widths(genomes, space, encoding, stages, is_first)
    if space.kernel_sizes:
        spatial = (
            np.asarray(space.kernel_sizes, np.float64)[encoding.kernels(genomes)] ** 2 * expands
        )
    else:
        spatial = (expands * after) ** 2
    active = encoding.active(genomes)
    terms = np.stack(
        [
            np.ones_like(points),
            expands * after,
            points * expands * after * (before + after),
            points * spatial,
        ],
        axis=-1,
    )
    terms *= active[..., None]
    columns = [np.ones_like(pixels), pixels**2]
    for stage in range(stages[-1] + 1):
        columns += list(terms[:, (stages == stage) & is_first].sum(1).T[1:])
        columns += list(terms[:, (stages == stage) & ~is_first].sum(1).T)
    return np.stack(columns, axis=1)


def write_predictor(
    path: Path,
    predictor: LatencyPredictor,
    head: Mapping[str, Any],
    networks: list[dict[str, Any]],
) -> None:
    """Write a predictor with the networks it was fitted on, atomically; head: see write_table."""
    contents = {
        **head,
        'leave_one_out': asdict(predictor.report),
        'factors': predictor.factors.tolist(),
        'networks': networks,
    }
    write_document(path, PREDICTOR_FORMAT, contents)


def predictor_of(document: Mapping[str, Any], path: Path) -> LatencyPredictor:
    """Return the predictor that a file's document describes; raise LatencyTableError."""
    space = space_of(document, path)
    expected = work_of(GenomeEncoding(space).encode([space.smallest()]), space).shape[1]
    try:
        factors = np.asarray(document['factors'], np.float64)
        report = PredictionReport(**document['leave_one_out'])
    except (LookupError, TypeError, ValueError) as error:
        raise LatencyTableError(f'{path} is damaged: {type(error).__name__}: {error}') from None
    if factors.shape != (expected,) or not (factors >= 0).all():
        raise LatencyTableError(
            f'{path}: "factors" should hold {expected} numbers that are not negative'
        )
    platform = str(document.get('platform', path.stem))
    return LatencyPredictor(space, factors, report, platform, backbone_of(document))


def _widths(
    genomes: Genomes,
    space: SearchSpace,
    encoding: GenomeEncoding,
    stages: npt.NDArray[np.int64],
    is_first: npt.NDArray[np.bool_],
) -> tuple[FloatArray, FloatArray]:
    """Return (N, blocks) relative widths before and after every block; 1 where they are fixed."""
    if not isinstance(space, ResNet50Space):
        ones = np.ones((len(genomes), len(stages)))
        return ones, ones
    # The first two widths are the stem's.
    width_mults = np.asarray(space.width_mults, np.float64)[encoding.indices(genomes, 'w')]
    after = width_mults[:, stages + 2]
    return np.where(is_first, width_mults[:, stages + 1], after), after


def _held_out_error(work: FloatArray, measured: FloatArray, shrinkage: float) -> float:
    fold = np.random.default_rng(0).permutation(len(measured)) % FOLDS
    errors = np.empty(len(measured))
    for k in range(FOLDS):
        out = fold == k
        factors = _fit(work[~out], measured[~out], shrinkage)
        errors[out] = np.abs(work[out] @ factors / measured[out] - 1.0)
    return float(errors.mean())


def _fit(work: FloatArray, measured: FloatArray, shrinkage: float) -> FloatArray:
    """Return factors that are not negative; `shrinkage` draws scaled ones towards zero."""
    from scipy.optimize import nnls

    relative = work / measured[:, None]
    scale = np.maximum(relative.mean(0), 1e-12)
    rows = np.vstack([relative / scale, np.sqrt(shrinkage * len(measured)) * np.eye(len(scale))])
    targets = np.concatenate([np.ones(len(measured)), np.zeros(len(scale))])
    factors: FloatArray = nnls(rows, targets)[0] / scale
    return factors
