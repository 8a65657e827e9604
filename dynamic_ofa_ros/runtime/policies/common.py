"""What all policies share: what they know, what they are asked and what they answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.runtime.slowdown import Forecast

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import LatencyProfile, Level


class PolicyError(DynamicOfaError, ValueError):
    """A policy that does not exist or cannot be set up like this."""


@dataclass(frozen=True)
class LevelTable:
    """What a policy knows of the levels; position 0 is level 1.

    `ladder` are the levels worth running, ascending in accuracy: one that is no faster than a more
    accurate one on the same platform is left out.

    With several platforms an entry is an option: a level of the family on a platform. Options are
    numbered as levels are, platform by platform, so on one platform they are the levels.
    """

    accuracies: tuple[float, ...]
    latencies_ms: tuple[float, ...]
    ladder: tuple[int, ...]
    platforms: tuple[str, ...] = ('',)

    @classmethod
    def of(cls, levels: Sequence[Level], *profiles: LatencyProfile) -> LevelTable:
        """Join the levels of a family with their uncontended latency on one or more platforms."""
        if not profiles:
            raise PolicyError('there is no profile; give the latencies of at least one platform')
        for profile in profiles:
            if len(levels) != len(profile.levels):
                raise PolicyError(
                    f'the profile of {profile.platform} has {len(profile.levels)} levels, '
                    f'the family {len(levels)}'
                )
        accuracies = tuple(level.accuracy for level in levels) * len(profiles)
        latencies = tuple(
            profile.latency_ms(level.index) for profile in profiles for level in levels
        )
        ladder: list[int] = []
        for device in range(len(profiles)):
            first = device * len(levels) + 1
            ladder += _worth_running(range(first, first + len(levels)), accuracies, latencies)
        ladder.sort(key=lambda option: (accuracies[option - 1], -latencies[option - 1]))
        platforms = tuple(profile.platform for profile in profiles)
        return cls(accuracies, latencies, tuple(ladder), platforms)

    @cached_property
    def level_count(self) -> int:
        """Return how many levels the family has."""
        return len(self.accuracies) // len(self.platforms)

    def device(self, option: int) -> int:
        """Return which of the platforms an option runs on, from 0."""
        return (option - 1) // self.level_count

    def level(self, option: int) -> int:
        """Return the level of the family, from 1, that an option runs."""
        return (option - 1) % self.level_count + 1

    def option(self, level: int, device: int) -> int:
        """Return the option that is this level on this platform."""
        return device * self.level_count + level

    def on_first_platform(self) -> LevelTable:
        """Return the same table, with only the options of the first platform on its ladder."""
        ladder = tuple(option for option in self.ladder if self.device(option) == 0)
        return replace(self, ladder=ladder)

    def name(self, option: int) -> str:
        """Return the option for a sentence."""
        if len(self.platforms) == 1:
            return f'level {option}'
        kind = self.platforms[self.device(option)].partition('-')[0]  # the whole name is long
        return f'level {self.level(option)} on {kind}'

    def latency_ms(self, level: int) -> float:
        """Return the uncontended inference latency of a level."""
        return self.latencies_ms[level - 1]

    def accuracy(self, level: int) -> float:
        """Return the top-1 accuracy of a level, a fraction."""
        return self.accuracies[level - 1]


class Situation(NamedTuple):  # made for every frame: a frozen dataclass takes three times as long
    """What a policy decides on, once per frame.

    latency_ms: inference latency of the frame just measured; NaN when there is none.
    limit_ms: what inference may take; infinite without a limit.
    floor: the accuracy wanted, 0.0 without one.
    quantile: share of frames that must meet the limit.
    forecasts: what the estimator of each platform expects of the next frames.
    device: position of the platform in use.
    highest_accuracy: levels above it are not this classifier's to take: others share the device.
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
    forecasts: Sequence[Forecast]
    is_first_after_switch: bool
    is_changed: bool
    device: int = 0
    highest_accuracy: float = math.inf

    @property
    def forecast(self) -> Forecast:
        """Return what is expected on the platform in use."""
        return self.forecasts[self.device]

    @property
    def slowdown(self) -> float:
        """Return the factor on every level's uncontended latency, on the platform in use."""
        return self.forecast.slowdown


MAX_REASON = 120
"""Characters of a reason: `ros2 topic echo` cuts longer strings."""


class Choice(NamedTuple):
    """What a policy wants: a level, whether it keeps the constraints, and why.

    why: the sentence, of at most MAX_REASON characters, or what makes it: most frames nobody
    reads it.
    """

    level: int
    is_feasible: bool
    why: str | Callable[[], str]

    @property
    def reason(self) -> str:
        """Return why, a sentence."""
        return self.why if isinstance(self.why, str) else self.why()


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
        return (min(accurate, key=table.latency_ms) if accurate else ladder[-1]), False
    return (fast[-1] if fast else min(ladder, key=table.latency_ms)), False


def _worth_running(
    options: Sequence[int], accuracies: Sequence[float], latencies_ms: Sequence[float]
) -> list[int]:
    """Return the options of one platform that are faster than every more accurate one."""
    ladder: list[int] = []
    for option in sorted(options, key=lambda i: (-accuracies[i - 1], latencies_ms[i - 1])):
        if not ladder or latencies_ms[option - 1] < latencies_ms[ladder[-1] - 1]:
            ladder.append(option)
    return ladder


def limit_text(situation: Situation) -> str:
    """Return the limit for a sentence."""
    if math.isinf(situation.limit_ms):
        return 'no limit'
    if situation.limit_ms <= 0.0:
        return 'the limit: it passes outside inference'
    return f'the limit of {situation.limit_ms:.2f} ms'


def constraints_text(situation: Situation) -> str:
    """Return limit and floor for a sentence."""
    if situation.floor <= 0.0:
        return limit_text(situation)
    return f'{limit_text(situation)} and accuracy {situation.floor:.3f}'
