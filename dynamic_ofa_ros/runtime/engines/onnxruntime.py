"""Engine on ONNX Runtime: a warm session for every level."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import FREE_SIDE, NETWORK_INPUT
from dynamic_ofa_ros.runtime.engine import EngineBase, described, platform_name
from dynamic_ofa_ros.runtime.engines.onnx_files import level_files, network_path
from dynamic_ofa_ros.runtime.engines.residents import Residents
from dynamic_ofa_ros.runtime.host import cpu_name, gpu_index, gpu_name, usable_cpus
from dynamic_ofa_ros.runtime.image import FloatArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

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
        max_resident_mb: float = 0.0,
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
        paths = level_files(family, cache, progress)

        def load(index: int) -> Any:
            session = _open(paths[index - 1], family.level(index).resolution, providers, threads)
            if not is_cpu and session.get_providers()[0] != 'CUDAExecutionProvider':
                raise EngineError(
                    f"device '{device}' was asked for, but ONNX Runtime could not start its CUDA "
                    "provider: check that CUDA and cuDNN match its version, or use device 'cpu'"
                )
            return session

        self._levels = self.residents = Residents(
            load, len(paths), max_resident_mb, workers=usable_cpus() if is_cpu else 1
        )

    def _infer(self, index: int, tensor: FloatArray) -> FloatArray:
        return _run(self._levels.get(index), tensor)


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
        path = network_path(family, level)
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
