"""The options of commands that measure latency."""

from __future__ import annotations

from typing import Any

from dynamic_ofa_ros.cli.numbers import MOST_THREADS, whole_number


def add_device_options(group: Any) -> None:
    """Add --device, --engine and --threads to a parser or a group of one."""
    group.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    group.add_argument(
        '--engine', default='auto', help='auto, onnxruntime, openvino, pytorch or tensorrt'
    )
    group.add_argument(
        '--threads', type=whole_number(1, MOST_THREADS), default=1, help='threads of the engine'
    )
