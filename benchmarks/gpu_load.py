"""A process that creates load on a GPU, for `benchmarks.gpu_check`.

    python -m benchmarks.gpu_load training | classifier --family DIR --cache DIR

Prints `ready` after warming up; then reads JSON lines (`{"duty_cycle": 1.0}`) until the pipe ends.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.nodes.load import Duty, alternate

BATCH = 32
RESOLUTION = 224
CLASSES = 1000
# ResNet-50: blocks and inner width of each stage.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
WARM_UP_STEPS = 3


def training() -> Callable[[], Any]:
    """Return a training step of a ResNet-50 on random images, with PyTorch's defaults."""
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, inner: int, stride: int) -> None:
            super().__init__()
            outputs = 4 * inner
            self.main = nn.Sequential(
                *convolution(inputs, inner, 1, 1), nn.ReLU(inplace=True),
                *convolution(inner, inner, 3, stride), nn.ReLU(inplace=True),
                *convolution(inner, outputs, 1, 1),
            )  # fmt: skip
            is_same = inputs == outputs and stride == 1
            self.shortcut = (
                nn.Identity()
                if is_same
                else nn.Sequential(*convolution(inputs, outputs, 1, stride))
            )

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.main(images) + self.shortcut(images))

    def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        ]

    layers: list[nn.Module] = [
        *convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    width = 64
    for number, (blocks, inner) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if number > 0 and block == 0 else 1
            layers.append(Bottleneck(width, inner, stride))
            width = 4 * inner
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]
    network = nn.Sequential(*layers).to('cuda')
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.rand(BATCH, 3, RESOLUTION, RESOLUTION, device='cuda')
    labels = torch.randint(CLASSES, (BATCH,), device='cuda')

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()
        torch.cuda.synchronize()

    return step


def classifier(family_directory: Path, cache: Path) -> Callable[[], Any]:
    """Return an inference of a family's highest level with this package's engine."""
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.engine import create_engine, probe_input

    family = Family.load(family_directory)
    engine = create_engine(family, device='cuda', engine='pytorch', cache_dir=cache)
    highest = family.levels[-1]
    probe = probe_input(highest.resolution)

    def step() -> None:
        engine.infer(highest.index, probe)

    return step


def main() -> None:
    """Work until the pipe ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('kind', choices=['training', 'classifier'])
    parser.add_argument('--family', type=Path)
    parser.add_argument('--cache', type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process by the pipe
    is_training = options.kind == 'training'
    step = training() if is_training else classifier(options.family, options.cache)
    for _ in range(WARM_UP_STEPS):
        step()
    print('ready', flush=True)
    duty = Duty(0.0)
    threading.Thread(target=duty.follow, daemon=True).start()
    alternate(step, duty)


if __name__ == '__main__':
    main()
