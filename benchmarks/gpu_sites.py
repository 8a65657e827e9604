"""The machine of `benchmarks.gpu_check`: one with an NVIDIA GPU, or a fake for tests."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from benchmarks.adapting import Load
from benchmarks.published import published_family
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.runtime.engine import Engine, create_engine, engine_names, probe_input
from dynamic_ofa_ros.runtime.host import HostMonitor, gpu_uuid
from dynamic_ofa_ros.runtime.image import FloatArray

ROOT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 90.0
MIB = 2**20

Infer = Callable[[int, FloatArray], FloatArray]


@dataclass
class Contenders:
    """All available ways to run the levels of a family; `missing`: reasons for the others."""

    engines: dict[str, Engine]
    baselines: dict[str, Infer]
    missing: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Free the engines."""
        for engine in self.engines.values():
            engine.close()


class Site(Protocol):
    """A machine for measurements. `gpu_engine` and `cpu_engine` are names of contenders."""

    gpu_engine: str
    cpu_engine: str

    def families(self) -> list[Family]:
        """Return the families to measure; the last one is also measured with loads."""

    def machine(self) -> dict[str, Any]:
        """Return the properties of the machine."""

    def memory(self) -> dict[str, Any]:
        """Return the GPU memory of the last family."""

    def contenders(self, family: Family) -> Contenders:
        """Build all contenders for a family."""

    def published_switch(self, family: Family) -> Infer:
        """Return the published method of switching: extract a network and load its statistics."""

    def reference(self, family: Family) -> Mapping[int, FloatArray]:
        """Return the reference logits of every level for the probe input."""

    def loads(self, family: Family) -> Any:
        """Return a context manager that yields warm, idle competitors by name."""


