"""The program of each process in test_distributed.py: one step, then a whole training."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
from dynamic_ofa_ros.offline.data.datasets import ImageStore
from dynamic_ofa_ros.offline.training.distributed import World, joined, started_world
from dynamic_ofa_ros.offline.training.trainer import Trainer, TrainingSettings

SETTINGS = TrainingSettings(
    resolutions=(32, 48), epochs=1.0, largest_only_epochs=0.0, batch_size=8, seed=3
)


def step(directory: Path, world: World) -> dict[str, torch.Tensor]:
    """Return the gradients and weights after one step with fixed batch-norm statistics.

    With batch norm in evaluation mode, a batch's gradient is the mean over its images.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (16, 60, 60, 3)).astype(np.uint8)
    dataset = ImageStore(('a', 'b', 'c'), images, rng.integers(0, 3, 16))
    backbone = BackboneSpec('tiny', 'ofa_mobilenetv3', 0.1, 3)
    if world.rank == 1:  # has no effect, because all ranks get the weights of the first
        torch.manual_seed(99)
    trainer = Trainer(backbone, SETTINGS, Preprocessing(), dataset, directory, world=world)
    trainer._supernet.eval()
    losses = torch.tensor(trainer._train_step())
    named = dict(trainer._supernet.named_parameters())
    gradients = {f'gradient/{n}': p.grad for n, p in named.items() if p.grad is not None}
    return {**gradients, **{n: p.detach() for n, p in named.items()}, 'losses': losses}


if __name__ == '__main__':
    torch.set_num_threads(1)
    folder, *arguments = sys.argv[1:]
    with joined(started_world(), 'cpu') as this:
        torch.save(step(Path(folder), this), Path(folder) / f'step-{this.rank}.pt')
        status = main(arguments)
    sys.exit(status)
