"""What goes into the runtime manager and comes out: measurements, decisions, its state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamic_ofa_ros.constraints import Constraints

NAN = math.nan


@dataclass(frozen=True)
class Measurement:
    """The latencies of one frame, and when it was finished.

    node_ms: from arrival to the answer; end_to_end_ms: from the image's stamp to the answer.
    platform: where it ran; may be left out where there is only one.
    """

    time_ns: int
    level: int
    inference_ms: float
    node_ms: float = NAN
    end_to_end_ms: float = NAN
    platform: str = ''


@dataclass(frozen=True)
class Decision:
    """A switch and its reasons. `from_level` is 0 for the first choice at start.

    Latencies are of the limited scope; constraints are NaN where there is none. Where the manager
    chooses the platform too, the level may stay and the platform change.
    """

    time_ns: int
    from_level: int
    to_level: int
    reason: str
    policy: str
    is_feasible: bool
    slowdown: float
    expected_inference_ms: float
    predicted_latency_ms: float
    max_latency_ms: float
    min_accuracy: float
    from_platform: str = ''
    to_platform: str = ''


@dataclass(frozen=True)
class ManagerState:
    """What the manager knows after a frame; a snapshot that other threads may read.

    predicted_latency_ms: expected of the next frame, in the limited scope.
    latency_ms: of the last frame, in the limited scope; NaN before the first.
    consecutive_violations: frames in a row, up to the last one, that broke the limit.
    reason: the policy's present thinking, a sentence.
    slowdown_sd: how far the slowdown may be off, relative (a standard deviation).
    platform: where the next frame runs.
    inference_limit_ms: what the limit leaves for inference; infinite without a limit.
    margin: what the limit's quantile adds to the slowdown, a factor of at least 1.
    """

    level: int
    policy: str
    is_feasible: bool
    is_contended: bool
    slowdown: float
    latency_ms: float
    predicted_latency_ms: float
    violations: int
    consecutive_violations: int
    switch_count: int
    reason: str
    constraints: Constraints
    slowdown_sd: float = NAN
    platform: str = ''
    inference_limit_ms: float = math.inf
    margin: float = 1.0
