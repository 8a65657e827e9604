from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import wait_until

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import EngineError, FamilyError, MissingPackageError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime import engine as engine_module
from dynamic_ofa_ros.runtime.engine import (
    MAX_DEVICE_NAME,
    Engine,
    EngineBase,
    create_engine,
    create_engines,
    platform_name,
    probe_input,
    verify,
)
from dynamic_ofa_ros.runtime.engines import onnxruntime as onnx_module
from dynamic_ofa_ros.runtime.engines import openvino as openvino_module
from dynamic_ofa_ros.runtime.engines.onnxruntime import OnnxRuntimeEngine, Session
from dynamic_ofa_ros.runtime.engines.pytorch import PytorchEngine, fold_batch_norms
from dynamic_ofa_ros.runtime.reference import add_reference
from dynamic_ofa_ros.supernet.network import load_level, load_supernet
from dynamic_ofa_ros.tensor_file import read_arrays, write_arrays

LOGIT_TOLERANCE = 1e-3  # a fraction of the logits' range
CLEARLY_DIFFERENT = 0.2
DEADLINE_S = 120
CPU_ENGINES = ('onnxruntime', 'openvino', 'pytorch')


def dynamic_network(family: Family, index: int) -> torch.nn.Module:
    """Return the supernet with an active level and its statistics, for the dynamic forward pass.

    The dynamic batch norm uses the first channels of the supernet's statistics, so those of the
    level are copied there, as in `ofa`.
    """
    supernet = load_supernet(family)
    architecture = family.level(index).architecture
    supernet.set_active_subnet(
        ks=list(architecture.ks), e=list(architecture.e), d=list(architecture.d)
    )
    level = load_level(family, index)
    static = {n: m for n, m in level.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    dynamic = dynamic_batch_norms(supernet)
    assert len(dynamic) == len(static)
    with torch.inference_mode():
        for source, target in zip(static.values(), dynamic, strict=True):
            count = source.num_features
            target.running_mean[:count] = source.running_mean
            target.running_var[:count] = source.running_var
    return supernet


def dynamic_batch_norms(supernet: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    """Return the batch norms of the active sub-network in order."""
    found: list[torch.nn.BatchNorm2d] = []
    blocks = [supernet.blocks[0]]
    for stage, depth in zip(supernet.block_group_info, supernet.runtime_depth, strict=True):
        blocks += [supernet.blocks[i] for i in stage[:depth]]
    for part in (supernet.first_conv, *blocks, supernet.final_expand_layer):
        found += [m for m in part.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    return found


@pytest.fixture(scope='module', params=CPU_ENGINES)
def cpu_engine(request, random_family, warm_cache):
    engine = create_engine(random_family, device='cpu', engine=request.param, cache_dir=warm_cache)
    yield engine
    engine.close()


@pytest.fixture(scope='module')
def onnx_cache(random_family, warm_cache):
    """Return the warm cache after building ONNX files and compiled networks."""
    for name in ('onnxruntime', 'openvino'):
        create_engine(random_family, device='cpu', engine=name, cache_dir=warm_cache).close()
    return warm_cache


# Results


@pytest.mark.parametrize('index', [1, 2, 3])
def test_engines_agree_with_the_dynamic_forward_of_the_supernet(cpu_engine, random_family, index):
    resolution = random_family.level(index).resolution
    random = np.random.default_rng(index)
    supernet = dynamic_network(random_family, index)
    answers = []
    for _ in range(3):
        images = random.standard_normal((1, 3, resolution, resolution)).astype(np.float32)
        with torch.inference_mode():
            expected = supernet(torch.from_numpy(images))[0].numpy()
        found = cpu_engine.infer(index, images)
        assert found.dtype == np.float32
        assert found.shape == (16,)
        tolerance = LOGIT_TOLERANCE * float(np.ptp(expected))
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
        answers.append(found)
    # The comparison would be meaningless if the logits did not depend on the input.
    assert np.abs(answers[0] - answers[1]).max() > CLEARLY_DIFFERENT
    assert np.ptp(answers[0]) > CLEARLY_DIFFERENT


def test_results_and_inputs_belong_to_the_caller(cpu_engine, random_family):
    resolution = random_family.level(2).resolution
    first, second = probe_input(resolution), -probe_input(resolution)
    answer = cpu_engine.infer(2, first)
    kept = answer.copy()
    other = cpu_engine.infer(2, second)
    np.testing.assert_array_equal(answer, kept)
    np.testing.assert_array_equal(first, probe_input(resolution))
    assert np.abs(other - kept).max() > CLEARLY_DIFFERENT
    buffer = cpu_engine.buffer(2)
    if buffer is not None:
        assert buffer.shape == first.shape
        buffer[...] = first
        np.testing.assert_array_equal(cpu_engine.infer(2, buffer), kept)


def test_levels_have_different_results(cpu_engine, random_family):
    """The comparison must fail with the logits of another level."""
    reference = {
        level.index: cpu_engine.infer(level.index, probe_input(level.resolution))
        for level in random_family.levels
    }
    verify(cpu_engine.name, cpu_engine.infer, random_family.levels, reference)
    swapped = {1: reference[1], 2: reference[3], 3: reference[2]}
    with pytest.raises(EngineError, match='wrong results at level 2'):
        verify(cpu_engine.name, cpu_engine.infer, random_family.levels, swapped)


def test_statistics_of_another_level_are_detected(random_family, cpu_engine):
    network = load_level(random_family, 2)
    with torch.inference_mode():
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.mul_(1.1)
        wrong = network(torch.from_numpy(probe_input(random_family.level(2).resolution)))[0]
    reference = {
        level.index: cpu_engine.infer(level.index, probe_input(level.resolution))
        for level in random_family.levels
    }
    with pytest.raises(EngineError, match='level 2'):
        verify(
            cpu_engine.name,
            cpu_engine.infer,
            random_family.levels,
            {**reference, 2: wrong.numpy()},
        )


@pytest.mark.parametrize(
    'wrong', [np.full(16, np.nan, np.float32), np.zeros(16, np.float32), np.zeros(3, np.float32)]
)
def test_wrong_results_are_detected(random_family, wrong):
    reference = {index: np.linspace(-1, 1, 16, dtype=np.float32) for index in (1, 2, 3)}
    with pytest.raises(EngineError, match='nonsense'):
        verify('nonsense', lambda index, tensor: wrong, random_family.levels, reference)


def test_folding_batch_norms_is_exact_and_complete(random_family):
    network = load_level(random_family, 3)
    images = torch.from_numpy(probe_input(random_family.level(3).resolution))
    with torch.inference_mode():
        expected = network(images)
        folded = fold_batch_norms(network)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(images), expected, atol=1e-3, rtol=1e-4)


def test_the_probe_input_is_reproducible():
    probe = probe_input(4)
    assert probe.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(probe.ravel()[:3], [0.47213595, -1.05572808, 1.41640786], atol=1e-6)
    assert probe.min() >= -2.0
    assert probe.max() < 2.0


# Names and invalid options


def test_the_platform_name_is_a_valid_file_name(cpu_engine):
    name = cpu_engine.platform
    assert name.startswith('cpu-')
    assert name.endswith(f'-{cpu_engine.name}-fp32-t1')
    assert name == Path(name).name.lower()


PLATFORM_NAMES = {
    'NVIDIA Jetson Xavier NX Developer Kit': 'jetson-xavier-nx',
    'NVIDIA Jetson Orin NX Engineering Reference Developer Kit': 'jetson-orin-nx',
    'NVIDIA Jetson Orin Nano Developer Kit p3767-0005': 'jetson-orin-nano-p3767-0005',
    'Intel Core i7-1165G7': 'core-i7-1165g7',
    'Intel Core i7-11800H': 'core-i7-11800h',
    'AMD Ryzen 7 PRO 5850U': 'ryzen-7-pro-5850u',
    'Intel Xeon Platinum 8259CL': 'xeon-platinum-8259cl',
    'Intel Xeon 2.20GHz 6 85 4 38.5MB': 'xeon-2.20ghz-6-85-4-38.5mb',
    'Intel Xeon 2.20GHz 6 85 7 38.5MB': 'xeon-2.20ghz-6-85-7-38.5mb',
    'Raspberry Pi 4 Model B Rev 1.4': 'raspberry-pi-4-model-b-rev-1.4',
    'NVIDIA GeForce RTX 3050 Ti': 'geforce-rtx-3050-ti',
    'NVIDIA GeForce RTX 3050 Ti Laptop GPU': 'geforce-rtx-3050-ti-laptop-gpu',
    'NVIDIA A100-SXM4-40GB MIG 1g.5gb': 'a100-sxm4-40gb-mig-1g.5gb',
    'NVIDIA': 'nvidia',
    'x' * 500: 'x' * MAX_DEVICE_NAME,
}


@pytest.mark.parametrize(('device_name', 'expected'), PLATFORM_NAMES.items())
def test_names_of_gpus_are_shortened_in_platforms(device_name, expected):
    name = platform_name('cuda', device_name, 'pytorch', precision='fp16', threads=2)
    assert name == f'cuda-{expected}-pytorch-fp16-t2'
    assert len(set(PLATFORM_NAMES.values())) == len(PLATFORM_NAMES)


def test_each_power_mode_of_a_jetson_is_a_platform(tmp_path, monkeypatch):
    names = []
    for mode in (0, 12):
        (tmp_path / 'status').write_text(f'pmode:{mode:04d}\nfmode:fanNull\n')
        monkeypatch.setattr(engine_module, 'POWER_MODE_FILE', tmp_path / 'status')
        names.append(platform_name('cuda', 'Orin', 'pytorch', precision='fp32', threads=1))
    assert names == ['cuda-orin-pytorch-fp32-t1-pm0', 'cuda-orin-pytorch-fp32-t1-pm12']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'engine': 'tensorflow'}, "no engine 'tensorflow'; it must be one of: auto, onnx"),
        ({'device': 'gpu'}, "device is 'gpu'; it must be auto, cpu, cuda or cuda:N"),
        ({'device': 'cuda:x'}, 'cuda:N'),
        ({'threads': 0}, 'threads is 0'),
        ({'precision': 'fp8'}, "precision is 'fp8'; it must be one of: fp32, bf16, fp16"),
        (
            {'precision': 'bf16', 'engine': 'onnxruntime'},
            'engine onnxruntime does not support bf16: use engine openvino, or precision fp32',
        ),
        (
            {'precision': 'bf16', 'device': 'cuda'},
            "device is 'cuda', but openvino runs on cpu only: use device 'cpu'",
        ),
    ],
)
def test_invalid_options_are_rejected(random_family, tmp_path, arguments, message):
    with pytest.raises(EngineError, match=message):
        create_engine(random_family, cache_dir=tmp_path, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
@pytest.mark.parametrize('engine', ['auto', *CPU_ENGINES])
def test_the_error_for_a_missing_gpu_says_what_to_do(random_family, warm_cache, engine):
    with pytest.raises(EngineError, match=r"(?s)device is 'cuda', but .*use device 'cpu'"):
        create_engine(random_family, device='cuda', engine=engine, cache_dir=warm_cache)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_pytorch_on_a_gpu_computes_correct_results(random_family, warm_cache):
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    assert engine.platform.startswith('cuda-')
    engine.close()


def test_the_error_for_a_missing_engine_says_how_to_install_it(
    random_family, warm_cache, monkeypatch
):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(EngineError, match=r'^onnxruntime is missing: pip install onnxrun'):
        create_engine(random_family, device='cpu', engine='onnxruntime', cache_dir=warm_cache)


def test_failing_inference_raises_an_engine_error(cpu_engine):
    with pytest.raises(EngineError, match='level 1'):
        cpu_engine.infer(1, np.zeros((1, 5, 32, 32), dtype=np.float32))


FAILURES = {
    RuntimeError('CUDA error: no kernel image\nsome advice'): 'CUDA error: no kernel image',
    MemoryError(): 'MemoryError',
    ValueError('bad shape'): 'ValueError: bad shape',
    OSError('libcudnn.so.9: cannot open'): 'OSError: libcudnn.so.9: cannot open',
    AssertionError('Torch not compiled with CUDA enabled'): (
        'AssertionError: Torch not compiled with CUDA enabled'
    ),
    type('Fail', (Exception,), {})('[ONNXRuntimeError] : 1'): 'Fail: [ONNXRuntimeError] : 1',
}
failures = pytest.mark.parametrize(
    ('failure', 'sentence'), FAILURES.items(), ids=[type(one).__name__ for one in FAILURES]
)


@failures
def test_any_exception_of_inference_becomes_an_engine_error(failure, sentence):
    class Failing(EngineBase):
        name = 'failing'

        def _infer(self, index: int, tensor: np.ndarray) -> np.ndarray:
            raise failure

    with pytest.raises(EngineError) as caught:
        Failing().infer(2, np.zeros(1, np.float32))
    assert str(caught.value) == f'failing failed at level 2: {sentence}'
    assert caught.value.__cause__ is failure


def test_an_interrupt_does_not_become_an_engine_error(cpu_engine, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu_engine, '_infer', interrupt)
    with pytest.raises(KeyboardInterrupt):
        cpu_engine.infer(1, probe_input(32))


# A GPU that does not work


@pytest.fixture
def a_gpu(monkeypatch):
    """Simulate a machine with a GPU; ONNX Runtime uses the CPU for it."""
    right = OnnxRuntimeEngine.__init__

    def on_the_cpu(self: OnnxRuntimeEngine, *args: object, device: str, **kwargs: object) -> None:
        right(self, *args, device='cpu', **kwargs)  # type: ignore[arg-type]
        self.device = device
        self.platform = f'{device}-fake'

    monkeypatch.setattr(engine_module, 'has_nvidia_device', lambda: True)
    monkeypatch.setattr(OnnxRuntimeEngine, '__init__', on_the_cpu)


def fail_on_gpu(monkeypatch: pytest.MonkeyPatch, name: str, failure: Exception) -> None:
    """Make a method of ONNX Runtime's engine raise an error on `device`."""
    right = getattr(OnnxRuntimeEngine, name)

    def wrong(self: OnnxRuntimeEngine, *args: object, **kwargs: object) -> object:
        if kwargs.get('device', getattr(self, 'device', '')) == 'cuda':
            raise failure
        return right(self, *args, **kwargs)

    monkeypatch.setattr(OnnxRuntimeEngine, name, wrong)


@failures
def test_the_cpu_replaces_a_gpu_that_raises_any_exception(
    random_family, onnx_cache, a_gpu, monkeypatch, failure, sentence
):
    is_late = isinstance(failure, MemoryError)  # the others occur while the engine is built
    fail_on_gpu(monkeypatch, '_infer' if is_late else '__init__', failure)
    engines = create_engines(random_family, engine='onnxruntime', cache_dir=onnx_cache)
    assert [engine.device for engine in engines] == ['cpu']
    (note,) = engines[0].notes
    assert note.startswith('the GPU is not used: onnxruntime ')
    assert note.endswith(sentence)
    engines[0].close()
    with pytest.raises(EngineError, match='onnxruntime'):
        create_engine(random_family, device='cuda', engine='onnxruntime', cache_dir=onnx_cache)


def test_a_gpu_and_a_cpu_are_two_engines(random_family, onnx_cache, a_gpu):
    engines = create_engines(random_family, engine='onnxruntime', cache_dir=onnx_cache)
    assert [(engine.device, engine.notes) for engine in engines] == [('cuda', ()), ('cpu', ())]
    for engine in engines:
        engine.close()


def test_the_gpu_is_used_if_the_cpu_fails(random_family, onnx_cache, a_gpu, monkeypatch):
    right = OnnxRuntimeEngine._infer

    def wrong(self: OnnxRuntimeEngine, *args: object) -> np.ndarray:
        if self.device == 'cpu':
            raise MemoryError
        return right(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(OnnxRuntimeEngine, '_infer', wrong)
    (gpu,) = create_engines(random_family, engine='onnxruntime', cache_dir=onnx_cache)
    assert gpu.device == 'cuda'
    assert gpu.notes == ('the CPU is not used: onnxruntime failed at level 1: MemoryError',)
    gpu.close()


def test_the_error_without_a_working_device_lists_all_reasons(
    random_family, onnx_cache, a_gpu, monkeypatch
):
    def wrong(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(OnnxRuntimeEngine, '_infer', wrong)
    with pytest.raises(EngineError, match=r'no engine works here: the CPU is .*; the GPU is not'):
        create_engines(random_family, engine='onnxruntime', cache_dir=onnx_cache)


def test_invalid_options_are_not_reported_as_device_failures(random_family, onnx_cache, a_gpu):
    for arguments, message in (
        ({'engine': 'x'}, "^there is no engine 'x'"),
        ({'threads': 0}, '^th'),
    ):
        with pytest.raises(EngineError, match=message):
            create_engines(random_family, cache_dir=onnx_cache, **arguments)


def test_auto_uses_the_cpu_if_the_gpu_fails_when_measured(
    random_family, onnx_cache, tmp_path, a_gpu, monkeypatch
):
    """The GPU passes the verification and runs out of memory later."""
    shutil.copytree(onnx_cache, tmp_path / 'cache', dirs_exist_ok=True)
    right, calls = OnnxRuntimeEngine._infer, []

    def wrong(self: OnnxRuntimeEngine, *args: object) -> np.ndarray:
        if self.device == 'cuda':
            calls.append(args)
            if len(calls) > len(random_family.levels) * (1 + engine_module.WARM_RUNS):
                raise RuntimeError('CUDA out of memory')
        return right(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(OnnxRuntimeEngine, '_infer', wrong)
    engine = create_engine(random_family, engine='onnxruntime', cache_dir=tmp_path / 'cache')
    assert engine.device == 'cpu'
    assert engine.notes == ('onnxruntime failed at level 1: CUDA out of memory',)
    engine.close()


def test_interrupting_the_build_is_not_an_engine_failure(random_family, warm_cache):
    class ShutdownError(Exception):
        pass

    def stop(_: str) -> None:
        raise ShutdownError

    for engine in ('auto', 'pytorch'):
        with pytest.raises(ShutdownError):
            create_engine(
                random_family, device='cpu', engine=engine, cache_dir=warm_cache, progress=stop
            )


@pytest.fixture
def a_tensorrt(a_gpu, monkeypatch):
    """Simulate a GPU with TensorRT on the CPU; return the providers of all sessions."""
    opened: list[list] = []
    right_open, right_bound = onnx_module._open, onnx_module.BoundSession

    class Opened:
        def __init__(self, session: object) -> None:
            self._session = session

        def get_providers(self) -> list[str]:
            return [onnx_module.TENSORRT]

        def __getattr__(self, name: str) -> object:
            return getattr(self._session, name)

    def opening(path: Path, resolution: int, providers: list, threads: int, *_) -> Opened:
        opened.append(providers)
        return Opened(right_open(path, resolution, ['CPUExecutionProvider'], threads))

    monkeypatch.undo()  # undo a_gpu to build the real engine
    monkeypatch.setattr(engine_module, 'has_nvidia_device', lambda: True)
    monkeypatch.setattr(
        onnx_module.onnxruntime,
        'get_available_providers',
        lambda: [onnx_module.TENSORRT, onnx_module.CUDA, 'CPUExecutionProvider'],
    )
    monkeypatch.setattr(onnx_module, '_open', opening)
    monkeypatch.setattr(
        onnx_module, 'BoundSession', lambda session, side, *_: right_bound(session, side, 'cpu', 0)
    )
    return opened


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_tensorrt_caches_engines_and_gets_the_precision(
    random_family, onnx_cache, a_tensorrt, cpu_engine, precision
):
    steps: list[str] = []
    engine = create_engine(
        random_family,
        device='cuda:1',
        engine='tensorrt',
        precision=precision,
        cache_dir=onnx_cache,
        progress=steps.append,
    )
    assert engine.platform.endswith(f'-tensorrt-{precision}-t1')
    for level in random_family.levels:
        tensor = probe_input(level.resolution)
        np.testing.assert_allclose(
            engine.infer(level.index, tensor), cpu_engine.infer(level.index, tensor), atol=0.1
        )
    engine.close()
    assert any('TensorRT (up to a minute per level' in step for step in steps)
    (name, options), cuda, cpu = a_tensorrt[0]
    assert (name, cuda[0], cpu) == (
        onnx_module.TENSORRT,
        onnx_module.CUDA,
        'CPUExecutionProvider',
    )
    assert options['trt_fp16_enable'] == str(int(precision == 'fp16'))
    assert options['device_id'] == cuda[1]['device_id'] == '1'
    assert Path(options['trt_engine_cache_path']).is_dir()
    assert onnx_cache in Path(options['trt_timing_cache_path']).parents
    assert cuda[1]['use_tf32'] == '0'


def test_a_bound_session_rejects_an_input_of_another_shape(random_family, onnx_cache, a_tensorrt):
    engine = create_engine(random_family, device='cuda', engine='tensorrt', cache_dir=onnx_cache)
    with pytest.raises(EngineError, match=r'level 1: ValueError: the input is \(1, 3, 8, 8\)'):
        engine.infer(1, np.zeros((1, 3, 8, 8), np.float32))
    engine.close()


def test_tensorrt_without_a_gpu_is_reported(random_family, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, 'has_nvidia_device', lambda: False)
    with pytest.raises(EngineError, match=r'tensorrt runs on cuda only, and this machine has no'):
        create_engine(random_family, engine='tensorrt', cache_dir=tmp_path)


def test_a_gpu_without_tensorrt_is_not_noted(random_family, onnx_cache, a_gpu):
    with pytest.raises(EngineError, match='this ONNX Runtime has no TensorRT provider'):
        create_engine(random_family, device='cuda', engine='tensorrt', cache_dir=onnx_cache)
    with pytest.raises(EngineError, match="device is 'cpu', but tensorrt runs on cuda"):
        create_engine(random_family, device='cpu', engine='tensorrt', cache_dir=onnx_cache)


# auto


def test_auto_uses_and_stores_the_fastest_engine(random_family, warm_cache, tmp_path):
    shutil.copytree(warm_cache, tmp_path / 'cache', dirs_exist_ok=True)
    steps: list[str] = []
    engine = create_engine(
        random_family, device='auto', cache_dir=tmp_path / 'cache', progress=steps.append
    )
    assert engine.notes == ()
    assert any('fastest' in step for step in steps)
    assert not any('PyTorch' in step for step in steps)  # slow to load, and never the fastest
    choice_path = next((tmp_path / 'cache').glob('*/choice-*.json'))
    choice = json.loads(choice_path.read_text())
    assert choice['winner'].split(' on ')[0] == engine.name
    assert choice['trial_ms'][choice['winner']] == min(choice['trial_ms'].values())
    assert len(choice['trial_ms']) >= 2

    # The stored choice is used, even if it is the slower engine ...
    other = next(name for name in choice['trial_ms'] if name != choice['winner'])
    choice_path.write_text(json.dumps({**choice, 'winner': other}))
    steps.clear()
    remembered = create_engine(
        random_family, device='auto', cache_dir=tmp_path / 'cache', progress=steps.append
    )
    assert remembered.name == other.split(' on ')[0]
    assert not any('fastest' in step for step in steps)

    # ... until the machine or the version of an engine changes.
    stale = {**choice, 'winner': other, 'conditions': {**choice['conditions'], 'cpu': 'another'}}
    choice_path.write_text(json.dumps(stale))
    again = create_engine(
        random_family, device='auto', cache_dir=tmp_path / 'cache', progress=steps.append
    )
    assert any('fastest' in step for step in steps)
    for created in (engine, remembered, again):
        created.close()


def test_auto_skips_and_notes_an_engine_with_wrong_results(
    random_family, warm_cache, tmp_path, monkeypatch
):
    shutil.copytree(warm_cache, tmp_path / 'cache', dirs_exist_ok=True)
    right = OnnxRuntimeEngine.infer

    def wrong(self: OnnxRuntimeEngine, index: int, tensor: np.ndarray) -> np.ndarray:
        return right(self, index, tensor) * np.float32(1.1)

    monkeypatch.setattr(OnnxRuntimeEngine, 'infer', wrong)
    for _ in ('measured', 'remembered'):
        engine = create_engine(random_family, device='cpu', cache_dir=tmp_path / 'cache')
        assert engine.name != 'onnxruntime'
        assert len(engine.notes) == 1
        assert 'onnxruntime computes wrong results at level 1' in engine.notes[0]
        engine.close()
    with pytest.raises(EngineError, match='wrong results'):
        create_engine(
            random_family, device='cpu', engine='onnxruntime', cache_dir=tmp_path / 'cache'
        )


def no_onnx(*arguments: object, **keywords: object) -> None:
    error = ModuleNotFoundError("No module named 'onnx'", name='onnx')
    raise MissingPackageError('onnx is missing: pip install onnx') from error


def full_disk(*arguments: object, **keywords: object) -> None:
    raise OSError(28, 'No space left on device')


def hidden_library(*arguments: object, **keywords: object) -> None:
    raise ImportError('libgomp.so.1: cannot open shared object file')


@pytest.mark.parametrize(
    ('fail', 'note'),
    [
        (full_disk, 'onnxruntime on cpu does not work here: .*No space left on device'),
        (hidden_library, r'onnxruntime cannot be imported \(libgomp.so.1: cannot open shared'),
    ],
)
def test_auto_tries_an_engine_again_after_an_error_that_may_pass(
    random_family, warm_cache, tmp_path, monkeypatch, fail, note
):
    shutil.copytree(warm_cache, tmp_path / 'cache', dirs_exist_ok=True)
    with monkeypatch.context() as patch:
        if fail is full_disk:
            patch.setattr(OnnxRuntimeEngine, '__init__', fail)
        else:
            original = requirements._import
            patch.setattr(
                requirements,
                '_import',
                lambda name: (fail if name == 'onnxruntime' else original)(name),
            )
        engine = create_engine(random_family, device='cpu', cache_dir=tmp_path / 'cache')
        engine.close()
    assert engine.name != 'onnxruntime'
    assert re.match(note, engine.notes[0])
    steps: list[str] = []
    again = create_engine(
        random_family, device='cpu', cache_dir=tmp_path / 'cache', progress=steps.append
    )
    again.close()
    assert 'loading onnxruntime on cpu' in steps
    assert again.notes == ()


def test_auto_tries_an_engine_again_once_a_package_for_its_build_is_installed(
    random_family, warm_cache, tmp_path, monkeypatch
):
    shutil.copytree(warm_cache, tmp_path / 'cache', dirs_exist_ok=True)
    installed = metadata.version

    def version(name: str) -> str:
        if name == 'onnx':
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    with monkeypatch.context() as patch:
        patch.setattr(metadata, 'version', version)
        patch.setattr(OnnxRuntimeEngine, '__init__', no_onnx)
        engine = create_engine(random_family, device='cpu', cache_dir=tmp_path / 'cache')
        engine.close()
    assert [note.partition(':')[0] for note in engine.notes] == ['onnx is missing']
    steps: list[str] = []
    create_engine(
        random_family, device='cpu', cache_dir=tmp_path / 'cache', progress=steps.append
    ).close()
    assert 'loading onnxruntime on cpu' in steps


def test_a_known_engine_starts_with_some_levels(
    random_family, warm_cache, tmp_path, monkeypatch, caplog
):
    shutil.copytree(warm_cache, tmp_path / 'cache', dirs_exist_ok=True)
    monkeypatch.setattr('dynamic_ofa_ros.runtime.engine.checked_levels', lambda count: [1])

    def start(**options: object) -> Engine:
        cache = tmp_path / 'cache'
        return create_engine(
            random_family, engine='onnxruntime', device='auto', cache_dir=cache, **options
        )

    whole = start(is_gradual=True)  # the first time, all levels are verified
    assert whole.residents.levels == (1, 2, 3)
    assert start(is_gradual=True, max_resident_mb=100.0).residents.levels == (1, 2, 3)
    part = start(is_gradual=True)
    assert part.residents.levels == (1,)
    tensor = probe_input(random_family.level(2).resolution)
    np.testing.assert_array_equal(part.infer(2, tensor), whole.infer(2, tensor))

    right = Session.infer
    monkeypatch.setattr(Session, 'infer', lambda self, tensor: 1.1 * right(self, tensor))
    wrong = 'onnxruntime computes wrong results at level 3'
    with pytest.raises(EngineError, match=wrong):
        part.infer(3, probe_input(random_family.level(3).resolution))
    part.residents.approach(1, 1)
    wait_until(lambda: f'level 3 cannot be loaded: {wrong}' in caplog.text, 'the warning')
    assert not part.residents.is_ready(3)
    part.close()
    whole.close()


def test_auto_needs_no_pytorch_if_engines_are_built(
    random_family, onnx_cache, tmp_path, monkeypatch
):
    shutil.copytree(onnx_cache, tmp_path / 'cache', dirs_exist_ok=True)
    monkeypatch.setitem(sys.modules, 'torch', None)
    engine = create_engine(random_family, device='cpu', cache_dir=tmp_path / 'cache')
    assert engine.name != 'pytorch'
    assert engine.notes == ()
    engine.close()


def test_auto_notes_that_onnxruntime_is_missing(random_family, warm_cache, tmp_path, monkeypatch):
    shutil.copytree(warm_cache, tmp_path / 'cache', dirs_exist_ok=True)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    engine = create_engine(random_family, device='cpu', cache_dir=tmp_path / 'cache')
    assert [note.partition(':')[0] for note in engine.notes] == ['onnxruntime is missing']
    engine.close()


@pytest.mark.parametrize('module', ['safetensors', 'onnx'])
def test_a_package_required_for_building_is_named(random_family, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError) as caught:
        create_engine(random_family, device='cpu', engine='onnxruntime', cache_dir=tmp_path)
    assert str(caught.value).startswith(
        f'the engines of family random are not built yet, and {module} is missing: pip install'
    )


@pytest.mark.parametrize('module', ['torch', 'ofa'])
def test_a_family_with_reference_outputs_needs_no_pytorch(
    random_family, tmp_path, monkeypatch, module
):
    folder = tmp_path / 'family'
    shutil.copytree(random_family.directory, folder)
    complete = add_reference(folder)
    monkeypatch.setitem(sys.modules, module, None)
    create_engine(complete, device='cpu', engine='onnxruntime', cache_dir=tmp_path).close()
    with pytest.raises(EngineError) as caught:
        create_engine(random_family, device='cpu', engine='onnxruntime', cache_dir=tmp_path)
    assert str(caught.value).startswith(
        'family random has no reference.safetensors, which PyTorch computes, and '
        f'{module} is missing: pip install'
    )


def test_reference_outputs_of_another_family_are_rejected(random_family, tmp_path):
    folder = tmp_path / 'family'
    shutil.copytree(random_family.directory, folder)
    family = add_reference(folder)
    write_arrays({'level_1': np.zeros(3, np.float32)}, family.reference_path)
    with pytest.raises(FamilyError, match=r'reference.safetensors is damaged or was replaced'):
        Family.load(folder)
    with pytest.raises(FamilyError, match=r'has float32 of shape \(3,\) for level 1, expected'):
        create_engine(family, device='cpu', engine='onnxruntime', cache_dir=tmp_path / 'a')


def test_an_engine_that_differs_from_the_reference_is_rejected(random_family, tmp_path):
    folder = tmp_path / 'family'
    shutil.copytree(random_family.directory, folder)
    family = add_reference(folder)
    answers = read_arrays(family.reference_path)
    answers['level_2'] = answers['level_2'][::-1]
    write_arrays(answers, family.reference_path)
    with pytest.raises(EngineError, match='computes wrong results at level 2'):
        create_engine(family, device='cpu', engine='onnxruntime', cache_dir=tmp_path / 'a')


def test_the_error_without_a_working_engine_lists_all_reasons(
    random_family, warm_cache, monkeypatch
):
    for module in ('onnxruntime', 'openvino', 'torch'):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=r'works here.*onnxruntime.*openvino.*torch is missing'):
        create_engine(random_family, device='cpu', cache_dir=warm_cache)


# The build cache of engines


def onnx_file(cache: Path) -> Path:
    return next(cache.glob('*/onnx/level_02.onnx'))


def test_a_truncated_onnx_file_is_built_again(random_family, onnx_cache, tmp_path):
    shutil.copytree(onnx_cache, tmp_path / 'cache', dirs_exist_ok=True)
    path = onnx_file(tmp_path / 'cache')
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    shutil.rmtree(path.parent.parent / 'onnxruntime')  # otherwise, no file of `onnx` is read
    steps: list[str] = []
    engine = create_engine(
        random_family,
        device='cpu',
        engine='onnxruntime',
        cache_dir=tmp_path / 'cache',
        progress=steps.append,
    )
    assert 'ONNX: writing 3 levels' in steps
    assert onnx_file(tmp_path / 'cache').stat().st_size == size
    engine.close()


@pytest.mark.parametrize('name', ['onnxruntime', 'openvino'])
def test_a_warm_start_imports_only_what_it_needs(random_family, onnx_cache, name):
    """PyTorch would take most of the time, and OpenVINO's converter sends usage data."""
    code = (
        'import sys; from pathlib import Path;'
        'from dynamic_ofa_ros.runtime import Family, create_engine;'
        f'family = Family.load({str(random_family.directory)!r});'
        f'create_engine(family, device="cpu", engine="{name}",'
        f' cache_dir=Path({str(onnx_cache)!r}));'
        'print(sorted({"torch", "openvino.tools.ovc", "openvino_telemetry"} & {*sys.modules}))'
    )
    finished = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=Path(__file__).resolve().parents[2],
        check=True,
    )
    assert finished.stdout.strip() == '[]'


def test_compiled_networks_are_used_for_the_same_cpu_and_release(
    random_family, onnx_cache, tmp_path, monkeypatch
):
    shutil.copytree(onnx_cache, tmp_path / 'cache', dirs_exist_ok=True)

    def steps_of_a_start() -> list[str]:
        steps: list[str] = []
        create_engine(
            random_family,
            device='cpu',
            engine='openvino',
            cache_dir=tmp_path / 'cache',
            progress=steps.append,
        ).close()
        return [step for step in steps if 'compiling' in step]

    assert steps_of_a_start() == []
    monkeypatch.setattr(openvino_module, 'cpu_name', lambda: 'another')
    assert len(steps_of_a_start()) == len(random_family.levels)
    assert steps_of_a_start() == []
    monkeypatch.setattr(openvino_module.openvino, '__version__', '1999.1')
    assert len(steps_of_a_start()) == len(random_family.levels)


def test_a_network_that_openvino_cannot_compile_is_named(
    random_family, onnx_cache, tmp_path, monkeypatch
):
    shutil.copytree(onnx_cache, tmp_path / 'cache', dirs_exist_ok=True)
    monkeypatch.setattr(openvino_module, 'COMPILED_VERSION', 'another')
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(b'no network')
    monkeypatch.setattr(
        openvino_module, 'level_files', lambda *_: [broken] * len(random_family.levels)
    )
    with pytest.raises(EngineError, match=rf'^OpenVINO cannot compile {broken}: \w'):
        create_engine(random_family, device='cpu', engine='openvino', cache_dir=tmp_path / 'cache')


CAPABILITIES = openvino_module.shared_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_lower_precision_is_another_platform_with_similar_results(
    random_family, onnx_cache, cpu_engine, precision, monkeypatch
):
    if precision.upper() not in CAPABILITIES:
        pytest.skip(f'this processor does not support {precision}')
    monkeypatch.setitem(engine_module.TOLERANCES, precision, 0.25)  # weights are random
    engine = create_engine(random_family, device='cpu', precision=precision, cache_dir=onnx_cache)
    assert engine.platform.endswith(f'-openvino-{precision}-t1')
    for level in random_family.levels:
        tensor = probe_input(level.resolution)
        exact, found = cpu_engine.infer(level.index, tensor), engine.infer(level.index, tensor)
        difference = float(np.abs(found - exact).max()) / float(np.ptp(exact))
        assert 1e-6 < difference < engine_module.TOLERANCES[precision]
    engine.close()


def test_an_unsupported_precision_raises_an_error(random_family, onnx_cache, monkeypatch):
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ['FP32', 'INT8']

    monkeypatch.setattr(openvino_module, 'shared_core', Core)
    with pytest.raises(EngineError, match=r'does not support bf16 .*FP32, INT8.* fp32$'):
        create_engine(random_family, device='cpu', precision='bf16', cache_dir=onnx_cache)


def test_inference_runs_on_the_calling_thread(random_family, onnx_cache):
    """So the niceness, priority and affinity of the worker apply to inference."""
    for name in CPU_ENGINES:
        engine = create_engine(random_family, device='cpu', engine=name, cache_dir=onnx_cache)
        tensor = probe_input(random_family.level(3).resolution)
        own_s, all_s = time.thread_time(), time.process_time()
        for _ in range(50):
            engine.infer(3, tensor)
        own_s, all_s = time.thread_time() - own_s, time.process_time() - all_s
        engine.close()
        assert own_s > 0.8 * all_s, name


def test_importing_the_runtime_imports_no_engine():
    code = (
        'import sys; import dynamic_ofa_ros.runtime as r;'
        '[getattr(r, name) for name in r.__all__];'
        'print([m for m in ("torch", "onnxruntime", "openvino", "rclpy") if m in sys.modules])'
    )
    finished = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=Path(__file__).resolve().parents[2],
        check=True,
    )
    assert finished.stdout.strip() == '[]'


@pytest.mark.parametrize('name', CPU_ENGINES)
def test_threads_are_limited_to_usable_processors(random_family, onnx_cache, monkeypatch, name):
    monkeypatch.setattr(engine_module, 'usable_cpus', lambda: 1)
    engine = create_engine(
        random_family, device='cpu', engine=name, threads=4, cache_dir=onnx_cache
    )
    assert engine.platform.endswith('-t1')
    assert engine.notes == ('threads is 4, but this process may use only 1 processors',)
    engine.close()


def test_pytorch_uses_the_given_number_of_threads(random_family, warm_cache, monkeypatch):
    monkeypatch.setattr(engine_module, 'usable_cpus', lambda: 2)
    asked: list[int] = []
    monkeypatch.setattr(torch, 'set_num_threads', asked.append)
    engine = create_engine(
        random_family, device='cpu', engine='pytorch', threads=2, cache_dir=warm_cache
    )
    assert asked[0] == 2
    assert isinstance(engine, PytorchEngine)
    assert engine.platform.endswith('-t2')
    engine.close()


def test_auto_uses_another_engine_if_writing_onnx_fails(
    random_family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AttributeError("module 'numpy' has no attribute 'exceptions'")

    monkeypatch.setattr('onnx.helper.make_node', fail)
    with pytest.raises(EngineError, match=r'onnxruntime on cpu does not work here: AttributeErr'):
        create_engine(random_family, device='cpu', engine='onnxruntime', cache_dir=tmp_path / 'a')
    engine = create_engine(random_family, device='cpu', cache_dir=tmp_path / 'b')
    assert engine.name == 'pytorch'
    assert any('no attribute' in note for note in engine.notes)
    engine.close()
