"""How the device is shared: what each model asks of it while it works, learnt from the frames.

As long as the demands of those at work fit (their sum is at most 1), nobody is slowed down;
beyond, all proceed at the same reduced speed. Two single-threaded models on one core ask for 1
each, on two cores for 0.5; on a GPU a light level may ask for less than a heavy one.

All peers are processes of one host, so they share its monotonic clock: the times of their frames
tell which ran side by side.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.runtime.coordination.status import Frame, Status

FloatArray = npt.NDArray[np.float64]

DEMAND, DEMAND_SD, POWER, POWER_SD = 0.5, 0.3, 0.7, 0.6
"""What is believed of a model's demand at its slowest level, and of how it falls with latency."""

POWERS, DEMANDS = np.array([0.0, 0.5, 1.0, 1.8]), np.linspace(0.1, 1.0, 13)
GRID = np.stack([np.tile(DEMANDS, len(POWERS)), np.repeat(POWERS, len(DEMANDS))])
"""Demands and powers that are compared."""

SPREAD, MIN_SPREAD, MAX_SPREAD, SPREAD_FRAMES = 0.03, 0.02, 0.3, 4.0
"""Spread of a frame's log-latency at first, its bounds, and what the first is worth in frames."""

KEPT_FRAMES, KEPT_SAMPLES, KEPT_COMBINATIONS, REMEMBERED_NS = 64, 4, 4, 8_000_000_000
"""What is kept of each model: frames; samples of a combination; combinations; for how long."""

MAX_WORK, MAX_SAMPLES = 4, 48
"""Models that are looked at each time, and samples that they are learnt from."""

ALONE = 0.05
"""A frame is alone when peers work in less than this part of it: it tells nothing."""

OUTLIER_SD = 3.0
"""Frames further off than this pull no harder."""


class Sample(NamedTuple):
    """A frame, cut where a peer's frame starts or ends.

    parts: (parts,) in units of its uncontended latency; light: (parts, models) log of the latency
    of the level that a model is at, relative to its slowest; -inf while it does not work.
    """

    model: int
    end_ns: int
    parts: FloatArray
    light: FloatArray


