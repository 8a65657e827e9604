"""Policy `table`: the look-up table answers, whatever is measured."""

from __future__ import annotations

import math

from dynamic_ofa_ros.runtime.policies.common import (
    Choice,
    LevelTable,
    Situation,
    best_level,
    constraints_text,
    limit_text,
)
from dynamic_ofa_ros.runtime.policies.settings import PolicySettings

LIMIT_DEADBAND = 0.05
"""`table` looks again only when the limit left for inference moved by more than this fraction."""


class TablePolicy:
    """The paper's first scenario: the look-up table answers, whatever is measured."""

    def __init__(self, table: LevelTable, settings: PolicySettings) -> None:
        self._table = table
        self._limit_ms = math.nan
        self._choice: Choice | None = None

    def decide(self, situation: Situation) -> Choice:
        """Return the table's answer; it changes only with the constraints."""
        limit_ms = situation.limit_ms
        moved = abs(limit_ms - self._limit_ms) > LIMIT_DEADBAND * self._limit_ms
        if self._choice is None or situation.is_changed or moved:
            self._limit_ms = limit_ms
            level, is_feasible = best_level(
                self._table, 1.0, limit_ms, situation.floor, situation.priority
            )
            self._choice = Choice(level, is_feasible, self._reason(situation, level, is_feasible))
        return self._choice

    def _reason(self, situation: Situation, level: int, is_feasible: bool) -> str:
        latency = f'{self._table.latency_ms(level):.2f} ms'
        nominal = f'{self._table.name(level)} takes {latency} by the table'
        if is_feasible:
            return f'{nominal}, within {limit_text(situation)}'
        return f'{nominal}; no level meets {constraints_text(situation)}'
