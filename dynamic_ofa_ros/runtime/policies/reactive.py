"""Policy `reactive`: the paper's, a sliding window of frames and one level at a time."""

from __future__ import annotations

import math
from collections import deque

from dynamic_ofa_ros.runtime.policies.common import (
    Choice,
    LevelTable,
    Situation,
    best_level,
    constraints_text,
    limit_text,
)
from dynamic_ofa_ros.runtime.policies.settings import PolicySettings

RECOVERY_MARGIN = 0.10
"""How far below the limit a higher level must be predicted before `reactive` moves up."""

GAP_NS = 2_000_000_000
"""After a pause as long as this (camera stopped), older samples say nothing about the device."""


class ReactivePolicy:
    """The paper's second scenario: a sliding window of frames, one level at a time.

    When the mean over the window breaks the limit, one level down and a new window. What the paper
    leaves open: one level up when the next level's *predicted* latency (the window's mean times
    the ratio of the profile) has met the limit with a margin for `hold_s` of wall-clock time.
    Every sample counts, however slow, except the first frame after a switch: not contention.
    New constraints are answered at once, by the table scaled with the present slowdown.
    It knows one platform: of several it uses the first.
    """

    def __init__(self, table: LevelTable, settings: PolicySettings) -> None:
        self._table = table.on_first_platform()
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
        slowdown = situation.forecasts[0].slowdown
        level, is_feasible = best_level(
            self._table, slowdown, situation.limit_ms, situation.floor, situation.priority
        )
        if level != situation.level:
            self._restart()
        predicted_ms = self._table.latency_ms(level) * slowdown
        outcome = (
            f'predicted {predicted_ms:.2f} ms meets {limit_text(situation)}'
            if is_feasible
            else f'predicted {predicted_ms:.2f} ms; no level meets {constraints_text(situation)}'
        )
        return Choice(level, is_feasible, f'new constraints: {outcome}')

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
            text = f'{measured} exceeds {limit_text(situation)} and no lower level is left'
            return Choice(situation.level, is_feasible, text)
        self._restart()
        text = f'{measured} exceeds {limit_text(situation)}: one level down'
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
            f'{self._table.name(higher[0])} predicted {predicted_ms:.2f} ms, '
            f'below {limit_text(situation)} for {held_ns / 1e9:.1f} s: one level up'
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
