"""Latency of sub-networks from a look-up table of their operators (Dynamic-OFA section 3.1).

A network's latency is the sum of its operators': stem, first block, the active blocks and the
head. The sum of operators timed one by one is off by a factor and an offset, alike for all
networks; a `Correction` fitted on a handful of whole networks repairs that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.architecture import SearchSpace
from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.offline.genome import Genetics, Genomes

FloatArray = npt.NDArray[np.float64]

FIXED_OPERATORS = ('stem', 'block0', 'final_expand', 'avgpool', 'feature_mix', 'classifier')


@dataclass(frozen=True)
class Correction:
    """Measured latency as a line over the table's sum: `offset_ms + factor * sum`."""

    offset_ms: float = 0.0
    factor: float = 1.0

    def apply(self, latency_ms: FloatArray) -> FloatArray:
        """Return corrected latencies."""
        return self.offset_ms + self.factor * latency_ms


@dataclass(frozen=True)
class CorrectionReport:
    """How well a correction does on networks it has not seen (leave one out).

    errors are fractions of the measured latency; kendall_tau compares the orders, 1 = the same.
    """

    correction: Correction
    mean_error: float
    largest_error: float
    within_10_percent: float
    kendall_tau: float


class OperatorTable:
    """Mean latency of every operator of a MobileNetV3 search space on one platform, batch 1.

    fixed_ms: (resolutions,) stem, first block and head together. blocks_ms: (stages, 2, kernel
    sizes, expand ratios, resolutions): the first block of a stage, and each later one.
    """

    def __init__(
        self,
        platform: str,
        space: SearchSpace,
        fixed_ms: FloatArray,
        blocks_ms: FloatArray,
        correction: Correction | None = None,
    ) -> None:
        self.platform, self.space = platform, space
        self.correction = correction or Correction()
        self._fixed_ms, self._blocks_ms = fixed_ms, blocks_ms
        self._genetics = Genetics(space)
        self._stage = np.repeat(np.arange(space.stages), space.blocks_per_stage)
        self._is_later = np.tile(np.arange(space.blocks_per_stage) > 0, space.stages).astype(int)

    def predict(self, genomes: Genomes) -> FloatArray:
        """Return (N,) latencies in milliseconds, corrected."""
        genetics = self._genetics
        resolution = genomes[:, -1]
        per_block = self._blocks_ms[
            self._stage,
            self._is_later,
            genetics.kernels(genomes),
            genetics.expands(genomes),
            resolution[:, None],
        ]
        total = self._fixed_ms[resolution] + (per_block * genetics.active(genomes)).sum(1)
        return self.correction.apply(total)


def read_table(path: str | Path) -> OperatorTable:
    """Read an operator table (JSON); raise LatencyTableError naming what is missing or wrong.

    `resolutions` lists input sizes; `ops[name].mean[i]` belongs to `resolutions[i]`. Blocks are
    named `s<stage>.b<0 first, 1 later>.k<kernel>.e<expand>`. Tables of the paper's authors read
    as they are.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise LatencyTableError(f'{path} cannot be read: {error.strerror or error}') from None
    except ValueError as error:
        raise LatencyTableError(f'{path} is not JSON: {error}') from None
    if not isinstance(document, dict) or not isinstance(document.get('ops'), dict):
        raise LatencyTableError(f'{path} is not an operator table: it has no "ops"')
    resolutions = document.get('resolutions')
    if not isinstance(resolutions, list) or not all(isinstance(r, int) for r in resolutions):
        raise LatencyTableError(f'{path}: "resolutions" should list input sizes in pixels')
    space = SearchSpace(resolutions=tuple(resolutions))
    operators: Mapping[str, Any] = document['ops']

    def mean_ms(name: str) -> FloatArray:
        try:
            values = np.asarray(operators[name]['mean'], np.float64)
        except KeyError:
            raise LatencyTableError(
                f'{path} lacks operator {name}; the table is unfinished or of another space'
            ) from None
        except (TypeError, ValueError):
            raise LatencyTableError(f'{path}: {name}: "mean" should list milliseconds') from None
        if values.shape != (len(resolutions),) or not (values > 0).all():
            raise LatencyTableError(
                f'{path}: {name}: "mean" should hold {len(resolutions)} positive milliseconds'
            )
        return values

    blocks_ms = np.array(
        [
            [
                [
                    [mean_ms(f's{stage}.b{later}.k{k}.e{e}') for e in space.expand_ratios]
                    for k in space.kernel_sizes
                ]
                for later in (0, 1)
            ]
            for stage in range(space.stages)
        ]
    )
    fixed_ms = np.sum([mean_ms(name) for name in FIXED_OPERATORS], axis=0)
    correction = document.get('correction', {})
    return OperatorTable(
        str(document.get('platform', path.stem)),
        space,
        fixed_ms,
        blocks_ms,
        Correction(float(correction.get('offset_ms', 0.0)), float(correction.get('factor', 1.0))),
    )


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
    errors = np.abs(held_out - measured_ms) / measured_ms
    return CorrectionReport(
        correction=_line(predicted_ms, measured_ms),
        mean_error=float(errors.mean()),
        largest_error=float(errors.max()),
        within_10_percent=float((errors <= 0.1).mean()),
        kendall_tau=kendall_tau(predicted_ms, measured_ms),
    )


def kendall_tau(first: FloatArray, second: FloatArray) -> float:
    """Return the rank correlation: concordant less discordant pairs, over all pairs (tau-a)."""
    rows, columns = np.triu_indices(len(first), 1)
    agreement = np.sign(first[rows] - first[columns]) * np.sign(second[rows] - second[columns])
    return float(agreement.mean()) if len(rows) else float('nan')


def _line(x: FloatArray, y: FloatArray) -> Correction:
    factor, offset = np.polyfit(x, y, 1)
    return Correction(float(offset), float(factor))
