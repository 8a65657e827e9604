"""Several classifiers on one device: a collective choice of levels, without a central node.

Every manager tells the others its status a few times a second: its levels, limit, importance and
what it measures. From the same statuses all compute the same combination of levels: the one with
the highest weighted accuracy whose latencies meet every limit (Dynamic-OFA, section 4.4, switches
two models collectively). A manager takes from it only its own part, a *ceiling*: below it the
manager's own policy decides, for its own limit. So nobody has to trust anybody: a wrong or missing
status costs accuracy, never the own limit.

What a level does to the others follows from how much of the time it keeps the device busy:
`busy = latency / interval between frames`. While one classifier runs, the busy others share the
device with it in equal parts, so its latency is `uncontended * external * (1 + sum of busy)`.
`external` is what the measured slowdown leaves to explain: other programs, or where this model is
wrong.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SILENCE_NS = 2_000_000_000
"""A peer that says nothing for so long is gone."""

TURN_NS = 300_000_000
"""How long the others wait for the one whose turn it is; longer than two status periods."""

STATUS_PERIOD_NS = 100_000_000
"""How often a manager tells its status."""

RATE_WINDOW_NS = 1_000_000_000
"""Time over which arriving frames are counted."""

WORTHWHILE = 0.002
"""Weighted accuracy (fraction) a new combination must gain before anyone moves for it."""

HEADROOM = 0.03
"""What a new combination must leave of every limit: noise must not undo it at once."""

MAX_COMBINATIONS = 20_000
FIXED_POINT_ROUNDS = 12
EXTERNAL_GAIN = 0.3
"""Weight of a new status in the running mean of a peer's external slowdown."""

MIN_EXTERNAL, MAX_EXTERNAL = 0.5, 50.0


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
    def busy(self) -> float:
        """Return the share of time that this classifier keeps the device busy, in [0, 1]."""
        latency_ms = self.latencies_ms[self.level - 1] * self.slowdown
        return min(1.0, latency_ms / self.interval_ms)


@dataclass(frozen=True)
class Ceiling:
    """The highest level that the others leave to this one, and why."""

    level: int
    reason: str


class FrameInterval:
    """Mean time between the frames that arrive, over the last second."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque()

    def update(self, time_ns: int, count: int) -> float:
        """Take how many frames have come so far; return the interval in ms, infinite for none."""
        counts = self._counts
        counts.append((time_ns, count))
        while time_ns - counts[0][0] > RATE_WINDOW_NS:
            counts.popleft()
        frames = count - counts[0][1]
        return (time_ns - counts[0][0]) / 1e6 / frames if frames > 0 else math.inf


class Coordinator:
    """One manager's part in the collective; it keeps what the peers said."""

    def __init__(self) -> None:
        self._peers: dict[str, tuple[int, Status]] = {}
        self._external: dict[str, float] = {}
        self._target: dict[str, int] = {}
        self._key: object = None
        self._turn: tuple[str, int] | None = None
        self._turn_since_ns = 0

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
                self._external.pop(name, None)
        living = (status for _, status in self._peers.values() if status.device == device)
        return sorted(living, key=lambda status: status.name)

    def decide(self, own: Status, time_ns: int) -> Ceiling | None:
        """Return the own ceiling after this status; None when there is nobody to care for."""
        peers = [peer for peer in self.peers(own.device, time_ns) if peer.name != own.name]
        if not peers:
            self._target, self._key = {}, None
            return None
        everyone = sorted([own, *peers], key=lambda status: status.name)
        self._learn(everyone)
        self._aim(everyone)
        return self._take_turn(own, everyone, time_ns)

    def _learn(self, everyone: Sequence[Status]) -> None:
        total = sum(status.busy for status in everyone)
        for status in everyone:
            shared = 1.0 + total - status.busy
            external = min(MAX_EXTERNAL, max(MIN_EXTERNAL, status.slowdown / shared))
            known = self._external.get(status.name, external)
            self._external[status.name] = known + EXTERNAL_GAIN * (external - known)

    def _aim(self, everyone: Sequence[Status]) -> None:
        """Choose the combination to aim at; keep the present aim unless another is worth it."""
        external = [self._external[status.name] for status in everyone]
        cautious = [replace(s, limit_ms=s.limit_ms * (1.0 - HEADROOM)) for s in everyone]
        best = best_combination(cautious, external)
        key = tuple((s.name, s.limit_ms, s.floor, s.importance) for s in everyone)
        if key == self._key:
            kept = [self._target[status.name] for status in everyone]
            if not _is_worthwhile(everyone, external, kept, best):
                return
        self._key = key
        self._target = {s.name: level for s, level in zip(everyone, best, strict=True)}

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
        names = ', '.join(status.name for status in everyone if status.name != own.name)
        if not movers:
            self._turn = None
            return Ceiling(target, f'collective with {names}: at most level {target}')
        first = movers[0]
        turn = (first.name, first.level)
        if turn != self._turn:
            self._turn, self._turn_since_ns = turn, time_ns
        has_waited = time_ns - self._turn_since_ns > TURN_NS
        is_moving = own.name == first.name or (has_waited and own in movers)
        if is_moving:
            return Ceiling(target, f'collective: makes room for {names} at level {target}')
        if has_waited:
            return Ceiling(target, f'collective with {names}: at most level {target}')
        return Ceiling(own.level, f'collective: waits for {first.name} to make room')


