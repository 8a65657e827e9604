"""`rclpy.qos_overriding_options`: QoS policies as parameters `qos_overrides.<topic>.*`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.duration import Duration
from dynamic_ofa_ros.rclpy_zenoh.exceptions import ParameterAlreadyDeclaredException
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class
from dynamic_ofa_ros.rclpy_zenoh.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)


class InvalidQosOverridesError(Exception):
    """Raised for an override that makes no sense."""


class QosCallbackResult:
    """Whether a callback accepts the overridden profile."""

    def __init__(self) -> None:
        self.successful = False
        self.reason = ''


class QoSOverridingOptions:
    """Which policies of a topic may be overridden."""

    def __init__(
        self,
        policy_kinds: Iterable[QoSPolicyKind],
        *,
        callback: Callable[[QoSProfile], QosCallbackResult] | None = None,
        entity_id: str | None = None,
    ) -> None:
        self.policy_kinds = tuple(policy_kinds)
        self.callback = callback
        self.entity_id = entity_id

    @classmethod
    def with_default_policies(
        cls,
        *,
        callback: Callable[[QoSProfile], QosCallbackResult] | None = None,
        entity_id: str | None = None,
    ) -> QoSOverridingOptions:
        """Return options for history, depth and reliability."""
        kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
        return cls(kinds, callback=callback, entity_id=entity_id)


_ENUMS: dict[str, Any] = {
    'history': HistoryPolicy,
    'reliability': ReliabilityPolicy,
    'durability': DurabilityPolicy,
    'liveliness': LivelinessPolicy,
}


def overridden_profile(
    node: Any, entity_type: str, topic: str, qos: QoSProfile, options: QoSOverridingOptions
) -> QoSProfile:
    """Declare the override parameters of a publisher or subscription and return its profile.

    `topic` is fully qualified and remapped. InvalidQosOverridesError for a value without meaning.
    """
    profile = qos.copy()
    suffix = f'_{options.entity_id}' if options.entity_id else ''
    prefix = f'qos_overrides.{topic}.{entity_type}{suffix}'
    descriptor = message_class('rcl_interfaces/msg/ParameterDescriptor')
    for kind in options.policy_kinds:
        policy = kind.name.lower()
        current = getattr(profile, policy)
        if policy in _ENUMS:
            default: Any = current.short_key
        elif isinstance(current, Duration):
            default = current.nanoseconds
        else:
            default = current
        name = f'{prefix}.{policy}'
        try:
            value = node.declare_parameter(name, default, descriptor(read_only=True)).value
        except ParameterAlreadyDeclaredException:
            value = node.get_parameter(name).value
        try:
            if policy in _ENUMS:
                value = _ENUMS[policy].get_from_short_key(value)
            elif isinstance(current, Duration):
                value = Duration(nanoseconds=value)
            setattr(profile, policy, value)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidQosOverridesError(
                f"The value {value!r} of the parameter '{name}' is no {policy}"
                + (f' (one of {_ENUMS[policy].short_keys()})' if policy in _ENUMS else '')
            ) from error
    if options.callback is not None:
        result = options.callback(profile)
        if not result.successful:
            raise InvalidQosOverridesError(
                f"The overridden QoS of '{topic}' was refused: {result.reason}"
            )
    return profile
