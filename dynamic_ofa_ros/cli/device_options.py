"""The options of device and precision that several commands share."""

from __future__ import annotations

from typing import Any

from dynamic_ofa_ros.cli.numbers import MOST_THREADS, whole_number, wrong
from dynamic_ofa_ros.family import NETWORK_PRECISIONS


def add_device_options(group: Any) -> None:
    """Add --device, --engine and --threads to a parser or a group of one."""
    group.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    group.add_argument(
        '--engine', default='auto', help='auto, onnxruntime, openvino, pytorch or tensorrt'
    )
    group.add_argument(
        '--threads', type=whole_number(1, MOST_THREADS), default=1, help='threads of the engine'
    )


def precisions(text: str) -> tuple[str, ...]:
    """Parse --precisions of the verbs that can quantise networks."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(',')))
    if set(names) - set(NETWORK_PRECISIONS):
        raise wrong(text, f'one or both of {", ".join(NETWORK_PRECISIONS)}')
    return names
