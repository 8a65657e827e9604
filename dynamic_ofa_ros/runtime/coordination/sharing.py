"""Estimate how the models share the device: the demand of each model, learnt from frames.

The demand is the share of the device that a model uses while it runs. If the sum of the demands of
all running models is at most 1, no model is slowed down; otherwise all are slowed down by this
sum. The demand of a single-threaded model is 1 on one core and 0.5 on two cores; on a GPU, the
demand of a light level can be lower than that of a heavy one.

All peers are processes of one host and share its monotonic clock, so the times of their frames
show which frames ran at the same time.
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
"""Prior (mean and standard deviation) of a model's demand at its slowest level, and of the
exponent with which the demand decreases with the latency of the level."""

POWERS, DEMANDS = np.array([0.0, 0.5, 1.0, 1.8]), np.linspace(0.1, 1.0, 13)
GRID = np.stack([np.tile(DEMANDS, len(POWERS)), np.repeat(POWERS, len(DEMANDS))])
"""Candidates for demands and powers."""

SPREAD, MIN_SPREAD, MAX_SPREAD, SPREAD_FRAMES = 0.03, 0.02, 0.3, 4.0
"""Spread of a frame's log-latency: initial value, bounds, and weight of the initial value in
frames."""

KEPT_FRAMES, KEPT_SAMPLES, KEPT_COMBINATIONS, REMEMBERED_NS = 64, 4, 4, 8_000_000_000
"""Maximum numbers of frames per model, of samples per combination, and of combinations per model;
maximum age of a sample."""

MAX_WORK, MAX_SAMPLES = 4, 48
"""Maximum numbers of models that are fitted in one call, and of samples used for it."""

ALONE = 0.05
"""Frames are ignored if peers run during less than this share of them."""

OUTLIER_SD = 3.0
"""Deviations are clipped to this number of standard deviations."""


class Sample(NamedTuple):
    """A frame, divided into parts at the times when a frame of a peer starts or ends.

    parts: duration of each part divided by the frame's uncontended latency, (parts,). light: log
    of the latency of a model's level relative to its slowest level, (parts, models); -inf if the
    model does not run during the part.
    """

    model: int
    end_ns: int
    parts: FloatArray
    light: FloatArray


class Sharing:
    """The estimated demands of all models; arrays are (models,), in the order of the names.

    demands: of the slowest level, in (0, 1]. powers: the demand of a level is demands * (latency /
    latency of the slowest level) ** powers. spread: standard deviation of the log-latency of a
    frame around its prediction.
    """

    def __init__(self, names: Sequence[Hashable], before: Sharing | None = None) -> None:
        count = len(names)
        self.names = list(names)
        self.demands, self.powers = np.full(count, DEMAND), np.full(count, 0.5)
        self.spread = np.full(count, SPREAD)
        self.frames: list[deque[Frame]] = [deque(maxlen=KEPT_FRAMES) for _ in names]
        self._samples: dict[tuple[int, ...], deque[Sample]] = {}
        self._place: npt.NDArray[np.int64] | None = None  # index in GRID
        self._known_ns, self._looked_ns = 0, [0] * count
        for i, name in enumerate(names):
            if before is not None and name in before.names:
                j = before.names.index(name)
                self.demands[i], self.powers[i] = before.demands[j], before.powers[j]
                self.frames[i] = before.frames[j]

    def take(self, everyone: Sequence[Status]) -> None:
        """Learn from the statuses of all models, given in the order of the names."""
        for frames, s in zip(self.frames, everyone, strict=True):
            last_ns = frames[-1].end_ns if frames else 0
            frames.extend(frame for frame in s.frames if frame.end_ns > last_ns)
        # A frame is used when all frames that ran at the same time are known.
        longest_ms = max((f.latency_ms for frames in self.frames for f in frames), default=0.0)
        until_ns = min(s.time_ns for s in everyone) - round(1e6 * longest_ms)
        if not self._known_ns:  # other models may have run before
            self._known_ns = until_ns
        due = []
        for i, frames in enumerate(self.frames):
            found = [f for f in frames if self._known_ns < f.end_ns <= until_ns]
            due += [(self._looked_ns[i], i, found[-1])] if found else []
        self._known_ns = max(self._known_ns, until_ns)
        for _, i, frame in sorted(due)[:MAX_WORK]:
            self._looked_ns[i] = frame.end_ns
            self._add_sample(everyone, i, frame)
        if due:
            self._fit([i for _, i, _ in sorted(due)[:MAX_WORK]])

    def _add_sample(self, everyone: Sequence[Status], model: int, frame: Frame) -> None:
        """Add a sample: a frame, divided at the times when a frame of a peer starts or ends."""
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
        self._samples[levels] = samples  # the most recent combination comes last
        while len(self._samples) > min(KEPT_COMBINATIONS * len(everyone), MAX_SAMPLES):
            del self._samples[next(iter(self._samples))]

    def _fit(self, models: Sequence[int]) -> None:
        """Fit the demands to the samples: a common one for all models, then those of `models`."""
        since_ns = self._known_ns - REMEMBERED_NS
        samples = [s for kept in self._samples.values() for s in kept if s.end_ns > since_ns]
        samples = samples[-MAX_SAMPLES:]
        if not samples:
            return
        model = np.array([s.model for s in samples])
        light = np.concatenate([s.light for s in samples])
        parts = np.concatenate([s.parts for s in samples])
        starts = np.cumsum([0, *(len(s.parts) for s in samples[:-1])])
        # Demand of each model for each candidate, (parts, models, grid).
        works = np.isfinite(light)
        shares = np.exp(POWERS * np.where(works, light, 0.0)[..., None]) * works[..., None]
        demand = (shares[..., None] * DEMANDS).reshape(*light.shape, -1)

        def errors(total: FloatArray) -> FloatArray:
            explained = np.add.reduceat(parts[:, None] / np.maximum(total, 1.0), starts, axis=0)
            found: FloatArray = np.log(np.maximum(explained, 1e-9))
            return found

        def best(total: FloatArray, mean_demand: float, mean_power: float) -> int:
            residual = np.minimum(np.abs(errors(total)) / self.spread[model, None], OUTLIER_SD)
            prior = ((GRID[0] - mean_demand) / DEMAND_SD) ** 2
            prior += ((GRID[1] - mean_power) / POWER_SD) ** 2
            return int(np.argmin((residual**2).sum(axis=0) + prior))

        common = best(demand.sum(axis=1), DEMAND, POWER)
        if self._place is None:
            self._place = np.full(len(self.names), common)
        now = np.take_along_axis(demand, self._place[None, :, None], axis=2)[..., 0]
        for j in models:
            others = now.sum(axis=1) - now[:, j]
            self._place[j] = best(others[:, None] + demand[:, j], *GRID[:, common])
            now[:, j] = demand[:, j, self._place[j]]
        self.demands, self.powers = GRID[:, self._place]
        squares = errors(now.sum(axis=1)[:, None])[:, 0] ** 2
        count = len(self.names)
        total = np.bincount(model, squares, count) + SPREAD_FRAMES * SPREAD**2
        frames = np.bincount(model, minlength=count) + SPREAD_FRAMES
        spread: FloatArray = np.clip(np.sqrt(total / frames), MIN_SPREAD, MAX_SPREAD)
        self.spread = spread
