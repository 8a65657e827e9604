"""Latency of sub-networks from a look-up table of their operators (Lou et al. 2021).

The latency of a network is the sum of its operators: stem, first block, active blocks and head.
The sum of separately timed operators deviates by a factor and an offset that are the same for all
networks; a `Correction` that is fitted to a few whole networks removes them.

`read_table` reads the files of `dynamic-ofa profile`, which are tables or predictors
(`latency_predictor.py`), and the tables of the paper's authors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import BackboneError, LatencyTableError
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.files import write_text_atomically
from dynamic_ofa_ros.offline.accuracy.agreement import kendall_tau
from dynamic_ofa_ros.offline.latency.operator_layout import ABSENT, OperatorLayout
from dynamic_ofa_ros.space.architecture import SearchSpace
from dynamic_ofa_ros.space.genome import Genomes
from dynamic_ofa_ros.space.spaces import search_space

FloatArray = npt.NDArray[np.float64]

TABLE_FORMAT = 'dynamic_ofa_latency_table'
PREDICTOR_FORMAT = 'dynamic_ofa_latency_predictor'
VERSION = 1


class LatencyModel(Protocol):
    """Predicts the latency of any network of a space on one platform, batch 1."""

    @property
    def platform(self) -> str:
        """The platform of the measurements."""

    @property
    def space(self) -> SearchSpace:
        """The search space, with the resolutions that were measured."""

    @property
    def backbone(self) -> BackboneSpec | None:
        """The measured backbone; None if the file does not contain it."""

    def predict(self, genomes: Genomes) -> FloatArray:
        """Return (N,) latencies in milliseconds."""


@dataclass(frozen=True)
class Correction:
    """A line that maps the sum of operators to latency: `offset_ms + factor * sum`."""

    offset_ms: float = 0.0
    factor: float = 1.0

    def apply(self, latency_ms: FloatArray) -> FloatArray:
        """Return corrected latencies."""
        return self.offset_ms + self.factor * latency_ms


@dataclass(frozen=True)
class PredictionReport:
    """Errors of predictions for networks that the model was not fitted to.

    Errors are fractions of the measured latency; kendall_tau: 1 = same order as measured.
    """

    mean_error: float
    largest_error: float
    within_10_percent: float
    kendall_tau: float


@dataclass(frozen=True)
class CorrectionReport(PredictionReport):
    """A correction, and its errors in a leave-one-out validation."""

    correction: Correction


class OperatorTable:
    """Latency of every operator of a search space on one platform, batch 1.

    operators_ms: (operators, resolutions); rows in the order of `OperatorLayout(space).names`.
    """

    def __init__(
        self,
        platform: str,
        space: SearchSpace,
        operators_ms: FloatArray,
        correction: Correction | None = None,
        backbone: BackboneSpec | None = None,
    ) -> None:
        self.platform, self.space, self.backbone = platform, space, backbone
        self.correction = correction or Correction()
        self._operators_ms = operators_ms
        self._layout = OperatorLayout(space)

    def sum(self, genomes: Genomes) -> FloatArray:
        """Return (N,) sums of the operators in milliseconds, without correction."""
        rows = self._layout.rows(genomes)
        per_operator = np.where(
            rows == ABSENT, 0.0, self._operators_ms[rows, genomes[:, -1][:, None]]
        )
        total: FloatArray = per_operator.sum(1)
        return total

    def predict(self, genomes: Genomes) -> FloatArray:
        """Return (N,) corrected latencies in milliseconds."""
        return self.correction.apply(self.sum(genomes))

    def corrected(self, correction: Correction) -> OperatorTable:
        """Return the same table with another correction."""
        return OperatorTable(
            self.platform, self.space, self._operators_ms, correction, self.backbone
        )


def read_table(path: str | Path) -> LatencyModel:
    """Read a latency model (JSON); raise LatencyTableError if it is damaged.

    The field `format` identifies our own files. In the tables of the authors, `resolutions`
    contains the input sizes, and `ops[name].mean[i]` belongs to `resolutions[i]`; blocks are named
    `s<stage>.b<0 first, 1 later>.k<kernel>.e<expand>`.
    """
    path = Path(path)
    document = read_document(path)
    if document.get('format') == PREDICTOR_FORMAT:
        from dynamic_ofa_ros.offline.latency.latency_predictor import predictor_of

        return predictor_of(document, path)
    is_own = document.get('format') == TABLE_FORMAT
    key, column = ('operators', 'median_ms') if is_own else ('ops', 'mean')
    operators = document.get(key)
    if not isinstance(operators, dict):
        raise LatencyTableError(f'{path} is not an operator table: it has no "{key}"')
    space = space_of(document, path) if is_own else SearchSpace(resolutions=_sizes(document, path))
    correction = document.get('correction') or {}
    try:
        line = Correction(
            float(correction.get('offset_ms', 0.0)), float(correction.get('factor', 1.0))
        )
        is_valid = math.isfinite(line.offset_ms) and 0.0 < line.factor < math.inf
    except (AttributeError, TypeError, ValueError, OverflowError):
        is_valid = False
    if not is_valid:
        raise LatencyTableError(
            f'{path}: "correction" must contain the numbers offset_ms and factor (above 0)'
        )
    return OperatorTable(
        str(document.get('platform', path.stem)),
        space,
        np.array(
            [
                _times_of(path, operators, name, column, len(space.resolutions))
                for name in OperatorLayout(space).names
            ]
        ),
        line,
        backbone_of(document),
    )


def read_document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raise LatencyTableError if there is none."""
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise LatencyTableError(f'{path} cannot be read: {error.strerror or error}') from None
    except (ValueError, RecursionError) as error:
        raise LatencyTableError(f'{path} is not JSON: {error}') from None
    if not isinstance(document, dict):
        raise LatencyTableError(f'{path} is not an operator table: it has no "ops"')
    return document


