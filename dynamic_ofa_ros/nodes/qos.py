"""Quality of service of the topics (REP-2003), and which of it a user may override."""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

IMAGE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Input images: the newest is the only one of interest. Overridable."""

CAMERA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Output images of the camera: sensor data. Overridable."""

CONSTRAINTS = QoSProfile(depth=1)
CLASSIFICATION = QoSProfile(depth=5)
GROUND_TRUTH = QoSProfile(depth=5)
STATUS = QoSProfile(depth=20)
TELEMETRY = QoSProfile(depth=10)
DIAGNOSTICS = QoSProfile(depth=10)

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""What a late subscriber still gets: the last message."""


def overridable() -> Any:
    """Return options that let parameters `qos_overrides.*` change history, depth, reliability."""
    return QoSOverridingOptions.with_default_policies()
