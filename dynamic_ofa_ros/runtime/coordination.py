"""Several classifiers on one device: a collective choice of levels, without a central node.

Every manager tells the others its status ten times a second: its levels, limit, importance and
what it measures. From the same statuses all compute the same combination of levels: the one with
the highest weighted accuracy whose latencies meet every limit (Dynamic-OFA, section 4.4, switches
two models collectively). A manager takes from it only its own part, a *ceiling*: below it the
manager's own policy decides, for its own limit. So nobody has to trust anybody: a wrong or missing
status costs accuracy, never the own limit.

What a combination does to a limit is judged by its *delay*: what the latency, at the limit's
quantile, exceeds the uncontended one. Where it was measured it is known. Elsewhere a model tells:
frames that overlap slow each other down, with a strength learnt from the combinations measured,
the nearer the more. And more load never delays less: what was measured bounds what lies above and
below it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SILENCE_NS = 2_000_000_000
"""A peer that says nothing for so long is gone."""

TURN_NS = 300_000_000
"""How long the others wait for the one whose turn it is; longer than two status periods."""

PATIENCE_NS, STUBBORN_NS = 1_000_000_000, 10_000_000_000
"""Who does not make room for so long is taken to stay as it is; for how long."""

STATUS_PERIOD_NS = 100_000_000
"""How often a manager tells its status."""

RATE_WINDOW_NS, MIN_RATE_WINDOW_NS = 2_000_000_000, 500_000_000
"""Time over which arriving frames are counted; at first."""

WORTHWHILE = 0.003
"""Mean weighted accuracy (fraction) that moving to another combination must gain."""

HEADROOM = 0.03
"""What a new combination must leave of every limit: noise must not undo it at once."""

SETTLED_NS = 500_000_000
"""After a change of levels it takes this long until what is told belongs to them."""

NOTICED_NS = 250_000_000
"""Who leaves a combination after this long has measured why."""

REMEMBERED_NS = 60_000_000_000
"""What was measured is forgotten after this long away from that combination."""

FIRST_NS, FIRST_GAIN = 1_500_000_000, 0.5
RISE, FALL = 0.5, 0.02
"""Weight of a new status in a remembered delay: at first; then of one that is larger, or smaller.
Peaks are what counts: they come back."""

EASED = 0.3
"""When the slowdown falls by this much with the same levels, the device itself has changed."""

INTERVAL_CHANGE = 1.5
"""When frames come so much more or less often, what was measured says nothing any more."""

MAX_MARGIN = 1.1

LIGHTNESS = 0.25
"""How fast the weight of a level falls with its latency (exponent), before it was measured."""

MAX_STRENGTH = 1.5

TINY = 1e-6
"""Squared distance at which a combination counts as the same one."""

MAX_COMBINATIONS = 5_000
FIXED_POINT_ROUNDS = 4


@dataclass(frozen=True)
class Status:
    """What one manager tells the others.

    name: unique among the peers; device: the processor it runs on, with the host's name.
    level: the active one, from 1; latencies_ms and accuracies: of every level, uncontended.
    limit_ms: what inference may take, infinite without a limit; floor: accuracy wanted, 0 = none.
    slowdown: as estimated now; margin: what the limit's quantile adds to it, a factor >= 1.
    interval_ms: mean time between frames that arrive, processed or not; infinite for none.
    """

    name: str
    device: str
    level: int
    latencies_ms: tuple[float, ...]
    accuracies: tuple[float, ...]
    limit_ms: float = math.inf
    floor: float = 0.0
    priority: str = 'latency'
    importance: float = 1.0
    slowdown: float = 1.0
    margin: float = 1.0
    interval_ms: float = math.inf

    @property
    def is_sound(self) -> bool:
        """Tell whether the numbers make sense: a peer's message is not to be trusted."""
        count = len(self.latencies_ms)
        positive = (*self.latencies_ms, self.slowdown, self.margin, self.importance)
        return (
            0 < count == len(self.accuracies)
            and 1 <= self.level <= count
            and all(math.isfinite(value) and value > 0.0 for value in positive)
            and all(0.0 <= accuracy <= 1.0 for accuracy in self.accuracies)
            and self.limit_ms > 0.0
            and self.interval_ms > 0.0
            and 0.0 <= self.floor <= 1.0
            and self.priority in ('latency', 'accuracy')
        )

    @property
    def tail(self) -> float:
        """Return the factor on uncontended latencies that nearly all frames stay below just now.

        A large margin is left out: it remembers many frames, so it may belong to other levels.
        """
        return self.slowdown * min(self.margin, MAX_MARGIN)


