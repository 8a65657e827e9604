"""The levels that all shall run: found, tried, kept or left.

Who is proposed a heavier level waits until the others have made room. What was found right after a
change from outside is kept; later another combination is tried rarely, less and less often when
trials disappoint. To make room is always allowed. So changes come to an end: every way down ends
at the bottom, and the time between two ways up doubles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dynamic_ofa_ros.runtime.coordination.choice import Options, options
from dynamic_ofa_ros.runtime.coordination.frames import FrameLog, Observation, offsets_ms
from dynamic_ofa_ros.runtime.coordination.learning import changed_since_ns, fit, unknown_sharing
from dynamic_ofa_ros.runtime.coordination.obedience import ROOM_NS
from dynamic_ofa_ros.runtime.coordination.record import Record
from dynamic_ofa_ros.runtime.coordination.sharing import Sharing
from dynamic_ofa_ros.runtime.coordination.status import Agreement, Status

PATIENCE_NS, PATIENCE_FRAMES, STUBBORN_NS = 500_000_000, 4.0, 60_000_000_000
"""Who is at another level than agreed for this long, and so many of its frames, has its reasons;
if it never was there, it is taken to stay where it is for this long."""

UNSETTLED_NS, QUIET_REVIEW_NS = 1_400_000_000, 1_000_000_000
"""After a change from outside the choice is reviewed with every status for so long; later at
this interval, and when a frame was late or somebody left."""

PRESSING_REVIEW_NS = 50_000_000
"""The least time between two such reviews. Each that moves nobody doubles it, up to
QUIET_REVIEW_NS: where no combination keeps the limits, frames are late all the time."""

FIRST_HOLD_NS, MAX_HOLD_NS = 300_000_000, 30_000_000_000
"""How long a combination is kept before one that promises more is tried; at first, and at most:
every one that disappoints doubles it."""

SETTLED_HOLD_NS = 10_000_000_000
"""The least time between two trials after the unsettled time."""

WORTHWHILE, WORTHWHILE_LATER = 0.002, 0.01
"""Weighted accuracy (a fraction) that a move must promise; after the unsettled time."""

LESS_LATE = 0.03
"""How much less trouble a move must promise, when no combination meets the limits."""

INTERVAL_CHANGE = 1.5
"""When frames come so much more or less often, what was measured says nothing any more."""

LIMIT_CHANGE = 1.1
"""A limit on more than inference leaves now more, now less for it; beyond this it is another."""

RECENT_NS = 1_000_000_000
"""A camera whose rate is not known yet counts when there were frames so lately."""


class Proposer:
    """Finds the levels for all; of use in the one that is first by name."""

    def __init__(self, log: FrameLog) -> None:
        self._log = log
        self._names: list[str] = []
        self._record = Record()
        self._sharing = unknown_sharing(0)
        self._is_fitted = False  # for this circle
        self._wishes: list[object] = []
        self._limits_ms: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._met_ns: dict[str, int] = {}
        self._target: dict[str, int] = {}
        self._waiting: dict[str, int] = {}  # where they stay until others have made room
        self._round = self._round_since_ns = 0
        self._disturbed_ns = self._reviewed_ns = 0
        self._is_pressing = False  # late frames, or somebody left, since the last review
        self._pressing_review_ns = PRESSING_REVIEW_NS
        self._hold_ns = FIRST_HOLD_NS
        self._is_trial = False
        self._at_target: set[str] = set()
        self._is_refused = False
        self._off_since_ns: dict[str, int] = {}
        self._stubborn: dict[str, tuple[int, int]] = {}  # its level, until when

    def propose(
        self,
        everyone: Sequence[Status],
        observations: Sequence[Observation],
        time_ns: int,
        last_round: int,
    ) -> Agreement:
        """Return what all shall do now.

        observations: what has newly been seen. last_round: of any agreement heard of.
        """
        for status in everyone:
            self._met_ns.setdefault(status.name, time_ns)
        everyone = [
            _with_interval(status, is_new=time_ns - self._met_ns[status.name] < RECENT_NS)
            for status in everyone
        ]
        self._round = max(self._round, last_round)
        is_new = self._recognise(everyone, time_ns)
        for observation in observations:
            self._record.note(self._names, observation)
            limit_ms = everyone[self._names.index(observation.name)].limit_ms
            self._is_pressing |= observation.frame.latency_ms > limit_ms
        self._is_pressing |= self._watch(everyone, time_ns)
        is_early = time_ns - self._disturbed_ns < UNSETTLED_NS
        interval_ns = self._pressing_review_ns if self._is_pressing else QUIET_REVIEW_NS
        is_due = time_ns - self._reviewed_ns >= interval_ns
        if is_new or is_early or is_due:
            self._review(everyone, time_ns, must_move=is_new)
        levels = self._in_order(everyone, time_ns)
        return Agreement(self._round, tuple(levels.items()))

    def _recognise(self, everyone: Sequence[Status], time_ns: int) -> bool:
        """See what has changed from outside; return whether the choice must be made afresh."""
        names = [status.name for status in everyone]
        rates = {s.name: s.interval_ms for s in everyone}
        is_other_circle = names != self._names
        if is_other_circle:
            self._sharing = self._sharing_of(names)
            self._names = names
            self._target, self._waiting = {}, {}
            self._is_fitted = False
            self._met_ns = {name: self._met_ns[name] for name in names}
        for name, known_ms in self._rates.items():
            if math.isinf(known_ms) and name in rates:
                self._rates[name] = rates[name]
        if is_other_circle or not all(
            _is_same_rate(rates[name], self._rates[name]) for name in names
        ):
            self._rates = rates
            self._record.clear()
            self._disturb(time_ns)
        wishes: list[object] = [
            (s.name, s.quantile, s.floor, s.priority, s.importance, s.latencies_ms)
            for s in everyone
        ]
        limits_ms = {s.name: s.limit_ms for s in everyone}
        if wishes == self._wishes and all(
            _is_close(limits_ms[name], self._limits_ms[name], LIMIT_CHANGE) for name in names
        ):
            return False
        self._wishes, self._limits_ms = wishes, limits_ms
        self._disturb(time_ns)
        return True

    def _disturb(self, time_ns: int) -> None:
        self._disturbed_ns = time_ns
        self._pressing_review_ns = PRESSING_REVIEW_NS
        self._hold_ns = FIRST_HOLD_NS
        self._is_trial = False

    def _sharing_of(self, names: Sequence[str]) -> Sharing:
        fresh, old = unknown_sharing(len(names)), self._sharing
        for i, name in enumerate(names):
            if name in self._names:
                j = self._names.index(name)
                fresh.demands[i], fresh.lightness[i] = old.demands[j], old.lightness[j]
                fresh.spread[i] = old.spread[j]
        return replace(fresh, pace=old.pace)

    def _watch(self, everyone: Sequence[Status], time_ns: int) -> bool:
        """Note who is where it was agreed; return whether somebody has left, or will not come."""
        is_left = False
        for s in everyone:
            if s.name in self._stubborn:
                level, until_ns = self._stubborn[s.name]
                if s.level == level and time_ns < until_ns:
                    continue
                del self._stubborn[s.name]
            if s.level == self._target.get(s.name, s.level):
                self._at_target.add(s.name)
                self._off_since_ns.pop(s.name, None)
                continue
            since_ns = self._off_since_ns.setdefault(s.name, time_ns)
            frames_ms = PATIENCE_FRAMES * (s.interval_ms if s.interval_ms < math.inf else 0.0)
            if time_ns - since_ns <= max(PATIENCE_NS, round(frames_ms * 1e6)):
                continue
            is_left = True
            if s.name in self._at_target:
                if not self._is_refused:
                    self._is_refused = True
                    self._record.refuse(tuple(self._target.values()), time_ns)
            else:
                self._stubborn[s.name] = (s.level, time_ns + STUBBORN_NS)
        return is_left

    def _review(self, everyone: Sequence[Status], time_ns: int, *, must_move: bool) -> None:
        self._reviewed_ns = time_ns
        if self._is_pressing:
            self._pressing_review_ns = min(2 * self._pressing_review_ns, QUIET_REVIEW_NS)
        self._is_pressing = False
        since_ns = changed_since_ns(everyone, self._log.observed(), self._sharing)
        if since_ns is not None and self._is_fitted:
            self._log.forget_before(since_ns)
            self._record.clear()
            self._disturb(time_ns)
        self._is_fitted = True
        self._sharing = fit(everyone, self._log.observed(), self._sharing)
        found = options(
            everyone,
            self._sharing,
            self._record,
            self._stubborn,
            offsets_ms(self._names, self._log),
        )
        best = found.best()
        now = found.row(list(self._target.values())) if self._target else None
        if now is None or must_move:
            self._move(everyone, found, best, time_ns)
        elif best != now or self._is_refused:
            self._compare(everyone, found, now, best, time_ns)

    def _compare(
        self, everyone: Sequence[Status], found: Options, now: int, best: int, time_ns: int
    ) -> None:
        """Move where it is better, but less and less often as what was promised fails to come."""
        is_early = time_ns - self._disturbed_ns < UNSETTLED_NS
        held_ns = time_ns - self._round_since_ns
        if found.meets(now):
            gain = found.accuracy[best] - found.accuracy[now]
            is_better = found.short[best] < found.short[now] or gain > (
                WORTHWHILE if is_early else WORTHWHILE_LATER
            )
            hold_ns = self._hold_ns if is_early else max(self._hold_ns, SETTLED_HOLD_NS)
            if is_better and held_ns >= hold_ns:
                self._is_trial = True
                self._move(everyone, found, best, time_ns)
            return
        is_due = held_ns >= self._hold_ns
        if not is_due:  # to make room is always allowed: that comes to an end
            best = found.best(found.lighter(now))
        is_better = found.meets(best) or found.trouble[now] - found.trouble[best] > LESS_LATE
        if (is_better and best != now) or (is_due and self._is_refused):
            if self._is_trial or best == now:
                self._hold_ns = min(2 * self._hold_ns, MAX_HOLD_NS)
            self._is_trial = not found.lighter(now)[best]
            self._move(everyone, found, best, time_ns)

    def _move(self, everyone: Sequence[Status], found: Options, row: int, time_ns: int) -> None:
        levels = found.combinations[row].tolist()
        self._target = dict(zip(self._names, levels, strict=True))
        self._waiting = {
            s.name: s.level
            for s in everyone
            if s.accuracy(self._target[s.name]) > s.accuracy(s.level)
        }
        self._round += 1
        self._round_since_ns = time_ns
        self._pressing_review_ns = PRESSING_REVIEW_NS
        self._at_target.clear()
        self._is_refused = False
        self._off_since_ns.clear()

    def _in_order(self, everyone: Sequence[Status], time_ns: int) -> dict[str, int]:
        """Return the target; those who go up wait where they were until there is room."""
        if self._waiting:
            makes_room = any(
                s.accuracy(self._target[s.name]) < s.accuracy(s.level)
                for s in everyone
                if s.name not in self._stubborn and s.name not in self._waiting
            )
            if not makes_room or time_ns - self._round_since_ns > ROOM_NS:
                self._waiting = {}
        return self._target | self._waiting


def _with_interval(status: Status, *, is_new: bool) -> Status:
    """Return the status with the rate of its frames, where that of arrivals is not known yet.

    The camera of a new one without any frame may be about to start: taken to be a fast one.
    """
    if math.isfinite(status.interval_ms):
        return status
    starts_ns = [frame.start_ns for frame in status.frames]
    if not starts_ns:
        return replace(status, interval_ms=max(status.latencies_ms)) if is_new else status
    if status.time_ns - starts_ns[-1] > RECENT_NS:
        return status
    if len(starts_ns) == 1:
        return replace(status, interval_ms=status.frames[-1].latency_ms)
    return replace(status, interval_ms=(starts_ns[-1] - starts_ns[0]) / 1e6 / (len(starts_ns) - 1))


def _is_same_rate(one_ms: float, other_ms: float) -> bool:
    is_pause = math.isinf(one_ms) or math.isinf(other_ms)
    return is_pause or _is_close(one_ms, other_ms, INTERVAL_CHANGE)


def _is_close(one: float, other: float, factor: float) -> bool:
    return one == other or max(one, other) < factor * min(one, other)
