"""Types and functions of all policies: options, situation, choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.runtime.experience import Forecast

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import LatencyProfile, Level


class PolicyError(DynamicOfaError, ValueError):
    """A policy does not exist or its settings are invalid."""


class Option(NamedTuple):
    """A level of the family (1-based) on a platform (0-based index)."""

    level: int
    platform: int = 0


@dataclass(frozen=True)
class OptionTable:
    """Accuracies and uncontended latencies of all options.

    accuracies: by level. latencies_ms: by platform and level, uncontended.
    ladder: the options in ascending order of accuracy; of equally accurate ones, the fastest is
    the last. An option that is not faster than a more accurate one on the same platform is
    omitted.
    """

    accuracies: tuple[float, ...]
    latencies_ms: tuple[tuple[float, ...], ...]
    ladder: tuple[Option, ...]
    platforms: tuple[str, ...] = ('',)

    @classmethod
    def of(cls, levels: Sequence[Level], *profiles: LatencyProfile) -> OptionTable:
        """Build a table from the levels of a family and the profiles of one or more platforms."""
        if not profiles:
            raise PolicyError('there is no profile; give the profile of at least one platform')
        for profile in profiles:
            if len(levels) != len(profile.levels):
                raise PolicyError(
                    f'the profile of {profile.platform} has {len(profile.levels)} levels, '
                    f'but the family has {len(levels)}'
                )
        accuracies = tuple(level.accuracy for level in levels)
        latencies_ms = tuple(
            tuple(profile.latency_ms(level.index) for level in levels) for profile in profiles
        )
        ladder = [
            Option(level, platform)
            for platform, of_platform_ms in enumerate(latencies_ms)
            for level in _pareto_optimal(accuracies, of_platform_ms)
        ]
        ladder.sort(
            key=lambda o: (accuracies[o.level - 1], -latencies_ms[o.platform][o.level - 1])
        )
        return cls(accuracies, latencies_ms, tuple(ladder), tuple(p.platform for p in profiles))

    @property
    def level_count(self) -> int:
        """Return the number of levels of the family."""
        return len(self.accuracies)

    @cached_property
    def rank(self) -> dict[Option, tuple[float, float]]:
        """Return a sort key for every option: by accuracy, then the faster one is higher."""
        return {
            option: (self.accuracy(option), -self.latency_ms(option))
            for platform in range(len(self.platforms))
            for option in (Option(i + 1, platform) for i in range(self.level_count))
        }

    def name(self, option: Option) -> str:
        """Return the name of an option for messages."""
        if len(self.platforms) == 1:
            return f'level {option.level}'
        kind = self.platforms[option.platform].partition('-')[0]  # the full name is long
        return f'level {option.level} on {kind}'

    def latency_ms(self, option: Option) -> float:
        """Return the uncontended inference latency of an option."""
        return self.latencies_ms[option.platform][option.level - 1]

    def accuracy(self, option: Option) -> float:
        """Return the top-1 accuracy of an option's level, a fraction."""
        return self.accuracies[option.level - 1]


class Situation(NamedTuple):  # created per frame; a frozen dataclass takes three times as long
    """The input of a policy for one decision.

    option: the current option; None at the start.
    candidates: the allowed options, in the order of the table's ladder; never empty. Options whose
    inference fails, and options not allowed beside other classifiers, are omitted.
    latency_ms: latency of the last frame in the limit's scope; NaN if there is no frame. limit_ms:
    infinite without a limit.
    inference_ms: inference latency of the last frame. inference_limit_ms: the limit minus the
    recent time outside inference.
    floor: minimum accuracy; 0.0 if not set. priority: the constraint to keep if both cannot be
    met.
    quantile: share of frames that must meet the limit.
    forecasts: forecasts for the next frames in the limit's scope, by platform.
    wait_ms: the part of latency_ms that the image waited for the previous frame.
    is_first_after_switch: the latency includes the cost of a switch, so it is not contention.
    is_changed: constraints or policy have changed since the last decision.
    """

    time_ns: int
    option: Option | None
    candidates: Sequence[Option]
    latency_ms: float
    limit_ms: float
    inference_ms: float
    inference_limit_ms: float
    floor: float
    priority: str
    quantile: float
    forecasts: Sequence[Forecast]
    wait_ms: float = 0.0
    is_first_after_switch: bool = False
    is_changed: bool = False

    @property
    def slowdown(self) -> float:
        """Return the slowdown of the platform in use."""
        return self.forecasts[self.option.platform if self.option else 0].slowdown


MAX_REASON = 120
"""Maximum number of characters of a reason; `ros2 topic echo` truncates longer strings."""


class Choice(NamedTuple):
    """The output of a policy: an option, whether it meets the constraints, and the reason.

    why: the reason, at most MAX_REASON characters, or a function that returns it. A function saves
    time, because the reason is not needed for most frames.
    """

    option: Option
    is_feasible: bool
    why: str | Callable[[], str]

    @property
    def reason(self) -> str:
        """Return the reason, a sentence."""
        return (self.why if isinstance(self.why, str) else self.why())[:MAX_REASON]


class Policy(Protocol):
    """Chooses an option for every frame; may store a history."""

    def decide(self, situation: Situation) -> Choice:
        """Return the option for the next frame."""


def best_option(
    table: OptionTable,
    candidates: Sequence[Option],
    slowdown: float,
    limit_ms: float,
    floor: float,
    priority: str,
) -> tuple[Option, bool]:
    """Return the most accurate candidate that meets both constraints, and whether there is one.

    If there is none, keep the constraint with priority and violate the other as little as
    possible; if the former cannot be met either, violate it as little as possible.
    """
    accurate = [option for option in candidates if table.accuracy(option) >= floor]
    fast = [option for option in candidates if table.latency_ms(option) * slowdown <= limit_ms]
    both = [option for option in fast if table.accuracy(option) >= floor]
    if both:
        return both[-1], True
    if priority == 'accuracy':
        return (min(accurate, key=table.latency_ms) if accurate else candidates[-1]), False
    return (fast[-1] if fast else min(candidates, key=table.latency_ms)), False


def on_one_platform(candidates: Sequence[Option]) -> list[Option]:
    """Return the candidates on the first available platform, for policies that use only one."""
    first = min(option.platform for option in candidates)
    return [option for option in candidates if option.platform == first]


def _pareto_optimal(accuracies: Sequence[float], latencies_ms: Sequence[float]) -> list[int]:
    """Return the levels of one platform that are faster than all more accurate levels."""
    levels = range(1, len(accuracies) + 1)
    found: list[int] = []
    for level in sorted(levels, key=lambda i: (-accuracies[i - 1], latencies_ms[i - 1])):
        if not found or latencies_ms[level - 1] < latencies_ms[found[-1] - 1]:
            found.append(level)
    return found


def limit_text(limit_ms: float) -> str:
    """Return a limit as text for messages."""
    if math.isinf(limit_ms):
        return 'no limit'
    if limit_ms <= 0.0:
        return 'the limit, which is used up outside inference'
    return f'the limit of {limit_ms:.2f} ms'


def constraints_text(limit_ms: float, floor: float) -> str:
    """Return limit and accuracy floor as text for messages."""
    if floor <= 0.0:
        return limit_text(limit_ms)
    return f'{limit_text(limit_ms)} and accuracy {floor:.3f}'
