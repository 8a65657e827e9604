"""Input and output of the runtime manager: measurements, decisions and its state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from dynamic_ofa_ros.constraints import Constraints

NAN = math.nan


class Measurement(NamedTuple):
    """The latencies of one frame, which was finished at `time_ns`.

    node_ms: from arrival to result. end_to_end_ms: from the image's stamp to the result.
    platform: the platform that ran it; may be empty if there is only one.
    wait_ms: the part of node_ms and end_to_end_ms that the image waited for the previous frame.
    period_ms: time between the arrivals of two images; NaN if unknown.
    """

    time_ns: int
    level: int
    inference_ms: float
    node_ms: float = NAN
    end_to_end_ms: float = NAN
    platform: str = ''
    wait_ms: float = 0.0
    period_ms: float = NAN

    def outside_ms(self) -> tuple[float, float, float]:
        """Return the time outside inference, without the wait, by scope; 0.0 if unknown."""
        node_ms = self.node_ms - self.inference_ms - self.wait_ms
        end_to_end_ms = self.end_to_end_ms - self.inference_ms - self.wait_ms
        return (
            0.0,
            node_ms if 0.0 < node_ms < math.inf else 0.0,
            end_to_end_ms if 0.0 < end_to_end_ms < math.inf else 0.0,
        )


@dataclass(frozen=True)
class Decision:
    """A switch and its reason. `from_level` is 0 for the first choice at the start.

    predicted_latency_ms: as in ManagerState. max_latency_ms, min_accuracy: NaN if not set. If the
    manager has several platforms, a switch can change the platform only.
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
    """The manager's state after a frame; immutable, so other threads may read it.

    predicted_latency_ms: predicted quantile of the latency at this level, in the limit's scope;
    the quantile is that of the constraints.
    outside_ms: the part of it that is predicted outside inference.
    latency_ms: latency of the last frame in the limit's scope; NaN before the first frame.
    consecutive_violations: number of consecutive frames, up to the last one, over the limit.
    reason: the reason for the current level, a sentence.
    platform: the platform for the next frame.
    inference_limit_ms: the part of the limit available for inference; infinite without a limit.
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
