"""What all policies share: what they know, what they are asked and what they answer."""

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
    """A policy that does not exist or cannot be set up like this."""


class Option(NamedTuple):
    """What can be chosen: a level of the family, from 1, on one of the platforms, from 0."""

    level: int
    platform: int = 0


@dataclass(frozen=True)
class OptionTable:
    """What a policy knows of the options.

    accuracies: by level. latencies_ms: by platform and level, uncontended.
    ladder: the options worth running, ascending in accuracy, of equal ones the fastest last; one
    that is no faster than a more accurate one on the same platform is left out.
    """

    accuracies: tuple[float, ...]
    latencies_ms: tuple[tuple[float, ...], ...]
    ladder: tuple[Option, ...]
    platforms: tuple[str, ...] = ('',)

    @classmethod
    def of(cls, levels: Sequence[Level], *profiles: LatencyProfile) -> OptionTable:
        """Join the levels of a family with their uncontended latency on one or more platforms."""
        if not profiles:
            raise PolicyError('there is no profile; give the latencies of at least one platform')
        for profile in profiles:
            if len(levels) != len(profile.levels):
                raise PolicyError(
                    f'the profile of {profile.platform} has {len(profile.levels)} levels, '
                    f'the family {len(levels)}'
                )
        accuracies = tuple(level.accuracy for level in levels)
        latencies_ms = tuple(
            tuple(profile.latency_ms(level.index) for level in levels) for profile in profiles
        )
        ladder = [
            Option(level, platform)
            for platform, of_platform_ms in enumerate(latencies_ms)
            for level in _worth_running(accuracies, of_platform_ms)
        ]
        ladder.sort(
            key=lambda o: (accuracies[o.level - 1], -latencies_ms[o.platform][o.level - 1])
        )
        return cls(accuracies, latencies_ms, tuple(ladder), tuple(p.platform for p in profiles))

    @property
    def level_count(self) -> int:
        """Return how many levels the family has."""
        return len(self.accuracies)

    @cached_property
    def rank(self) -> dict[Option, tuple[float, float]]:
        """Return what every option is worth: more accurate is higher, of equal ones the faster."""
        return {
            option: (self.accuracy(option), -self.latency_ms(option))
            for platform in range(len(self.platforms))
            for option in (Option(i + 1, platform) for i in range(self.level_count))
        }

    def name(self, option: Option) -> str:
        """Return the option for a sentence."""
        if len(self.platforms) == 1:
            return f'level {option.level}'
        kind = self.platforms[option.platform].partition('-')[0]  # the whole name is long
        return f'level {option.level} on {kind}'

    def latency_ms(self, option: Option) -> float:
        """Return the uncontended inference latency of an option."""
        return self.latencies_ms[option.platform][option.level - 1]

    def accuracy(self, option: Option) -> float:
        """Return the top-1 accuracy of an option's level, a fraction."""
        return self.accuracies[option.level - 1]


class Situation(NamedTuple):  # made for every frame: a frozen dataclass takes three times as long
    """What a policy decides on, once per frame.

    option: the present one; None at the very start.
    candidates: what may be chosen, ascending as in the table's ladder; never empty. Options whose
    engine fails, and those that other classifiers need the room of, are left out.
    latency_ms, limit_ms: of the frame just measured, in the scope that the limit is about; NaN
    when there is no frame, infinite without a limit.
    inference_ms, inference_limit_ms: the same of inference alone: the limit less what lately
    passed outside.
    floor: the accuracy wanted, 0.0 without one. priority: which of the two constraints holds.
    quantile: share of frames that must meet the limit.
    forecasts: by platform, what to expect of the next frames, in the scope of the limit.
    is_first_after_switch: the sample includes the cost of a switch: it is not contention.
    is_changed: constraints or policy are new since the last decision.
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
    is_first_after_switch: bool = False
    is_changed: bool = False

    @property
    def slowdown(self) -> float:
        """Return the factor on every level's uncontended latency, on the platform in use."""
        return self.forecasts[self.option.platform if self.option else 0].slowdown


MAX_REASON = 120
"""Characters of a reason: `ros2 topic echo` cuts longer strings."""


class Choice(NamedTuple):
    """What a policy wants: an option, whether it keeps the constraints, and why.

    why: the sentence, of at most MAX_REASON characters, or what makes it: most frames nobody
    reads it.
    """

    option: Option
    is_feasible: bool
    why: str | Callable[[], str]

    @property
    def reason(self) -> str:
        """Return why, a sentence."""
        return (self.why if isinstance(self.why, str) else self.why())[:MAX_REASON]


class Policy(Protocol):
    """Chooses an option; keeps whatever history it needs."""

    def decide(self, situation: Situation) -> Choice:
        """Return the option to run next; the present one to stay."""


def best_option(
    table: OptionTable,
    candidates: Sequence[Option],
    slowdown: float,
    limit_ms: float,
    floor: float,
    priority: str,
) -> tuple[Option, bool]:
    """Return the most accurate candidate that meets both constraints, and whether one does.

    When none does, the constraint with priority holds and the other is violated as little as
    possible; when that cannot hold either, it too is violated as little as possible.
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
    """Return the candidates on the first platform that has any, for policies that know one."""
    first = min(option.platform for option in candidates)
    return [option for option in candidates if option.platform == first]


def _worth_running(accuracies: Sequence[float], latencies_ms: Sequence[float]) -> list[int]:
    """Return the levels of one platform that are faster than every more accurate one."""
    levels = range(1, len(accuracies) + 1)
    found: list[int] = []
    for level in sorted(levels, key=lambda i: (-accuracies[i - 1], latencies_ms[i - 1])):
        if not found or latencies_ms[level - 1] < latencies_ms[found[-1] - 1]:
            found.append(level)
    return found


def limit_text(limit_ms: float) -> str:
    """Return a limit for a sentence."""
    if math.isinf(limit_ms):
        return 'no limit'
    if limit_ms <= 0.0:
        return 'the limit: it passes outside inference'
    return f'the limit of {limit_ms:.2f} ms'


def constraints_text(limit_ms: float, floor: float) -> str:
    """Return limit and floor for a sentence."""
    if floor <= 0.0:
        return limit_text(limit_ms)
    return f'{limit_text(limit_ms)} and accuracy {floor:.3f}'
