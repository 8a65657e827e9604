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
    wait_ms: what of node_ms and end_to_end_ms the image waited for the one before it.
    period_ms: time between two images that arrive; NaN while it is unknown.
    """

    time_ns: int
    level: int
    inference_ms: float
    node_ms: float = NAN
    end_to_end_ms: float = NAN
    platform: str = ''
    wait_ms: float = 0.0
    period_ms: float = NAN


@dataclass(frozen=True)
class Decision:
    """A switch and its reasons. `from_level` is 0 for the first choice at start.

    predicted_latency_ms: as in ManagerState. Constraints are NaN where there is none. Where the
    manager chooses the platform too, the level may stay and the platform change.
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

    predicted_latency_ms: what the wanted share of frames (the quantile) is predicted to stay
    below at this level, in the limited scope.
    outside_ms: what of it is predicted to pass outside inference.
    latency_ms: of the last frame, in the limited scope; NaN before the first.
    consecutive_violations: frames in a row, up to the last one, that broke the limit.
    reason: the policy's present thinking, a sentence.
    platform: where the next frame runs.
    inference_limit_ms: what the limit leaves for inference; infinite without a limit.
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
    platform: str = ''
    inference_limit_ms: float = math.inf
    outside_ms: float = 0.0
