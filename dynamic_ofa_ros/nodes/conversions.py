"""Convert between dataclasses of the runtime and ROS messages."""

from __future__ import annotations

import array
import dataclasses
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Classification,
    LabelInfo,
    ObjectHypothesis,
    VisionClass,
    VisionInfo,
)

from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.family import OnnxNetwork
from dynamic_ofa_ros.msg import ActiveLevel, ClassifierStatus, Level, LevelArray, Telemetry
from dynamic_ofa_ros.nodes.diagnostics import Severity, Status
from dynamic_ofa_ros.runtime import coordination
from dynamic_ofa_ros.runtime.image import CompressedImage, ImageArray, RawImage
from dynamic_ofa_ros.runtime.telemetry import FrameTelemetry
from dynamic_ofa_ros.space.architecture import SubnetArchitecture

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family, LatencyProfile
    from dynamic_ofa_ros.runtime.classifier import Result
    from dynamic_ofa_ros.runtime.decisions import Decision

MAX_LABELS = 65536
"""Class ids in vision_msgs have 16 bits."""

_TELEMETRY_FIELDS = tuple(field.name for field in dataclasses.fields(FrameTelemetry))

_SEVERITIES = {
    Severity.OK: DiagnosticStatus.OK,
    Severity.WARN: DiagnosticStatus.WARN,
    Severity.ERROR: DiagnosticStatus.ERROR,
}


def raw_image(message: Any) -> RawImage:
    """Convert a sensor_msgs/Image for the runtime, without copying or decoding the data."""
    return RawImage(
        data=message.data,
        width=message.width,
        height=message.height,
        encoding=message.encoding,
        step=message.step,
        is_bigendian=bool(message.is_bigendian),
    )


def compressed_image(message: Any) -> CompressedImage:
    """Convert a sensor_msgs/CompressedImage for the runtime, without decoding the data."""
    return CompressedImage(message.data, message.format)


def image_message(rgb: ImageArray, header: Any, encoding: str) -> Any:
    """Convert (H, W, 3) uint8 RGB to sensor_msgs/Image in the encoding rgb8, bgr8 or mono8."""
    if encoding == 'rgb8':
        pixels: Any = np.ascontiguousarray(rgb)
    elif encoding == 'bgr8':
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    elif encoding == 'mono8':
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    else:
        raise ImageError('encoding', f'Encoding {encoding!r} cannot be published.')
    message = Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
    )
    # The only copy: an assignment would copy again and check each byte. This takes 0.4 ms at
    # 640x480; cv_bridge takes 0.8 ms for the same message.
    message.data.frombytes(memoryview(pixels).cast('B'))
    return message


def hypotheses(result: Result) -> list[Any]:
    """Return the results of a vision_msgs/Classification."""
    return [
        ObjectHypothesis(class_id=str(score.class_id), score=score.score)
        for score in result.scores
    ]


def truth(header: Any, class_id: int) -> Any:
    """Return a true class as vision_msgs/Classification with score 1."""
    return Classification(
        header=header, results=[ObjectHypothesis(class_id=str(class_id), score=1.0)]
    )


def label_info(header: Any, labels: Iterable[str], threshold: float = 0.0) -> Any:
    """Return vision_msgs/LabelInfo: the name of each class id."""
    return LabelInfo(
        header=header,
        class_map=[
            VisionClass(class_id=index, class_name=name) for index, name in enumerate(labels)
        ],
        threshold=threshold,
    )


def vision_info(header: Any, family: Family, label_topic: str) -> Any:
    """Return vision_msgs/VisionInfo; its version depends on the labels only, not on the level."""
    return VisionInfo(
        header=header,
        method=f'{family.name} ({family.source.name})',
        database_location=label_topic,
        database_version=database_version(family.labels),
    )


def database_version(labels: Iterable[str]) -> int:
    """Return a checksum of a list of labels, from 0 to 2^31 - 1."""
    return zlib.crc32('\n'.join(labels).encode('utf-8')) & 0x7FFFFFFF


def fill_telemetry(message: Telemetry, header: Any, values: FrameTelemetry) -> None:
    """Fill a message, whose fields have the names and units of the dataclass."""
    message.header = header
    for name in _TELEMETRY_FIELDS:
        setattr(message, name, getattr(values, name))


def level_array(header: Any, family: Family, profiles: Sequence[LatencyProfile]) -> Any:
    """Return the look-up table of a family. profiles: that of the preferred platform first."""
    return LevelArray(
        header=header,
        family=family.name,
        backbone=family.source.name,
        platform=profiles[0].platform,
        platforms=[profile.platform for profile in profiles],
        levels=[
            Level(
                index=level.index,
                name=level.name,
                resolution=level.resolution,
                accuracy=float(level.accuracy),
                accuracy_source=level.accuracy_source,
                macs=float(level.macs),
                parameters=float(level.parameters),
                latency_ms=latencies[0].median_ms,
                latency_p95_ms=latencies[0].p95_ms,
                latencies_ms=array.array('d', [latency.median_ms for latency in latencies]),
                latencies_p95_ms=array.array('d', [latency.p95_ms for latency in latencies]),
                **_architecture(level.network),
            )
            for level, *latencies in zip(
                family.levels, *(profile.levels for profile in profiles), strict=True
            )
        ],
    )


