"""Processes of `torchrun` that train one supernet together.

DistributedDataParallel is not used: it requires a gradient for every parameter once per step, but
a sandwich step uses another part of the supernet in each of several passes. All ranks draw the
same architectures, so the same parameters have gradients, which are averaged once per step, after
the last pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn

from dynamic_ofa_ros.errors import BackboneError

# The other ranks wait while the first one decodes images or evaluates.
TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class World:
    """One of the processes that train together; `rank` 0 writes files and reports."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Return whether this process writes files and reports."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its mean over all ranks, in one exchange."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(joined)
        joined /= self.size
        means = torch.split(joined, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of some numbers over all ranks."""
        if self.size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.size

    def copy_first(self, module: nn.Module) -> None:
        """Copy the weights of the first rank to all ranks."""
        if self.size > 1:
            for value in module.state_dict().values():
                distributed.broadcast(value, src=0)

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.size > 1:
            distributed.barrier()


def started_world() -> World:
    """Read the variables of torchrun from the environment; without them there is one process.

    Raise BackboneError if they are invalid.
    """
    try:
        rank, size, local_rank, local_size = (
            int(os.environ.get(name, default))
            for name, default in (
                ('RANK', '0'),
                ('WORLD_SIZE', '1'),
                ('LOCAL_RANK', '0'),
                ('LOCAL_WORLD_SIZE', '1'),
            )
        )
    except ValueError as error:
        raise BackboneError(
            f'RANK and WORLD_SIZE in the environment are not those of torchrun: {error}'
        ) from None
    return World(rank, size, local_rank, local_size)


@contextmanager
def joined(world: World, device: str) -> Iterator[World]:
    """Connect the processes during the block: with NCCL between GPUs, otherwise with gloo.

    Processes that the caller has connected already stay connected, because a second connection
    through the same torchrun would hang.
    """
    if world.size == 1 or distributed.is_initialized():
        yield world
        return
    is_cuda = device.startswith('cuda')
    if is_cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        'nccl' if is_cuda else 'gloo',
        rank=world.rank,
        world_size=world.size,
        timeout=TIMEOUT,
        device_id=torch.device(device) if is_cuda else None,
    )
    try:
        yield world
    finally:
        distributed.destroy_process_group()
