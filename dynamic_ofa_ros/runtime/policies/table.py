"""Policy `table`: the level from the look-up table, independent of measured latencies."""

from __future__ import annotations

import math

from dynamic_ofa_ros.runtime.policies.common import (
    Choice,
    Option,
    OptionTable,
    Situation,
    best_option,
    constraints_text,
    limit_text,
)
from dynamic_ofa_ros.runtime.policies.settings import PolicySettings

LIMIT_DEADBAND = 0.05
"""The choice is repeated only if the limit for inference changes by more than this fraction."""


class TablePolicy:
    """The first scenario of the paper: the level from the look-up table.

    Measured inference latencies are not considered.
    """

    def __init__(self, table: OptionTable, settings: PolicySettings) -> None:
        self._table = table
        self._limit_ms = math.nan
        self._choice: Choice | None = None

    def decide(self, situation: Situation) -> Choice:
        """Return the best option by the table; it changes only with constraints or candidates."""
        limit_ms, choice = situation.inference_limit_ms, self._choice
        moved = abs(limit_ms - self._limit_ms) > LIMIT_DEADBAND * self._limit_ms
        if (
            choice is None
            or situation.is_changed
            or moved
            or choice.option not in situation.candidates
        ):
            self._limit_ms = limit_ms
            option, is_feasible = best_option(
                self._table,
                situation.candidates,
                1.0,
                limit_ms,
                situation.floor,
                situation.priority,
            )
            reason = self._reason(situation, option, is_feasible)
            choice = self._choice = Choice(option, is_feasible, reason)
        return choice

    def _reason(self, situation: Situation, option: Option, is_feasible: bool) -> str:
        latency = f'{self._table.latency_ms(option):.2f} ms'
        nominal = f'{self._table.name(option)} takes {latency} according to the table'
        limit_ms = situation.inference_limit_ms
        if is_feasible:
            return f'{nominal}, within {limit_text(limit_ms)}'
        return f'{nominal}; no level meets {constraints_text(limit_ms, situation.floor)}'
