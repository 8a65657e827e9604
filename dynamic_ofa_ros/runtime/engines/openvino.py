"""Engine on OpenVINO: a compiled network and one reused request for every level, on the CPU."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime.engine import EngineBase, platform_name
from dynamic_ofa_ros.runtime.engines.onnx_files import FILES_VERSION, level_files
from dynamic_ofa_ros.runtime.engines.residents import Residents
from dynamic_ofa_ros.runtime.host import cpu_name, usable_cpus
from dynamic_ofa_ros.runtime.image import FloatArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dynamic_ofa_ros.family import Family, Level
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

COMPILED_VERSION = 'openvino-1'
"""Changes when `compile_network` does, so that older compiled networks are built again."""

_TYPES = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}


@lru_cache
def shared_core() -> openvino.Core:
    """Return the one core of this process, which stays.

    On a processor with AMX, OpenVINO gives the thread of the first core a stack for signals, and
    frees it with the last core, maybe on another thread: the next signal would end the process.
    """
    return openvino.Core()


class OpenvinoEngine(EngineBase):
    """Runs each level as a network compiled for this CPU, kept in the build cache.

    In the precision asked for: left alone, OpenVINO takes bfloat16 where the CPU has it. Inference
    runs on the caller's thread, and on `threads` - 1 others.
    """

    name = 'openvino'

    def __init__(
        self,
        family: Family,
        cache: BuildCache,
        *,
        device: str = 'cpu',
        precision: str = 'fp32',
        threads: int = 1,
        max_resident_mb: float = 0.0,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.device = device
        self.notes: tuple[str, ...] = ()
        self.platform = platform_name(
            device, cpu_name(), self.name, precision=precision, threads=threads
        )
        _check_precision(precision)

        def build(folder: Path) -> None:
            _compile_levels(family, cache, folder, precision, threads, progress)

        version = f'{COMPILED_VERSION} {FILES_VERSION} {openvino.__version__} {cpu_name()}'
        folder = cache.folder(f'openvino-{precision}', version, build)

        def load(index: int) -> Request:
            compiled = io.BytesIO((folder / _file_name(index)).read_bytes())
            settings = _settings(precision, threads)
            return Request(shared_core().import_model(compiled, 'CPU', settings))

        self._levels: Residents[Request] = Residents(
            load, len(family.levels), max_resident_mb, workers=usable_cpus()
        )
        self.residents = self._levels

    def _infer(self, index: int, tensor: FloatArray) -> FloatArray:
        return self._levels.get(index).infer(tensor)

    def buffer(self, index: int) -> FloatArray:
        """Return the array that a level reads its input from."""
        return self._levels.get(index).input


class Request:
    """A network that runs again and again on the same input array; its shape is the network's."""

    def __init__(self, network: Any) -> None:
        self._request = network.create_infer_request()
        self.input: FloatArray = np.zeros(tuple(network.input(0).shape), np.float32)
        # OpenVINO does not keep the array alive: this object does.
        self._request.set_input_tensor(openvino.Tensor(self.input, shared_memory=True))
        self._output = self._request.get_output_tensor(0).data

    def infer(self, tensor: FloatArray) -> FloatArray:
        """Return the first row of the output, a copy; `tensor` is copied unless it is `input`."""
        if tensor is not self.input:
            if tensor.shape != self.input.shape:
                raise ValueError(f'the input is {tensor.shape}, expected {self.input.shape}')
            np.copyto(self.input, tensor)
        self._request.infer(share_outputs=True)
        output: FloatArray = self._output[0].copy()
        return output


def compile_network(
    onnx: Path | io.BytesIO, shape: Sequence[int], threads: int, precision: str = 'fp32'
) -> Any:
    """Return a network compiled as the engine does it, for inputs of one shape."""
    network = shared_core().read_model(onnx)
    network.reshape(list(shape))
    return shared_core().compile_model(network, 'CPU', _settings(precision, threads))


def _check_precision(precision: str) -> None:
    """Raise EngineError where the processor would compute in fp32, whatever is asked for."""
    capabilities = shared_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision.upper() not in capabilities:
        raise EngineError(
            f'this processor does not compute in {precision} '
            f'(OpenVINO finds {", ".join(capabilities)}): use precision fp32'
        )


def _settings(precision: str, threads: int) -> dict[str, str]:
    return {
        'INFERENCE_PRECISION_HINT': _TYPES[precision],
        'INFERENCE_NUM_THREADS': str(threads),
        'NUM_STREAMS': '1',
        'ENABLE_CPU_PINNING': 'NO',  # where this process runs is its user's decision
    }


def _file_name(index: int) -> str:
    return f'level_{index:02d}.blob'


def _compile_levels(
    family: Family,
    cache: BuildCache,
    folder: Path,
    precision: str,
    threads: int,
    progress: Callable[[str], None] | None,
) -> None:
    """Write every level, compiled, into `folder`; takes about 0.3 seconds each."""

    def compile_level(level: Level, path: Path) -> None:
        if progress:
            progress(f'OpenVINO: compiling level {level.index} of {len(family.levels)}')
        shape = (1, 3, level.resolution, level.resolution)
        try:
            compiled = compile_network(path, shape, threads, precision).export_model()
        except RuntimeError as error:
            raise EngineError(f'OpenVINO cannot compile {path}: {_told(error)}') from error
        (folder / _file_name(level.index)).write_bytes(compiled.getvalue())

    paths = level_files(family, cache, progress)
    with ThreadPoolExecutor(usable_cpus()) as pool:
        list(pool.map(compile_level, family.levels, paths))


def _told(error: RuntimeError) -> str:
    """Return what happened, without the places in OpenVINO's source that come first."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(('Exception from', 'Check '))]
    return (told or lines or ['RuntimeError'])[0]
