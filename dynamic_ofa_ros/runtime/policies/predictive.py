"""Policy `predictive`: the most accurate level that is late no more often than allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from dynamic_ofa_ros.adaptation import is_late
from dynamic_ofa_ros.runtime.policies.common import (
    MAX_REASON,
    Choice,
    Option,
    OptionTable,
    Situation,
    constraints_text,
    limit_text,
)
from dynamic_ofa_ros.runtime.policies.settings import PolicySettings

STAY = 2.5
"""The level in use is left when this many times the allowed share of late frames is predicted:
a share is known from few frames, and to go down and up again costs more than it saves."""

MARGIN_SD = 0.25
"""How far below the limit a higher level must stay, in standard deviations of its profile."""

LONGEST_HOLD, SHORTEST_HOLD = 4.0, 0.2
"""Bounds of the hold, in `hold_s`. Not longer: under time slices a low level sees nothing of the
load, so only a move up tells that it has gone."""

FIRST_TRIAL_HOLDS, TRIAL_GROWTH, LONGEST_TRIAL_S = 2.0, 4, 60.0
"""How long before a level is tried against the prediction: in `hold_s` at first, how much longer
after every trial that failed, and at most."""

KNOWN_FRAMES = 8.0
"""Of a level with so many contended frames of its own the prediction is believed: no trial."""

GOOD_FRAMES = 20
"""After so many frames with no more late ones than allowed, the level's hold is halved."""

LATE_TOLERANCE = 0.02
"""Share of late frames that a level may have beyond the least late one and count as equal."""

HOPELESS = 0.5
"""When inference makes even the least late level late this often, the fastest one runs."""


