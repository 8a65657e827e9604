"""Engines on ONNX Runtime, for the CPU, CUDA or TensorRT: one session per level."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from dynamic_ofa_ros.errors import EngineError, MissingPackageError
from dynamic_ofa_ros.family import FREE_SIDE, NETWORK_INPUT
from dynamic_ofa_ros.runtime.engine import EngineBase, described, platform_name
from dynamic_ofa_ros.runtime.engines.onnx_files import level_files, network_path
from dynamic_ofa_ros.runtime.engines.residents import Residents
from dynamic_ofa_ros.runtime.engines.shared_weights import SharedWeights
from dynamic_ofa_ros.runtime.host import cpu_name, gpu_index, gpu_name, usable_cpus
from dynamic_ofa_ros.runtime.image import FloatArray

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

CPU, CUDA = 'CPUExecutionProvider', 'CUDAExecutionProvider'
TENSORRT = 'TensorrtExecutionProvider'
QUIET = 3  # ONNX Runtime's log level: errors only


class OnnxRuntimeEngine(EngineBase):
    """Runs each level in a separate session, on the CPU or with the CUDA provider.

    On the CPU, the levels of a supernet share equal weights. Most weights differ between levels,
    because batch norms, with the statistics of the level, are folded into the convolutions. On a
    GPU, and for separate networks, each session has its own copy of all weights.
    """

    name = 'onnxruntime'
    slow_step = ''
    """Message before each level is loaded; empty for none."""

    def __init__(
        self,
        family: Family,
        cache: BuildCache,
        *,
        device: str = 'cpu',
        precision: str = 'fp32',
        threads: int = 1,
        max_resident_mb: float = 0.0,
        first: Collection[int] = (),
        progress: Callable[[str], None] | None = None,
    ) -> None:
        providers = self._providers(device, precision, cache)
        is_cpu = device == 'cpu'
        if not is_cpu and hasattr(onnxruntime, 'preload_dlls'):
            onnxruntime.preload_dlls()  # finds cuDNN in PyTorch's wheels without importing PyTorch
        self.platform = platform_name(
            device.partition(':')[0],
            cpu_name() if is_cpu else gpu_name(gpu_index(device)),
            self.name,
            precision=precision,
            threads=threads,
        )
        self.device = device
        self.notes: tuple[str, ...] = ()
        shared = SharedWeights(family, cache, progress) if is_cpu and family.is_supernet else None
        paths = shared.networks if shared else level_files(family, cache, progress)

        def load(index: int) -> Session:
            resolution = family.level(index).resolution
            if progress and self.slow_step:
                progress(f'{self.slow_step}: level {index} of {len(paths)}')
            path, tensors = paths[index - 1], shared.tensors(index) if shared else {}
            session = _open(path, resolution, providers, threads, not shared, tensors)
            if is_cpu:
                return Session(session, tensors)
            wanted, found = providers[0][0], session.get_providers()[0]
            if found != wanted:
                raise EngineError(
                    f"device is '{device}', but ONNX Runtime could not start its {wanted}: check "
                    'that CUDA, cuDNN and TensorRT match its version, or use '
                    "device 'cpu'"
                )
            return BoundSession(session, resolution, 'cuda', gpu_index(device))

        self._levels: Residents[Session] = Residents(
            load, len(paths), max_resident_mb, usable_cpus() if is_cpu else 1, first
        )
        self.residents = self._levels

    def _providers(self, device: str, precision: str, cache: BuildCache) -> list[Any]:
        return execution_providers(device)

    def _infer(self, index: int, tensor: FloatArray) -> FloatArray:
        return self._levels.get(index).infer(tensor)


class TensorRtEngine(OnnxRuntimeEngine):
    """Runs each level with ONNX Runtime's TensorRT provider on a GPU, in fp32 or fp16.

    TensorRT builds an engine for every level, which takes up to a minute each. The engines and the
    timing cache are stored in the build cache.
    """

    name = 'tensorrt'
    slow_step = 'TensorRT (up to a minute per level at the first start)'

    def _providers(self, device: str, precision: str, cache: BuildCache) -> list[Any]:
        others = execution_providers(device)
        available = onnxruntime.get_available_providers()
        if TENSORRT not in available:
            raise MissingPackageError(
                'engine is tensorrt, but this ONNX Runtime has no TensorRT provider '
                f"(it has {', '.join(available)}): use engine auto, or install NVIDIA's build"
            )
        if precision == 'fp32':
            os.environ.setdefault('NVIDIA_TF32_OVERRIDE', '0')  # TF32 has errors of 1e-3
        folder = cache.directory / 'tensorrt'
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            'device_id': str(gpu_index(device)),
            'trt_fp16_enable': str(int(precision == 'fp16')),
            'trt_engine_cache_enable': '1',
            'trt_engine_cache_path': str(folder),
            'trt_timing_cache_enable': '1',
            'trt_timing_cache_path': str(folder),
        }
        return [(TENSORRT, options), *others]


class Session:
    """A session on the CPU; it does not own the weights in `tensors`."""

    def __init__(self, session: Any, tensors: Mapping[str, Any] | None = None) -> None:
        self._session = session
        self._tensors = tensors  # in memory as long as the session

    def infer(self, tensor: FloatArray) -> FloatArray:
        """Return the logits, (classes,) float32, for an image, (1, 3, r, r) float32."""
        logits = self._session.run(None, {NETWORK_INPUT: tensor})[0]
        result: FloatArray = np.asarray(logits[0], dtype=np.float32)
        return result


class BoundSession(Session):
    """A session with a fixed input buffer in device memory, into which an image is copied."""

    def __init__(self, session: Any, resolution: int, device: str, device_index: int) -> None:
        super().__init__(session)
        shape = [1, 3, resolution, resolution]
        self._input = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            shape, np.float32, device, device_index
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(NETWORK_INPUT, self._input)
        self._binding.bind_output(session.get_outputs()[0].name, 'cpu')

    def infer(self, tensor: FloatArray) -> FloatArray:
        """Return the logits, (classes,) float32, for an image, (1, 3, r, r) float32."""
        if list(tensor.shape) != self._input.shape():
            raise ValueError(f'the input is {tensor.shape}, expected {self._input.shape()}')
        self._input.update_inplace(np.ascontiguousarray(tensor))
        self._session.run_with_iobinding(self._binding)
        logits: FloatArray = self._binding.copy_outputs_to_cpu()[0][0]
        return logits


def reference_logits(
    family: Family, input_of: Callable[[int], FloatArray]
) -> dict[int, FloatArray]:
    """Return the logits of every level of separate networks, as a reference for all engines.

    They are computed on the CPU without graph optimisations. input_of: returns the input for a
    resolution.
    """
    logits = {}
    for level in family.levels:
        path = network_path(family, level)
        providers = execution_providers('cpu')
        session = _open(path, level.resolution, providers, 1, optimise=False)
        logits[level.index] = Session(session).infer(input_of(level.resolution))
    return logits


def _open(
    path: Path,
    resolution: int,
    providers: list[Any],
    threads: int,
    optimise: bool = True,
    tensors: Mapping[str, Any] | None = None,
) -> Any:
    """Return a session that uses `tensors`, OrtValues by name, instead of those in the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    if providers[0] == CPU:
        _share_arena()
        options.add_session_config_entry('session.use_env_allocators', '1')
        options.enable_mem_pattern = False  # it doubles the arena and is not faster
    options.add_free_dimension_override_by_name(FREE_SIDE, resolution)
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if tensors:
        # It would copy the classifier's weights for each session, and one image is not faster.
        options.add_session_config_entry('session.disable_prepacking', '1')
        for name, value in tensors.items():
            options.add_initializer(name, value)
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises exceptions of any type
        raise EngineError(f'ONNX Runtime cannot load {path}: {described(error)}') from error


@lru_cache
def _share_arena() -> None:
    """Use one memory arena for the activations of all sessions, which saves a sixth of memory."""
    memory = onnxruntime.OrtMemoryInfo(
        'Cpu',
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    onnxruntime.create_and_register_allocator(memory, None)


def execution_providers(device: str) -> list[Any]:
    """Return the execution providers for a device; raise EngineError if it is not supported."""
    if device == 'cpu':
        return [CPU]
    available = onnxruntime.get_available_providers()
    if CUDA not in available:
        raise EngineError(
            f"device is '{device}', but this ONNX Runtime has no CUDA provider "
            f"(it has {', '.join(available)}): use device 'cpu' or 'auto', "
            'or install onnxruntime-gpu'
        )
    options = {
        'device_id': str(gpu_index(device)),
        'arena_extend_strategy': 'kSameAsRequested',  # saves memory on a shared GPU
        'cudnn_conv_algo_search': 'HEURISTIC',  # an exhaustive search takes minutes at every start
        'use_tf32': '0',  # compute in fp32
    }
    return [(CUDA, options), CPU]
