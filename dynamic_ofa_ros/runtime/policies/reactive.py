"""Policy `reactive`: the paper's, a sliding window of frames and one level at a time."""

from __future__ import annotations

import math
from collections import deque

from dynamic_ofa_ros.runtime.policies.common import (
    Choice,
    Option,
    OptionTable,
    Situation,
    best_option,
    constraints_text,
    limit_text,
    on_one_platform,
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
    It judges inference only, and knows one platform: of several it uses the first that works.
    """

    def __init__(self, table: OptionTable, settings: PolicySettings) -> None:
        self._table = table
        self._hold_ns = round(settings.hold_s * 1e9)
        self._window: deque[float] = deque(maxlen=settings.window)
        self._last_ns = 0
        self._safe_since_ns: int | None = None
        self._is_feasible = True

    def decide(self, situation: Situation) -> Choice:
        """Return the option to run next."""
        at = situation.option
        candidates = on_one_platform(situation.candidates)
        if at is None or situation.is_changed or at not in candidates:
            choice = self._decide_anew(situation)
        elif self._take_sample(situation):
            mean_ms = sum(self._window) / len(self._window)
            is_broken = mean_ms > situation.inference_limit_ms
            step = self._step_down if is_broken else self._maybe_step_up
            choice = step(situation, at, mean_ms)
        else:  # what was feasible before the window began is the best guess until it is full
            choice = Choice(at, self._is_feasible, 'watching a new window of frames')
        self._is_feasible = choice.is_feasible
        return choice

    def _decide_anew(self, situation: Situation) -> Choice:
        candidates = on_one_platform(situation.candidates)
        slowdown = situation.forecasts[candidates[0].platform].slowdown
        limit_ms = situation.inference_limit_ms
        option, is_feasible = best_option(
            self._table, candidates, slowdown, limit_ms, situation.floor, situation.priority
        )
        if option != situation.option:
            self._restart()
        predicted = f'predicted {self._table.latency_ms(option) * slowdown:.2f} ms'
        outcome = (
            f'{predicted} meets {limit_text(limit_ms)}'
            if is_feasible
            else f'{predicted}; no level meets {constraints_text(limit_ms, situation.floor)}'
        )
        return Choice(option, is_feasible, f'new constraints: {outcome}')

    def _take_sample(self, situation: Situation) -> bool:
        """Add the frame to the window and tell whether the window is full."""
        if situation.time_ns - self._last_ns > GAP_NS:
            self._restart()
        self._last_ns = situation.time_ns
        if not math.isnan(situation.inference_ms) and not situation.is_first_after_switch:
            self._window.append(situation.inference_ms)
        return len(self._window) == self._window.maxlen

    def _step_down(self, situation: Situation, at: Option, mean_ms: float) -> Choice:
        self._safe_since_ns = None
        lower = [
            option
            for option in self._allowed(situation)
            if self._table.latency_ms(option) < self._table.latency_ms(at)
        ]
        exceeds = (
            f'mean of {len(self._window)} frames {mean_ms:.2f} ms exceeds '
            f'{limit_text(situation.inference_limit_ms)}'
        )
        is_feasible = self._can_be_met(situation, at, mean_ms)
        if not lower:
            return Choice(at, is_feasible, f'{exceeds} and no lower level is left')
        self._restart()
        return Choice(lower[-1], is_feasible, f'{exceeds}: one level down')

    def _maybe_step_up(self, situation: Situation, at: Option, mean_ms: float) -> Choice:
        limit_ms = situation.inference_limit_ms
        is_feasible = self._can_be_met(situation, at, mean_ms)
        frames = len(self._window)

        def watching() -> str:
            return f'mean of {frames} frames {mean_ms:.2f} ms'

        stay = Choice(at, is_feasible, watching)
        higher = [
            option
            for option in on_one_platform(situation.candidates)
            if self._table.accuracy(option) > self._table.accuracy(at)
        ]
        if not higher:
            return stay
        predicted_ms = mean_ms * self._table.latency_ms(higher[0]) / self._table.latency_ms(at)
        if predicted_ms > limit_ms * (1.0 - RECOVERY_MARGIN):
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
            f'below {limit_text(limit_ms)} for {held_ns / 1e9:.1f} s: one level up'
        )
        return Choice(higher[0], is_feasible, text)

    def _allowed(self, situation: Situation) -> list[Option]:
        """Return the options contention may push down to: above the floor if that has priority."""
        candidates = on_one_platform(situation.candidates)
        if situation.priority != 'accuracy':
            return candidates
        return [o for o in candidates if self._table.accuracy(o) >= situation.floor]

    def _can_be_met(self, situation: Situation, at: Option, mean_ms: float) -> bool:
        return best_option(
            self._table,
            on_one_platform(situation.candidates),
            mean_ms / self._table.latency_ms(at),
            situation.inference_limit_ms,
            situation.floor,
            situation.priority,
        )[1]

    def _restart(self) -> None:
        self._window.clear()
        self._safe_since_ns = None
