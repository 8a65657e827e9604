"""QoS profiles of the topics (REP-2003), and the policies that a user can override."""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

CAMERA = QoSProfile(depth=5)
"""Images of the camera; reliable, because large images are lost otherwise. Overridable."""

DEBUG_IMAGE = QoSProfile(depth=1)

CONSTRAINTS = QoSProfile(depth=1)
CLASSIFICATION = QoSProfile(depth=5)
GROUND_TRUTH = QoSProfile(depth=5)
STATUS = QoSProfile(depth=20)
BOND = QoSProfile(depth=5)
TELEMETRY = QoSProfile(depth=10)
DIAGNOSTICS = QoSProfile(depth=10)

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""For topics whose last message late subscribers receive, too."""


def image(reliability: Any) -> Any:
    """Return the profile of the input images; depth 1, because only the newest is used."""
    return QoSProfile(depth=1, reliability=reliability)


def overridable() -> Any:
    """Return options for overriding history, depth and reliability (`qos_overrides.*`)."""
    return QoSOverridingOptions.with_default_policies()


def overridable_but_reliability() -> Any:
    """Return options for overriding history and depth (`qos_overrides.*`)."""
    return QoSOverridingOptions(policy_kinds=(QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))