class GpuSite:
    """The NVIDIA GPU `cuda:0` of this machine."""

    gpu_engine = 'pytorch cuda'
    cpu_engine = 'onnxruntime cpu'

    def __init__(self, folder: Path) -> None:
        import torch

        if not torch.cuda.is_available():
            raise EngineError(
                f'PyTorch {torch.__version__} finds no NVIDIA GPU: install a CUDA build of it and '
                "the GPU's driver, or use --quick"
            )
        self._folder = folder
        self._cache = folder / 'cache'
        self._families = [Family.load(default_family()), published_family(folder / 'published')]

    def families(self) -> list[Family]:
        """Return the demo family, and the published GPU levels with random weights."""
        return self._families

    def machine(self) -> dict[str, Any]:
        """Return GPU, driver and versions."""
        import onnxruntime
        import torch

        properties = torch.cuda.get_device_properties(0)
        status = HostMonitor('cuda').sample()
        return {
            'gpu': properties.name,
            'uuid_known': gpu_uuid(0).startswith('GPU-'),
            'compute_capability': f'{properties.major}.{properties.minor}',
            'multiprocessors': properties.multi_processor_count,
            'memory_mb': round(properties.total_memory / MIB),
            'driver': _driver_version(),
            'cuda': torch.version.cuda,
            'cudnn': torch.backends.cudnn.version(),
            'onnxruntime_providers': onnxruntime.get_available_providers(),
            'temperature_celsius': status.temperature_celsius,
            'power_w': status.power_w,
        }

    def memory(self) -> dict[str, Any]:
        """Measure GPU memory: all levels, the largest level only, the supernet."""
        import torch

        from dynamic_ofa_ros.supernet.network import load_supernet

        result: dict[str, Any] = {}
        alone = published_family(self._folder / 'published_highest', only_highest=True)
        engines = [('largest_alone', alone), ('all_levels', self._families[-1])]
        for name, family in (engines[0], *engines):  # the first run includes memory of libraries
            before = _memory(torch)
            engine = create_engine(family, device='cuda', engine='pytorch', cache_dir=self._cache)
            after = _memory(torch)
            free, total = torch.cuda.mem_get_info()
            result[name] = {
                'levels': len(family.levels),
                'reserved_mb': round(after['reserved'] - before['reserved'], 1),
                'allocated_mb': round(after['allocated'] - before['allocated'], 1),
                # Includes the memory of CUDA and its libraries.
                'used_on_device_mb': round((total - free) / MIB, 1),
                'notes': engine.notes,
            }
            engine.close()
            del engine
        before = _memory(torch)
        supernet = load_supernet(alone).to('cuda')
        after = _memory(torch)
        result['supernet'] = {'allocated_mb': round(after['allocated'] - before['allocated'], 1)}
        del supernet
        _memory(torch)
        ratio = result['all_levels']['reserved_mb'] / result['largest_alone']['reserved_mb']
        return {**result, 'all_to_largest': round(ratio, 3)}

    def contenders(self, family: Family) -> Contenders:
        """Build all GPU engines, the fast CPU engine, and baselines with plain PyTorch."""
        import torch

        from dynamic_ofa_ros.supernet.network import load_level, load_supernet, set_active

        engines, missing = {}, {}
        for device, names in (('cuda', engine_names()), ('cpu', ['onnxruntime'])):
            for name in names:
                try:
                    engines[f'{name} {device}'] = create_engine(
                        family,
                        device=device,
                        engine=name,
                        cache_dir=self._cache,
                        progress=lambda text: print(f'  {text}', flush=True),
                    )
                except EngineError as error:
                    missing[f'{name} {device}'] = str(error)
        missing.update(_missing_providers())
        supernet = load_supernet(family)
        networks = {
            level.index: load_level(family, level.index, supernet).to('cuda')
            for level in family.levels
        }
        supernet.to('cuda')

        def eager(index: int, tensor: FloatArray) -> FloatArray:
            with torch.inference_mode():
                logits = networks[index](torch.from_numpy(tensor).to('cuda'))[0].cpu().numpy()
            return np.asarray(logits, dtype=np.float32)

        def dynamic(index: int, tensor: FloatArray) -> FloatArray:
            set_active(supernet, family.level(index).architecture)
            with torch.inference_mode():
                logits = supernet(torch.from_numpy(tensor).to('cuda'))[0].cpu().numpy()
            return np.asarray(logits, dtype=np.float32)

        return Contenders(engines, {'eager PyTorch': eager, 'supernet': dynamic}, missing)

    def published_switch(self, family: Family) -> Infer:
        """Return a call that extracts a static network, loads its statistics and runs it."""
        import torch

        from dynamic_ofa_ros.supernet.network import load_level, load_supernet

        supernet = load_supernet(family)

        def switch(index: int, tensor: FloatArray) -> FloatArray:
            network = load_level(family, index, supernet).to('cuda')
            with torch.inference_mode():
                logits = network(torch.from_numpy(tensor).to('cuda'))[0].cpu().numpy()
            return np.asarray(logits, dtype=np.float32)

        return switch

    def reference(self, family: Family) -> Mapping[int, FloatArray]:
        """Compute the logits with plain PyTorch networks on the CPU."""
        from dynamic_ofa_ros.runtime.engines.pytorch import reference_logits

        return reference_logits(family, probe_input)

    @contextmanager
    def loads(self, family: Family) -> Iterator[dict[str, Load]]:
        """Start a training job and a second classifier as separate processes."""
        arguments = ['--family', str(family.directory), '--cache', str(self._cache)]
        started = {name: ProcessLoad([name, *arguments]) for name in ('training', 'classifier')}
        try:
            for load in started.values():
                load.wait_until_ready()
            yield dict(started)
        finally:
            for load in started.values():
                load.close()


