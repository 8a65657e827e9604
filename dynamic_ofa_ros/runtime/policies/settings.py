"""What a user can set of a policy."""

from __future__ import annotations

from dataclasses import dataclass

from dynamic_ofa_ros.runtime.policies.common import PolicyError

POLICY_NAMES: tuple[str, ...] = ('predictive', 'table', 'reactive', 'fixed')
DEFAULT_POLICY = 'predictive'
MAX_HOLD_S = 3600.0


@dataclass(frozen=True)
class PolicySettings:
    """What a user can set of the policy; the node's `manager.*` parameters.

    fixed_level: the level of policy `fixed`; 0 is the highest.
    window: frames that `reactive` averages over.
    hold_s: how long a higher level must look safe before the first move up to it, in wall-clock
    time; `predictive` makes it shorter for a level that proves good, longer for one that was late.
    max_switches_per_minute: bound of the moves up, whoever asks for them.
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
                f'fixed_level is {self.fixed_level}; levels count from 1, 0 = highest'
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
