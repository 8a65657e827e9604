"""QoS profiles of the topics (REP-2003), and the policies that a user can override."""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dynamic_ofa_ros.nodes.parameter_table import ParameterSpec, declare

RELIABILITIES = ('reliable', 'best_effort')
MAX_DEPTH = 1000

CAMERA = QoSProfile(depth=5)
"""Images of the camera; reliable, because large images are lost otherwise."""

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


def of_publisher(node: Any, name: str, profile: QoSProfile) -> Any:
    """Return a publisher's profile, with depth and reliability from `qos_overrides.*` if given.

    rclpy's QoSOverridingOptions are not used, because wrong values end in a traceback. Raise
    ParameterError.
    """
    prefix = f'qos_overrides.{node.resolve_topic_name(name)}.publisher'
    specs = (
        ParameterSpec(
            f'{prefix}.depth',
            profile.depth,
            'Number of messages that are kept for slow subscribers.',
            lowest=1,
            highest=MAX_DEPTH,
            is_live=False,
        ),
        ParameterSpec(
            f'{prefix}.reliability',
            RELIABILITIES[0],
            'Reliability of the publisher.',
            choices=RELIABILITIES,
            is_live=False,
        ),
    )
    depth, reliability = (declare(node, spec) for spec in specs)
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy[reliability.upper()])
