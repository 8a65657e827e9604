"""Quality of service of the topics (REP-2003), and which of it a user may override."""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

CAMERA = QoSProfile(depth=5)
"""Output images of the camera: reliable, for large images get lost otherwise. Overridable."""

DEBUG_IMAGE = QoSProfile(depth=1)

CONSTRAINTS = QoSProfile(depth=1)
CLASSIFICATION = QoSProfile(depth=5)
GROUND_TRUTH = QoSProfile(depth=5)
STATUS = QoSProfile(depth=20)
BOND = QoSProfile(depth=5)
TELEMETRY = QoSProfile(depth=10)
DIAGNOSTICS = QoSProfile(depth=10)

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""What a late subscriber still gets: the last message."""


def image(reliability: Any) -> Any:
    """Return the profile of the input images: the newest is the only one of interest."""
    return QoSProfile(depth=1, reliability=reliability)


def overridable() -> Any:
    """Return options that let parameters `qos_overrides.*` change history, depth, reliability."""
    return QoSOverridingOptions.with_default_policies()


def overridable_but_reliability() -> Any:
    """Return options that let parameters `qos_overrides.*` change history and depth."""
    return QoSOverridingOptions(policy_kinds=(QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))
