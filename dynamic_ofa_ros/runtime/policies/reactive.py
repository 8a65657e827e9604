"""Policy `reactive`, from the paper: a sliding window of frames and steps of one level."""

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
"""Margin below the limit, as a fraction, for the predicted latency of the next higher level."""

GAP_NS = 2_000_000_000
"""After a pause of this length (stopped camera), older samples are discarded."""


class ReactivePolicy:
    """The second scenario of the paper: a sliding window of frames, steps of one level.

    If the mean latency of the window exceeds the limit, it moves one level down and starts a new
    window. The paper does not specify moves up. Here, it moves one level up when the predicted
    latency of the next level (the window's mean times the ratio of the profile's latencies) has
    met the limit with a margin for `hold_s` of wall-clock time. All samples count except the first
    frame after a switch, whose latency is not contention. New constraints take effect at once: the
    level is chosen from the table, scaled by the current slowdown. The policy considers inference
    latency only and uses the first platform that works.
    """

    def __init__(self, table: OptionTable, settings: PolicySettings) -> None:
        self._table = table
        self._hold_ns = round(settings.hold_s * 1e9)
        self._window: deque[float] = deque(maxlen=settings.window)
        self._last_ns = 0
        self._safe_since_ns: int | None = None
        self._is_feasible = True

    def decide(self, situation: Situation) -> Choice:
        """Return the option for the next frame."""
        at = situation.option
        candidates = on_one_platform(situation.candidates)
        if at is None or situation.is_changed or at not in candidates:
            choice = self._decide_by_table(situation)
        elif self._add_sample(situation):
            mean_ms = sum(self._window) / len(self._window)
            is_broken = mean_ms > situation.inference_limit_ms
            step = self._step_down if is_broken else self._maybe_step_up
            choice = step(situation, at, mean_ms)
        else:  # until the window is full, feasibility is assumed to be unchanged
            choice = Choice(at, self._is_feasible, 'collecting a new window of frames')
        self._is_feasible = choice.is_feasible
        return choice

    def _decide_by_table(self, situation: Situation) -> Choice:
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

    def _add_sample(self, situation: Situation) -> bool:
        """Add the frame to the window and return whether the window is full."""
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

        def reason() -> str:
            return f'mean of {frames} frames {mean_ms:.2f} ms'

        stay = Choice(at, is_feasible, reason)
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
        """Return the options for moves down: those above the accuracy floor if it has priority."""
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
