"""The Engine protocol; choosing, building and verifying engines.

To add an engine, add a file to engines/ and an entry to `_ENGINES`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import re
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import DynamicOfaError, EngineError, MissingPackageError
from dynamic_ofa_ros.family import OnnxNetwork
from dynamic_ofa_ros.runtime.build_cache import BuildCache, filesystem_safe
from dynamic_ofa_ros.runtime.engines.residents import Residents
from dynamic_ofa_ros.runtime.host import (
    cpu_name,
    gpu_index,
    gpu_name,
    has_nvidia_device,
    usable_cpus,
)
from dynamic_ofa_ros.runtime.image import FloatArray
from dynamic_ofa_ros.runtime.known_profile import load_or_measure_profile
from dynamic_ofa_ros.runtime.profile_check import checked_levels
from dynamic_ofa_ros.runtime.profiling import profile_engine
from dynamic_ofa_ros.runtime.reference import probe_input, reference_of

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family, Level

__all__ = [
    'Engine',
    'create_engine',
    'engine_names',
    'load_or_measure_profile',
    'platform_name',
    'probe_input',
    'profile_engine',
    'verify',
]

Progress = Callable[[str], None]
_log = logging.getLogger(__name__)

PRECISIONS = ('fp32', 'bf16', 'fp16')


@dataclass(frozen=True)
class _Kind:
    """The class of an engine and its properties.

    needs: modules that it imports. distributions: alternative packages that provide it. device:
    the only kind of device that it supports; empty for any. is_optional: it is not reported if it
    is not installed. is_gradual: it can load levels later.
    """

    module: str
    class_name: str
    needs: tuple[str, ...]
    distributions: tuple[str, ...]
    device: str = ''
    precisions: tuple[str, ...] = ('fp32',)
    is_optional: bool = False
    runs_separate_networks: bool = True
    is_gradual: bool = True


_ENGINES = {
    'onnxruntime': _Kind(
        'onnxruntime', 'OnnxRuntimeEngine', ('onnxruntime',), ('onnxruntime', 'onnxruntime-gpu')
    ),
    'openvino': _Kind(
        'openvino', 'OpenvinoEngine', ('openvino',), ('openvino',),
        device='cpu', precisions=PRECISIONS, is_optional=True,
    ),
    'pytorch': _Kind(
        'pytorch', 'PytorchEngine', ('torch', 'safetensors', 'ofa'), ('torch',),
        is_optional=True, runs_separate_networks=False, is_gradual=False,
    ),
    'tensorrt': _Kind(
        'onnxruntime', 'TensorRtEngine', ('onnxruntime',), ('onnxruntime-gpu', 'onnxruntime'),
        device='cuda', precisions=('fp32', 'fp16'), is_optional=True,
    ),
}  # fmt: skip

BUILD_PACKAGES = ('onnx', 'safetensors', 'ofa')
"""Packages that engines require only until they are built."""

TOLERANCES = {'fp32': 5e-3, 'fp16': 1e-2, 'bf16': 5e-2, 'int8': 0.1}
"""Allowed difference of a logit from the reference, as a fraction of the reference's range.

Typical differences of trained networks are 1e-5 for another order of summation, 1e-3 for TF32,
3e-3 for fp16, 2e-2 for bf16, 3e-2 for int8 (each engine rounds int8 differently), and at least 0.1
for wrong batch-norm statistics. `dynamic-ofa measure --precision` measures the effect of a
precision on the accuracy.
"""

MAX_DEVICE_NAME = 80
_NOISE = ('intel', 'amd', 'nvidia', 'developer', 'engineering', 'reference', 'kit')
POWER_MODE_FILE = Path('/var/lib/nvpmodel/status')

WARM_RUNS = 3
TRIAL_RUNS = 7


class Engine(Protocol):
    """Runs the levels of a family on a device; all levels are in memory unless that is limited.

    platform: the name of device, engine, precision and threads; a valid file name.
    device: cpu, cuda or cuda:N.
    notes: messages for the user about options that could not be met.
    residents: the levels in memory; None if the engine keeps all levels in memory.
    """

    platform: str
    device: str
    notes: tuple[str, ...]
    residents: Residents[Any] | None

    @property
    def name(self) -> str:
        """The engine's name, as in the parameter `engine`."""

    @property
    def level_count(self) -> int:
        """The number of levels."""

    def buffer(self, index: int) -> FloatArray | None:
        """Return an array from which the level reads input without a copy, if there is one."""

    def infer(self, index: int, tensor: FloatArray) -> FloatArray:
        """Run level `index` (1-based) on (1, 3, r, r) float32; return (classes,) float32 logits.

        Return when the device has finished. Raise EngineError if inference fails.
        """

    def close(self) -> None:
        """Free the device's memory."""


