"""Reference outputs: the logits of every level for a fixed input, to verify engines.

For a family of a supernet, PyTorch computes them with the networks of `ofa` when the family is
built, and they are stored in the family, so that a robot can verify its engine without PyTorch. If
a family has no reference outputs, they are computed once and stored in the build cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import REFERENCE_FILE, Family, write_family
from dynamic_ofa_ros.runtime.build_cache import BuildCache
from dynamic_ofa_ros.runtime.image import FloatArray

REFERENCE_VERSION = 'reference-2'


def probe_input(resolution: int) -> FloatArray:
    """Return the input for comparing engines: fixed noise in [-2, 2), (1, 3, r, r) float32."""
    count = 3 * resolution * resolution
    # Integer arithmetic gives the same result on every machine and with every release of numpy.
    scrambled = (
        np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 32)
    )
    noise = scrambled.astype(np.float64) / float(1 << 30) - 2.0
    probe: FloatArray = noise.astype(np.float32).reshape(1, 3, resolution, resolution)
    return probe


def reference_of(
    family: Family, cache: BuildCache, tell: Callable[[str], None]
) -> dict[int, FloatArray]:
    """Return the logits (classes,) of every level for `probe_input`."""
    if family.reference_path.is_file():
        return _read(family.reference_path, family)

    def compute(folder: Path) -> None:
        tell('computing the reference outputs')
        _write(_computed(family), folder / REFERENCE_FILE)

    folder = cache.folder('reference', REFERENCE_VERSION, compute)
    return _read(folder / REFERENCE_FILE, family)


def add_reference(directory: Path) -> Family:
    """Compute the reference outputs, add them to the family in `directory`, and return it."""
    family = Family.load(directory)
    _write(_computed(family), family.reference_path)
    write_family(
        directory,
        name=family.name,
        source=family.source,
        preprocessing=family.preprocessing,
        levels=family.levels,
        labels=family.labels,
        provenance=family.provenance,
    )
    return Family.load(directory)


def _computed(family: Family) -> dict[int, FloatArray]:
    if family.is_supernet:
        requirements.check(
            'torch',
            'safetensors',
            'ofa',
            reason=f'family {family.name} has no {REFERENCE_FILE}, which PyTorch computes',
        )
        from dynamic_ofa_ros.runtime.engines.pytorch import reference_logits
    else:
        from dynamic_ofa_ros.runtime.engines.onnxruntime import reference_logits
    return reference_logits(family, probe_input)


def _write(logits: Mapping[int, FloatArray], path: Path) -> None:
    from dynamic_ofa_ros.tensor_file import write_arrays

    write_arrays({_name(index): value for index, value in logits.items()}, path)


def _read(path: Path, family: Family) -> dict[int, FloatArray]:
    requirements.check('safetensors', reason=f'{path} cannot be read')
    from dynamic_ofa_ros.tensor_file import read_arrays

    stored = read_arrays(path)
    shape = (family.source.classes,)
    logits = {}
    for level in family.levels:
        value = stored.get(_name(level.index))
        if value is None or value.shape != shape or value.dtype != np.float32:
            found = 'nothing' if value is None else f'{value.dtype} of shape {value.shape}'
            raise FamilyError(
                f'{path} has {found} for level {level.index}, expected float32 of shape {shape}'
            )
        logits[level.index] = value
    return logits


def _name(index: int) -> str:
    return f'level_{index}'
