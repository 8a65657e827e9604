"""An ALERT-style policy, to compare with (Wan et al., ALERT, USENIX ATC 2020).

A Kalman filter in the linear domain tracks one slowdown for all levels, with the paper's
constants; every level's chance to be on time follows from it, and the level with the highest
expected accuracy runs, a late answer being worth nothing. With these constants the gain is 0.99:
the filter follows the last sample, and its variance of 0.1 makes it careful.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamic_ofa_ros.runtime.policies import Choice, Option, OptionTable, Situation


@dataclass(frozen=True)
class AlertConstants:
    """The filter's constants; the defaults are ALERT's.

    process_noise: floor of the process noise, Q0. measurement_noise: R.
    forgetting: weight of the old process noise, alpha.
    """

    process_noise: float = 0.1
    measurement_noise: float = 0.001
    forgetting: float = 0.3


TUNED_CONSTANTS = AlertConstants(process_noise=1e-3, measurement_noise=1e-3)
"""Gain 0.62: 90 % of a step in 2.4 frames, without the published constants' great variance."""


class AlertPolicy:
    """Runs the level with the highest expected on-time accuracy."""

    def __init__(self, table: OptionTable, constants: AlertConstants | None = None) -> None:
        self._table = table
        self._constants = constants or AlertConstants()
        self._slowdown = 1.0
        self._variance = self._process_noise = self._constants.process_noise
        self._gain = 0.5

    def decide(self, situation: Situation) -> Choice:
        """Update the filter with the frame and choose for the next one."""
        table, limit_ms = self._table, situation.inference_limit_ms
        if situation.option is not None and not math.isnan(situation.inference_ms):
            self._update(situation.inference_ms / table.latency_ms(situation.option))
        chances = {option: self._chance(option, limit_ms) for option in situation.candidates}
        allowed = [option for option in chances if table.accuracy(option) >= situation.floor]
        allowed = allowed or [situation.candidates[-1]]
        option = max(allowed, key=lambda option: chances[option] * table.accuracy(option))
        is_feasible = chances[option] >= situation.quantile
        return Choice(option, is_feasible, f'on time with a chance of {chances[option]:.3f}')

    def _update(self, ratio: float) -> None:
        constants = self._constants
        innovation = ratio - self._slowdown
        self._process_noise = max(
            constants.process_noise,
            constants.forgetting * self._process_noise
            + (1.0 - constants.forgetting) * (self._gain * innovation) ** 2,
        )
        predicted = (1.0 - self._gain) * self._variance + self._process_noise
        self._gain = predicted / (predicted + constants.measurement_noise)
        self._slowdown += self._gain * innovation
        self._variance = (1.0 - self._gain) * self._variance + self._process_noise

    def _chance(self, option: Option, limit_ms: float) -> float:
        if math.isinf(limit_ms):
            return 1.0
        distance = limit_ms / self._table.latency_ms(option) - self._slowdown
        return 0.5 * math.erfc(-distance / math.sqrt(2.0 * self._variance))
