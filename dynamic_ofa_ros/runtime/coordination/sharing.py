"""How a device is shared: what frames of several models take that run side by side.

Each model asks for a part of the device while it works, its demand. As long as the demands of
those at work fit, nobody is slowed down; beyond, all proceed at the same reduced speed. Demands of
1 are a device that serves one at a time. A light level may ask for less than a heavy one. The
pace is what slows down everybody all the time: a lower clock, other programs.

Limits are judged from the critical instant on, as response-time analysis does: all cameras
deliver at once. Cameras of different rates come to that sooner or later; one camera for all is
always there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.runtime.coordination.status import Status

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

HORIZON = 2.0
"""Played from the critical instant on: so many of the longest intervals between frames."""

MAX_EVENTS = 200
"""Bound of the events played."""

NORMAL_SLOPE = 1.702
"""1 / (1 + exp(-slope z)) is within 0.01 of the normal distribution."""


@dataclass(frozen=True)
class Sharing:
    """What is known of the device; arrays are (models,).

    demands: of each model's slowest level, in (0, 1]; lightness: how they fall with the level's
    latency (an exponent, 0 = not at all); pace: factor on all latencies; spread: standard
    deviation of the log-latency of a frame around what the rest predicts.
    """

    demands: FloatArray
    lightness: FloatArray
    pace: float
    spread: FloatArray


def latencies(everyone: Sequence[Status], combinations: IntArray) -> FloatArray:
    """Return the (N, models) uncontended latencies of (N, models) levels."""
    return np.column_stack(
        [np.array(s.latencies_ms)[combinations[:, i] - 1] for i, s in enumerate(everyone)]
    )


@dataclass(frozen=True)
class Lateness:
    """(N, models): the expected share of late frames, and by how much they are late (log)."""

    share: FloatArray
    excess: FloatArray


def predict(
    everyone: Sequence[Status],
    sharing: Sharing,
    combinations: IntArray,
    offsets_ms: FloatArray | None = None,
) -> Lateness:
    """Return what (N, models) levels make of the limits, from the critical instant on.

    offsets_ms: (models,) when cameras that keep step deliver; by default all at once.
    """
    latency_ms = latencies(everyone, combinations)
    longest_ms = np.array([max(status.latencies_ms) for status in everyone])
    demands = sharing.demands * (latency_ms / longest_ms) ** sharing.lightness
    interval_ms = np.array([status.interval_ms for status in everyone])
    log_limit = np.log([status.limit_ms for status in everyone])
    frames, late, excess = (np.zeros(combinations.shape) for _ in range(3))
    for ended, taken_ms in _frames(
        latency_ms * sharing.pace,
        demands,
        interval_ms,
        np.zeros(len(everyone)) if offsets_ms is None else offsets_ms,
    ):
        over = np.log(np.maximum(taken_ms, 1e-9)) - log_limit
        frames += ended
        with np.errstate(over='ignore'):
            late += ended / (1.0 + np.exp(-NORMAL_SLOPE * over / sharing.spread))
        excess += ended * np.maximum(over, 0.0)
    frames = np.maximum(frames, 1.0)
    return Lateness(late / frames, excess / frames)


def _frames(
    work_ms: FloatArray, demands: FloatArray, interval_ms: FloatArray, offsets_ms: FloatArray
) -> list[tuple[BoolArray, FloatArray]]:
    """Play all combinations from the critical instant on: who ends a frame, and what it took."""
    is_there = np.isfinite(interval_ms)
    if not is_there.any():
        return []
    horizon_ms = HORIZON * max(float(interval_ms[is_there].max()), float(work_ms.max()))
    interval_ms = np.where(is_there, interval_ms, 1.0)
    shape = work_ms.shape
    now_ms = np.zeros((shape[0], 1))
    started_ms, left_ms = np.zeros(shape), np.zeros(shape)
    is_running = np.zeros(shape, dtype=bool)
    next_ms = np.where(is_there, offsets_ms, math.inf) + np.zeros(shape)
    found = []
    for _ in range(MAX_EVENTS):
        starts = ~is_running & (next_ms <= now_ms)
        left_ms = np.where(starts, work_ms, left_ms)
        started_ms = np.where(starts, now_ms, started_ms)
        is_running |= starts
        slow = np.maximum(1.0, (is_running * demands).sum(axis=1, keepdims=True))
        event_ms = np.where(is_running, now_ms + left_ms * slow, next_ms)
        then_ms = event_ms.min(axis=1, keepdims=True)
        ended = is_running & (event_ms <= then_ms)
        left_ms = left_ms - (then_ms - now_ms) / slow
        now_ms = then_ms
        is_running &= ~ended
        found.append((ended, np.where(ended, now_ms - started_ms, 0.0)))
        newest_ms = offsets_ms + interval_ms * np.floor((now_ms - offsets_ms) / interval_ms + 1e-9)
        waiting = newest_ms > started_ms + 1e-9
        next_ms = np.where(ended, np.where(waiting, now_ms, newest_ms + interval_ms), next_ms)
        if (now_ms >= horizon_ms).all():
            break
    return found
