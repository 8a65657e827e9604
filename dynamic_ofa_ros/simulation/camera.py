"""A camera in simulated time with a mailbox for the newest image, and the noise of its images."""

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
    """The timing of the camera, and the cost of a switch.

    camera_period_ms: time between two images; 0: an image is available at any time.
    camera_phase_ms: time of the first image. transport_ms: time until an image reaches the
    classifier.
    switch_ms: additional latency of the first frame after a switch. The measured cost of the node
    is 0.2 ms on a CPU (benchmarks/results/switching.json); 1 ms is a cautious assumption.
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


class Image(NamedTuple):
    """The number of an image, its arrival at the classifier, and the start of its processing."""

    number: int
    arrival_ms: float
    start_ms: float

    @property
    def wait_ms(self) -> float:
        """Return how long the image waits for the previous frame."""
        return self.start_ms - self.arrival_ms


class Camera:
    """Determines which image is processed next, and when; each image is processed at most once."""

    def __init__(self, timing: Timing, begin_ms: float = 0.0) -> None:
        self._period_ms = timing.camera_period_ms
        self._phase_ms = begin_ms + timing.camera_phase_ms + timing.transport_ms
        self._last = -1

    def next_image(self, free_at_ms: float) -> Image:
        """Return the newest image that has not been processed, or else the next one."""
        if self._period_ms == 0.0:
            self._last += 1
            start_ms = max(free_at_ms, self._phase_ms)
            return Image(self._last, start_ms, start_ms)
        # The tolerance prevents an image from being skipped because of rounding.
        newest = math.floor((free_at_ms - self._phase_ms) / self._period_ms + 1e-9)
        self._last = max(newest, self._last + 1)
        arrival_ms = self._phase_ms + self._last * self._period_ms
        if newest < self._last:
            return Image(self._last, arrival_ms, arrival_ms)
        return Image(newest, min(arrival_ms, free_at_ms), free_at_ms)


class FrameNoise:
    """A standard normal random number for each image, the same for every policy."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng([seed, *b'frames'])
        self._drawn: list[float] = []

    def of(self, camera_frame: int) -> float:
        """Return the random number of an image."""
        while camera_frame >= len(self._drawn):
            self._drawn += self._random.standard_normal(_NOISE_BLOCK).tolist()
        return self._drawn[camera_frame]