def space_of(document: Mapping[str, Any], path: Path) -> SearchSpace:
    """Return the search space of one of our own files."""
    if document.get('version') != VERSION:
        raise LatencyTableError(
            f'{path}: version is {document.get("version")!r}; this release reads version '
            f'{VERSION}: measure it again, or install a matching release'
        )
    backbone = document.get('backbone')
    kind = backbone.get('kind') if isinstance(backbone, dict) else None
    try:
        return search_space(str(kind), _sizes(document, path))
    except BackboneError as error:
        raise LatencyTableError(f'{path}: {error}') from None


def backbone_of(document: Mapping[str, Any]) -> BackboneSpec | None:
    """Return the backbone of one of our own files; None if it does not contain one."""
    try:
        return BackboneSpec(**document['backbone'])
    except (LookupError, TypeError):
        return None


def write_table(
    path: Path, head: Mapping[str, Any], operators: Mapping[str, Any], networks: Mapping[str, Any]
) -> None:
    """Write an operator table, atomically.

    head: platform, backbone, resolutions, conditions; operators: lists by resolution, by name;
    networks: the correction, its errors, and the networks that it was fitted to.
    """
    write_document(path, TABLE_FORMAT, {**head, **networks, 'operators': operators})


def write_document(path: Path, file_format: str, contents: Mapping[str, Any]) -> None:
    """Write one of our own files, atomically, with one line per operator or network."""
    document = {'format': file_format, 'version': VERSION, 'unit': 'ms', 'batch': 1, **contents}
    text = ',\n'.join(f' {json.dumps(key)}: {_lines(value)}' for key, value in document.items())
    write_text_atomically(path, f'{{\n{text}\n}}\n')


def _lines(value: Any) -> str:
    """Return JSON with one line per item of a collection of mappings."""
    if isinstance(value, Mapping) and all(isinstance(item, Mapping) for item in value.values()):
        inside = [f'  {json.dumps(key)}: {json.dumps(item)}' for key, item in value.items()]
        return '{\n' + ',\n'.join(inside) + '\n }'
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return '[\n' + ',\n'.join(f'  {json.dumps(item)}' for item in value) + '\n ]'
    return json.dumps(value)


def _sizes(document: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    sizes = document.get('resolutions')
    if (
        not isinstance(sizes, list)
        or not sizes
        or not all(type(r) is int and r > 0 for r in sizes)
        or sizes != sorted(set(sizes))
    ):
        raise LatencyTableError(
            f'{path}: "resolutions" must be an ascending list of input sizes in px'
        )
    return tuple(sizes)


def _times_of(
    path: Path, operators: Mapping[str, Any], name: str, column: str, count: int
) -> FloatArray:
    """Return the milliseconds of an operator by resolution.

    In our own files, 0 means that the operator is faster than the measurement can resolve.
    """
    try:
        values = np.asarray(operators[name][column], np.float64)
    except KeyError:
        raise LatencyTableError(
            f'{path} lacks operator {name}; the table is incomplete or for another space'
        ) from None
    except (TypeError, ValueError):
        raise LatencyTableError(
            f'{path}: {name}: "{column}" must be a list of milliseconds'
        ) from None
    is_own = column != 'mean'
    is_positive = (values >= 0) if is_own else (values > 0)
    if values.shape != (count,) or not (is_positive & np.isfinite(values)).all():
        raise LatencyTableError(
            f'{path}: {name}: "{column}" must contain {count} positive milliseconds'
        )
    return values


def fit_correction(predicted_ms: FloatArray, measured_ms: FloatArray) -> CorrectionReport:
    """Fit `ms = offset + factor * sum` by least squares; report the leave-one-out error.

    Both arrays are (N,), N >= 3, of whole networks that are spread over the range of latencies.
    """
    if len(predicted_ms) != len(measured_ms) or len(measured_ms) < 3:
        raise LatencyTableError(
            f'a correction requires at least 3 measured networks, found {len(measured_ms)}'
        )
    everything = np.ones(len(measured_ms), bool)
    held_out = np.empty(len(measured_ms))
    for index in range(len(measured_ms)):
        kept = everything.copy()
        kept[index] = False
        line = _line(predicted_ms[kept], measured_ms[kept])
        held_out[index] = line.apply(predicted_ms[index : index + 1])[0]
    quality = report_of(held_out, measured_ms)
    return CorrectionReport(**asdict(quality), correction=_line(predicted_ms, measured_ms))


def report_of(predicted_ms: FloatArray, measured_ms: FloatArray) -> PredictionReport:
    """Compare (N,) predictions with (N,) measurements of networks that were not fitted."""
    errors = np.abs(predicted_ms - measured_ms) / measured_ms
    return PredictionReport(
        mean_error=float(errors.mean()),
        largest_error=float(errors.max()),
        within_10_percent=float((errors <= 0.1).mean()),
        kendall_tau=kendall_tau(predicted_ms, measured_ms),
    )


def _line(x: FloatArray, y: FloatArray) -> Correction:
    factor, offset = np.polyfit(x, y, 1)
    return Correction(float(offset), float(factor))
