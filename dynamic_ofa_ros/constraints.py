"""Constraints on latency and accuracy, and the levels that meet them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dynamic_ofa_ros.errors import ConstraintError
from dynamic_ofa_ros.family import LatencyProfile, Level

LATENCY_SCOPES = ('inference', 'node', 'end_to_end')
PRIORITIES = ('latency', 'accuracy')
MAX_LATENCY_MS = 10000.0
MIN_QUANTILE, MAX_QUANTILE = 0.5, 0.999


@dataclass(frozen=True)
class Constraints:
    """A latency limit and an accuracy floor; NaN means that a constraint is not set.

    max_latency_ms: upper limit of the latency in the scope `latency_scope`, in (0, 10000] ms.
    min_accuracy: lower limit of the level's top-1 accuracy, a fraction in (0, 1].
    quantile: share of frames that must meet the latency limit.
    priority: the constraint to keep when both cannot be met.
    """

    max_latency_ms: float = math.nan
    min_accuracy: float = math.nan
    latency_scope: str = 'inference'
    quantile: float = 0.95
    priority: str = 'latency'

    def __post_init__(self) -> None:
        _check_range('max_latency_ms', self.max_latency_ms, MAX_LATENCY_MS, ' ms')
        _check_range('min_accuracy', self.min_accuracy, 1.0, '')
        if not MIN_QUANTILE <= self.quantile <= MAX_QUANTILE:
            raise ConstraintError(
                f'quantile is {self.quantile:g}; '
                f'it must lie in [{MIN_QUANTILE:g}, {MAX_QUANTILE:g}]'
            )
        _check_choice('latency_scope', self.latency_scope, LATENCY_SCOPES)
        _check_choice('priority', self.priority, PRIORITIES)

    @property
    def has_latency(self) -> bool:
        """Return whether a latency limit is set."""
        return not math.isnan(self.max_latency_ms)

    @property
    def has_accuracy(self) -> bool:
        """Return whether an accuracy floor is set."""
        return not math.isnan(self.min_accuracy)


def feasible_levels(
    constraints: Constraints,
    levels: Sequence[Level],
    profile: LatencyProfile,
    slowdown: float = 1.0,
    overhead_ms: float = 0.0,
) -> list[Level]:
    """Return the levels that meet both constraints at the given slowdown, fastest first.

    `overhead_ms` is the part of the latency that does not depend on the level.
    """
    return [
        level
        for level in levels
        if not (constraints.has_accuracy and level.accuracy < constraints.min_accuracy)
        and not (
            constraints.has_latency
            and profile.latency_ms(level.index) * slowdown + overhead_ms
            > constraints.max_latency_ms
        )
    ]


def _check_range(name: str, value: float, highest: float, unit: str) -> None:
    if math.isnan(value):
        return
    if not 0.0 < value <= highest:
        raise ConstraintError(
            f'{name} is {value:g}{unit}; it must lie in (0, {highest:g}]{unit}, '
            'or be NaN for no limit'
        )


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConstraintError(f'{name} is {value!r}; it must be one of: {", ".join(choices)}')