class PredictivePolicy:
    """The most accurate level whose predicted share of late frames is allowed.

    Down at once and directly to the right level. Up after a higher level has been predicted to be
    on time for its hold of wall-clock time, `hold_s` at first. A stay that ended with more late
    frames than allowed doubles the hold of that level and of those above; a good one halves it.

    A level that was never seen under this load is only guessed, and the guess may be too high: a
    stall need not scale with the level. So the next level up is tried where it would be on time if
    stalls do not scale at all, rarely, and much more rarely after every trial that failed. A move
    to a platform that nothing is known of is such a trial too.

    When no level is on time often enough, the most accurate of those that are late least often
    runs: a delay that no level can change is no reason to give up accuracy. A floor with priority
    leaves out the levels below it.
    """

    def __init__(self, table: OptionTable, settings: PolicySettings) -> None:
        self._table = table
        self._first_hold_ns = first_ns = round(settings.hold_s * 1e9)
        self._shortest_hold_ns = round(SHORTEST_HOLD * first_ns)
        self._longest_hold_ns = round(LONGEST_HOLD * first_ns)
        self._first_trial_ns = round(FIRST_TRIAL_HOLDS * first_ns)
        self._hold_ns = dict.fromkeys(table.rank, self._first_hold_ns)
        self._trial_ns = dict.fromkeys(table.rank, self._first_trial_ns)
        self._safe_since_ns: dict[Option, int] = {}
        self._floor, self._lower_floor_since_ns = 0.0, 0
        self._stay: Option | None = None  # the option whose frames are counted
        self._is_trial = False
        self._frames = self._late = 0

    def hold_s(self, option: Option) -> float:
        """Return how long an option must look safe at present before a move up to it."""
        return self._hold_ns[option] / 1e9

    def decide(self, situation: Situation) -> Choice:
        """Return the option to run next."""
        at, allowed = situation.option, 1.0 - situation.quantile + 1e-9
        candidates = self._above_floor(situation)
        shares = self._late_shares(situation, 0.0)
        self._count(situation, allowed)
        target = self._target(situation, candidates, shares, allowed)
        choose = partial(self._choice, situation, shares, allowed)
        if at is None or at not in candidates:
            self._begin_stay(is_trial=False)
            return choose(target, 'start: ' if at is None else '')
        if self._is_urgent(situation, target, shares, allowed):
            self._end_stay(allowed)
            why = 'new constraints: ' if situation.is_changed else _cause_text(situation, at)
            return choose(target, why)
        risen, is_trial = self._held(situation, candidates, target, allowed)
        if risen is None:
            return choose(at, '')
        held_s = (situation.time_ns - self._safe_since_ns[risen]) / 1e9
        self._begin_stay(is_trial=is_trial, is_rise=True)
        return choose(risen, f'{"a try" if is_trial else "safe"} after {held_s:.1f} s: ')

    def _above_floor(self, situation: Situation) -> Sequence[Option]:
        """Return the candidates that a floor with priority leaves.

        A lower floor counts after a hold: one that wavers must not make the level waver.
        """
        floor = situation.floor if situation.priority == 'accuracy' else 0.0
        if floor >= self._floor:
            self._floor, self._lower_floor_since_ns = floor, situation.time_ns
        elif situation.time_ns - self._lower_floor_since_ns >= self._first_hold_ns:
            self._floor = floor
        if self._floor <= 0.0:
            return situation.candidates
        table, candidates = self._table, situation.candidates
        return [o for o in candidates if table.accuracy(o) >= self._floor] or candidates[-1:]

    def _late_shares(self, situation: Situation, margin: float) -> dict[Option, float]:
        """Return for every candidate which share of frames is predicted to be late."""
        by_platform = [
            forecast.late_shares(situation.limit_ms, margin).tolist()
            for forecast in situation.forecasts
        ]
        return {o: by_platform[o.platform][o.level - 1] for o in situation.candidates}

    def _target(
        self,
        situation: Situation,
        candidates: Sequence[Option],
        shares: Mapping[Option, float],
        allowed: float,
    ) -> Option:
        """Return the best candidate by prediction."""
        at, rank = situation.option, self._table.rank
        for option in reversed(candidates):
            if shares[option] <= allowed:
                return option
            if option == at and shares[at] <= STAY * allowed:
                break
        outside = max(f.outside_late_share(situation.limit_ms) for f in situation.forecasts)
        least = max(min([shares[option] for option in candidates]), outside)
        if at is None or at not in candidates:
            bound = least + LATE_TOLERANCE
        elif shares[at] <= max(STAY * allowed, least + 2.0 * LATE_TOLERANCE):
            bound = shares[at]  # good enough to stay, unless a higher one is late no more often
        else:
            bound = least + LATE_TOLERANCE
        is_hopeless = least - outside >= HOPELESS and bound >= HOPELESS
        if is_hopeless and not self._may_be_one_slow_frame(situation):
            return min(candidates, key=lambda o: self._expected_ms(situation, o))
        return max([o for o in candidates if shares[o] <= bound], key=rank.__getitem__)

    def _may_be_one_slow_frame(self, situation: Situation) -> bool:
        at = situation.option
        return at is not None and situation.forecasts[at.platform].frames_seen == 1

    def _is_urgent(
        self,
        situation: Situation,
        target: Option,
        shares: Mapping[Option, float],
        allowed: float,
    ) -> bool:
        """Tell whether the present option must be left now: down, or to a free platform."""
        at, rank = situation.option, self._table.rank
        assert at is not None
        if rank[target] < rank[at]:
            is_on_time = situation.latency_ms <= situation.limit_ms  # false for NaN
            return (
                situation.is_changed
                or not is_on_time
                or not self._may_be_one_slow_frame(situation)
            )
        is_elsewhere = target.platform != at.platform
        return (
            is_elsewhere
            and situation.forecasts[target.platform].frames_seen > 0
            and shares[at] > STAY * allowed >= allowed >= shares[target]
        )

    def _expected_ms(self, situation: Situation, option: Option) -> float:
        return situation.forecasts[option.platform].inference_ms(option.level)

    def _held(
        self,
        situation: Situation,
        candidates: Sequence[Option],
        target: Option,
        allowed: float,
    ) -> tuple[Option | None, bool]:
        """Return the best of the higher options whose hold is over, and whether it is a trial."""
        at, now_ns, rank = situation.option, situation.time_ns, self._table.rank
        if at is None or rank[at] >= rank[candidates[-1]]:
            return None, False
        cautious = self._late_shares(situation, MARGIN_SD)
        highest_safe = rank[target]
        held, is_held_trial, may_try = None, False, True
        for option in candidates:
            if rank[option] <= rank[at]:
                continue
            is_elsewhere = option.platform != at.platform
            is_safe = cautious[option] <= allowed or (
                # Where nothing is on time, one that is late no more often is as good.
                rank[option] <= highest_safe and cautious[at] > allowed
            )
            is_trial = is_elsewhere and not situation.forecasts[option.platform].frames_seen
            if not is_safe:
                is_trial = may_try and held is None and self._is_worth_a_try(situation, option)
                may_try = may_try and not is_trial  # the next one up only
                if not is_trial:
                    self._safe_since_ns.pop(option, None)
                    continue
            since_ns = self._safe_since_ns.setdefault(option, now_ns)
            wait_ns = self._trial_ns[option] if is_trial else self._hold_ns[option]
            if now_ns - since_ns >= wait_ns:
                held, is_held_trial = option, is_trial
        return held, is_held_trial

    def _is_worth_a_try(self, situation: Situation, option: Option) -> bool:
        """Tell whether an option is unknown under this load and might be on time."""
        forecast = situation.forecasts[option.platform]
        if not forecast.is_contended or forecast.own_frames(option.level) >= KNOWN_FRAMES:
            return False
        share = forecast.optimistic_late_shares(situation.limit_ms)[option.level - 1]
        return bool(share <= 1.0 - situation.quantile + 1e-9)

    def _count(self, situation: Situation, allowed: float) -> None:
        """Count the frame; a level that does well is taken again sooner."""
        option = situation.option
        if option is None or math.isnan(situation.latency_ms):
            return
        if option != self._stay:
            self._stay, self._frames, self._late = option, 0, 0
        self._frames += 1
        self._late += is_late(situation.latency_ms, situation.limit_ms)
        if self._frames % GOOD_FRAMES or self._late > allowed * self._frames:
            return
        self._hold_ns[option] = max(self._hold_ns[option] // 2, self._shortest_hold_ns)
        if self._is_trial:
            self._trial_ns[option] = max(self._trial_ns[option] // 2, self._first_trial_ns)

    def _begin_stay(self, *, is_trial: bool, is_rise: bool = False) -> None:
        self._is_trial = is_trial
        if is_trial or not is_rise:  # after a rise the next level's hold goes on
            self._safe_since_ns.clear()

    def _end_stay(self, allowed: float) -> None:
        """End a stay that the prediction, or a new limit, speaks against."""
        left, was_trial = self._stay, self._is_trial
        self._begin_stay(is_trial=False)
        was_late = self._late > allowed * self._frames
        has_failed = was_trial and (was_late or self._frames < GOOD_FRAMES)
        if left is None or not (was_late or has_failed):
            return
        hold_ns = min(2 * self._hold_ns[left], self._longest_hold_ns)
        trial_ns = min(TRIAL_GROWTH * self._trial_ns[left], round(LONGEST_TRIAL_S * 1e9))
        for option, rank in self._table.rank.items():
            if option.platform == left.platform and rank >= self._table.rank[left]:
                self._hold_ns[option] = max(self._hold_ns[option], hold_ns)
                if has_failed:
                    self._trial_ns[option] = max(self._trial_ns[option], trial_ns)

    def _choice(
        self,
        situation: Situation,
        shares: Mapping[Option, float],
        allowed: float,
        option: Option,
        why: str,
    ) -> Choice:
        is_feasible = any(
            share <= allowed and self._table.accuracy(other) >= situation.floor
            for other, share in shares.items()
        )
        text = partial(self._text, situation, option, shares[option], is_feasible, why)
        return Choice(option, is_feasible, text)

    def _text(
        self, situation: Situation, option: Option, share: float, is_feasible: bool, why: str
    ) -> str:
        forecast, limit_ms = situation.forecasts[option.platform], situation.limit_ms
        name = self._table.name(option)
        if math.isinf(limit_ms):
            return f'{why}{name}, no limit'
        quantile = situation.quantile
        outside_ms = forecast.outside_quantile_ms(quantile)
        if outside_ms > limit_ms:
            return f'{why}{outside_ms:.1f} ms of {limit_text(limit_ms)} pass outside inference'
        predicted_ms = forecast.quantile_ms(option.level, quantile)
        text = f'{why}{name} predicted {predicted_ms:.2f} ms'
        if not is_feasible:
            text += f'; no level meets {constraints_text(limit_ms, situation.floor)}'
        elif predicted_ms <= limit_ms:
            text += f', within {limit_text(limit_ms)}'
        else:
            text += f', {share:.0%} beyond {limit_text(limit_ms)}'
        slowdown = f', slowdown {forecast.slowdown:.2f}'
        return text + slowdown if len(text + slowdown) <= MAX_REASON else text


def _cause_text(situation: Situation, at: Option) -> str:
    if situation.forecasts[at.platform].is_due:
        return 'regular load due: '
    if math.isnan(situation.latency_ms):
        return ''
    return f'measured {situation.latency_ms:.2f} ms: '
