"""Recalculate, store and load the batch-norm statistics of a level.

The activations of a sub-network differ from those of the supernet, so the supernet's running means
and variances are wrong for it. They are recalculated on images of the training split (Dynamic-OFA
section 3.3; Cai et al. 2020; Yu & Huang 2019).
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
"""Smaller batches are merged with an adjacent batch. The last feature maps of a network for 32 px
have a single pixel: one image then has no variance, and the variance of a few is inaccurate."""


def batch_norms(module: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Return the batch-norm layers of a static network by name."""
    return {
        name: layer for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)
    }


def recalculate(module: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Recalculate every running mean and variance of `module` in place; return the images used.

    batches: (N, 3, r, r) float32 each, preprocessed as for evaluation. Every batch is weighted by
    its number of images. Raise DatasetError if there are fewer than FEWEST_IMAGES images.
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
                    layer.momentum = len(batch) / images  # yields the average over all images
                module(batch)
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
        module.train(was_training)
    return images


def _large_enough(batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the same images in batches of at least SMALLEST_BATCH, if there are that many."""
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
            f'batch-norm statistics require at least {FEWEST_IMAGES} images, but the dataset has '
            f'{found}: add images to the training split'
        )
    yield waiting


def statistics_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the running mean and variance of every batch-norm layer, by tensor name."""
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in batch_norms(module).items():
        if layer.running_mean is None or layer.running_var is None:
            raise CheckpointError(f'batch-norm layer {name} has no running statistics')
        tensors[f'{name}.running_mean'] = layer.running_mean.detach().clone()
        tensors[f'{name}.running_var'] = layer.running_var.detach().clone()
    return tensors


def save_statistics(per_level: Mapping[int, Mapping[str, torch.Tensor]], path: Path) -> None:
    """Write the statistics of all levels atomically to one safetensors file."""
    save_tensors(
        {
            f'level_{index}/{name}': value
            for index, tensors in per_level.items()
            for name, value in tensors.items()
        },
        path,
    )


def load_statistics(module: nn.Module, path: Path, index: int) -> None:
    """Load the statistics of level `index` into an extracted network.

    Raise CheckpointError if the file is missing or damaged, or does not match the network.
    """
    prefix = f'level_{index}/'
    stored = {
        name[len(prefix) :]: value
        for name, value in load_tensors(path).items()
        if name.startswith(prefix)
    }
    expected = statistics_of(module)
    if not stored:
        raise CheckpointError(f'{path} has no batch-norm statistics for level {index}')
    if stored.keys() != expected.keys():
        different = sorted(stored.keys() ^ expected.keys())
        raise CheckpointError(
            f'{path}: the statistics of level {index} do not match its architecture: '
            f'{len(different)} tensors are missing or unknown, for instance {different[0]}'
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
