"""Optimised networks of a supernet's levels, which share equal weights in memory.

Layers without batch norm (squeeze-and-excite, the last convolution and the classifier) have the
same weights in several levels. ONNX Runtime changes the layout of weights when it optimises a
network, so the build cache contains optimised networks, with each distinct tensor once:

    <cache>/onnxruntime/
      index.json           for each level: its network and the places of its tensors
      <digest>.onnx        an optimised network
      <digest>.weights     all tensors that the same set of levels uses

Files are named by their contents, so that a process never uses files of different versions.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import onnxruntime

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.runtime.engines.onnx_files import FILES_VERSION, level_files
from dynamic_ofa_ros.runtime.host import cpu_features, cpu_name, usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

OPTIMISED_VERSION = 'onnxruntime-1'
"""To be changed with `_build`, so that older optimised networks are built again."""

INDEX_FILE = 'index.json'

LEAST_BYTES = 1024
"""Smaller tensors are stored in the networks."""

ALIGNMENT_BYTES = 64
"""Tensors start at cache lines, as in ONNX Runtime; otherwise, inference is slower."""


class SharedWeights:
    """The optimised networks and the weights of all levels.

    Weights are in memory while an OrtValue returned by `tensors` exists.
    """

    def __init__(
        self, family: Family, cache: BuildCache, progress: Callable[[str], None] | None
    ) -> None:
        # The layout of the weights depends on the CPU's vector instructions.
        cpu = f'{cpu_name()} {cpu_features()}'
        version = f'{OPTIMISED_VERSION} {FILES_VERSION} {onnxruntime.__version__} {cpu}'
        build = partial(_build, family, cache, progress)
        self._folder = cache.folder('onnxruntime', version, build)
        self._levels = json.loads((self._folder / INDEX_FILE).read_bytes())
        self._memory: WeakValueDictionary[str, npt.NDArray[np.uint8]] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def networks(self) -> list[Path]:
        """The optimised network of every level."""
        return [self._folder / level['network'] for level in self._levels]

    def tensors(self, index: int) -> dict[str, Any]:
        """Return the weights of a level as OrtValues, by name; they must outlive its session."""
        with self._lock:
            return {
                name: onnxruntime.OrtValue.ortvalue_from_numpy(self._tensor(*place))
                for name, place in self._levels[index - 1]['tensors'].items()
            }

    def _tensor(self, file: str, offset: int, shape: list[int]) -> npt.NDArray[np.float32]:
        memory = self._memory.get(file)
        if memory is None:
            memory = self._memory[file] = _read(self._folder / file)
        # NumPy makes the result refer to `memory`, and so keeps it.
        count = math.prod(shape)
        return np.frombuffer(_aligned(memory), np.float32, count, offset).reshape(shape)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    """Return an array whose aligned part starts with the contents of a file."""
    data = np.fromfile(path, np.uint8)
    memory = np.empty(len(data) + ALIGNMENT_BYTES, np.uint8)
    _aligned(memory)[: len(data)] = data
    return memory


def _aligned(memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return memory[-memory.ctypes.data % ALIGNMENT_BYTES :]


def _build(
    family: Family, cache: BuildCache, progress: Callable[[str], None] | None, folder: Path
) -> None:
    """Optimise the networks and write them, their distinct tensors and the index to `folder`."""
    paths = level_files(family, cache, progress)
    requirements.check('onnx', reason=f'the engines of family {family.name} are not built yet')
    from onnx.external_data_helper import set_external_data

    if progress:
        progress(f'ONNX Runtime: optimising {len(paths)} levels')
    with ThreadPoolExecutor(usable_cpus()) as pool:
        networks = list(pool.map(_optimised, paths))
    tensors = [
        [(tensor, hashlib.sha256(tensor.raw_data).digest()) for tensor in _large(network)]
        for network in networks
    ]
    users: dict[bytes, list[int]] = {}
    data: dict[bytes, bytes] = {}
    for index, of_level in enumerate(tensors, start=1):
        for tensor, digest in of_level:
            data[digest] = tensor.raw_data
            if index not in users.setdefault(digest, []):
                users[digest].append(index)
    places = _write_tensors(data, users, folder)
    levels = []
    for network, of_level in zip(networks, tensors, strict=True):
        for tensor, digest in of_level:
            set_external_data(tensor, *places[digest], len(data[digest]))
            tensor.ClearField('raw_data')
        levels.append(
            {
                'network': _write(network.SerializeToString(), folder, 'onnx'),
                'tensors': {t.name: (*places[digest], [*t.dims]) for t, digest in of_level},
            }
        )
    (folder / INDEX_FILE).write_text(json.dumps(levels), encoding='utf-8')


def _optimised(path: Path) -> Any:
    """Return the ModelProto of a network as ONNX Runtime optimises it for this CPU."""
    import onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry('session.disable_prepacking', '1')  # for a shorter build
    options.log_severity_level = 3  # without the warning that the network fits this CPU only
    # A file in memory, because ONNX Runtime does not reliably report a full disk.
    with open(os.memfd_create(path.name), 'rb') as file:
        options.optimized_model_filepath = f'/proc/self/fd/{file.fileno()}'
        onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        return onnx.load_model_from_string(file.read())


def _large(network: Any) -> list[Any]:
    """Return the float32 tensors to be shared."""
    return [
        tensor
        for tensor in network.graph.initializer
        if tensor.data_type == tensor.FLOAT and len(tensor.raw_data) >= LEAST_BYTES
    ]


def _write_tensors(
    data: dict[bytes, bytes], users: dict[bytes, list[int]], folder: Path
) -> dict[bytes, tuple[str, int]]:
    """Write a file for each set of levels; return the file and the offset of every tensor."""
    groups: dict[tuple[int, ...], list[bytes]] = {}
    for digest, indices in users.items():
        groups.setdefault(tuple(indices), []).append(digest)
    places = {}
    for digests in groups.values():
        contents, offsets = bytearray(), []
        for digest in digests:
            contents += bytes(-len(contents) % ALIGNMENT_BYTES)
            offsets.append(len(contents))
            contents += data[digest]
        name = _write(contents, folder, 'weights')
        places.update({d: (name, offset) for d, offset in zip(digests, offsets, strict=True)})
    return places


def _write(contents: bytes | bytearray, folder: Path, suffix: str) -> str:
    name = f'{hashlib.sha256(contents).hexdigest()}.{suffix}'
    (folder / name).write_bytes(contents)
    return name