def best_combination(everyone: Sequence[Status], external: Sequence[float]) -> list[int]:
    """Return the levels, one a status, with the most weighted accuracy that meet every limit.

    Where no combination does, latency and floors are exceeded as little as possible. All
    combinations are compared up to `MAX_COMBINATIONS`; beyond, levels are lowered one by one, the
    cheapest per millisecond first.
    """
    ladders = [_ladder(status) for status in everyone]
    if math.prod(len(ladder) for ladder in ladders) <= MAX_COMBINATIONS:
        grids = np.meshgrid(*[np.array(ladder) for ladder in ladders], indexing='ij')
        combinations = np.stack([grid.ravel() for grid in grids], axis=1)
    else:
        combinations = _descent(everyone, external, ladders)
    scores = _scores(everyone, external, combinations)
    return [int(level) for level in combinations[int(np.lexsort(scores)[0])]]


def predicted_ms(
    everyone: Sequence[Status], external: Sequence[float], combinations: IntArray
) -> FloatArray:
    """Return (N, models) latencies for (N, models) levels, sharing the device."""
    latency_ms = np.column_stack(
        [
            np.array(status.latencies_ms)[combinations[:, i] - 1]
            for i, status in enumerate(everyone)
        ]
    )
    interval_ms = np.array([status.interval_ms for status in everyone])
    alone = latency_ms * np.array(external)
    predicted: FloatArray = alone
    for _ in range(FIXED_POINT_ROUNDS):  # from below: it grows to the least solution
        busy = np.minimum(1.0, predicted / interval_ms)
        predicted = alone * (1.0 + busy.sum(1, keepdims=True) - busy)
    return predicted


def _scores(
    everyone: Sequence[Status], external: Sequence[float], combinations: IntArray
) -> tuple[FloatArray, ...]:
    """Return the keys to sort combinations by, the least important first, as lexsort wants."""
    margin = np.array([status.margin for status in everyone])
    limit_ms = np.array([status.limit_ms for status in everyone])
    weight = np.array([status.importance for status in everyone])
    accuracy = np.column_stack(
        [np.array(status.accuracies)[combinations[:, i] - 1] for i, status in enumerate(everyone)]
    )
    floor = np.array([status.floor for status in everyone])
    predicted = predicted_ms(everyone, external, combinations)
    late = np.log(np.maximum(predicted * margin / limit_ms, 1.0)) @ weight
    short = np.maximum(floor - accuracy, 0.0) @ weight
    return predicted.sum(1), -(accuracy @ weight), np.round(short, 9), np.round(late, 9)


def _is_worthwhile(
    everyone: Sequence[Status], external: Sequence[float], kept: Sequence[int], best: Sequence[int]
) -> bool:
    if list(kept) == list(best):
        return False
    scores = _scores(everyone, external, np.array([kept, best]))
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


def _descent(
    everyone: Sequence[Status], external: Sequence[float], ladders: Sequence[Sequence[int]]
) -> IntArray:
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


def _accuracy(status: Status, level: int) -> float:
    return status.accuracies[level - 1]


def _latency_ms(status: Status, level: int) -> float:
    return status.latencies_ms[level - 1]
