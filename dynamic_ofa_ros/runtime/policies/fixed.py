"""Policy `fixed`: one level for ever."""

from __future__ import annotations

from dynamic_ofa_ros.runtime.policies.common import (
    Choice,
    Option,
    OptionTable,
    PolicyError,
    Situation,
    best_option,
)
from dynamic_ofa_ros.runtime.policies.settings import PolicySettings


class FixedPolicy:
    """One level for ever: a baseline, and a way to look at a level.

    It runs on the first platform that works; no other classifier can lower it.
    """

    def __init__(self, table: OptionTable, settings: PolicySettings) -> None:
        level_count = table.level_count
        if settings.fixed_level > level_count:
            raise PolicyError(
                f'fixed_level is {settings.fixed_level}; the family has {level_count} levels'
            )
        self._table = table
        self._level = settings.fixed_level or level_count

    def decide(self, situation: Situation) -> Choice:
        """Return the fixed level; it counts as infeasible only when no level would do."""
        _, is_feasible = best_option(
            self._table,
            situation.candidates,
            situation.slowdown,
            situation.inference_limit_ms,
            situation.floor,
            situation.priority,
        )
        working = [o.platform for o in situation.candidates if o.level == self._level]
        platform = min(working or [option.platform for option in situation.candidates])
        return Choice(Option(self._level, platform), is_feasible, f'fixed at level {self._level}')
