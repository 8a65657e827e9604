"""Policies: which level to run, given what was measured and what is wanted.

A policy is a small class with one method, `decide`, and a line in `_POLICIES`. It sees inference
latencies only: the manager has taken from the limit what no level can change. It reads no clock:
time comes with the situation, so a simulator can drive it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dynamic_ofa_ros.errors import DynamicOfaError

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import LatencyProfile, Level

DEFAULT_POLICY = 'reactive'

RECOVERY_MARGIN = 0.10
"""How far below the limit a higher level must be predicted before `reactive` moves up."""

GAP_NS = 2_000_000_000
"""After a pause as long as this (camera stopped), older samples say nothing about the device."""

LIMIT_DEADBAND = 0.05
"""`table` looks again only when the limit left for inference moved by more than this fraction."""


class PolicyError(DynamicOfaError, ValueError):
    """A policy that does not exist or cannot be set up like this."""


@dataclass(frozen=True)
class PolicySettings:
    """What a user can set of the policy; the node's `manager.*` parameters.

    fixed_level: the level of policy `fixed`; 0 is the highest.
    window: frames that `reactive` averages over.
    hold_s: how long a higher level must look safe before moving up, in wall-clock time.
    max_switches_per_minute: bound of the policy's own upward switches.
    """

    name: str = DEFAULT_POLICY
    fixed_level: int = 0
    window: int = 10
    hold_s: float = 0.5
    max_switches_per_minute: float = 30.0

    def __post_init__(self) -> None:
        if self.name not in _POLICIES:
            raise PolicyError(
                f'there is no policy {self.name!r}; it must be one of: {", ".join(policy_names())}'
            )
        if self.fixed_level < 0:
            raise PolicyError(
                f'fixed_level is {self.fixed_level}; levels count from 1, 0 = highest'
            )
        if self.window < 1:
            raise PolicyError(f'window is {self.window} frames; it must be at least 1')
        if not 0.0 <= self.hold_s < math.inf:
            raise PolicyError(f'hold_s is {self.hold_s:g} s; it must be finite and not negative')
        if not self.max_switches_per_minute >= 0.0:
            raise PolicyError(
                f'max_switches_per_minute is {self.max_switches_per_minute:g}; '
                'it must not be negative'
            )


@dataclass(frozen=True)
class LevelTable:
    """What a policy knows of the levels; position 0 is level 1.

    `ladder` are the levels worth running on this platform, ascending in accuracy: one that is no
    faster than a more accurate one is left out.
    """

    accuracies: tuple[float, ...]
    latencies_ms: tuple[float, ...]
    ladder: tuple[int, ...]

    @classmethod
    def of(cls, levels: Sequence[Level], profile: LatencyProfile) -> LevelTable:
        """Join the levels of a family with their uncontended latency on a platform."""
        if len(levels) != len(profile.levels):
            raise PolicyError(
                f'the profile of {profile.platform} has {len(profile.levels)} levels, '
                f'the family {len(levels)}'
            )
        accuracies = tuple(level.accuracy for level in levels)
        latencies = tuple(profile.latency_ms(level.index) for level in levels)
        ladder: list[int] = []
        by_accuracy = sorted(
            range(1, len(levels) + 1),
            key=lambda level: (-accuracies[level - 1], latencies[level - 1]),
        )
        for level in by_accuracy:
            if not ladder or latencies[level - 1] < latencies[ladder[-1] - 1]:
                ladder.append(level)
        return cls(accuracies, latencies, tuple(reversed(ladder)))

    def latency_ms(self, level: int) -> float:
        """Return the uncontended inference latency of a level."""
        return self.latencies_ms[level - 1]

    def accuracy(self, level: int) -> float:
        """Return the top-1 accuracy of a level, a fraction."""
        return self.accuracies[level - 1]


@dataclass(frozen=True)
class Situation:
    """What a policy decides on, once per frame.

    latency_ms: inference latency of the frame just measured; NaN when there is none.
    limit_ms: what inference may take; infinite without a limit.
    floor: the accuracy wanted, 0.0 without one.
    is_first_after_switch: the sample includes the cost of a switch: it is not contention.
    is_changed: constraints or policy are new since the last decision.
    """

    time_ns: int
    level: int
    latency_ms: float
    limit_ms: float
    floor: float
    priority: str
    quantile: float
    slowdown: float
    is_first_after_switch: bool
    is_changed: bool


@dataclass(frozen=True)
class Choice:
    """What a policy wants: a level, whether it keeps the constraints, and why."""

    level: int
    is_feasible: bool
    reason: str


class Policy(Protocol):
    """Chooses a level; keeps whatever history it needs."""

    def decide(self, situation: Situation) -> Choice:
        """Return the level to run next; the present one to stay."""


def best_level(
    table: LevelTable, slowdown: float, limit_ms: float, floor: float, priority: str
) -> tuple[int, bool]:
    """Return the most accurate level that meets both constraints, and whether one does.

    When none does, the constraint with priority holds and the other is violated as little as
    possible; when that cannot hold either, it too is violated as little as possible.
    """
    ladder = table.ladder
    accurate = [level for level in ladder if table.accuracy(level) >= floor]
    fast = [level for level in ladder if table.latency_ms(level) * slowdown <= limit_ms]
    both = [level for level in fast if table.accuracy(level) >= floor]
    if both:
        return both[-1], True
    if priority == 'accuracy':
        return (accurate[0] if accurate else ladder[-1]), False
    return (fast[-1] if fast else ladder[0]), False


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
        nominal = f'level {level} takes {self._table.latency_ms(level):.2f} ms by the table'
        if is_feasible:
            return f'{nominal}, within {_limit_text(situation)}'
        return f'{nominal}; no level meets {_constraints_text(situation)}'


class FixedPolicy:
    """One level for ever: a baseline, and a way to look at a level."""

    def __init__(self, table: LevelTable, settings: PolicySettings) -> None:
        level_count = len(table.accuracies)
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


class ReactivePolicy:
    """The paper's second scenario: a sliding window of frames, one level at a time.

    When the mean over the window breaks the limit, one level down and a new window. What the paper
    leaves open: one level up when the next level's *predicted* latency (the window's mean times
    the ratio of the profile) has met the limit with a margin for `hold_s` of wall-clock time.
    Every sample counts, however slow, except the first frame after a switch: not contention.
    New constraints are answered at once, by the table scaled with the present slowdown.
    """

    def __init__(self, table: LevelTable, settings: PolicySettings) -> None:
        self._table = table
        self._hold_ns = round(settings.hold_s * 1e9)
        self._window: deque[float] = deque(maxlen=settings.window)
        self._last_ns = 0
        self._safe_since_ns: int | None = None
        self._is_feasible = True

    def decide(self, situation: Situation) -> Choice:
        """Return the level to run next."""
        if situation.is_changed:
            choice = self._decide_anew(situation)
        elif self._take_sample(situation):
            mean_ms = sum(self._window) / len(self._window)
            is_broken = mean_ms > situation.limit_ms
            step = self._step_down if is_broken else self._maybe_step_up
            choice = step(situation, mean_ms)
        else:  # what was feasible before the window began is the best guess until it is full
            text = 'watching a new window of frames'
            choice = Choice(situation.level, self._is_feasible, text)
        self._is_feasible = choice.is_feasible
        return choice

    def _decide_anew(self, situation: Situation) -> Choice:
        level, is_feasible = best_level(
            self._table,
            situation.slowdown,
            situation.limit_ms,
            situation.floor,
            situation.priority,
        )
        if level != situation.level:
            self._restart()
        predicted_ms = self._table.latency_ms(level) * situation.slowdown
        outcome = (
            f'predicted {predicted_ms:.2f} ms meets {_limit_text(situation)}'
            if is_feasible
            else f'predicted {predicted_ms:.2f} ms; no level meets {_constraints_text(situation)}'
        )
        return Choice(level, is_feasible, f'new constraints or policy: {outcome}')

    def _take_sample(self, situation: Situation) -> bool:
        """Add the frame to the window and tell whether the window is full."""
        if situation.time_ns - self._last_ns > GAP_NS:
            self._restart()
        self._last_ns = situation.time_ns
        if not math.isnan(situation.latency_ms) and not situation.is_first_after_switch:
            self._window.append(situation.latency_ms)
        return len(self._window) == self._window.maxlen

    def _step_down(self, situation: Situation, mean_ms: float) -> Choice:
        self._safe_since_ns = None
        lower = [level for level in self._allowed(situation) if self._is_below(level, situation)]
        measured = f'mean of {len(self._window)} frames {mean_ms:.2f} ms'
        is_feasible = self._can_be_met(situation, mean_ms)
        if not lower:
            text = f'{measured} exceeds {_limit_text(situation)} and no lower level is left'
            return Choice(situation.level, is_feasible, text)
        self._restart()
        text = f'{measured} exceeds {_limit_text(situation)}: one level down'
        return Choice(lower[-1], is_feasible, text)

    def _maybe_step_up(self, situation: Situation, mean_ms: float) -> Choice:
        is_feasible = self._can_be_met(situation, mean_ms)
        text = f'mean of {len(self._window)} frames {mean_ms:.2f} ms'
        stay = Choice(situation.level, is_feasible, text)
        higher = [
            level
            for level in self._table.ladder
            if self._table.accuracy(level) > self._table.accuracy(situation.level)
        ]
        if not higher:
            return stay
        nominal_ms = self._table.latency_ms(situation.level)
        predicted_ms = mean_ms * self._table.latency_ms(higher[0]) / nominal_ms
        if predicted_ms > situation.limit_ms * (1.0 - RECOVERY_MARGIN):
            self._safe_since_ns = None
            return stay
        if self._safe_since_ns is None:
            self._safe_since_ns = situation.time_ns
        held_ns = situation.time_ns - self._safe_since_ns
        if held_ns < self._hold_ns:
            return stay
        self._restart()
        text = (
            f'level {higher[0]} predicted {predicted_ms:.2f} ms, below {_limit_text(situation)} '
            f'for {held_ns / 1e9:.1f} s: one level up'
        )
        return Choice(higher[0], is_feasible, text)

    def _allowed(self, situation: Situation) -> list[int]:
        """Return the levels contention may push down to: above the floor if that has priority."""
        if situation.priority != 'accuracy':
            return list(self._table.ladder)
        return [
            level for level in self._table.ladder if self._table.accuracy(level) >= situation.floor
        ]

    def _is_below(self, level: int, situation: Situation) -> bool:
        return self._table.latency_ms(level) < self._table.latency_ms(situation.level)

    def _can_be_met(self, situation: Situation, mean_ms: float) -> bool:
        slowdown = mean_ms / self._table.latency_ms(situation.level)
        return best_level(
            self._table, slowdown, situation.limit_ms, situation.floor, situation.priority
        )[1]

    def _restart(self) -> None:
        self._window.clear()
        self._safe_since_ns = None


def _limit_text(situation: Situation) -> str:
    if math.isinf(situation.limit_ms):
        return 'no limit'
    return f'the limit of {situation.limit_ms:.2f} ms'


def _constraints_text(situation: Situation) -> str:
    if situation.floor <= 0.0:
        return _limit_text(situation)
    return f'{_limit_text(situation)} with an accuracy of {situation.floor:.3f}'


_POLICIES: dict[str, Callable[[LevelTable, PolicySettings], Policy]] = {
    'table': TablePolicy,
    'reactive': ReactivePolicy,
    'fixed': FixedPolicy,
}


def policy_names() -> tuple[str, ...]:
    """Return the names that `PolicySettings` accepts."""
    return tuple(_POLICIES)


def create_policy(table: LevelTable, settings: PolicySettings) -> Policy:
    """Build the policy that the settings name; raise PolicyError when it cannot be set up."""
    return _POLICIES[settings.name](table, settings)
