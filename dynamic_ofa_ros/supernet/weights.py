"""Weights on disk: safetensors only, never pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.tensor_file import reading, writing


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically; raise CheckpointError on a full disk."""
    with writing(path) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary,
        )


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; raise CheckpointError when it is missing or damaged."""
    with reading(path):
        tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a whole state dict into `module`, converting to its precision.

    Raise CheckpointError naming the first tensors that are missing, unknown or of another shape.
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
        ('lacks', missing),
        ('has unknown', unknown),
        ('has other shapes for', misshapen),
    ):
        if names:
            raise CheckpointError(
                f'{path} does not fit this backbone: it {problem} {len(names)} tensors, '
                f'for instance {names[0]}'
            )
    load_state(module, stored)


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy every tensor of `state` into `module`, converting to its precision.

    Not through load_state_dict: `ofa` overrides it to rename the keys of its old checkpoints.
    """
    own = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
