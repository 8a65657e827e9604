"""A process that puts load on a device; contention_node runs it as a script.

It reads one JSON object per line from standard input (`{"duty_cycle": 0.5}`) and ends when the
pipe is closed, also if the node was killed. It does not import the package, to start quickly.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PERIOD_S = 0.02
"""Period of work and rest, shorter than the frame period of a camera."""

STREAM_BYTES = 64 * 2**20
"""Size of the block that `memory` copies; larger than any cache."""


class Duty:
    """The fraction of the time to work, as last read from standard input."""

    def __init__(self, share: float) -> None:
        self.share = share

    def follow(self) -> None:
        """Read new values until the pipe is closed, then end the process immediately."""
        for line in sys.stdin:
            self.share = float(json.loads(line)['duty_cycle'])
        os._exit(0)


def alternate(step: Callable[[], Any], duty: Duty) -> None:
    """Call `step`, which should take much less than PERIOD_S, for `duty.share` of the time."""
    while True:
        start_s = time.perf_counter()
        share = duty.share
        while time.perf_counter() - start_s < PERIOD_S * share:
            step()
        worked_s = time.perf_counter() - start_s
        # If a step took longer than planned, the rest is proportionally longer.
        rest_s = worked_s * (1.0 - share) / share if share > 0.0 else PERIOD_S
        if rest_s > 0.0:
            time.sleep(rest_s)


def busy(device: str) -> Callable[[], Any]:
    """Return a step of arithmetic whose data fits into the caches."""
    if device == 'cpu':

        def count() -> int:
            return sum(range(2000))

        return count
    import torch

    matrix = torch.rand(1024, 1024, device=device)

    def multiply() -> None:
        torch.mm(matrix, matrix)
        torch.cuda.synchronize()

    return multiply


def memory(device: str) -> Callable[[], Any]:
    """Return a step that copies (part of) a block larger than the caches."""
    if device == 'cpu':
        import numpy as np

        source, target = np.ones(STREAM_BYTES, np.uint8), np.empty(STREAM_BYTES, np.uint8)
        piece = STREAM_BYTES // 32
        offset = 0

        def copy() -> None:
            nonlocal offset
            target[offset : offset + piece] = source[offset : offset + piece]
            offset = (offset + piece) % STREAM_BYTES

        return copy
    import torch

    block = torch.ones(STREAM_BYTES, dtype=torch.uint8, device=device)
    other = torch.empty_like(block)

    def copy_on_device() -> None:
        other.copy_(block)
        torch.cuda.synchronize()

    return copy_on_device


def training(device: str) -> Callable[[], Any]:
    """Return one training step of a small convolutional network on random images."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).to(device)  # fmt: skip
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    images = torch.rand(8, 3, 64, 64, device=device)
    labels = torch.arange(8, device=device) % 10

    def train() -> None:
        optimiser.zero_grad()
        loss: Any = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimiser.step()
        if device != 'cpu':
            torch.cuda.synchronize()

    return train


WORKLOADS = {'busy': busy, 'memory': memory, 'training': training}


def main() -> int:
    """Produce load until standard input is closed."""
    parser = argparse.ArgumentParser(
        description='Put load on a device until standard input is closed.'
    )
    parser.add_argument('workload', choices=sorted(WORKLOADS))
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--duty-cycle', type=float, default=1.0)
    parser.add_argument('--cpus', default='', help='comma-separated numbers; empty = all')
    args = parser.parse_args()
    # Ctrl-C reaches the whole process group; the node ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if args.cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in args.cpus.split(',')})
    duty = Duty(args.duty_cycle)
    threading.Thread(target=duty.follow, daemon=True).start()
    try:
        step = WORKLOADS[args.workload](args.device)
    except ModuleNotFoundError as error:
        sys.exit(
            f'workload {args.workload} on {args.device} requires {error.name}: '
            f'pip install {error.name}'
        )
    alternate(step, duty)
    return 0


if __name__ == '__main__':
    # Python adds the folder of a script to sys.path; its files must not shadow other modules.
    sys.path.pop(0)
    sys.exit(main())