def _architecture(network: SubnetArchitecture | OnnxNetwork) -> dict[str, array.array[Any]]:
    """Return the architecture of a sub-network; empty for a separate network."""
    if isinstance(network, OnnxNetwork):
        return {}
    return {
        'ks': array.array('i', network.ks),
        'e': array.array('d', network.e),
        'd': array.array('i', network.d),
        'w': array.array('i', network.w),
    }


def active_level(header: Any, decision: Decision, family: Family, switch_ms: float) -> Any:
    """Return dynamic_ofa_ros/ActiveLevel. switch_ms: cost of the switch."""
    is_first = decision.from_level == 0
    return ActiveLevel(
        header=header,
        from_level=decision.from_level,
        to_level=decision.to_level,
        from_name='' if is_first else family.level(decision.from_level).name,
        to_name=family.level(decision.to_level).name,
        from_platform=decision.from_platform,
        to_platform=decision.to_platform,
        reason=decision.reason,
        policy=decision.policy,
        feasible=decision.is_feasible,
        switch_ms=switch_ms,
        slowdown=decision.slowdown,
        max_latency_ms=decision.max_latency_ms,
        min_accuracy=decision.min_accuracy,
    )


def classifier_status(header: Any, status: coordination.Status) -> Any:
    """Return dynamic_ofa_ros/ClassifierStatus; a missing limit, floor or interval is NaN."""
    agreement = status.agreement
    agreed = agreement.levels if agreement is not None else ()
    return ClassifierStatus(
        header=header,
        name=status.name,
        device=status.device,
        level=status.level,
        latencies_ms=array.array('d', status.latencies_ms),
        accuracies=array.array('d', status.accuracies),
        max_latency_ms=_nan_if_infinite(status.limit_ms),
        quantile=status.quantile,
        min_accuracy=status.floor or math.nan,
        priority=status.priority,
        importance=status.importance,
        interval_ms=_nan_if_infinite(status.interval_ms),
        time_ns=status.time_ns,
        frame_end_ns=array.array('q', [frame.end_ns for frame in status.frames]),
        frame_latency_ms=array.array('d', [frame.latency_ms for frame in status.frames]),
        frame_level=array.array('i', [frame.level for frame in status.frames]),
        agreement_round=agreement.round if agreement is not None else 0,
        agreed_names=[name for name, _ in agreed],
        agreed_level=array.array('i', [level for _, level in agreed]),
    )


def peer_status(message: Any) -> coordination.Status | None:
    """Convert a peer's dynamic_ofa_ros/ClassifierStatus; return None if a list is too long.

    The values are not checked here.
    """
    lists = (
        message.latencies_ms,
        message.accuracies,
        message.frame_end_ns,
        message.frame_latency_ms,
        message.frame_level,
        message.agreed_names,
        message.agreed_level,
    )
    if max(map(len, lists)) > coordination.MAX_COUNT:
        return None
    return coordination.Status(
        name=message.name,
        device=message.device,
        level=message.level,
        latencies_ms=tuple(message.latencies_ms),
        accuracies=tuple(message.accuracies),
        limit_ms=_infinite_if_nan(message.max_latency_ms),
        quantile=message.quantile,
        floor=0.0 if math.isnan(message.min_accuracy) else message.min_accuracy,
        priority=message.priority,
        importance=message.importance,
        interval_ms=_infinite_if_nan(message.interval_ms),
        time_ns=message.time_ns,
        frames=tuple(
            map(
                coordination.Frame,
                message.frame_end_ns,
                message.frame_latency_ms,
                message.frame_level,
            )
        ),
        agreement=coordination.Agreement(
            message.agreement_round,
            tuple(zip(message.agreed_names, message.agreed_level, strict=False)),
        )
        if message.agreed_names
        else None,
    )


def diagnostic_array(header: Any, name: str, hardware_id: str, statuses: Iterable[Status]) -> Any:
    """Return diagnostic_msgs/DiagnosticArray. name: that of the node, the prefix of all tasks."""
    return DiagnosticArray(
        header=header,
        status=[
            DiagnosticStatus(
                level=_SEVERITIES[status.severity],
                name=f'{name}: {status.task}',
                message=status.message,
                hardware_id=hardware_id,
                values=[
                    KeyValue(key=key, value=number_text(value))
                    for key, value in status.values.items()
                ],
            )
            for status in statuses
        ],
    )


def number_text(value: float) -> str:
    """Return a number as text without a unit, as PlotJuggler requires; NaN is `nan`."""
    if math.isfinite(value) and value == int(value):
        return str(int(value))
    return f'{value:.6g}'


def _nan_if_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _infinite_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def stamped_header(clock: Any, frame_id: str = '') -> Any:
    """Return a header with the clock's current time."""
    return Header(stamp=clock.now().to_msg(), frame_id=frame_id)
