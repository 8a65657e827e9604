"""Store and load weights as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.tensor_file import reading, writing


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors atomically as safetensors; raise CheckpointError if the disk is full."""
    with writing(path) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary,
        )


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; raise CheckpointError if it is missing or damaged."""
    with reading(path):
        tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a complete state dict into `module`, converted to its precision.

    Raise CheckpointError if tensors are missing, unknown or of another shape.
    """
    stored = load_tensors(path)
    expected = module.state_dict()
    missing = sorted(expected.keys() - stored.keys())
    unknown = sorted(stored.keys() - expected.keys())
    misshapen = sorted(
        name
        for name in expected.keys() & stored.keys()
        if expected[name].shape != stored[name].shape
    )
    for problem, names in (
        ('missing', missing),
        ('unknown', unknown),
        ('of another shape', misshapen),
    ):
        if names:
            raise CheckpointError(
                f'{path} does not match this backbone: {len(names)} tensors are {problem}, '
                f'for instance {names[0]}'
            )
    load_state(module, stored)


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy every tensor of `state` into `module`, converted to its precision.

    load_state_dict is not used, because `ofa` overrides it to rename keys of old checkpoints.
    """
    own = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