@dataclass(frozen=True)
class Ceiling:
    """The highest level that the others leave to this one, and why."""

    level: int
    reason: str


class FrameInterval:
    """Mean time between the frames that arrive, over the last two seconds."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque()

    def update(self, time_ns: int, count: int) -> float:
        """Take how many frames have come so far; return the interval in ms, infinite for none."""
        counts = self._counts
        counts.append((time_ns, count))
        while time_ns - counts[0][0] > RATE_WINDOW_NS:
            counts.popleft()
        frames, span_ns = count - counts[0][1], time_ns - counts[0][0]
        if frames <= 0 or span_ns < MIN_RATE_WINDOW_NS:
            return math.inf
        return span_ns / 1e6 / frames


@dataclass(frozen=True)
class Contention:
    """How much slower frames run; (models,) or (N, models) arrays.

    strengths: what a frame of a peer that overlaps all of the own one adds, from 0 to 1.
    externals: the factor that no peer explains: noise, other programs.
    """

    strengths: FloatArray
    externals: FloatArray


class Memory:
    """What was measured at which combination of levels, as delays of each model."""

    def __init__(self) -> None:
        self._delays: dict[tuple[int, ...], tuple[int, FloatArray]] = {}

    def __bool__(self) -> bool:
        return bool(self._delays)

    def note(
        self, everyone: Sequence[Status], levels: tuple[int, ...], stay_ns: int, time_ns: int
    ) -> None:
        """Take what everyone measures after a stay at these levels."""
        latency_ms = latencies(everyone, np.array([levels]))[0]
        delay_ms = latency_ms * np.array([status.tail - 1.0 for status in everyone])
        self._delays = {
            known: entry
            for known, entry in self._delays.items()
            if time_ns - entry[0] <= REMEMBERED_NS
        }
        if levels in self._delays:
            known_ms = self._delays[levels][1]
            is_new = stay_ns < FIRST_NS
            if not is_new and ((known_ms - delay_ms) > EASED * latency_ms).any():
                self._delays.clear()
            else:
                gain = FIRST_GAIN if is_new else np.where(delay_ms > known_ms, RISE, FALL)
                delay_ms = known_ms + gain * (delay_ms - known_ms)
        self._delays[levels] = (time_ns, delay_ms)

    def predicted_ms(self, everyone: Sequence[Status], combinations: IntArray) -> FloatArray:
        """Return (N, models) latencies, at the limits' quantile, of (N, models) levels."""
        latency_ms = latencies(everyone, combinations)
        contention = self._contention(everyone, latency_ms)
        delay_ms = predicted_ms(everyone, contention, combinations) - latency_ms
        return latency_ms + self._bounded(everyone, latency_ms, delay_ms)

    def _contention(self, everyone: Sequence[Status], latency_ms: FloatArray) -> Contention:
        """Return the contention expected at each of (N, models) latencies.

        The mean of what was measured, the nearest counting most. The further a combination lies
        above everything measured, the more the worst is expected: that peers take turns, fully.
        """
        points = latencies(everyone, np.array(list(self._delays)))
        delay_ms = np.array([known_ms for _, known_ms in self._delays.values()])
        measured = _explained(everyone, points, 1.0 + delay_ms / points)
        log_ratio = np.log(latency_ms[:, None, :] / points[None, :, :])
        weight = 1.0 / ((log_ratio**2).sum(axis=2) + TINY)
        weight /= weight.sum(axis=1, keepdims=True)
        top_ms = np.array([max(status.latencies_ms) for status in everyone])
        ascent = np.maximum(log_ratio, 0.0).sum(axis=2) / (np.log(top_ms / points).sum(1) + TINY)
        unknown = ascent.min(axis=1)[:, None]
        strengths = (1.0 - unknown) * (weight @ measured.strengths) + unknown
        return Contention(strengths, weight @ measured.externals)

    def _bounded(
        self, everyone: Sequence[Status], latency_ms: FloatArray, delay_ms: FloatArray
    ) -> FloatArray:
        """Return the delays within what the measured ones allow."""
        highest = np.full(delay_ms.shape, math.inf)
        lowest = np.full(delay_ms.shape, -math.inf)
        for levels, (_, known_ms) in self._delays.items():
            at_ms = latencies(everyone, np.array([levels]))
            is_below = (latency_ms <= at_ms).all(axis=1, keepdims=True)
            is_above = (latency_ms >= at_ms).all(axis=1, keepdims=True)
            highest = np.where(is_below, np.minimum(highest, known_ms), highest)
            lowest = np.where(is_above, np.maximum(lowest, known_ms), lowest)
        bounded: FloatArray = np.maximum(np.minimum(delay_ms, highest), lowest)
        return bounded


