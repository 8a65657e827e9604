"""Tensor files in the safetensors format, which cannot contain code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.files import replacing


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all tensors; raise CheckpointError if the file is missing or damaged."""
    with reading(path):
        arrays: dict[str, npt.NDArray[Any]] = load_file(path)
    return arrays


def write_arrays(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write tensors atomically; raise CheckpointError if the disk is full."""
    with writing(path) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise a CheckpointError instead of the errors of safetensors for `path`."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f'{path} is missing') from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path} cannot be read as safetensors: {error}') from None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block raises nothing."""
    with replacing(path) as temporary:
        try:
            yield temporary
        except SafetensorError as error:  # safetensors raises this for an OSError
            raise CheckpointError(f'{path} cannot be written: {error}') from None
