"""Policy `fixed`: one level for ever."""

from __future__ import annotations

from dynamic_ofa_ros.runtime.policies.common import (
    Choice,
    LevelTable,
    PolicyError,
    Situation,
    best_level,
)
from dynamic_ofa_ros.runtime.policies.settings import PolicySettings


class FixedPolicy:
    """One level for ever: a baseline, and a way to look at a level."""

    def __init__(self, table: LevelTable, settings: PolicySettings) -> None:
        level_count = table.level_count
        if settings.fixed_level > level_count:
            raise PolicyError(
                f'fixed_level is {settings.fixed_level}; the family has {level_count} levels'
            )
        self._table = table
        self._level = settings.fixed_level or level_count

    def decide(self, situation: Situation) -> Choice:
        """Return the fixed level; it counts as infeasible only when no level would do."""
        _, is_feasible = best_level(
            self._table,
            situation.slowdown,
            situation.limit_ms,
            situation.floor,
            situation.priority,
        )
        return Choice(self._level, is_feasible, f'fixed at level {self._level}')