def _explained(
    everyone: Sequence[Status], latency_ms: FloatArray, tails: FloatArray
) -> Contention:
    """Explain (N, models) tails measured at these latencies: by the peers as far as they can."""
    overlap = _overlap(everyone, latency_ms, latency_ms * tails)
    with np.errstate(divide='ignore', invalid='ignore'):
        strengths = np.where(overlap > 0.0, (tails - 1.0) / overlap, 0.0).clip(0.0, MAX_STRENGTH)
    return Contention(strengths, tails / (1.0 + strengths * overlap))


class Coordinator:
    """One manager's part in the collective; it keeps what the peers said and what was measured."""

    def __init__(self) -> None:
        self._peers: dict[str, tuple[int, Status]] = {}
        self._memory = Memory()
        self._circle: dict[str, Status] = {}
        self._levels: tuple[int, ...] = ()
        self._levels_since_ns = 0
        self._target: dict[str, int] = {}
        self._wishes: object = None
        self._turn: tuple[str, int] | None = None
        self._turn_since_ns = 0
        self._stubborn: dict[str, tuple[int, int]] = {}  # its level, until when

    def receive(self, status: Status, time_ns: int) -> bool:
        """Take a peer's status; return False and ignore it when its numbers make no sense."""
        if not status.is_sound:
            return False
        self._peers[status.name] = (time_ns, status)
        return True

    def peers(self, device: str, time_ns: int) -> list[Status]:
        """Return the living peers on a device, by name."""
        for name, (heard_ns, _) in list(self._peers.items()):
            if time_ns - heard_ns > SILENCE_NS:
                del self._peers[name]
        living = (status for _, status in self._peers.values() if status.device == device)
        return sorted(living, key=lambda status: status.name)

    def decide(self, own: Status, time_ns: int) -> Ceiling | None:
        """Return the own ceiling after this status; None when there is nobody to care for."""
        peers = [peer for peer in self.peers(own.device, time_ns) if peer.name != own.name]
        if not peers:
            self._circle, self._wishes = {}, None
            return None
        everyone = sorted([own, *peers], key=lambda status: status.name)
        self._recognise(everyone)
        self._learn(everyone, time_ns)
        if not self._memory:
            return Ceiling(own.level, f'collective with {_others(own, everyone)}: measures')
        self._aim(everyone, time_ns)
        return self._take_turn(own, everyone, time_ns)

    def _recognise(self, everyone: Sequence[Status]) -> None:
        """Forget what was measured with others, or with cameras of another rate."""
        known = self._circle
        self._circle = {
            s.name: replace(known[s.name], interval_ms=s.interval_ms)
            if s.name in known and math.isinf(known[s.name].interval_ms)
            else known.get(s.name, s)
            for s in everyone
        }
        if list(self._circle) == list(known) and all(
            status.latencies_ms == known[status.name].latencies_ms
            and _is_close(status.interval_ms, known[status.name].interval_ms)
            for status in everyone
        ):
            return
        self._circle = {status.name: status for status in everyone}
        self._memory = Memory()
        self._levels, self._wishes = (), None

    def _learn(self, everyone: Sequence[Status], time_ns: int) -> None:
        levels = tuple(status.level for status in everyone)
        if levels != self._levels:
            stay_ns = time_ns - self._levels_since_ns
            if self._levels and NOTICED_NS <= stay_ns < SETTLED_NS:
                self._memory.note(everyone, self._levels, stay_ns, time_ns)
            self._levels, self._levels_since_ns = levels, time_ns
        stay_ns = time_ns - self._levels_since_ns
        if stay_ns >= SETTLED_NS:
            self._memory.note(everyone, levels, stay_ns, time_ns)

    def _aim(self, everyone: Sequence[Status], time_ns: int) -> None:
        """Choose the combination to aim at; keep the present aim unless another is worth it."""

        def predict(combinations: IntArray) -> FloatArray:
            return self._memory.predicted_ms(everyone, combinations)

        cautious = [replace(s, limit_ms=s.limit_ms * (1.0 - HEADROOM)) for s in everyone]
        staying = self._staying(everyone, time_ns)
        best = best_combination(cautious, predict, staying)
        wishes = (
            staying,
            [(s.name, s.limit_ms, s.floor, s.priority, s.importance) for s in everyone],
        )
        if wishes == self._wishes:
            kept = [self._target[status.name] for status in everyone]
            if not _is_worthwhile(everyone, predict, kept, best):
                return
        self._wishes = wishes
        self._target = {s.name: level for s, level in zip(everyone, best, strict=True)}

    def _staying(self, everyone: Sequence[Status], time_ns: int) -> frozenset[str]:
        """Return who did not make room when it was its turn.

        It may not obey (policy `fixed`), or have measured something else and wait for others.
        """
        self._stubborn = {
            status.name: self._stubborn[status.name]
            for status in everyone
            if status.name in self._stubborn
            and self._stubborn[status.name][0] == status.level
            and time_ns < self._stubborn[status.name][1]
        }
        return frozenset(self._stubborn)

    def _take_turn(self, own: Status, everyone: Sequence[Status], time_ns: int) -> Ceiling:
        """Return the target when it is this one's turn to move; else the level it is at.

        Those who make room go first, the one that loses the least weighted accuracy per
        millisecond freed before the others; who may take more waits until the room is there.
        """
        target = self._target[own.name]
        movers = sorted(
            (s for s in everyone if _accuracy(s, self._target[s.name]) < _accuracy(s, s.level)),
            key=lambda s: (_price(s, self._target[s.name]), s.name),
        )
        names = _others(own, everyone)
        if not movers:
            self._turn = None
            return Ceiling(target, f'collective with {names}: at most level {target}')
        first = movers[0]
        turn = (first.name, first.level)
        if turn != self._turn:
            self._turn, self._turn_since_ns = turn, time_ns
        if time_ns - self._turn_since_ns > PATIENCE_NS and first.name != own.name:
            self._stubborn[first.name] = (first.level, time_ns + STUBBORN_NS)
        has_waited = time_ns - self._turn_since_ns > TURN_NS
        is_moving = own.name == first.name or (has_waited and own in movers)
        if is_moving:
            return Ceiling(target, f'collective: makes room for {names} at level {target}')
        if has_waited:
            return Ceiling(target, f'collective with {names}: at most level {target}')
        return Ceiling(own.level, f'collective: waits for {first.name} to make room')


