"""Policy `predictive`: the highest predicted on-time accuracy among the allowed levels."""

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

STAY, LEAST_GAIN, CAUTION = 4.0, 0.05, 2.0
"""The level in use is left for a lower one if its predicted share of late frames exceeds STAY
times the allowed share, or if the gain in on-time accuracy is at least LEAST_GAIN. For a move up,
the predicted share of the higher level is multiplied by CAUTION. The prediction is based on few
frames, and an unnecessary switch is expensive."""

MARGIN_SD = 0.25
"""Margin below the limit for moves up, in standard deviations of the level's profile."""

LONGEST_HOLD, SHORTEST_HOLD = 4.0, 0.2
"""Bounds of the hold time, as multiples of `hold_s`. It must not be too long: with time slices, a
low level does not notice the load, so only a move up shows that the load has ended."""

FIRST_TRIAL_HOLDS, TRIAL_GROWTH, LONGEST_TRIAL_S = 2.0, 4, 60.0
"""Waiting time before a trial: initial value as a multiple of `hold_s`, growth factor after every
failed trial, and maximum in seconds."""

KNOWN_FRAMES = 8.0
"""A level with at least this many own contended frames needs no trial: its prediction is reliable.
"""

GOOD_FRAMES = 20
"""After this many frames with an allowed share of late ones, the hold time of a level is
halved."""

LATE_TOLERANCE = 0.02
"""Levels whose shares of late frames differ by less than this are equally late."""

ROUNDING = 1e-9
"""Shares of late frames that differ by less than this are equal."""

HOPELESS = 0.5
"""If inference makes at least this share of frames late at every level, the fastest level is used.
"""

EXCESS_SCALE, MOST_EXCESS = 2.0, 20.0
"""The allowed share is divided by the number of late frames in excess divided by the first value,
if this is more than 1. The second value is the maximum number that is counted."""

SPARE_SCALE, MOST_SPARE = 5.0, 10.0
"""If fewer frames were late than allowed, the allowed share is multiplied by 1 plus the number of
spare ones divided by the first value. The second value is the maximum number that is counted."""


