"""A camera in simulated time, the newest-only mailbox behind it, and the noise of its pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dynamic_ofa_ros.errors import SimulationError

DEFAULT_CAMERA_PERIOD_MS = 100.0 / 3.0
DEFAULT_SWITCH_MS = 1.0

_NOISE_BLOCK = 1024


@dataclass(frozen=True)
class Timing:
    """How frames come, and what a switch costs.

    camera_period_ms: time between two pictures; 0 is back to back, a picture whenever one is
    wanted. camera_phase_ms: when the first picture is made. transport_ms: from then until it
    reaches the classifier.
    switch_ms: what the first frame after a switch costs more. The node's measured cost is 0.2 ms
    on a CPU (benchmarks/results/switching.json); 1 ms is careful.
    """

    camera_period_ms: float = DEFAULT_CAMERA_PERIOD_MS
    camera_phase_ms: float = 0.0
    switch_ms: float = DEFAULT_SWITCH_MS
    transport_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ('camera_period_ms', 'camera_phase_ms', 'switch_ms', 'transport_ms'):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise SimulationError(f'{name} is {value:g}; it must be finite and not negative')


class Picture(NamedTuple):
    """The number of a picture, when it reached the classifier, and when it is taken up."""

    number: int
    arrival_ms: float
    start_ms: float

    @property
    def wait_ms(self) -> float:
        """How long it waits for the frames before it."""
        return self.start_ms - self.arrival_ms


class Camera:
    """Says which picture is classified next, and when; a picture is classified once."""

    def __init__(self, timing: Timing, begin_ms: float = 0.0) -> None:
        self._period_ms = timing.camera_period_ms
        self._phase_ms = begin_ms + timing.camera_phase_ms + timing.transport_ms
        self._last = -1

    def next_picture(self, free_at_ms: float) -> Picture:
        """Return the newest picture that has come, or the next one to come."""
        if self._period_ms == 0.0:
            self._last += 1
            start_ms = max(free_at_ms, self._phase_ms)
            return Picture(self._last, start_ms, start_ms)
        # The rounding of a time that should fall on a picture must not cost that picture.
        newest = math.floor((free_at_ms - self._phase_ms) / self._period_ms + 1e-9)
        self._last = max(newest, self._last + 1)
        arrival_ms = self._phase_ms + self._last * self._period_ms
        if newest < self._last:
            return Picture(self._last, arrival_ms, arrival_ms)
        return Picture(newest, min(arrival_ms, free_at_ms), free_at_ms)


class FrameNoise:
    """A standard normal number per picture of the camera, the same for every policy."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng([seed, *b'frames'])
        self._drawn: list[float] = []

    def of(self, camera_frame: int) -> float:
        """Return the number of a picture."""
        while camera_frame >= len(self._drawn):
            self._drawn += self._random.standard_normal(_NOISE_BLOCK).tolist()
        return self._drawn[camera_frame]
