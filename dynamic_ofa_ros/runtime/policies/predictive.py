"""Policy `predictive`: judge every level by its predicted latency, at the quantile wanted."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import partial

from dynamic_ofa_ros.runtime.policies.common import (
    MAX_REASON,
    Choice,
    LevelTable,
    Situation,
    constraints_text,
    limit_text,
)
from dynamic_ofa_ros.runtime.policies.settings import PolicySettings

UP_MARGIN = 0.01
UP_MARGIN_SD = 1.0
"""How far below the limit (log domain) a higher level must be predicted before moving up: the
larger of a constant and this many standard deviations of a frame."""

MAX_HOLD_S = 30.0
"""Bound of the hold that reversals double."""

SHORTEST_HOLD = 0.1
"""Bound of the hold that moves up that paid halve, as a share of `hold_s`."""

WORTH = 0.5
"""What a move up must gain until the next one down, in late frames; else that is a reversal."""

QUIET_HOLDS, QUIET_S = 4.0, 4.0
"""After this many holds, and so many seconds, without a move down the hold is halved."""

LATE_TOLERANCE = 0.02
"""Share of late frames that a level may have beyond the least late one and count as equal."""

HOPELESS = 0.5
"""When even the least late level is late this often, the fastest one runs."""


class PredictivePolicy:
    """The most accurate level whose predicted latency meets the limit.

    Down at once and directly to the right level. Up after a higher level has been predicted to
    meet the limit, with a margin, for a hold of wall-clock time: `hold_s` at first. Moves up that
    did not pay (what they gained is worth less than the late frame they are likely to end with)
    double the hold; those that paid, and quiet time, halve it.

    When no level meets the limit, the most accurate of those that are late least often runs: a
    stall that hits every level alike is no reason to give up accuracy. A floor with priority
    leaves out the levels below it.
    """

    def __init__(self, table: LevelTable, settings: PolicySettings) -> None:
        self._table = table
        logs = [math.log(latency_ms) for latency_ms in table.latencies_ms]
        count = table.level_count
        self._log_latencies = [logs[i : i + count] for i in range(0, len(logs), count)]
        self._higher = {
            level: [other for other in table.ladder if table.accuracy(other) > accuracy]
            for level, accuracy in enumerate(table.accuracies, start=1)
        }
        self._place = {level: (table.device(level), table.level(level)) for level in table.ladder}
        self._base_hold_ns = round(settings.hold_s * 1e9)
        self._hold_ns = self._base_hold_ns
        self._safe_since_ns: dict[int, int] = {}
        self._accuracy_below = 0.0  # of the level before the move up, 0.0 when there was none
        self._gained = 0.0
        self._quiet_since_ns = 0

    @property
    def hold_s(self) -> float:
        """Return how long a higher level must look safe at present."""
        return self._hold_ns / 1e9

    def decide(self, situation: Situation) -> Choice:
        """Return the level to run next."""
        candidates = self._candidates(situation)
        log_limit = math.log(situation.limit_ms) if situation.limit_ms > 0.0 else -math.inf
        predicted = self._predictions(situation)
        slacks = {level: log_limit - predicted[level - 1] for level in candidates}
        for target in reversed(candidates):
            if slacks[target] >= 0.0:
                break
        else:
            target = self._least_late(candidates, situation, log_limit, predicted)
        level = situation.level
        if situation.is_changed or level not in slacks:
            self._restart(situation.time_ns)
            return self._choice(situation, target, slacks, 'new constraints: ')
        self._relax(situation.time_ns)
        accuracy, wanted = self._table.accuracy(level), self._table.accuracy(target)
        if self._accuracy_below:
            self._gained += accuracy - self._accuracy_below
        if wanted < accuracy or slacks[target] >= 0.0 > slacks[level]:
            self._end_stay(situation.time_ns, is_down=wanted < accuracy)
            return self._choice(situation, target, slacks, self._why_down(situation, slacks))
        risen = self._held(situation, slacks, wanted)
        if risen is None:
            return self._choice(situation, level, slacks)
        if not self._accuracy_below:
            self._accuracy_below, self._gained = accuracy, 0.0
        held_s = (situation.time_ns - self._safe_since_ns[risen]) / 1e9
        self._safe_since_ns.clear()
        seen = 'safe' if slacks[risen] >= 0.0 else 'late no more often'
        why = f'{seen} for {held_s:.1f} s: '
        return self._choice(situation, risen, slacks, why)

    def _candidates(self, situation: Situation) -> Sequence[int]:
        ladder, accuracy = self._table.ladder, self._table.accuracy
        if situation.priority == 'accuracy' and situation.floor > 0.0:
            accurate = [level for level in ladder if accuracy(level) >= situation.floor]
            ladder = tuple(accurate) or ladder[-1:]
        if situation.highest_accuracy < accuracy(ladder[-1]):
            allowed = [level for level in ladder if accuracy(level) <= situation.highest_accuracy]
            ladder = tuple(allowed) or ladder[:1]
        return ladder

    def _predictions(self, situation: Situation) -> list[float]:
        """Return the log-latency in ms that the quantile wanted stays below, by option."""
        found: list[float] = []
        for forecast, logs in zip(situation.forecasts, self._log_latencies, strict=True):
            found += map(operator.add, logs, forecast.log_factors(situation.quantile))
        return found

    def _least_late(
        self,
        candidates: Sequence[int],
        situation: Situation,
        log_limit: float,
        predicted: Sequence[float],
    ) -> int:
        """Return the most accurate of those late least often; the fastest where that is often."""
        shares: list[float] = []
        for forecast, logs in zip(situation.forecasts, self._log_latencies, strict=True):
            shares += forecast.late_shares([log_limit - log_ms for log_ms in logs])
        least = min([shares[level - 1] for level in candidates])
        if least >= HOPELESS:
            return min(candidates, key=lambda level: predicted[level - 1])
        bound, at = least + LATE_TOLERANCE, situation.level
        found = next(level for level in reversed(candidates) if shares[level - 1] <= bound)
        is_near = at in candidates and shares[at - 1] <= bound + LATE_TOLERANCE
        return max(found, at, key=self._table.accuracy) if is_near else found

    def _held(self, situation: Situation, slacks: dict[int, float], wanted: float) -> int | None:
        """Return the most accurate of the higher levels that looked safe for the hold."""
        held = None
        for level in self._higher[situation.level]:
            if level in slacks and self._is_safe(level, situation, slacks, wanted):
                since_ns = self._safe_since_ns.setdefault(level, situation.time_ns)
                if situation.time_ns - since_ns >= self._hold_ns:
                    held = level
            else:
                self._safe_since_ns.pop(level, None)
        return held

    def _is_safe(
        self, level: int, situation: Situation, slacks: dict[int, float], wanted: float
    ) -> bool:
        if slacks[situation.level] < 0.0:  # no level fits, but this one is late no more often
            return self._table.accuracy(level) <= wanted
        if slacks[level] < UP_MARGIN:
            return False
        device, position = self._place[level]
        return slacks[level] >= UP_MARGIN_SD * situation.forecasts[device].spread(position)

    def _end_stay(self, now_ns: int, *, is_down: bool) -> None:
        """Judge the last move up by what it gained until now, and adapt the hold."""
        self._safe_since_ns.clear()
        if not is_down:
            return
        if self._accuracy_below:
            if self._gained < WORTH * self._accuracy_below:
                self._hold_ns = min(2 * self._hold_ns, round(MAX_HOLD_S * 1e9))
            else:
                shortest_ns = round(SHORTEST_HOLD * self._base_hold_ns)
                self._hold_ns = max(self._hold_ns // 2, shortest_ns)
        self._accuracy_below = 0.0
        self._quiet_since_ns = now_ns

    def _relax(self, now_ns: int) -> None:
        quiet_ns = max(QUIET_HOLDS * self._hold_ns, QUIET_S * 1e9)
        if self._hold_ns > self._base_hold_ns and now_ns - self._quiet_since_ns > quiet_ns:
            self._hold_ns = max(self._hold_ns // 2, self._base_hold_ns)
            self._quiet_since_ns = now_ns

    def _restart(self, now_ns: int) -> None:
        self._safe_since_ns.clear()
        self._accuracy_below = 0.0
        self._quiet_since_ns = now_ns

    def _why_down(self, situation: Situation, slacks: dict[int, float]) -> str:
        predicted = self._predicted(situation, situation.level, slacks)
        if situation.forecast.due:
            return f'regular load due: {predicted}; '
        if math.isnan(situation.latency_ms):
            return f'{predicted}; '
        return f'{predicted}, measured {situation.latency_ms:.2f}; '

    def _predicted(self, situation: Situation, level: int, slacks: dict[int, float]) -> str:
        if math.isfinite(slacks[level]):
            predicted_ms = situation.limit_ms * math.exp(-slacks[level])
        else:  # there is no limit, or nothing is left of it
            predicted_ms = self._table.latency_ms(level) * situation.slowdown
        return f'{self._table.name(level)} predicted {predicted_ms:.2f} ms'

    def _choice(
        self, situation: Situation, level: int, slacks: dict[int, float], why: str = ''
    ) -> Choice:
        is_feasible = slacks[level] >= 0.0 and self._table.accuracy(level) >= situation.floor
        text = partial(self._text, situation, level, slacks, is_feasible, why)
        return Choice(level, is_feasible, text)

    def _text(
        self,
        situation: Situation,
        level: int,
        slacks: dict[int, float],
        is_feasible: bool,
        why: str,
    ) -> str:
        if not is_feasible:
            outcome = f'no level meets {constraints_text(situation)}'
        elif math.isinf(situation.limit_ms):
            outcome = 'no limit'
        else:
            outcome = f'within {limit_text(situation)}'
        text = f'{why}{self._predicted(situation, level, slacks)}, {outcome}'
        slowdown = f', slowdown {situation.slowdown:.2f}'
        return text + slowdown if len(text + slowdown) <= MAX_REASON else text[:MAX_REASON]