class PredictivePolicy:
    """Chooses the level with the highest on-time accuracy whose share of late frames is allowed.

    On-time accuracy is the accuracy multiplied by the predicted share of frames that are on time:
    a late label is worth nothing. It moves down at once and directly to the best level. It moves
    up when a higher level has been predicted to be better for the hold time of that level,
    initially `hold_s` of wall-clock time. If a level is left because too many frames were late,
    the hold time of this level and all higher ones is doubled; after a good time at a level, it is
    halved.

    The latency of a level that has not run under the current load is an estimate, which can be too
    high, because stalls may not scale with the level. So the next higher level is tried if it
    would be on time in the optimistic estimate. Trials are rare, and rarer after every failed
    trial. A move to a platform without measurements is also a trial.

    If more frames were late than allowed, the allowed share is reduced until the balance is even;
    if fewer were late, it is increased. Frames that would be late at every level do not count.

    If no level is on time often enough, it chooses the most accurate of the levels that are late
    least often: a delay that does not depend on the level is no reason for a lower accuracy. If
    accuracy has priority, levels below the accuracy floor are excluded.
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
        self._excess = 0.0  # number of late frames beyond the allowed share; negative if spare
        self._stay: Option | None = None  # option whose frames are counted
        self._is_trial = False
        self._frames = self._late = 0

    def hold_s(self, option: Option) -> float:
        """Return the current hold time of an option before a move up to it."""
        return self._hold_ns[option] / 1e9

    def decide(self, situation: Situation) -> Choice:
        """Return the option for the next frame."""
        at, candidates = situation.option, self._above_floor(situation)
        shares = self._late_shares(situation, 0.0)
        is_counted = self._is_counted(situation)
        allowed = self._balance(situation, is_counted)
        self._count(situation, is_counted, allowed)
        target = self._target(situation, candidates, shares, allowed)
        choose = partial(self._choice, situation, shares)
        if at is None or at not in candidates:
            self._begin_stay(is_trial=False)
            return choose(target, 'start: ' if at is None else '')
        if self._is_urgent(situation, target, shares, allowed):
            self._end_stay(allowed)
            why = 'new constraints: ' if situation.is_changed else _cause_text(situation, at)
            return choose(target, why)
        risen, is_trial = self._held(situation, candidates, target, shares, allowed)
        if risen is None:
            return choose(at, '')
        held_s = (situation.time_ns - self._safe_since_ns[risen]) / 1e9
        self._begin_stay(is_trial=is_trial, is_rise=True)
        return choose(risen, f'{"trial" if is_trial else "safe"} after {held_s:.1f} s: ')

    def _is_counted(self, situation: Situation) -> bool:
        """Return whether there is a last frame, and it was on time or could have been.

        A frame that would be late at every other option, too, is no reason to change the level.
        The wait for the previous frame is left out, because a faster level shortens it.
        """
        at, latency_ms, limit_ms = situation.option, situation.latency_ms, situation.limit_ms
        if at is None or math.isnan(latency_ms):
            return False
        if not is_late(latency_ms, limit_ms):
            return True
        uncontended_ms, inference_ms = self._table.latency_ms, situation.inference_ms
        factor = inference_ms / uncontended_ms(at)
        fastest_ms = min(
            uncontended_ms(o) * (factor if o.platform == at.platform else 1.0)
            for o in situation.candidates
        )
        return latency_ms - situation.wait_ms - inference_ms + fastest_ms <= limit_ms

    def _balance(self, situation: Situation, is_counted: bool) -> float:
        """Count late frames in excess of the allowed share; return the share allowed from now on.

        So systematic errors of the forecast do not add up (adaptive conformal inference, Gibbs and
        Candes, 2021).
        """
        allowed = 1.0 - situation.quantile
        if is_counted:
            excess = self._excess + is_late(situation.latency_ms, situation.limit_ms) - allowed
            self._excess = min(max(excess, -MOST_SPARE), MOST_EXCESS)
        if self._excess < 0.0:
            return allowed * (1.0 - self._excess / SPARE_SCALE) + ROUNDING
        return allowed / max(1.0, self._excess / EXCESS_SCALE) + ROUNDING

    def _above_floor(self, situation: Situation) -> Sequence[Option]:
        """Return the candidates above the accuracy floor, if it has priority.

        A lower floor takes effect after a hold time, so that a fluctuating floor does not make the
        level fluctuate.
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
        """Return the predicted share of late frames of every candidate."""
        by_platform = [
            forecast.late_shares(situation.limit_ms, margin).tolist()
            for forecast in situation.forecasts
        ]
        return {o: by_platform[o.platform][o.level - 1] for o in situation.candidates}

    def _on_time(
        self, option: Option, shares: Mapping[Option, float], weight: float = 1.0
    ) -> float:
        """Return the on-time accuracy of an option, with its share of late frames weighted."""
        return self._table.accuracy(option) * (1.0 - weight * shares[option])

    def _target(
        self,
        situation: Situation,
        candidates: Sequence[Option],
        shares: Mapping[Option, float],
        allowed: float,
    ) -> Option:
        """Return the best candidate, without regard to hold times."""
        at, rank = situation.option, self._table.rank
        worthy = [o for o in candidates if shares[o] <= (STAY if o == at else 1.0) * allowed]
        if worthy:
            best = max(worthy, key=lambda o: (self._on_time(o, shares), rank[o]))
            if at is None or at not in worthy or rank[best] >= rank[at]:
                return best
            gain = self._on_time(best, shares) - self._on_time(at, shares)
            return best if gain >= LEAST_GAIN else at
        outside = max(f.outside_late_share(situation.limit_ms) for f in situation.forecasts)
        least = max(min([shares[option] for option in candidates]), outside)
        bound = least + LATE_TOLERANCE
        if at is not None and at in candidates and shares[at] <= bound + LATE_TOLERANCE:
            bound = shares[at]  # stay, unless a higher option is not late more often
        is_hopeless = least - outside >= HOPELESS and bound >= HOPELESS
        if is_hopeless and not self._may_be_one_slow_frame(situation):
            return min(candidates, key=lambda o: self._expected_ms(situation, o))
        return max([o for o in candidates if shares[o] <= bound + ROUNDING], key=rank.__getitem__)

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
        """Return whether to leave the option at once: to move down, or to a better platform."""
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
        shares: Mapping[Option, float],
        allowed: float,
    ) -> tuple[Option | None, bool]:
        """Return the best higher option whose hold time is over, and whether it is a trial."""
        at, now_ns, rank = situation.option, situation.time_ns, self._table.rank
        if at is None or rank[at] >= rank[candidates[-1]]:
            return None, False
        # Without a higher target, no higher option is on time, with or without the margin.
        cautious = self._late_shares(situation, MARGIN_SD) if target != at else shares
        highest_safe = rank[target]
        held, is_held_trial, may_try = None, False, True
        for option in candidates:
            if rank[option] <= rank[at]:
                continue
            is_elsewhere = option.platform != at.platform
            is_safe = (
                cautious[option] <= allowed
                and self._on_time(option, cautious, CAUTION) >= self._on_time(at, shares)
            ) or (
                # If no option is on time, one that is not late more often is acceptable.
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
        """Return whether an option has not run under this load and might be on time."""
        forecast = situation.forecasts[option.platform]
        if not forecast.is_contended or forecast.own_frames(option.level) >= KNOWN_FRAMES:
            return False
        share = forecast.optimistic_late_share(option.level, situation.limit_ms)
        return share <= 1.0 - situation.quantile + ROUNDING

    def _count(self, situation: Situation, is_counted: bool, allowed: float) -> None:
        """Count the frame; shorten the hold time of a level that is on time."""
        option = situation.option
        if option is None or math.isnan(situation.latency_ms):
            return
        if option != self._stay:
            self._stay, self._frames, self._late = option, 0, 0
        if not is_counted:
            return
        self._frames += 1
        self._late += is_late(situation.latency_ms, situation.limit_ms)
        if self._frames % GOOD_FRAMES or self._late > allowed * self._frames:
            return
        self._hold_ns[option] = max(self._hold_ns[option] // 2, self._shortest_hold_ns)
        if self._is_trial:
            self._trial_ns[option] = max(self._trial_ns[option] // 2, self._first_trial_ns)

    def _begin_stay(self, *, is_trial: bool, is_rise: bool = False) -> None:
        self._is_trial = is_trial
        if is_trial or not is_rise:  # after a move up, the hold times of higher levels continue
            self._safe_since_ns.clear()

    def _end_stay(self, allowed: float) -> None:
        """End a stay; extend the hold times if too many frames were late or a trial failed."""
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
        option: Option,
        why: str,
    ) -> Choice:
        allowed = 1.0 - situation.quantile + ROUNDING
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
            return f'{why}{outside_ms:.1f} ms outside inference exceeds {limit_text(limit_ms)}'
        predicted_ms = forecast.quantile_ms(option.level, quantile)
        text = f'{why}{name} predicted {predicted_ms:.2f} ms'
        if not is_feasible:
            text += f'; no level meets {constraints_text(limit_ms, situation.floor)}'
        elif predicted_ms <= limit_ms:
            text += f', within {limit_text(limit_ms)}'
        else:
            text += f', {share:.0%} of frames over {limit_text(limit_ms)}'
        slowdown = f', slowdown {forecast.slowdown:.2f}'
        return text + slowdown if len(text + slowdown) <= MAX_REASON else text


def _cause_text(situation: Situation, at: Option) -> str:
    if situation.forecasts[at.platform].is_due:
        return 'periodic load expected: '
    if math.isnan(situation.latency_ms):
        return ''
    return f'measured {situation.latency_ms:.2f} ms: '
