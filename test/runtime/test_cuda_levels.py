"""CUDA graphs of the levels, with a fake device, and with a real one if there is one."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime import engine as engine_module
from dynamic_ofa_ros.runtime.engine import create_engine, create_engines, probe_input, verify
from dynamic_ofa_ros.runtime.engines import cuda_levels, pytorch
from dynamic_ofa_ros.runtime.engines.cuda_levels import CudaDevice, CudaLevels
from dynamic_ofa_ros.runtime.engines.pytorch import (
    PytorchEngine,
    fold_batch_norms,
    reference_logits,
)
from dynamic_ofa_ros.supernet.network import load_level, load_supernet

OUT_OF_MEMORY = 'CUDA out of memory. Tried to allocate 20.00 MiB.\nSee the documentation'
ILLEGAL = 'CUDA error: an illegal memory access was encountered\nCompile with ...'
LOGIT_TOLERANCE = 1e-4  # a fraction of the logits' range
CUDA_TOLERANCE = 5e-4  # TF32 would differ by more
MIB = 2**20

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


class FakeGraphs:
    """Fake CUDA graphs with memory pools; `asserted` counts uses of a deleted pool."""

    def __init__(self, monkeypatch) -> None:
        self.uses: dict[tuple[int, int], int] = {}
        self.asserted = 0
        self.begins = 0
        self.failing_begins: set[int] = set()
        self.is_out_of_memory = False
        self.current = self.default = FakeStream()
        graphs = self

        class Graph:
            pool_id: tuple[int, int] | None = None

            def pool(self):
                if self.pool_id is None:
                    raise RuntimeError('called CUDAGraph::pool() without a successful capture')
                return self.pool_id

            def replay(self):
                assert graphs.current is graphs.default

            def __del__(self):
                if self.pool_id is None:
                    graphs.asserted += 1  # the real one may abort the process
                else:
                    graphs.uses[self.pool_id] -= 1

        for name, fake in (
            ('CUDAGraph', Graph),
            ('graph', self.capture),
            ('stream', self.stream),
            ('Stream', lambda _: FakeStream()),
            ('current_stream', lambda _: self.current),
        ):
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch, 'empty', self.empty(torch.empty))
        cuda_levels._capture_stream.cache_clear()

    def empty(self, original):
        def empty(*size, **options):
            if self.is_out_of_memory and options.get('dtype') == torch.uint8:
                raise torch.cuda.OutOfMemoryError(OUT_OF_MEMORY)
            return original(*size, **options)

        return empty

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def capture(self, graph, *, pool, stream, capture_error_mode):
        assert capture_error_mode == 'thread_local'
        self.current = stream  # remains current if the capture does not begin
        self.begins += 1
        if self.begins in self.failing_begins:
            raise RuntimeError(OUT_OF_MEMORY)
        pool = pool or (self.begins, 0)
        if self.uses.get(pool, 1) < 1:
            self.asserted += 1
            raise RuntimeError('it->second->use_count > 0 INTERNAL ASSERT FAILED')
        self.uses[pool] = self.uses.get(pool, 0) + 1
        try:
            yield
        finally:
            graph.pool_id = pool


class FakeStream:
    """A fake stream whose work is done immediately."""

    def synchronize(self) -> None:
        """Do nothing."""


class FakeDevice(CudaDevice):
    """A fake CUDA device on the CPU; a graph runs the captured function and copies the result."""

    def __init__(self) -> None:
        super().__init__(torch.device('cpu'))
        self.captured = self.replayed = self.synchronised = self.released = 0
        self.capture_errors: dict[int, RuntimeError] = {}
        self.lost: RuntimeError | None = None

    def pinned(self, size: int) -> torch.Tensor:
        return torch.zeros(size)

    def capture(self, run, **options):
        self.captured += 1
        runs = 0

        def fail_in_capture() -> torch.Tensor:
            nonlocal runs
            runs += 1  # the first is the rehearsal
            if runs > 1 and number in self.capture_errors:
                raise self.capture_errors[number]
            return run()

        number = self.captured
        replay_graph = super().capture(fail_in_capture, **options)

        def replay() -> torch.Tensor:
            self.replayed += 1
            if self.lost:
                raise self.lost
            with torch.inference_mode():
                return replay_graph().copy_(run())

        return replay

    def synchronise(self) -> None:
        self.synchronised += 1
        if self.lost:
            raise self.lost

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def graphs(monkeypatch):
    """Replace CUDA graphs by fakes; check the use of pools and streams at the end."""
    fake = FakeGraphs(monkeypatch)
    yield fake
    gc.collect()
    assert fake.asserted == 0
    assert fake.current is fake.default


@pytest.fixture
def device(graphs, monkeypatch):
    """Provide a fake GPU for PytorchEngine."""
    fake = FakeDevice()
    monkeypatch.setattr(pytorch, '_checked_device', lambda _: torch.device('cuda', 0))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda _: 'NVIDIA Fake 1')
    monkeypatch.setattr(torch.nn.Module, 'to', stays_on_the_cpu(torch.nn.Module.to))
    monkeypatch.setattr(pytorch, 'CudaDevice', lambda _: fake)
    return fake


def stays_on_the_cpu(original):
    def to(self, *args, **kwargs):
        is_device = bool(args) and isinstance(args[0], torch.device)
        return self if is_device else original(self, *args, **kwargs)

    return to


def networks(family):
    supernet = load_supernet(family)
    return [fold_batch_norms(load_level(family, level.index, supernet)) for level in family.levels]


def assert_right(engine, family, tolerance=LOGIT_TOLERANCE):
    """Compare every level with the reference in mixed order, because levels share buffers."""
    reference = reference_logits(family, probe_input)
    indices = [level.index for level in family.levels]
    for index in (*indices, *reversed(indices)):
        found = engine.infer(index, probe_input(family.level(index).resolution))
        expected = reference[index]
        allowed = tolerance * float(np.ptp(expected))
        np.testing.assert_allclose(found, expected, atol=allowed, rtol=0)


def test_each_level_is_one_graph_with_correct_results(device, graphs, random_family, warm_cache):
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    assert engine.platform == 'cuda-fake-1-pytorch-fp32-t1'
    assert engine.notes == ()
    assert_right(engine, random_family)
    assert device.captured == 2 + 3  # two memory formats were tried with the highest level
    assert sorted(graphs.uses.values()) == [0, 0, 3]  # the levels share a pool, the trials none
    replayed, synchronised = device.replayed, device.synchronised
    engine.infer(2, probe_input(random_family.level(2).resolution))
    assert (device.replayed, device.synchronised) == (replayed + 1, synchronised + 1)
    engine.close()


def test_a_result_is_not_overwritten_by_the_next(random_family, graphs):
    levels = CudaLevels(networks(random_family), [32, 48, 64], FakeDevice())
    first = levels.infer(1, probe_input(32))
    before = first.copy()
    assert np.abs(levels.infer(3, probe_input(64)) - before).max() > 0.1
    np.testing.assert_array_equal(first, before)


def test_an_input_of_another_size_is_rejected(random_family, graphs):
    levels = CudaLevels(networks(random_family), [32, 48, 64], FakeDevice())
    with pytest.raises(
        EngineError, match=r'level 2 expects \(1, 3, 48, 48\), found \(1, 3, 64, 64'
    ):
        levels.infer(2, probe_input(64))


def test_a_level_that_cannot_be_captured_runs_eagerly_and_is_noted(
    device, random_family, warm_cache
):
    device.capture_errors = {4: torch.cuda.OutOfMemoryError(OUT_OF_MEMORY)}
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    assert engine.notes == (
        'level 2 runs without a CUDA graph and is slower: '
        'CUDA out of memory. Tried to allocate 20.00 MiB.',
    )
    assert device.released
    assert_right(engine, random_family)
    engine.close()


def test_all_levels_run_eagerly_if_no_graph_can_be_captured(device, random_family, warm_cache):
    error = RuntimeError('CUDA error: operation not permitted when stream is capturing')
    device.capture_errors = dict.fromkeys(range(1, 9), error)
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    assert len(engine.notes) == 3
    assert_right(engine, random_family)
    engine.close()


@pytest.mark.parametrize('begin', [1, 3, 4])
def test_a_capture_that_fails_to_begin_does_not_affect_others(
    device, graphs, random_family, warm_cache, begin
):
    graphs.failing_begins = {begin}
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    assert len(engine.notes) == (begin > 2)  # the first two are trials
    assert_right(engine, random_family)
    engine.close()


def test_no_capture_begins_without_free_memory(device, graphs, random_family, warm_cache):
    graphs.is_out_of_memory = True
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    assert graphs.begins == 0
    assert len(engine.notes) == 3
    graphs.is_out_of_memory = False
    assert_right(engine, random_family)
    engine.close()


def test_after_running_out_of_memory_the_next_frame_is_tried(
    device, random_family, warm_cache, monkeypatch
):
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    probe = probe_input(random_family.level(1).resolution)
    with monkeypatch.context() as patch:
        error = torch.cuda.OutOfMemoryError(OUT_OF_MEMORY)
        patch.setattr(CudaLevels, 'infer', raising(error))
        with pytest.raises(EngineError, match=r'failed at level 1: CUDA out of memory.*MiB\.$'):
            engine.infer(1, probe)
    assert device.released
    assert np.isfinite(engine.infer(1, probe)).all()
    engine.close()


def test_after_a_permanent_error_every_call_raises_it(device, random_family, warm_cache):
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    device.lost = RuntimeError(ILLEGAL)
    with pytest.raises(EngineError, match='failed at level 3: CUDA error: an illegal memory'):
        engine.infer(3, probe_input(random_family.level(3).resolution))
    replayed = device.replayed
    for _ in range(2):
        with pytest.raises(EngineError, match=r'lost the GPU: .*illegal memory access'):
            engine.infer(1, probe_input(random_family.level(1).resolution))
    assert device.replayed == replayed  # a lost device is not used again
    engine.close()


@pytest.mark.parametrize('where', ['get_device_name', 'to'])
def test_the_cpu_is_used_if_pytorch_does_not_support_the_gpu(
    device, random_family, warm_cache, monkeypatch, where
):
    """Regression: `device: auto` ended with a RuntimeError."""
    error = RuntimeError('CUDA error: no kernel image is available for execution on the device')
    if where == 'to':
        original = torch.nn.Module.to

        def to(self, *args, **options):
            if args and isinstance(args[0], torch.device) and args[0].type == 'cuda':
                raise error
            return original(self, *args, **options)

        monkeypatch.setattr(torch.nn.Module, 'to', to)
    else:
        monkeypatch.setattr(torch.cuda, where, raising(error))
    with pytest.raises(EngineError, match=r"cannot use device 'cuda': CUDA error: no kernel im"):
        PytorchEngine(random_family, None, device='cuda')
    monkeypatch.setattr(engine_module, 'has_nvidia_device', lambda: True)
    engines = create_engines(random_family, engine='onnxruntime', cache_dir=warm_cache)
    assert [one.platform.partition('-')[0] for one in engines] == ['cpu']
    engines[0].close()


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_auto_uses_the_cpu_if_pytorch_has_no_kernels(
    device, random_family, warm_cache, monkeypatch
):
    monkeypatch.setattr(engine_module, 'has_nvidia_device', lambda: True)
    original = PytorchEngine._load

    def load(self, family, progress):
        if self._device.type == 'cuda':
            raise RuntimeError('CUDA error: no kernel image is available')
        original(self, family, progress)

    monkeypatch.setattr(PytorchEngine, '_load', load)
    monkeypatch.setattr(
        pytorch, '_checked_device', lambda name: torch.device(name.partition(':')[0])
    )
    engines = create_engines(random_family, engine='pytorch', cache_dir=warm_cache)
    assert [one.platform.partition('-')[0] for one in engines] == ['cpu']
    assert re.search('the GPU is not used: .*no kernel image', engines[0].notes[-1])
    engines[0].close()


# On a real GPU


@needs_cuda
def test_on_cuda_graphs_equal_the_reference(random_family, warm_cache):
    engine = create_engine(random_family, device='cuda', engine='pytorch', cache_dir=warm_cache)
    assert engine.platform.startswith('cuda-')
    assert engine.notes == ()
    assert not torch.backends.cudnn.allow_tf32
    assert_right(engine, random_family, CUDA_TOLERANCE)
    engine.close()


@needs_cuda
def test_on_cuda_memory_is_freed(random_family, warm_cache):
    def build_and_close() -> int:
        engine = create_engine(
            random_family, device='cuda', engine='pytorch', cache_dir=warm_cache
        )
        assert torch.cuda.memory_reserved() > 0
        engine.close()
        del engine
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()

    first = build_and_close()
    assert build_and_close() <= first + MIB


@needs_cuda
def test_on_cuda_levels_run_eagerly_without_memory_for_graphs(random_family, warm_cache):
    code = f"""
