"""Policy `fixed`: always the same level."""

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
    """Always uses the same level, as a baseline or to examine a level.

    It uses the first platform that works; coordination with other classifiers does not change it.
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
        """Return the fixed level; it is infeasible only if no level meets the constraints."""
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
