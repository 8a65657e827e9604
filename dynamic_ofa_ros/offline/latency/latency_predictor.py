"""Latency predictor, fitted to the latencies of about 100 whole networks.

It is the alternative to the operator table. The latency is also a sum over blocks, but of known
amounts of work: the size of the feature map times expand ratio and kernel area. The factors of
each stage are fitted. They are not negative, because work takes time.
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
FOLDS = 5
SHRINKAGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Strengths of the regularisation, from which cross-validation chooses."""

# Image size divided by the size of the feature map at the end of each stage.
_REDUCTIONS = {
    'ofa_mobilenetv3': (4, 8, 16, 16, 32),
    'ofa_proxyless': (4, 8, 16, 16, 32, 32),
    'efficientnet_lite': (4, 8, 16, 16, 32, 32),
    'ofa_resnet50': (4, 8, 16, 32),
}


@dataclass(frozen=True)
class LatencyPredictor:
    """Predicts latency from the work of a network; factors: (F,) milliseconds per unit of work."""

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
    """Fit to N >= 20 measured networks, (N, genes) and (N,), spread over the range of latencies.

    The squared relative error is minimised by factors that are not negative. The report is a
    leave-one-out validation.
    """
    measured = np.asarray(measured_ms, np.float64)
    if len(genomes) != len(measured) or len(measured) < MIN_NETWORKS:
        raise LatencyTableError(
            f'a latency predictor requires at least {MIN_NETWORKS} measured networks, '
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
    """Return (N, F) amounts of work of the first block and of the other blocks of each stage.

    For a block, these are 1, the expand ratio (for squeeze-and-excitation and the loading of
    weights), and the feature map's points times the size of the pointwise and of the spatial
    convolution. The first two columns are 1 and the points of the image.
    """
    if space.kind not in _REDUCTIONS:
        raise LatencyTableError(f'no latency predictor for a backbone of kind {space.kind!r}')
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
    """Write a predictor and the networks it was fitted to, atomically; head: see write_table."""
    contents = {
        **head,
        'leave_one_out': asdict(predictor.report),
        'factors': predictor.factors.tolist(),
        'networks': networks,
    }
    write_document(path, PREDICTOR_FORMAT, contents)


def predictor_of(document: Mapping[str, Any], path: Path) -> LatencyPredictor:
    """Return the predictor in a document; raise LatencyTableError if it is damaged."""
    space = space_of(document, path)
    expected = work_of(GenomeEncoding(space).encode([space.smallest()]), space).shape[1]
    try:
        factors = np.asarray(document['factors'], np.float64)
        report = PredictionReport(**document['leave_one_out'])
    except (LookupError, TypeError, ValueError) as error:
        raise LatencyTableError(f'{path} is damaged: {type(error).__name__}: {error}') from None
    if factors.shape != (expected,) or not (factors >= 0).all():
        raise LatencyTableError(
            f'{path}: "factors" must contain {expected} numbers that are not negative'
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
    """Return (N, blocks) relative widths before and after each block; 1 if they are fixed."""
    if not isinstance(space, ResNet50Space):
        ones = np.ones((len(genomes), len(stages)))
        return ones, ones
    # The first two widths are those of the stem.
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
    """Return factors that are not negative; `shrinkage` moves scaled factors towards zero."""
    from scipy.optimize import nnls

    relative = work / measured[:, None]
    scale = np.maximum(relative.mean(0), 1e-12)
    rows = np.vstack([relative / scale, np.sqrt(shrinkage * len(measured)) * np.eye(len(scale))])
    targets = np.concatenate([np.ones(len(measured)), np.zeros(len(scale))])
    factors: FloatArray = nnls(rows, targets)[0] / scale
    return factors