import gc, json, torch
from pathlib import Path
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime.engine import create_engine, probe_input, verify
from dynamic_ofa_ros.runtime.engines.pytorch import reference_logits
family = Family.load({str(random_family.directory)!r})
reference = reference_logits(family, probe_input)
total = torch.cuda.get_device_properties(0).total_memory

def outcome():
    try:
        engine = create_engine(
            family, device='cuda', engine='pytorch', cache_dir=Path({str(warm_cache)!r})
        )
        verify(engine.name, engine.infer, family.levels, reference)
        engine.close()
        return 'eager' if engine.notes else 'graphs'
    except EngineError as error:
        return 'wrong' if 'wrong answers' in str(error) else 'refused'

for exponent in (11, 0, 1, 2, 3, 5, 6, 7, 9):
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.memory_reserved() + 2**exponent * 2**20
    torch.cuda.set_per_process_memory_fraction(min(1.0, free / total))
    print(json.dumps([2**exponent, outcome()]), flush=True)
"""
    finished = run_python(code)
    outcomes = dict(json.loads(line) for line in finished.stdout.splitlines())
    assert finished.returncode == 0, f'{outcomes} {finished.stderr[-2000:]}'
    assert {'eager', 'graphs'} <= set(outcomes.values()) <= {'refused', 'eager', 'graphs'}, (
        outcomes
    )
    assert outcomes[2048] == 'graphs'


def run_python(code):
    """Run code in a separate process, because it changes the state of the device."""
    return subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=False
    )


@needs_cuda
def test_on_cuda_auto_has_both_platforms_and_they_agree(random_family, warm_cache):
    engines = create_engines(random_family, cache_dir=warm_cache)
    assert [one.platform.partition('-')[0] for one in engines] == ['cuda', 'cpu']
    reference = reference_logits(random_family, probe_input)
    for one in engines:
        verify(one.name, one.infer, random_family.levels, reference)
        one.close()


@needs_cuda
def test_on_cuda_every_call_after_losing_the_device_says_so(random_family):
    """Runs in a separate process, which cannot use the device afterwards."""
    code = f"""
import numpy as np, torch
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime.engine import probe_input
from dynamic_ofa_ros.runtime.engines.pytorch import PytorchEngine
from dynamic_ofa_ros.family import Family
family = Family.load({str(random_family.directory)!r})
engine = PytorchEngine(family, None, device='cuda')
probe = probe_input(family.level(1).resolution)
assert np.isfinite(engine.infer(1, probe)).all()
torch.zeros(4, device='cuda')[torch.tensor([9], device='cuda')]
for _ in range(3):
    try:
        engine.infer(1, probe)
    except EngineError as error:
        print(error, flush=True)
engine.close()
"""
    finished = run_python(code)
    lines = finished.stdout.strip().splitlines()
    assert len(lines) == 3, finished.stderr[-2000:]
    assert 'failed at level 1: ' in lines[0]
    assert all('lost the GPU: ' in line for line in lines[1:])