class Sharing:
    """What is known of the device; arrays are (models,), in the order of the names.

    demands: of the slowest level, in (0, 1]; powers: demand = demands * (latency / slowest's) **
    powers; spread: standard deviation of the log-latency of a frame around what the rest explains.
    """

    def __init__(self, names: Sequence[Hashable], before: Sharing | None = None) -> None:
        count = len(names)
        self.names = list(names)
        self.demands, self.powers = np.full(count, DEMAND), np.full(count, 0.5)
        self.spread = np.full(count, SPREAD)
        self.frames: list[deque[Frame]] = [deque(maxlen=KEPT_FRAMES) for _ in names]
        self._samples: dict[tuple[int, ...], deque[Sample]] = {}
        self._place: npt.NDArray[np.int64] | None = None  # in the grid
        self._known_ns, self._looked_ns = 0, [0] * count
        for i, name in enumerate(names):
            if before is not None and name in before.names:
                j = before.names.index(name)
                self.demands[i], self.powers[i] = before.demands[j], before.powers[j]
                self.frames[i] = before.frames[j]

    def take(self, everyone: Sequence[Status]) -> None:
        """Learn from what the models tell, in the order of the names."""
        for frames, s in zip(self.frames, everyone, strict=True):
            last_ns = frames[-1].end_ns if frames else 0
            frames.extend(frame for frame in s.frames if frame.end_ns > last_ns)
        # A frame is looked at when all that ran beside it have ended and been told.
        longest_ms = max((f.latency_ms for frames in self.frames for f in frames), default=0.0)
        until_ns = min(s.time_ns for s in everyone) - round(1e6 * longest_ms)
        if not self._known_ns:  # before, there may have been others
            self._known_ns = until_ns
        due = []
        for i, frames in enumerate(self.frames):
            found = [f for f in frames if self._known_ns < f.end_ns <= until_ns]
            due += [(self._looked_ns[i], i, found[-1])] if found else []
        self._known_ns = max(self._known_ns, until_ns)
        for _, i, frame in sorted(due)[:MAX_WORK]:
            self._looked_ns[i] = frame.end_ns
            self._look(everyone, i, frame)
        if due:
            self._fit([i for _, i, _ in sorted(due)[:MAX_WORK]])

    def _look(self, everyone: Sequence[Status], model: int, frame: Frame) -> None:
        """Cut a frame where a peer's frame starts or ends."""
        beside = [(model, frame)]
        for j, frames in enumerate(self.frames):
            for other in reversed(frames):
                if other.end_ns <= frame.start_ns:
                    break
                if j != model and other.start_ns < frame.end_ns:
                    beside.append((j, other))
        times_ns = np.array([t for _, f in beside for t in (f.start_ns, f.end_ns)])
        cuts = np.unique(np.clip(times_ns, frame.start_ns, frame.end_ns))
        light = np.full((len(cuts) - 1, len(everyone)), -np.inf)
        for j, other in beside:
            ms = everyone[j].latencies_ms
            works = (cuts[:-1] >= other.start_ns) & (cuts[1:] <= other.end_ns)
            light[works, j] = math.log(ms[other.level - 1] / max(ms))
        parts = np.diff(cuts) / 1e6 / everyone[model].latencies_ms[frame.level - 1]
        is_beside = np.isfinite(light).sum(axis=1) > 1
        if parts[is_beside].sum() < ALONE * parts.sum():
            return
        levels = (model, *(frames[-1].level if frames else 0 for frames in self.frames))
        samples = self._samples.pop(levels, deque(maxlen=KEPT_SAMPLES))
        samples.append(Sample(model, frame.end_ns, parts, light))
        self._samples[levels] = samples  # the last one visited comes last
        while len(self._samples) > min(KEPT_COMBINATIONS * len(everyone), MAX_SAMPLES):
            del self._samples[next(iter(self._samples))]

    def _fit(self, models: Sequence[int]) -> None:
        """Find the demands that explain the samples: one for all, then these models' own."""
        since_ns = self._known_ns - REMEMBERED_NS
        samples = [s for kept in self._samples.values() for s in kept if s.end_ns > since_ns]
        samples = samples[-MAX_SAMPLES:]
        if not samples:
            return
        model = np.array([s.model for s in samples])
        light = np.concatenate([s.light for s in samples])
        parts = np.concatenate([s.parts for s in samples])
        starts = np.cumsum([0, *(len(s.parts) for s in samples[:-1])])
        # (parts, models, grid): what each asks for, with every demand and power.
        works = np.isfinite(light)
        shares = np.exp(POWERS * np.where(works, light, 0.0)[..., None]) * works[..., None]
        asked = (shares[..., None] * DEMANDS).reshape(*light.shape, -1)

        def errors(total: FloatArray) -> FloatArray:
            explained = np.add.reduceat(parts[:, None] / np.maximum(total, 1.0), starts, axis=0)
            found: FloatArray = np.log(np.maximum(explained, 1e-9))
            return found

        def best(total: FloatArray, demand: float, power: float) -> int:
            off = np.minimum(np.abs(errors(total)) / self.spread[model, None], OUTLIER_SD)
            belief = ((GRID[0] - demand) / DEMAND_SD) ** 2 + ((GRID[1] - power) / POWER_SD) ** 2
            return int(np.argmin((off**2).sum(axis=0) + belief))

        common = best(asked.sum(axis=1), DEMAND, POWER)
        if self._place is None:
            self._place = np.full(len(self.names), common)
        now = np.take_along_axis(asked, self._place[None, :, None], axis=2)[..., 0]
        for j in models:
            others = now.sum(axis=1) - now[:, j]
            self._place[j] = best(others[:, None] + asked[:, j], *GRID[:, common])
            now[:, j] = asked[:, j, self._place[j]]
        self.demands, self.powers = GRID[:, self._place]
        squares = errors(now.sum(axis=1)[:, None])[:, 0] ** 2
        count = len(self.names)
        total = np.bincount(model, squares, count) + SPREAD_FRAMES * SPREAD**2
        frames = np.bincount(model, minlength=count) + SPREAD_FRAMES
        spread: FloatArray = np.clip(np.sqrt(total / frames), MIN_SPREAD, MAX_SPREAD)
        self.spread = spread
