"""Values of messages, which rclpy or a library that reads bags has created."""

from __future__ import annotations

from typing import Any

MAX_DIGITS = 10
"""Longer texts are not class ids, and Python does not convert them if they are very long."""


def stamp_of(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def class_id_of(message: Any) -> int:
    """Return the best class of a vision_msgs/Classification; -1 if there is none."""
    text = message.results[0].class_id if message.results else ''
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else -1


def named_labels(message: Any) -> tuple[str, ...]:
    """Return the names of a vision_msgs/LabelInfo by class id; a missing name becomes the id."""
    names = {int(entry.class_id): str(entry.class_name) for entry in message.class_map}
    return tuple(names.get(index, str(index)) for index in range(max(names, default=-1) + 1))
