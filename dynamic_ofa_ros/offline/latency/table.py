"""Latency of sub-networks from a look-up table of their operators (Lou et al. 2021).

A network's latency is the sum of its operators': stem, first block, the active blocks and the
head. The sum of operators timed one by one is off by a factor and an offset, alike for all
networks; a `Correction` fitted on a handful of whole networks repairs that.

`read_table` reads our own tables (`dynamic-ofa latency-model`), those of the paper's authors, and
predictors fitted on whole networks (`latency_predictor.py`).
"""

from __future__ import annotations

import json
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
        """What the latencies were measured on."""

    @property
    def space(self) -> SearchSpace:
        """The search space, with the resolutions that were measured."""

    @property
    def backbone(self) -> BackboneSpec | None:
        """The backbone that was measured; None where the file does not say."""

    def predict(self, genomes: Genomes) -> FloatArray:
        """Return (N,) latencies in milliseconds."""


@dataclass(frozen=True)
class Correction:
    """Measured latency as a line over the table's sum: `offset_ms + factor * sum`."""

    offset_ms: float = 0.0
    factor: float = 1.0

    def apply(self, latency_ms: FloatArray) -> FloatArray:
        """Return corrected latencies."""
        return self.offset_ms + self.factor * latency_ms


@dataclass(frozen=True)
class PredictionReport:
    """How well a prediction does on networks it was not fitted on.

    errors are fractions of the measured latency; kendall_tau compares the orders, 1 = the same.
    """

    mean_error: float
    largest_error: float
    within_10_percent: float
    kendall_tau: float


@dataclass(frozen=True)
class CorrectionReport(PredictionReport):
    """A correction, and how well it does on networks it has not seen (leave one out)."""

    correction: Correction


class OperatorTable:
    """Latency of every operator of a search space on one platform, batch 1.

    operators_ms: (operators, resolutions), rows as in `OperatorLayout(space).names`.
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
        """Return (N,) sums of the networks' operators in milliseconds, not corrected."""
        rows = self._layout.rows(genomes)
        per_operator = np.where(
            rows == ABSENT, 0.0, self._operators_ms[rows, genomes[:, -1][:, None]]
        )
        total: FloatArray = per_operator.sum(1)
        return total

    def predict(self, genomes: Genomes) -> FloatArray:
        """Return (N,) latencies in milliseconds, corrected."""
        return self.correction.apply(self.sum(genomes))

    def corrected(self, correction: Correction) -> OperatorTable:
        """Return the same table with another correction."""
        return OperatorTable(
            self.platform, self.space, self._operators_ms, correction, self.backbone
        )


def read_table(path: str | Path) -> LatencyModel:
    """Read what predicts latencies (JSON); raise LatencyTableError saying what is wrong.

    Our own files say in `format` what they are. In the authors' tables `resolutions` lists input
    sizes and `ops[name].mean[i]` belongs to `resolutions[i]`; blocks are named
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
    except (AttributeError, TypeError, ValueError):
        raise LatencyTableError(
            f'{path}: "correction" should hold the numbers offset_ms and factor'
        ) from None
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
    """Return the JSON object in a file; raise LatencyTableError when there is none."""
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise LatencyTableError(f'{path} cannot be read: {error.strerror or error}') from None
    except ValueError as error:
        raise LatencyTableError(f'{path} is not JSON: {error}') from None
    if not isinstance(document, dict):
        raise LatencyTableError(f'{path} is not an operator table: it has no "ops"')
    return document


def space_of(document: Mapping[str, Any], path: Path) -> SearchSpace:
    """Return the search space that one of our own files is about."""
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
    """Return the backbone that one of our own files is about; None where it does not say."""
    try:
        return BackboneSpec(**document['backbone'])
    except (LookupError, TypeError):
        return None


def write_table(
    path: Path, head: Mapping[str, Any], operators: Mapping[str, Any], networks: Mapping[str, Any]
) -> None:
    """Write an operator table of our own, atomically.

    head: platform, backbone, resolutions, conditions; operators: by name, lists by resolution;
    networks: the correction, how well it does, and the networks it was fitted on.
    """
    write_document(path, TABLE_FORMAT, {**head, **networks, 'operators': operators})


def write_document(path: Path, file_format: str, contents: Mapping[str, Any]) -> None:
    """Write one of our own files, atomically: an operator or a network a line."""
    document = {'format': file_format, 'version': VERSION, 'unit': 'ms', 'batch': 1, **contents}
    text = ',\n'.join(f' {json.dumps(key)}: {_lines(value)}' for key, value in document.items())
    write_text_atomically(path, f'{{\n{text}\n}}\n')


def _lines(value: Any) -> str:
    """Return JSON with every item of a collection of collections on a line of its own."""
    if isinstance(value, Mapping) and all(isinstance(item, Mapping) for item in value.values()):
        inside = [f'  {json.dumps(key)}: {json.dumps(item)}' for key, item in value.items()]
        return '{\n' + ',\n'.join(inside) + '\n }'
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return '[\n' + ',\n'.join(f'  {json.dumps(item)}' for item in value) + '\n ]'
    return json.dumps(value)


def _sizes(document: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    sizes = document.get('resolutions')
    if not isinstance(sizes, list) or not sizes or not all(type(r) is int for r in sizes):
        raise LatencyTableError(f'{path}: "resolutions" should list input sizes in pixels')
    return tuple(sizes)


def _times_of(
    path: Path, operators: Mapping[str, Any], name: str, column: str, count: int
) -> FloatArray:
    """Return an operator's milliseconds by resolution.

    Of ours some are 0: too quick to be told from the frame they were timed in.
    """
    try:
        values = np.asarray(operators[name][column], np.float64)
    except KeyError:
        raise LatencyTableError(
            f'{path} lacks operator {name}; the table is unfinished or of another space'
        ) from None
    except (TypeError, ValueError):
        raise LatencyTableError(f'{path}: {name}: "{column}" should list milliseconds') from None
    is_own = column != 'mean'
    if values.shape != (count,) or not ((values >= 0) if is_own else (values > 0)).all():
        raise LatencyTableError(
            f'{path}: {name}: "{column}" should hold {count} positive milliseconds'
        )
    return values


def fit_correction(predicted_ms: FloatArray, measured_ms: FloatArray) -> CorrectionReport:
    """Fit `ms = offset + factor * sum` by least squares and report the leave-one-out error.

    Both arrays are (N,), N >= 3: whole networks, chosen to spread over the range of latencies.
    """
    if len(predicted_ms) != len(measured_ms) or len(measured_ms) < 3:
        raise LatencyTableError(
            f'a correction needs at least 3 measured networks, found {len(measured_ms)}'
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
    """Compare (N,) predictions with (N,) measurements of networks that were not fitted on."""
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
