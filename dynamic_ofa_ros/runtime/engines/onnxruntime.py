"""Engine on ONNX Runtime: every level exported once, a warm session for each."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime.engine import platform_name
from dynamic_ofa_ros.runtime.host import cpu_name, gpu_name
from dynamic_ofa_ros.runtime.image import FloatArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

EXPORT_VERSION = 'onnx-1'
"""Changes when `_export` does, so that older files are built again."""

OPSET = 17
QUIET = 3  # ONNX Runtime's log level: errors only


class OnnxRuntimeEngine:
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
            cpu_name() if is_cpu else gpu_name(int(device.partition(':')[2] or 0)),
            self.name,
            precision='fp32',
            threads=threads,
        )
        self.notes: tuple[str, ...] = ()

        def export(folder: Path) -> None:
            _export(family, folder, progress)

        folder = cache.folder('onnx', EXPORT_VERSION, export)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET
        self._sessions = []
        for level in family.levels:
            path = folder / _file_name(level.index)
            try:
                session = onnxruntime.InferenceSession(path, options, providers=providers)
            except Exception as error:  # its exceptions share no base but this
                raise EngineError(f'ONNX Runtime cannot load {path}: {error}') from error
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

    def infer(self, index: int, tensor: FloatArray) -> FloatArray:
        """Run level `index` (from 1) on (1, 3, r, r) float32; return (classes,) float32 logits."""
        try:
            logits = self._sessions[index - 1].run(None, {'input': tensor})[0]
        except Exception as error:  # its exceptions share no base but this
            raise EngineError(f'ONNX Runtime failed at level {index}: {error}') from error
        result: FloatArray = np.asarray(logits[0], dtype=np.float32)
        return result

    def close(self) -> None:
        """Free the sessions."""
        self._sessions = []


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
    options = {'device_id': device.partition(':')[2] or '0'}
    return [('CUDAExecutionProvider', options), 'CPUExecutionProvider']


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

    from dynamic_ofa_ros.backbone.supernet import load_level, load_supernet

    arguments: dict[str, Any] = {
        'input_names': ['input'],
        'output_names': ['logits'],
        'opset_version': OPSET,
    }
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        # The newer exporter takes ten times as long and needs packages more, for the same network.
        arguments['dynamo'] = False
    supernet = load_supernet(family)
    for level in family.levels:
        if progress:
            progress(f'ONNX: exporting level {level.index} of {len(family.levels)}')
        network = load_level(family, level.index, supernet)
        example = torch.zeros(1, 3, level.resolution, level.resolution)
        with warnings.catch_warnings(), torch.no_grad():
            # It announces its own deprecation, and warns of shapes that are constant by intent.
            warnings.simplefilter('ignore')
            try:
                torch.onnx.export(
                    network, (example,), str(folder / _file_name(level.index)), **arguments
                )
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
