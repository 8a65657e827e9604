"""Batch-norm statistics of a level: recalculate them, store them for all levels, load them.

A sub-network of a supernet has activations of its own, so the running mean and variance of the
supernet are wrong for it; recalculating them on some images of the training split repairs that
(Lou et al. 2021; Cai et al. 2020; Yu & Huang 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from dynamic_ofa_ros.errors import CheckpointError, DatasetError
from dynamic_ofa_ros.supernet.weights import load_tensors, save_tensors

DEFAULT_IMAGES = 2000
FEWEST_IMAGES = 2
SMALLEST_BATCH = 32
"""Smaller batches are joined with their neighbour: at the end of a network of 32 px, where maps
have a single point, one image has no variance at all, and that of a few is far off."""


def batch_norms(module: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Return the batch-norm layers of a static network by name."""
    return {
        name: layer for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)
    }


def recalculate(module: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Recalculate every running mean and variance of `module` in place; return the images used.

    batches: (N, 3, r, r) float32 each, preprocessed as at evaluation. Every batch weighs by its
    number of images. Raise DatasetError when there are fewer than FEWEST_IMAGES.
    """
    layers = batch_norms(module)
    momenta = {name: layer.momentum for name, layer in layers.items()}
    was_training = module.training
    module.eval()
    for layer in layers.values():
        layer.reset_running_stats()
        layer.train()
    images = 0
    try:
        with torch.no_grad():
            for batch in _large_enough(batches):
                images += len(batch)
                for layer in layers.values():
                    layer.momentum = len(batch) / images  # a running average over images
                module(batch)
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
        module.train(was_training)
    return images


def _large_enough(batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the same images in batches of at least SMALLEST_BATCH, where there are as many."""
    waiting: torch.Tensor | None = None
    for batch in batches:
        if waiting is None:
            waiting = batch
        elif min(len(waiting), len(batch)) < SMALLEST_BATCH:
            waiting = torch.cat((waiting, batch))
        else:
            yield waiting
            waiting = batch
    found = 0 if waiting is None else len(waiting)
    if waiting is None or found < FEWEST_IMAGES:
        raise DatasetError(
            f'batch-norm statistics need {FEWEST_IMAGES} images or more, and the dataset gave '
            f'{found or "none"}: add images to the training split'
        )
    yield waiting


def statistics_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the running mean and variance of every batch norm, by tensor name."""
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in batch_norms(module).items():
        if layer.running_mean is None or layer.running_var is None:
            raise CheckpointError(f'batch norm {name} keeps no running statistics')
        tensors[f'{name}.running_mean'] = layer.running_mean.detach().clone()
        tensors[f'{name}.running_var'] = layer.running_var.detach().clone()
    return tensors


def save_statistics(per_level: Mapping[int, Mapping[str, torch.Tensor]], path: Path) -> None:
    """Write the statistics of all levels into one safetensors file, atomically."""
    save_tensors(
        {
            f'level_{index}/{name}': value
            for index, tensors in per_level.items()
            for name, value in tensors.items()
        },
        path,
    )


def load_statistics(module: nn.Module, path: Path, index: int) -> None:
    """Load the statistics of level `index` into an extracted network; raise CheckpointError."""
    prefix = f'level_{index}/'
    stored = {
        name[len(prefix) :]: value
        for name, value in load_tensors(path).items()
        if name.startswith(prefix)
    }
    expected = statistics_of(module)
    if not stored:
        raise CheckpointError(f'{path} holds no batch-norm statistics for level {index}')
    if stored.keys() != expected.keys():
        odd = sorted(stored.keys() ^ expected.keys())
        raise CheckpointError(
            f'{path}: level {index} does not fit its architecture: {odd[0]} and '
            f'{len(odd) - 1} more are on one side only'
        )
    state = dict(module.named_buffers())
    with torch.no_grad():
        for name, value in stored.items():
            if value.shape != state[name].shape:
                raise CheckpointError(
                    f'{path}: level {index}: {name} has {len(value)} channels, the network has '
                    f'{len(state[name])}'
                )
            state[name].copy_(value)
