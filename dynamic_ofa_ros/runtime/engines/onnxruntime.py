"""Engine on ONNX Runtime: a warm session for every level.

Sub-networks of a supernet are exported once into the build cache. Separate networks run from the
family's own files, once those have been found to be safe.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.architecture import SubnetArchitecture
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import FREE_SIDE, NETWORK_INPUT
from dynamic_ofa_ros.onnx_safety import check_network
from dynamic_ofa_ros.runtime.engine import EngineBase, described, platform_name
from dynamic_ofa_ros.runtime.host import cpu_name, gpu_index, gpu_name
from dynamic_ofa_ros.runtime.image import FloatArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic_ofa_ros.family import Family, Level
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

EXPORT_VERSION = 'onnx-1'
"""Changes when `_export` does, so that older files are built again."""

CHECK_VERSION = 'check-1'
"""Changes when `onnx_safety.check_network` does, so that networks are checked again."""

QUIET = 3  # ONNX Runtime's log level: errors only


class OnnxRuntimeEngine(EngineBase):
    """Runs each level in a session of its own, on the CPU or through the CUDA provider.

    Sessions hold their own copy of a level's weights, arranged for the device: sub-networks take
    slices and transforms of the backbone's weights, so there is nothing they could share.
    """

    name = 'onnxruntime'

    def __init__(
        self,
        family: Family,
        cache: BuildCache,
        *,
        device: str = 'cpu',
        threads: int = 1,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        providers = execution_providers(device)
        is_cpu = device == 'cpu'
        self.platform = platform_name(
            device.partition(':')[0],
            cpu_name() if is_cpu else gpu_name(gpu_index(device)),
            self.name,
            precision='fp32',
            threads=threads,
        )
        self.device = device
        self.notes: tuple[str, ...] = ()
        self._sessions = []
        for level, path in zip(family.levels, _files(family, cache, progress), strict=True):
            session = _open(path, level.resolution, providers, threads)
            if not is_cpu and session.get_providers()[0] != 'CUDAExecutionProvider':
                raise EngineError(
                    f"device '{device}' was asked for, but ONNX Runtime could not start its CUDA "
                    "provider: check that CUDA and cuDNN match its version, or use device 'cpu'"
                )
            self._sessions.append(session)

    @property
    def level_count(self) -> int:
        """The number of levels, all resident."""
        return len(self._sessions)

    def _infer(self, index: int, tensor: FloatArray) -> FloatArray:
        return _run(self._sessions[index - 1], tensor)

    def close(self) -> None:
        """Free the sessions."""
        self._sessions = []


def reference_logits(
    family: Family, input_of: Callable[[int], FloatArray]
) -> dict[int, FloatArray]:
    """Return the logits of every level by its plain network, nothing optimised, on the CPU.

    For separate networks. `input_of` gives the input for a resolution. This is what every engine
    is compared with.
    """
    plain = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    logits = {}
    for level in family.levels:
        path = _network_path(family, level)
        session = _open(path, level.resolution, execution_providers('cpu'), 1, plain)
        logits[level.index] = _run(session, input_of(level.resolution))
    return logits


def _open(
    path: Path, resolution: int, providers: list[Any], threads: int, optimisation: Any = None
) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    options.add_free_dimension_override_by_name(FREE_SIDE, resolution)
    if optimisation is not None:
        options.graph_optimization_level = optimisation
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # its exceptions share no base but this
        raise EngineError(f'ONNX Runtime cannot load {path}: {described(error)}') from error


def _run(session: Any, tensor: FloatArray) -> FloatArray:
    logits = session.run(None, {NETWORK_INPUT: tensor})[0]
    result: FloatArray = np.asarray(logits[0], dtype=np.float32)
    return result


def execution_providers(device: str) -> list[Any]:
    """Return what ONNX Runtime calls a device; raise EngineError where it cannot use it."""
    if device == 'cpu':
        return ['CPUExecutionProvider']
    available = onnxruntime.get_available_providers()
    if 'CUDAExecutionProvider' not in available:
        raise EngineError(
            f"device '{device}' was asked for, but this ONNX Runtime has no CUDA provider "
            f"(it has {', '.join(available)}): use device 'cpu' or 'auto', "
            'or install onnxruntime-gpu'
        )
    options = {'device_id': str(gpu_index(device))}
    return [('CUDAExecutionProvider', options), 'CPUExecutionProvider']


def _files(
    family: Family, cache: BuildCache, progress: Callable[[str], None] | None
) -> list[Path]:
    """Return the ONNX file of every level."""
    if family.is_supernet:

        def export(folder: Path) -> None:
            _export(family, folder, progress)

        folder = cache.folder('onnx', EXPORT_VERSION, export)
        return [folder / _file_name(level.index) for level in family.levels]

    def check(folder: Path) -> None:
        _check_networks(family, folder, progress)

    # The cache belongs to this very family: its name holds the checksum of all its files.
    cache.folder('checked', CHECK_VERSION, check)
    return [_network_path(family, level) for level in family.levels]


def _network_path(family: Family, level: Level) -> Path:
    assert not isinstance(level.network, SubnetArchitecture)
    return family.network_path(level.network)


def _check_networks(family: Family, folder: Path, progress: Callable[[str], None] | None) -> None:
    """Refuse networks that could do more than compute; leave a list of those that are safe."""
    largest_px: dict[Path, int] = {}
    for level in family.levels:
        path = _network_path(family, level)
        largest_px[path] = max(level.resolution, largest_px.get(path, 0))
    for path, side in largest_px.items():
        if progress:
            progress(f'ONNX: checking {path.name}')
        check_network(path.read_bytes(), str(path), side=side)
    names = ''.join(f'{path.name}\n' for path in largest_px)
    (folder / 'networks.txt').write_text(names, encoding='utf-8')


def _file_name(index: int) -> str:
    return f'level_{index:02d}.onnx'


def _export(family: Family, folder: Path, progress: Callable[[str], None] | None) -> None:
    """Write every level as an ONNX file into `folder`; takes about half a second each."""
    requirements.check(
        'torch',
        'safetensors',
        'ofa',
        'onnx',
        reason=f'the engines of family {family.name} are not built yet',
    )
    import torch

    from dynamic_ofa_ros.backbone.onnx_export import write_onnx
    from dynamic_ofa_ros.backbone.supernet import load_level, load_supernet

    supernet = load_supernet(family)
    for level in family.levels:
        if progress:
            progress(f'ONNX: exporting level {level.index} of {len(family.levels)}')
        network = load_level(family, level.index, supernet)
        example = torch.zeros(1, 3, level.resolution, level.resolution)
        try:
            write_onnx(network, example, str(folder / _file_name(level.index)))
        except OSError:
            raise  # a full disk, say: the build cache knows what to do
        except Exception as error:
            # Whatever fails in there (often packages that do not fit each other) is this
            # engine's trouble alone: `auto` goes on with the others.
            raise EngineError(
                f'PyTorch cannot export level {level.index} to ONNX '
                f'({type(error).__name__}: {error}); check that onnx, numpy and torch fit '
                'together, or use engine pytorch'
            ) from error