class EngineBase:
    """Base class of all engines; raises an EngineError for any exception of inference."""

    name: str
    residents: Residents[Any] | None = None

    @property
    def level_count(self) -> int:
        """The number of levels."""
        return self.residents.count if self.residents else 0

    def close(self) -> None:
        """Free the levels."""
        if self.residents:
            self.residents.close()

    def buffer(self, index: int) -> FloatArray | None:
        """Return an array from which the level reads input without a copy, if there is one."""
        return None

    def infer(self, index: int, tensor: FloatArray) -> FloatArray:
        """Run level `index` (1-based) on (1, 3, r, r) float32; return (classes,) float32 logits.

        Return when the device has finished. Raise EngineError if inference fails.
        """
        try:
            return self._infer(index, tensor)
        except EngineError:
            raise
        except Exception as error:  # libraries raise exceptions of any type
            raise EngineError(
                f'{self.name} failed at level {index}: {described(error)}'
            ) from error

    def _infer(self, index: int, tensor: FloatArray) -> FloatArray:
        raise NotImplementedError


def described(error: Exception) -> str:
    """Return the first line of an error's message; PyTorch appends debugging advice to it."""
    line = str(error).partition('\n')[0]
    if line and isinstance(error, RuntimeError):
        return line
    return f'{type(error).__name__}: {line}' if line else type(error).__name__


@dataclass(frozen=True)
class _Candidate:
    engine: str
    device: str
    precision: str = 'fp32'

    def __str__(self) -> str:
        precision = '' if self.precision == 'fp32' else f' in {self.precision}'
        return f'{self.engine} on {self.device}{precision}'


_LAST_RESORT = _Candidate('pytorch', 'cpu')
"""Tried only if no other candidate works: PyTorch on a CPU is slower than other engines
(benchmarks/results/engines.json) and takes long to load."""


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines."""
    return tuple(_ENGINES)


def create_engine(
    family: Family,
    *,
    device: str = 'auto',
    engine: str = 'auto',
    precision: str = 'fp32',
    threads: int = 1,
    max_resident_mb: float = 0.0,
    is_gradual: bool = False,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Build, verify and warm up an engine with the levels of the family.

    device: auto, cpu, cuda or cuda:N. engine: auto or one of `engine_names()`. If one of them is
    auto, the fastest correct combination on this machine is used; it is measured once and stored
    in the build cache. precision: one of `PRECISIONS`. threads: limited to `usable_cpus()`.
    max_resident_mb: memory for levels (see `Residents`); 0 loads all. is_gradual: load only some
    levels now if the choice is known and all levels fit; see `first` of `Residents`. progress:
    called with a message before each slow step. Raise EngineError if the options cannot be met.
    """
    candidates = _candidates(family, device, engine, precision, threads)
    requested, threads = threads, min(threads, usable_cpus())
    cache = BuildCache(family, cache_dir)
    builder = _Builder(family, cache, threads, max_resident_mb, progress)
    if len(candidates) == 1 and 'auto' not in (device, engine):
        chosen = builder.build(candidates[0])
    else:
        key = f'{filesystem_safe(device)}-{engine}-{precision}-t{threads}'
        is_gradual = is_gradual and not max_resident_mb
        first = checked_levels(len(family.levels)) if is_gradual else []
        chosen = _fastest(builder, candidates, f'choice-{key}.json', first)
    chosen.notes = (*cache.notes, *builder.notes, *chosen.notes)
    if threads < requested:
        note = f'threads is {requested}, but this process may use only {threads} processors'
        chosen.notes = (*chosen.notes, note)
    return chosen


