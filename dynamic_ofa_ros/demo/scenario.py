"""The scenario: what happens when, and which latency limit makes sense on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from dynamic_ofa_ros.errors import DynamicOfaError

DEFAULT_SECONDS = 40.0
SECONDS_RANGE = (5.0, 3600.0)

MIDDLE_LEVEL_MARGIN = 1.15
"""The limit over the middle level's latency: room for jitter, and for the policy's own margin."""

CREDIBLE_SLOWDOWN = (1.0, 1.6)
"""Range of the free run's slowdown that the limit follows.

Beyond it others are using the machine, who may be gone the next moment: a limit that allows for
them would then be met by every level.
"""


class ScenarioError(DynamicOfaError, ValueError):
    """A scenario that cannot be played."""


class Action(Enum):
    """What the demo does when a phase begins."""

    NONE = 'none'
    SET_LIMIT = 'set the limit by parameter'
    START_COMPETITOR = 'start the competing process'
    STOP_COMPETITOR = 'stop the competing process'
    LIFT_LIMIT = 'lift the limit by topic'


@dataclass(frozen=True)
class Phase:
    """A stretch of the scenario: what starts it, how long it lasts, what to look for."""

    name: str
    action: Action
    duration_s: float
    watch: str


@dataclass(frozen=True)
class Scenario:
    """Phases that follow each other without a gap."""

    phases: tuple[Phase, ...]

    @property
    def duration_s(self) -> float:
        """Return how long it all takes."""
        return sum(phase.duration_s for phase in self.phases)

    def start_s(self, index: int) -> float:
        """Return when phase `index` (from 0) begins, since the scenario's start."""
        return sum(phase.duration_s for phase in self.phases[:index])

    def index_at(self, elapsed_s: float) -> int:
        """Return the phase in force; the number of phases once the scenario is over."""
        end_s = 0.0
        for index, phase in enumerate(self.phases):
            end_s += phase.duration_s
            if elapsed_s < end_s:
                return index
        return len(self.phases)


# Shares of the whole: contention gets most, because it has the most to show.
_SHARES: tuple[tuple[str, Action, float, str], ...] = (
    ('free run', Action.NONE, 0.17, 'no limit: the most accurate level'),
    ('tight limit', Action.SET_LIMIT, 0.20, 'a faster level, at once'),
    ('competitor', Action.START_COMPETITOR, 0.28, 'latency rises, the level gives way'),
    ('recovery', Action.STOP_COMPETITOR, 0.20, 'alone again: the level comes back'),
    ('limit lifted', Action.LIFT_LIMIT, 0.15, 'the most accurate level again'),
)


def default_scenario(seconds: float = DEFAULT_SECONDS) -> Scenario:
    """Return the demo's five phases, stretched to `seconds`; raise ScenarioError out of range."""
    low, high = SECONDS_RANGE
    if not low <= seconds <= high:
        raise ScenarioError(
            f'a scenario of {seconds:g} s makes no sense; --seconds takes {low:g} to {high:g}'
        )
    return Scenario(
        tuple(
            Phase(name, action, share * seconds, watch) for name, action, share, watch in _SHARES
        )
    )


@dataclass(frozen=True)
class Progress:
    """How far the scenario is. `index` is the number of phases once it is over."""

    index: int
    elapsed_s: float
    phase_elapsed_s: float
    is_over: bool


class ScenarioPlayer:
    """Tells which phases began since it was last asked; reads time only through `clock_s`."""

    def __init__(self, scenario: Scenario, clock_s: Callable[[], float]) -> None:
        self.scenario = scenario
        self._clock_s = clock_s
        self._started_s: float | None = None
        self._begun = 0

    def start(self) -> None:
        """Begin; the first phase is reported by the next `begun`."""
        self._started_s = self._clock_s()

    @property
    def elapsed_s(self) -> float:
        """Return the time since `start`; negative infinity before it."""
        return -math.inf if self._started_s is None else self._clock_s() - self._started_s

    def progress(self) -> Progress:
        """Return where the scenario stands."""
        elapsed_s = max(0.0, self.elapsed_s)
        index = self.scenario.index_at(elapsed_s)
        is_over = self._started_s is not None and index >= len(self.scenario.phases)
        return Progress(index, elapsed_s, elapsed_s - self.scenario.start_s(index), is_over)

    def begun(self) -> list[Phase]:
        """Return the phases that began since the last call, in order, each exactly once.

        A caller that was held up for longer than a phase still gets every phase, so that no action
        is lost.
        """
        if self._started_s is None:
            return []
        index = min(self.progress().index, len(self.scenario.phases) - 1)
        phases = list(self.scenario.phases[self._begun : index + 1])
        self._begun = max(self._begun, index + 1)
        return phases


@dataclass(frozen=True)
class LimitChoice:
    """A latency limit for this machine, and the middle level that it is made for (from 1)."""

    limit_ms: float
    level: int


def choose_limit(latencies_ms: Sequence[float], slowdown: float = 1.0) -> LimitChoice:
    """Choose a limit that a middle level of the look-up table meets and the highest does not.

    The middle level is that whose latency is next to the geometric mean of the extremes.

    latencies_ms: uncontended latency per level, ascending from level 1; slowdown: what the free
    run measured, because a machine that is never quite idle (camera, this demo) should not have to
    meet a limit it never could. Raises ScenarioError for a table without a usable latency.
    """
    usable = [latency_ms for latency_ms in latencies_ms if latency_ms > 0.0]
    if not usable or len(usable) != len(latencies_ms):
        raise ScenarioError(
            f'the published levels have the latencies {list(latencies_ms)} ms; '
            'no limit can be derived from them'
        )
    low, high = CREDIBLE_SLOWDOWN
    factor = low if math.isnan(slowdown) else min(max(slowdown, low), high)
    centre_ms = math.sqrt(latencies_ms[0] * latencies_ms[-1])
    levels = range(1, max(len(latencies_ms), 2))  # all but the highest
    level = min(levels, key=lambda level: abs(math.log(latencies_ms[level - 1] / centre_ms)))
    middle_ms = latencies_ms[level - 1]
    next_ms = latencies_ms[min(level, len(latencies_ms) - 1)]
    limit_ms = max(middle_ms * MIDDLE_LEVEL_MARGIN, math.sqrt(middle_ms * next_ms))
    return LimitChoice(round(limit_ms * factor, 2), level)
