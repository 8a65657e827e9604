"""A policy in the style of ALERT (Wan et al., ALERT, USENIX ATC 2020), for comparison.

A Kalman filter in the linear domain, with the constants of the ALERT paper, estimates one slowdown
for all levels. From it follows the probability of every level to be on time. The policy chooses
the level with the highest expected accuracy, where a late result has the accuracy 0. With these
constants the gain is 0.99, so the filter follows the last sample, and the variance of 0.1 makes
the policy cautious.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamic_ofa_ros.runtime.policies import Choice, Option, OptionTable, Situation


@dataclass(frozen=True)
class AlertConstants:
    """The constants of the filter; the defaults are those of ALERT.

    process_noise: minimum process noise, Q0. measurement_noise: R.
    forgetting: weight of the previous process noise, alpha.
    """

    process_noise: float = 0.1
    measurement_noise: float = 0.001
    forgetting: float = 0.3


TUNED_CONSTANTS = AlertConstants(process_noise=1e-3, measurement_noise=1e-3)
"""Constants with a gain of 0.62 (90 % of a step in 2.4 frames) and a smaller variance."""


class AlertPolicy:
    """Chooses the level with the highest expected on-time accuracy."""

    def __init__(self, table: OptionTable, constants: AlertConstants | None = None) -> None:
        self._table = table
        self._constants = constants or AlertConstants()
        self._slowdown = 1.0
        self._variance = self._process_noise = self._constants.process_noise
        self._gain = 0.5

    def decide(self, situation: Situation) -> Choice:
        """Update the filter with the last frame and choose the level for the next one."""
        table, limit_ms = self._table, situation.inference_limit_ms
        if situation.option is not None and not math.isnan(situation.inference_ms):
            self._update(situation.inference_ms / table.latency_ms(situation.option))
        on_time = {option: self._on_time(option, limit_ms) for option in situation.candidates}
        allowed = [option for option in on_time if table.accuracy(option) >= situation.floor]
        allowed = allowed or [situation.candidates[-1]]
        option = max(allowed, key=lambda option: on_time[option] * table.accuracy(option))
        is_feasible = on_time[option] >= situation.quantile
        return Choice(option, is_feasible, f'on time with probability {on_time[option]:.3f}')

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

    def _on_time(self, option: Option, limit_ms: float) -> float:
        """Return the probability that an option is on time."""
        if math.isinf(limit_ms):
            return 1.0
        distance = limit_ms / self._table.latency_ms(option) - self._slowdown
        return 0.5 * math.erfc(-distance / math.sqrt(2.0 * self._variance))
