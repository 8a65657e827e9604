"""Files of tensors (safetensors): numbers only, nothing in them can run."""

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
    """Read all tensors; raise CheckpointError when the file is missing or damaged."""
    with reading(path):
        arrays: dict[str, npt.NDArray[Any]] = load_file(path)
    return arrays


def write_arrays(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write tensors, atomically; raise CheckpointError on a full disk."""
    with writing(path) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what safetensors raises for `path` into a CheckpointError."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f'{path} is missing') from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path} cannot be read as safetensors: {error}') from None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a temporary path that replaces `path` when nothing is raised."""
    with replacing(path) as temporary:
        try:
            yield temporary
        except SafetensorError as error:  # what it makes of an OSError
            raise CheckpointError(f'{path} cannot be written: {error}') from None
