"""Settings of the policies."""

from __future__ import annotations

from dataclasses import dataclass

from dynamic_ofa_ros.runtime.policies.common import PolicyError

POLICY_NAMES: tuple[str, ...] = ('predictive', 'table', 'reactive', 'fixed')
DEFAULT_POLICY = 'predictive'
MAX_HOLD_S = 3600.0


@dataclass(frozen=True)
class PolicySettings:
    """Settings of the policy; the node's `manager.*` parameters.

    fixed_level: level of the policy `fixed`; 0 is the highest level.
    window: number of frames that `reactive` averages.
    hold_s: wall-clock time for which a higher level must be predicted on time before the first
    move up to it; `predictive` shortens it for levels that were on time and extends it for late
    ones.
    max_switches_per_minute: maximum number of moves up.
    """

    name: str = DEFAULT_POLICY
    fixed_level: int = 0
    window: int = 10
    hold_s: float = 0.5
    max_switches_per_minute: float = 30.0

    def __post_init__(self) -> None:
        if self.name not in POLICY_NAMES:
            raise PolicyError(
                f'there is no policy {self.name!r}; it must be one of: {", ".join(POLICY_NAMES)}'
            )
        if self.fixed_level < 0:
            raise PolicyError(
                f'fixed_level is {self.fixed_level}; levels start at 1, and 0 is the highest level'
            )
        if self.window < 1:
            raise PolicyError(f'window is {self.window} frames; it must be at least 1')
        if not 0.0 <= self.hold_s <= MAX_HOLD_S:
            raise PolicyError(f'hold_s is {self.hold_s:g} s; it must lie in [0, {MAX_HOLD_S:g}]')
        if not self.max_switches_per_minute >= 0.0:
            raise PolicyError(
                f'max_switches_per_minute is {self.max_switches_per_minute:g}; '
                'it must not be negative'
            )