def create_engines(
    family: Family,
    *,
    device: str = 'auto',
    engine: str = 'auto',
    precision: str = 'fp32',
    threads: int = 1,
    max_resident_mb: float = 0.0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[Engine]:
    """Build an engine for every device among which the manager can choose.

    The arguments are those of `create_engine`. If device is auto and the machine has a GPU, return
    an engine on the GPU and one on the CPU, which is used when the GPU is contended; if one of
    them does not work, the notes of the other one say so. Otherwise return a single engine, which
    is gradual.
    """

    def create(on_device: str, *, is_gradual: bool = False) -> Engine:
        return create_engine(
            family,
            device=on_device,
            engine=engine,
            precision=precision,
            threads=threads,
            max_resident_mb=max_resident_mb,
            is_gradual=is_gradual,
            cache_dir=cache_dir,
            progress=progress,
        )

    if device != 'auto' or not has_nvidia_device():
        return [create(device, is_gradual=True)]
    # Invalid options raise an error here, instead of being noted as the failure of a device.
    _candidates(family, device, engine, precision, threads)
    engines: list[Engine] = []
    notes: list[str] = []
    for place, called in (('cpu', 'CPU'), ('cuda', 'GPU')):
        try:
            engines.insert(0, create(place))
        except EngineError as error:
            notes.append(f'the {called} is not used: {error}')
    if not engines:
        raise EngineError('no engine works here: ' + '; '.join(notes))
    engines[0].notes = (*engines[0].notes, *notes)
    return engines


def platform_name(
    device: str, device_name: str, engine: str, *, precision: str, threads: int
) -> str:
    """Return the name of a platform, such as `cpu-core-i7-1165g7-onnxruntime-fp32-t1`.

    On a Jetson it includes the power mode, which changes the clocks. Devices of different speed
    should have different names; if they do not, the check of the profile at the start detects it.
    """
    parts = [device, _shortened(device_name), engine, precision, f't{threads}', *_power_mode()]
    return '-'.join(filesystem_safe(part) for part in parts)


def verify(
    name: str,
    infer: Callable[[int, FloatArray], FloatArray],
    levels: Iterable[Level],
    reference: Mapping[int, FloatArray],
    precision: str = 'fp32',
) -> None:
    """Compare the logits of levels with the reference; raise EngineError if they differ.

    name: that of the engine. infer: returns the logits for the index of a level and an image.
    """
    for level in levels:
        expected = reference[level.index]
        found = infer(level.index, probe_input(level.resolution))
        if found.shape != expected.shape:
            raise EngineError(
                f'{name} returns logits of shape {found.shape} at level {level.index}, '
                f'expected {expected.shape}'
            )
        difference = float(np.max(np.abs(found - expected)))
        tolerance = max(TOLERANCES[precision], TOLERANCES[_precision_of(level)])
        allowed = tolerance * max(float(np.ptp(expected)), 1e-3)
        if not difference <= allowed:  # also true for NaN
            raise EngineError(
                f'{name} computes wrong results at level {level.index}: its logits differ '
                f'from the reference by up to {difference:.3g}, {allowed:.3g} is allowed'
            )


def _precision_of(level: Level) -> str:
    """Return the precision of the level's file."""
    return level.network.precision if isinstance(level.network, OnnxNetwork) else 'fp32'


class _Builder:
    """Builds, verifies and warms up engines of one family; collects the errors."""

    def __init__(
        self,
        family: Family,
        cache: BuildCache,
        threads: int,
        max_resident_mb: float,
        progress: Progress | None,
    ) -> None:
        self.family = family
        self.cache = cache
        self.notes: tuple[str, ...] = ()
        self.reasons: tuple[str, ...] = ()
        self.is_conclusive = True
        """False after an error that may not occur at the next start, such as a full disk."""
        self._threads = threads
        self._max_resident_mb = max_resident_mb
        self._progress = progress
        self._interruption: Exception | None = None
        self._reference: dict[int, FloatArray] | None = None

    def build(self, candidate: _Candidate, first: Collection[int] = ()) -> Engine:
        """Return a verified engine; raise EngineError if it cannot be built.

        first: the levels to load now, if the engine is gradual; none: all.
        """
        try:
            return self._build(candidate, first)
        except Exception as error:  # libraries raise exceptions of any type
            if self._interruption is not None:
                raise self._interruption from None
            if isinstance(error, MissingPackageError):
                raise EngineError(str(error)) from error
            if isinstance(error, DynamicOfaError):
                raise
            raise EngineError(f'{candidate} does not work here: {described(error)}') from error

    def _build(self, candidate: _Candidate, first: Collection[int]) -> Engine:
        kind = _ENGINES[candidate.engine]
        requirements.check(*kind.needs)
        module = importlib.import_module(f'dynamic_ofa_ros.runtime.engines.{kind.module}')
        factory = getattr(module, kind.class_name)
        self._tell(f'loading {candidate}')
        engine: Engine = factory(
            self.family,
            self.cache,
            device=candidate.device,
            threads=self._threads,
            max_resident_mb=self._max_resident_mb,
            progress=self._tell,
            # Engines that support fp32 only do not have this argument.
            **({} if candidate.precision == 'fp32' else {'precision': candidate.precision}),
            **({'first': first} if kind.is_gradual else {}),
        )
        try:
            reference = self._reference_logits()

            def check(
                levels: Sequence[Level], infer: Callable[[int, FloatArray], FloatArray]
            ) -> None:
                """Verify levels and warm them up."""
                verify(engine.name, infer, levels, reference, candidate.precision)
                for level in levels:
                    for _ in range(WARM_RUNS):
                        infer(level.index, probe_input(level.resolution))

            levels = self.family.levels
            if first and kind.is_gradual:
                levels = tuple(level for level in levels if level.index in first)
            check(levels, engine.infer)
        except Exception:
            engine.close()
            raise
        if engine.residents is not None:
            engine.residents.check = lambda index, runner: check(
                [self.family.level(index)], lambda _, tensor: runner.infer(tensor)
            )
        return engine

    def try_build(self, candidate: _Candidate, first: Collection[int] = ()) -> Engine | None:
        """Return an engine; if it cannot be built, add the error to `reasons` and return None.

        The error is also added to the notes, unless an optional engine is not installed.
        """
        try:
            return self.build(candidate, first)
        except EngineError as error:
            cause = error.__cause__
            is_missing = isinstance(cause, MissingPackageError)
            if isinstance(cause, MissingPackageError):
                cause = cause.__cause__
            if cause is not None and not isinstance(cause, ModuleNotFoundError):
                self.is_conclusive = False
            self._give_up(
                error, is_noted=not (is_missing and _ENGINES[candidate.engine].is_optional)
            )
            return None

    def _give_up(self, error: EngineError, is_noted: bool = True) -> None:
        self.reasons = (*self.reasons, str(error))
        if is_noted:
            _log.warning('%s', error)
            self.notes = (*self.notes, str(error))

    def trial_ms(self, engines: list[Engine]) -> list[float]:
        """Return the sum of all levels' median latencies for each engine; measured alternately.

        The sum is infinite for an engine that fails; the error is added to `reasons` and notes.
        """
        if len(engines) == 1:
            return [math.nan]  # a single engine need not be measured
        self._tell('measuring which engine is the fastest on this machine')
        totals = [0.0] * len(engines)
        for level in self.family.levels:
            tensor = probe_input(level.resolution)
            times: list[list[float]] = [[] for _ in engines]
            for position in TRIAL_RUNS * list(range(len(engines))):
                start_ns = time.perf_counter_ns()
                try:
                    engines[position].infer(level.index, tensor)
                except EngineError as error:
                    self.is_conclusive = False
                    if totals[position] < math.inf:
                        self._give_up(error)
                    totals[position] = math.inf
                times[position].append((time.perf_counter_ns() - start_ns) / 1e6)
            for position, samples in enumerate(times):
                totals[position] += statistics.median(samples)
        return totals

    def _reference_logits(self) -> dict[int, FloatArray]:
        if self._reference is None:
            self._reference = reference_of(self.family, self.cache, self._tell)
        return self._reference

    def _tell(self, text: str) -> None:
        if self._progress:
            try:
                self._progress(text)
            except Exception as error:  # the caller interrupts; not an error of the engine
                self._interruption = error
                raise


def _candidates(
    family: Family, device: str, engine: str, precision: str, threads: int
) -> list[_Candidate]:
    """Return the candidates; raise EngineError if an option is invalid."""
    if threads < 1:
        raise EngineError(f'threads is {threads}; it must be at least 1')
    if not re.fullmatch(r'auto|cpu|cuda(:\d+)?', device):
        raise EngineError(f'device is {device!r}; it must be auto, cpu, cuda or cuda:N')
    if precision not in PRECISIONS:
        raise EngineError(
            f'precision is {precision!r}; it must be one of: {", ".join(PRECISIONS)}'
        )
    if engine != 'auto' and engine not in _ENGINES:
        raise EngineError(
            f'there is no engine {engine!r}; it must be one of: auto, {", ".join(_ENGINES)}'
        )
    able = [n for n, kind in _ENGINES.items() if family.is_supernet or kind.runs_separate_networks]
    if engine != 'auto' and engine not in able:
        raise EngineError(
            f'engine {engine} runs sub-networks of a supernet, but family {family.name} consists '
            f'of separate ONNX networks: use engine {", ".join(able)} or auto'
        )
    devices = ['cpu'] if device == 'auto' else [device]
    if device == 'auto' and has_nvidia_device():
        devices.append('cuda')
    engines = able if engine == 'auto' else [engine]
    engines = [name for name in engines if precision in _ENGINES[name].precisions]
    if not engines:
        able = [name for name, kind in _ENGINES.items() if precision in kind.precisions]
        raise EngineError(
            f'engine {engine} does not support {precision}: use engine {", ".join(able)}, or '
            'precision fp32'
        )
    candidates = [
        _Candidate(name, place, precision)
        for place in devices
        for name in engines
        if _ENGINES[name].device in ('', place.partition(':')[0])
    ]
    if not candidates:
        where = ', '.join(sorted({_ENGINES[name].device for name in engines}))
        what = f'{", ".join(engines)} runs on {where} only'
        if device == 'auto':
            raise EngineError(f'{what}, and this machine has no NVIDIA GPU: use engine auto')
        instead = 'engine auto' if precision == 'fp32' else 'engine auto and precision fp32'
        raise EngineError(f"device is '{device}', but {what}: use device '{where}', or {instead}")
    return candidates


def _fastest(
    builder: _Builder, candidates: list[_Candidate], choice_file: str, first: Collection[int]
) -> Engine:
    """Return the fastest working engine; use the stored choice if it is still valid.

    The choice is not stored if an engine failed for a reason that may be temporary.

    first: the levels to load now if there is a stored choice; none: all.
    """
    conditions = _conditions(candidates)
    remembered = builder.cache.read_json(choice_file)
    if remembered.get('conditions') == conditions:
        for candidate in candidates:
            if str(candidate) == remembered.get('winner'):
                engine = builder.try_build(candidate, first)
                if engine is not None:
                    builder.notes = tuple(str(note) for note in remembered.get('notes', ()))
                    return engine
    builder.notes = builder.reasons = ()
    working: list[tuple[_Candidate, Engine]] = []
    for candidate in candidates:
        if candidate == _LAST_RESORT and working:
            continue
        engine = builder.try_build(candidate)
        if engine is not None:
            working.append((candidate, engine))
    times_ms = builder.trial_ms([engine for _, engine in working]) if working else [math.inf]
    best = min(range(len(times_ms)), key=times_ms.__getitem__)
    for position, (_, engine) in enumerate(working):
        if position != best or times_ms[best] == math.inf:
            engine.close()
    if times_ms[best] == math.inf:
        raise EngineError('no engine works here: ' + '; '.join(_distinct(builder.reasons)))
    trial_ms = {
        str(candidate): round(total, 3)
        for (candidate, _), total in zip(working, times_ms, strict=True)
        if math.isfinite(total)
    }
    document = {
        'winner': str(working[best][0]),
        'trial_ms': trial_ms,
        'notes': list(builder.notes),
        'conditions': conditions,
    }
    if builder.is_conclusive:
        builder.cache.write_text(choice_file, json.dumps(document, indent=1))
    if len(working) > 1:
        times = ', '.join(f'{name} {ms:.4g} ms' for name, ms in trial_ms.items())
        _log.info('the fastest engine is %s (all levels: %s)', document['winner'], times)
    return working[best][1]


def _distinct(reasons: tuple[str, ...]) -> list[str]:
    """Return the reasons without duplicates and without those that another reason contains."""
    once = list(dict.fromkeys(reasons))
    return [one for one in once if not any(one in other for other in once if other != one)]


def _conditions(candidates: list[_Candidate]) -> dict[str, str]:
    """Return the conditions of a stored choice: the machine, the engines and their versions."""
    gpus = dict.fromkeys(one.device for one in candidates if one.device != 'cpu')
    return {
        'cpu': cpu_name(),
        **{place: gpu_name(gpu_index(place)) for place in gpus},
        'candidates': ', '.join(str(candidate) for candidate in candidates),
        **{name: _version(*kind.distributions) for name, kind in _ENGINES.items()},
        **{name: _version(name) for name in BUILD_PACKAGES},
    }


def _version(*distributions: str) -> str:
    """Return the version of the first package that is installed."""
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return 'absent'


def _shortened(device_name: str) -> str:
    """Return the significant words of a device's name, such as 'jetson-xavier-nx'."""
    words = filesystem_safe(device_name).split('-')
    kept = [word for word in words if word not in _NOISE]
    return '-'.join(kept or words)[:MAX_DEVICE_NAME]


def _power_mode() -> list[str]:
    """Return ['pm2'] for a Jetson in power mode 2, and an empty list for other machines."""
    try:
        text = POWER_MODE_FILE.read_text(encoding='utf-8')
    except OSError:
        return []
    match = re.search(r'pmode:0*(\d+)', text)
    return [f'pm{match.group(1)}'] if match else []
