"""Estimate how the models share the device: their demand, learnt from frames.

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
"""Prior (mean and standard deviation) of the demand of a model's slowest level, and of the
exponent with which the demand decreases with the latency of the level."""

POWERS, DEMANDS = np.array([[0.0], [0.5], [1.0], [1.8]]), np.linspace(0.1, 1.0, 13)
"""Candidates for the power and the demand."""

SPREAD, MIN_SPREAD, MAX_SPREAD, SPREAD_FRAMES = 0.03, 0.02, 0.3, 12.0
"""Spread of a frame's log-latency: initial value, bounds, and weight of the initial value in
frames."""

KEPT_FRAMES, KEPT_SAMPLES = 64, 200
"""Maximum numbers of frames per model and of samples."""

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
    parts: FloatArray
    light: FloatArray


class Sharing:
    """The demand of the models, which is the same for all.

    demand: of the slowest level, in (0, 1]; that of another level is demand * (latency / latency
    of the slowest level) ** power. spread: standard deviation of the log-latency of a frame around
    its prediction, (models,). frames: the last frames of each model.
    """

    def __init__(self, members: Sequence[Hashable], before: Sharing | None = None) -> None:
        self.members = list(members)
        self.demand: float = before.demand if before else DEMAND
        self.power: float = before.power if before else POWER
        self.spread = np.full(len(members), SPREAD)
        self.frames: list[deque[Frame]] = [deque(maxlen=KEPT_FRAMES) for _ in members]
        self._samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)
        self._known_ns = 0
        for i, member in enumerate(members):
            if before is not None and member in before.members:
                self.frames[i] = before.frames[before.members.index(member)]

    def take(self, everyone: Sequence[Status]) -> None:
        """Learn from the statuses of all models, given in the order of the members."""
        for frames, s in zip(self.frames, everyone, strict=True):
            last_ns = frames[-1].end_ns if frames else 0
            frames.extend(frame for frame in s.frames if frame.end_ns > last_ns)
        # A frame is used when all frames that ran at the same time are known.
        longest_ms = max((f.latency_ms for frames in self.frames for f in frames), default=0.0)
        until_ns = min(s.time_ns for s in everyone) - round(1e6 * longest_ms)
        since_ns = self._known_ns or until_ns  # other models may have run before
        self._known_ns = max(since_ns, until_ns)
        for i, frames in enumerate(self.frames):
            new = [frame for frame in frames if since_ns < frame.end_ns <= until_ns]
            if new:
                self._add_sample(everyone, i, new[-1])
        if self._samples:
            self._fit()

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
        if parts[is_beside].sum() >= ALONE * parts.sum():
            self._samples.append(Sample(model, parts, light))

    def _fit(self) -> None:
        """Choose the demand and the power that explain the samples best."""
        model = np.array([s.model for s in self._samples])
        light = np.concatenate([s.light for s in self._samples])
        parts = np.concatenate([s.parts for s in self._samples])
        starts = np.cumsum([0, *(len(s.parts) for s in self._samples)])[:-1]
        works = np.isfinite(light)
        light = np.where(works, light, 0.0)
        relative = (np.exp(POWERS * light[:, None, :]) * works[:, None, :]).sum(axis=2)
        total = relative[..., None] * DEMANDS  # (parts, powers, demands)
        explained = np.add.reduceat(parts[:, None, None] / np.maximum(total, 1.0), starts, axis=0)
        errors = np.log(np.maximum(explained, 1e-9))
        deviations = np.minimum(np.abs(errors) / self.spread[model, None, None], OUTLIER_SD)
        prior = ((DEMANDS - DEMAND) / DEMAND_SD) ** 2 + ((POWERS - POWER) / POWER_SD) ** 2
        loss = (deviations**2).sum(axis=0) + prior
        i, j = np.unravel_index(np.argmin(loss), loss.shape)
        self.power, self.demand = float(POWERS[i, 0]), float(DEMANDS[j])
        count = len(self.members)
        squares = np.bincount(model, errors[:, i, j] ** 2, count) + SPREAD_FRAMES * SPREAD**2
        frames = np.bincount(model, minlength=count) + SPREAD_FRAMES
        self.spread = np.clip(np.sqrt(squares / frames), MIN_SPREAD, MAX_SPREAD)