Predict = Callable[[IntArray], FloatArray]
"""Returns the (N, models) latencies, at the limits' quantile, of (N, models) levels."""


def best_combination(
    everyone: Sequence[Status], predict: Predict, staying: Collection[str] = ()
) -> list[int]:
    """Return the levels, one a status, with the most weighted accuracy that meet every limit.

    staying: names of those that stay at the level they are at.
    Where no combination does, latency and floors are exceeded as little as possible. All
    combinations are compared up to `MAX_COMBINATIONS`; beyond, levels are lowered one by one, the
    cheapest per millisecond first.
    """
    ladders = [[s.level] if s.name in staying else _ladder(s) for s in everyone]
    if math.prod(len(ladder) for ladder in ladders) <= MAX_COMBINATIONS:
        grids = np.meshgrid(*[np.array(ladder) for ladder in ladders], indexing='ij')
        combinations = np.stack([grid.ravel() for grid in grids], axis=1)
    else:
        combinations = _descent(everyone, ladders)
    scores = _scores(everyone, predict, combinations)
    return [int(level) for level in combinations[int(np.lexsort(scores)[0])]]


def latencies(everyone: Sequence[Status], combinations: IntArray) -> FloatArray:
    """Return the (N, models) uncontended latencies of (N, models) levels."""
    return np.column_stack(
        [
            np.array(status.latencies_ms)[combinations[:, i] - 1]
            for i, status in enumerate(everyone)
        ]
    )


def predicted_ms(
    everyone: Sequence[Status], contention: Contention, combinations: IntArray
) -> FloatArray:
    """Return (N, models) latencies for (N, models) levels, sharing the device."""
    latency_ms = latencies(everyone, combinations)
    alone = latency_ms * contention.externals
    predicted = alone
    for _ in range(FIXED_POINT_ROUNDS):  # from below: it grows to the least solution
        overlap = _overlap(everyone, latency_ms, predicted)
        predicted = alone * (1.0 + contention.strengths * overlap)
    return predicted