class ProcessLoad:
    """A process of `benchmarks.gpu_load`."""

    def __init__(self, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.gpu_load', *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def wait_until_ready(self) -> None:
        """Wait until it is warm; raise RuntimeError if it ends or takes too long."""
        timer = threading.Timer(READY_TIMEOUT_S, self._process.kill)
        timer.start()
        line = _pipe(self._process.stdout).readline()
        timer.cancel()
        if line.strip() != 'ready':
            raise RuntimeError(f'the load ended: {line!r}, status {self._process.wait()}')

    def work(self, share: float) -> None:
        """Work for this share of the time."""
        stdin = _pipe(self._process.stdin)
        stdin.write(json.dumps({'duty_cycle': share}) + '\n')
        stdin.flush()

    def close(self) -> None:
        """End the process by closing its pipe."""
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError('the process was started without this pipe')
    return stream


def _memory(torch: Any) -> dict[str, float]:
    """Return the GPU memory of this process in MiB after freeing unused memory."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return {
        'allocated': torch.cuda.memory_allocated() / MIB,
        'reserved': torch.cuda.memory_reserved() / MIB,
    }


def _driver_version() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # the version is optional, so no error may stop the benchmark
        return 'unknown'


def _missing_providers() -> dict[str, str]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return {
        f'onnxruntime {name}': 'this ONNX Runtime does not have this provider'
        for name in ('TensorrtExecutionProvider',)
        if name not in available
    }


# Fakes for tests.

FAKE_FASTEST_MS, FAKE_SLOWEST_MS = 1.0, 4.0
FAKE_SWITCH_S = 0.005


class FakeGpu:
    """A fake GPU with the load of its competitors."""

    def __init__(self) -> None:
        self.share = 0.0


class FakeLoad:
    """A competitor on the fake GPU."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def work(self, share: float) -> None:
        """Work for this share of the time."""
        self._gpu.share = share

    def close(self) -> None:
        """Do nothing."""
        self._gpu.share = 0.0


class FakeEngine:
    """Sleeps for the latency of a level, twice as long under load; its results are correct."""

    name = 'fake'

    def __init__(self, family: Family, platform: str, gpu: FakeGpu, factor: float = 1.0) -> None:
        self.platform = platform
        self.device = 'cpu'
        self.notes: tuple[str, ...] = ()
        self.residents = None
        self.level_count = len(family.levels)
        self._gpu = gpu
        self._latencies_ms = factor * np.linspace(
            FAKE_FASTEST_MS, FAKE_SLOWEST_MS, self.level_count
        )
        self._logits = np.arange(len(family.labels), dtype=np.float32)

    def buffer(self, index: int) -> None:
        """Return None: the input has no fixed buffer."""

    def infer(self, index: int, tensor: FloatArray) -> FloatArray:
        """Sleep and return the logits."""
        time.sleep(self._latencies_ms[index - 1] * (1.0 + self._gpu.share) / 1e3)
        return self._logits * np.float32(index)

    def close(self) -> None:
        """Do nothing."""


class FakeSite:
    """A GPU and a CPU that only sleep."""

    gpu_engine = 'fake cuda'
    cpu_engine = 'fake cpu'

    def __init__(self) -> None:
        self._gpu = FakeGpu()

    def families(self) -> list[Family]:
        """Return the demo family."""
        return [Family.load(default_family())]

    def machine(self) -> dict[str, Any]:
        """Return that this is a fake."""
        return {'gpu': 'fake'}

    def memory(self) -> dict[str, Any]:
        """Return that the memory is unknown."""
        return {}

    def contenders(self, family: Family) -> Contenders:
        """Return a fake GPU engine, a slower fake CPU engine without load, and a baseline."""
        engines: dict[str, Engine] = {
            self.gpu_engine: FakeEngine(family, 'cuda-fake-fp32-t1', self._gpu),
            self.cpu_engine: FakeEngine(family, 'cpu-fake-fp32-t1', FakeGpu(), 3.0),
        }
        slower = FakeEngine(family, '', self._gpu, 2.0)
        return Contenders(engines, {'fake eager': slower.infer}, {'fake other': 'not here'})

    def published_switch(self, family: Family) -> Infer:
        """Return a slower call."""
        engine = FakeEngine(family, '', self._gpu)

        def switch(index: int, tensor: FloatArray) -> FloatArray:
            time.sleep(FAKE_SWITCH_S)
            return engine.infer(index, tensor)

        return switch

    def reference(self, family: Family) -> Mapping[int, FloatArray]:
        """Return the logits of the fake engines."""
        logits = np.arange(len(family.labels), dtype=np.float32)
        return {level.index: logits * np.float32(level.index) for level in family.levels}

    @contextmanager
    def loads(self, family: Family) -> Iterator[dict[str, Load]]:
        """Yield two competitors on the fake GPU."""
        yield {'training': FakeLoad(self._gpu), 'classifier': FakeLoad(self._gpu)}
