"""Engine on OpenVINO for the CPU: a compiled network and one request per level."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime.engine import EngineBase, platform_name
from dynamic_ofa_ros.runtime.engines.onnx_files import FILES_VERSION, level_files
from dynamic_ofa_ros.runtime.engines.residents import Residents
from dynamic_ofa_ros.runtime.host import cpu_name, usable_cpus
from dynamic_ofa_ros.runtime.image import FloatArray

requirements.check('openvino')  # before the import, which would also import the converter
import openvino  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from dynamic_ofa_ros.family import Family, Level
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

COMPILED_VERSION = 'openvino-1'
"""To be changed with `compile_network`, so that older compiled networks are built again."""

_TYPES = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}


@lru_cache
def shared_core() -> openvino.Core:
    """Return the OpenVINO core of this process, which is never deleted.

    On a processor with AMX, OpenVINO sets a signal stack for the thread that creates the first
    core, and frees it with the last core, possibly on another thread. The next signal would then
    crash the process.
    """
    return openvino.Core()


class OpenvinoEngine(EngineBase):
    """Runs each level as a network compiled for this CPU; stored in the build cache.

    The precision is set explicitly, because by default OpenVINO uses bfloat16 on CPUs that support
    it. Inference runs on the caller's thread and `threads` - 1 other threads.
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
        first: Collection[int] = (),
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
            load, len(family.levels), max_resident_mb, usable_cpus(), first
        )
        self.residents = self._levels

    def _infer(self, index: int, tensor: FloatArray) -> FloatArray:
        return self._levels.get(index).infer(tensor)

    def buffer(self, index: int) -> FloatArray:
        """Return the input array of a level."""
        return self._levels.get(index).input


class Request:
    """A compiled network with a fixed input array."""

    def __init__(self, network: Any) -> None:
        self._request = network.create_infer_request()
        self.input: FloatArray = np.zeros(tuple(network.input(0).shape), np.float32)
        # OpenVINO holds no reference to the array, so this object must.
        self._request.set_input_tensor(openvino.Tensor(self.input, shared_memory=True))
        self._output = self._request.get_output_tensor(0).data
        # That of the base class, because InferRequest's also creates a dictionary of the outputs.
        self._run = super(openvino.InferRequest, self._request).infer  # type: ignore[misc]

    def infer(self, tensor: FloatArray) -> FloatArray:
        """Return a copy of the output's first row; `tensor` is copied unless it is `input`."""
        if tensor is not self.input:
            if tensor.shape != self.input.shape:
                raise ValueError(f'the input is {tensor.shape}, expected {self.input.shape}')
            np.copyto(self.input, tensor)
        self._run({}, share_outputs=True, decode_strings=False)
        output: FloatArray = self._output[0].copy()
        return output


def compile_network(
    onnx: Path | io.BytesIO, shape: Sequence[int], threads: int, precision: str = 'fp32'
) -> Any:
    """Compile a network with the engine's settings, for inputs of one shape."""
    network = shared_core().read_model(onnx)
    network.reshape(list(shape))
    return shared_core().compile_model(network, 'CPU', _settings(precision, threads))


def _check_precision(precision: str) -> None:
    """Raise EngineError if the processor does not support the precision (it would use fp32)."""
    capabilities = shared_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision.upper() not in capabilities:
        raise EngineError(
            f'this processor does not support {precision} '
            f'(OpenVINO reports {", ".join(capabilities)}): use precision fp32'
        )


def _settings(precision: str, threads: int) -> dict[str, str]:
    return {
        'INFERENCE_PRECISION_HINT': _TYPES[precision],
        'INFERENCE_NUM_THREADS': str(threads),
        'NUM_STREAMS': '1',
        'ENABLE_CPU_PINNING': 'NO',  # the user decides on which processors this process runs
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
    """Compile every level and write it to `folder`; this takes about 0.3 seconds per level."""

    def compile_level(level: Level, path: Path) -> None:
        if progress:
            progress(f'OpenVINO: compiling level {level.index} of {len(family.levels)}')
        shape = (1, 3, level.resolution, level.resolution)
        try:
            compiled = compile_network(path, shape, threads, precision).export_model()
        except RuntimeError as error:
            raise EngineError(f'OpenVINO cannot compile {path}: {_cause(error)}') from error
        (folder / _file_name(level.index)).write_bytes(compiled.getvalue())

    paths = level_files(family, cache, progress)
    with ThreadPoolExecutor(usable_cpus()) as pool:
        list(pool.map(compile_level, family.levels, paths))


def _cause(error: RuntimeError) -> str:
    """Return the first line of an error's message that is not a location in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines()]
    causes = [line for line in lines if line and not line.startswith(('Exception from', 'Check '))]
    return (causes or lines or ['RuntimeError'])[0]