def _overlap(
    everyone: Sequence[Status], latency_ms: FloatArray, contended_ms: FloatArray
) -> FloatArray:
    """Return (N, models) how many peers work during all of a frame, when frames meet badly.

    A peer's frame lasts for a part of the own one; a peer that is busy all the time for all of it.
    Its lower levels count a little less than its highest one: they ask for less of the device.
    """
    interval_ms = np.array([status.interval_ms for status in everyone])
    busy = np.minimum(1.0, contended_ms / interval_ms)[:, None, :]
    part = np.minimum(1.0, latency_ms[:, None, :] / latency_ms[:, :, None])
    top_ms = np.array([max(status.latencies_ms) for status in everyone])
    weight = ((latency_ms / top_ms) ** LIGHTNESS)[:, None, :]
    share = weight * np.maximum(busy, part)
    total: FloatArray = share.sum(axis=2) - np.diagonal(share, axis1=1, axis2=2)
    return total


def _scores(
    everyone: Sequence[Status], predict: Predict, combinations: IntArray
) -> tuple[FloatArray, ...]:
    """Return the keys to sort combinations by, the least important first, as lexsort wants."""
    limit_ms = np.array([status.limit_ms for status in everyone])
    weight = np.array([status.importance for status in everyone])
    accuracy = np.column_stack(
        [np.array(status.accuracies)[combinations[:, i] - 1] for i, status in enumerate(everyone)]
    )
    floor = np.array([status.floor for status in everyone])
    predicted = predict(combinations)
    late = np.log(np.maximum(predicted / limit_ms, 1.0)) @ weight
    short = np.maximum(floor - accuracy, 0.0) @ weight
    return predicted.sum(1), -(accuracy @ weight), np.round(short, 9), np.round(late, 9)


def _is_worthwhile(
    everyone: Sequence[Status], predict: Predict, kept: Sequence[int], best: Sequence[int]
) -> bool:
    if list(kept) == list(best):
        return False
    scores = _scores(everyone, predict, np.array([kept, best]))
    (_, _), (kept_accuracy, best_accuracy), kept_best_short, kept_best_late = scores
    if kept_best_late[0] > kept_best_late[1] or kept_best_short[0] > kept_best_short[1]:
        return True
    total = sum(status.importance for status in everyone)
    return bool(kept_accuracy - best_accuracy > WORTHWHILE * total)


def _ladder(status: Status) -> list[int]:
    """Return the levels worth running, ascending: none is slower than a more accurate one.

    When accuracy has priority only those that meet the floor, if any does.
    """
    ladder: list[int] = []
    for level in sorted(
        range(1, len(status.accuracies) + 1),
        key=lambda level: (-_accuracy(status, level), _latency_ms(status, level)),
    ):
        if not ladder or _latency_ms(status, level) < _latency_ms(status, ladder[-1]):
            ladder.append(level)
    ladder.reverse()
    if status.priority == 'accuracy':
        accurate = [level for level in ladder if _accuracy(status, level) >= status.floor]
        return accurate or ladder[-1:]
    return ladder


def _descent(everyone: Sequence[Status], ladders: Sequence[Sequence[int]]) -> IntArray:
    """Return the way down from everyone's highest level, cheapest steps first."""
    at = [len(ladder) - 1 for ladder in ladders]
    way = [[ladder[i] for ladder, i in zip(ladders, at, strict=True)]]
    while any(at):
        prices = {
            i: _price(replace(everyone[i], level=ladders[i][at[i]]), ladders[i][at[i] - 1])
            for i in range(len(everyone))
            if at[i]
        }
        at[min(prices, key=lambda i: (prices[i], everyone[i].name))] -= 1
        way.append([ladder[i] for ladder, i in zip(ladders, at, strict=True)])
    return np.array(way)


def _price(status: Status, level: int) -> float:
    """Return the weighted accuracy lost per millisecond freed by going down to a level."""
    freed_ms = _latency_ms(status, status.level) - _latency_ms(status, level)
    lost = status.importance * (_accuracy(status, status.level) - _accuracy(status, level))
    return lost / freed_ms if freed_ms > 0.0 else math.inf


def _others(own: Status, everyone: Sequence[Status]) -> str:
    return ', '.join(status.name for status in everyone if status.name != own.name)


def _is_close(one_ms: float, other_ms: float) -> bool:
    if math.isinf(one_ms) or math.isinf(other_ms):
        return True  # a camera that pauses
    return max(one_ms, other_ms) < INTERVAL_CHANGE * min(one_ms, other_ms)


def _accuracy(status: Status, level: int) -> float:
    return status.accuracies[level - 1]


def _latency_ms(status: Status, level: int) -> float:
    return status.latencies_ms[level - 1]
