"""Run the levels of the PyTorch engine as CUDA graphs that share one memory pool."""

from __future__ import annotations

import ctypes
import functools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime.image import FloatArray

WARM_UP_RUNS = 3
LAYOUT_TRIALS = 10
ROOM_FOR_A_GRAPH_BYTES = 64 * 2**20
"""Free memory required for a capture; it is larger than the graph of a level."""

LAYOUTS = (torch.channels_last, torch.contiguous_format)

Run = Callable[[], torch.Tensor]


class CudaDevice:
    """The operations of a CUDA device that the levels use; tests replace it by a fake.

    All work is submitted to the caller's current stream, so it is executed in the order of calls.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._first: torch.cuda.CUDAGraph | None = None

    def pinned(self, size: int) -> torch.Tensor:
        """Return a float32 buffer in page-locked host memory, for asynchronous copies."""
        return torch.zeros(size, pin_memory=True)

    def capture(self, run: Run, *, is_trial: bool = False) -> Run:
        """Capture `run` as a CUDA graph, which has one launch and a fixed output buffer.

        Graphs share a memory pool, in which they overwrite each other's activations. A trial has
        its own memory, which is freed with it. Raise RuntimeError if the capture fails, usually
        for lack of memory; the device can still be used afterwards.
        """
        self._rehearse(run)
        graph = torch.cuda.CUDAGraph()
        # A pool cannot be used after its last graph is deleted, so the first graph is kept.
        pool = None if is_trial or self._first is None else self._first.pool()
        try:
            # If the capture does not begin, torch.cuda.graph leaves its stream current; the outer
            # context manager restores the previous one.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self.device)),
                torch.cuda.graph(
                    graph,
                    pool=pool,
                    stream=_capture_stream(self.device),
                    capture_error_mode='thread_local',  # other threads may use the device
                ),
            ):
                output = run()
        except RuntimeError:
            _keep_unless_ended(graph)
            raise
        if not is_trial and self._first is None:
            self._first = graph

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay

    def synchronise(self) -> None:
        """Wait for the device; raise RuntimeError if its work failed."""
        torch.cuda.current_stream(self.device).synchronize()

    def release(self) -> None:
        """Free unused memory."""
        torch.cuda.empty_cache()

    def _rehearse(self, run: Run) -> None:
        """Run without capture, so that libraries allocate memory, and check the free memory."""
        with torch.cuda.stream(_capture_stream(self.device)):
            run()
            self.synchronise()
        self.release()
        torch.empty(ROOM_FOR_A_GRAPH_BYTES, dtype=torch.uint8, device=self.device)
        self.release()


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream for all captures; cuBLAS would keep a workspace for every stream."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def _keep_unless_ended(graph: torch.cuda.CUDAGraph) -> None:
    """Never delete a graph whose capture did not end: its destructor may abort the process.

    This happens if memory ran out when the capture began (PyTorch 2.11: the destructor removes the
    graph from a list that does not contain it yet, and raises an exception).
    """
    try:
        graph.pool()
    except RuntimeError:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(graph))


@dataclass
class _Level:
    """One level: its network and its views of the buffers that all levels share."""

    network: nn.Module
    shape: tuple[int, ...]
    pinned_input: torch.Tensor
    host_input: FloatArray
    device_input: torch.Tensor
    run: Run


class CudaLevels:
    """Runs each level as one CUDA graph, captured after a warm-up.

    Input and output are copied through page-locked buffers: inference is one copy, one launch, one
    copy and one synchronisation. If a level cannot be captured (usually for lack of memory), it
    runs eagerly and `notes` says so.
    """

    def __init__(
        self, networks: Sequence[nn.Module], resolutions: Sequence[int], cuda: CudaDevice
    ) -> None:
        self.notes: tuple[str, ...] = ()
        self._cuda = cuda
        size = 3 * max(resolutions) ** 2
        pinned, on_device = cuda.pinned(size), torch.zeros(size, device=cuda.device)
        self.levels = [
            self._level(network, resolution, pinned, on_device)
            for network, resolution in zip(networks, resolutions, strict=True)
        ]
        use_exact_arithmetic()
        with _search_of_algorithms():
            self.layout = self._faster_layout(self.levels[-1])
            for index, level in enumerate(self.levels, start=1):
                self._prepare(index, level)
        self._pinned_output = cuda.pinned(self.levels[-1].run()[0].numel())
        self._host_output: FloatArray = self._pinned_output.numpy()
        cuda.synchronise()
        cuda.release()

    def infer(self, index: int, tensor: FloatArray) -> FloatArray:
        """Run level `index` (1-based) on (1, 3, r, r) float32; return (classes,) float32 logits.

        Return when the device has finished. Raise RuntimeError if inference fails.
        """
        level = self.levels[index - 1]
        if tensor.shape != level.shape:
            raise EngineError(f'level {index} expects {level.shape}, found {tensor.shape}')
        np.copyto(level.host_input, tensor)
        level.device_input.copy_(level.pinned_input, non_blocking=True)
        self._pinned_output.copy_(level.run()[0], non_blocking=True)
        self._cuda.synchronise()
        logits: FloatArray = self._host_output.copy()
        return logits

    def recover(self) -> None:
        """Free unused memory after an error; raise RuntimeError if the device is lost."""
        self._cuda.synchronise()
        self._cuda.release()

    def _level(
        self, network: nn.Module, resolution: int, pinned: torch.Tensor, on_device: torch.Tensor
    ) -> _Level:
        shape = (1, 3, resolution, resolution)
        size = 3 * resolution**2
        pinned_input = pinned[:size].view(shape)
        device_input = on_device[:size].view(shape)
        level = _Level(
            network, shape, pinned_input, pinned_input.numpy(), device_input, lambda: device_input
        )
        level.run = lambda: self._run_eagerly(level)
        return level

    def _run_eagerly(self, level: _Level) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = level.network(
                level.device_input.contiguous(memory_format=self.layout)
            )
            return logits

    def _prepare(self, index: int, level: _Level) -> None:
        arrange(level.network, self.layout)
        try:
            self._warm_up(level)
            level.run = self._cuda.capture(level.run)
        except RuntimeError as error:
            self.recover()
            reason = str(error).partition('\n')[0]
            note = f'level {index} runs without a CUDA graph and is slower: {reason}'
            self.notes = (*self.notes, note)

    def _warm_up(self, level: _Level) -> None:
        for _ in range(WARM_UP_RUNS):  # cuDNN searches for the fastest algorithms in the first run
            level.run()
        self._cuda.synchronise()

    def _faster_layout(self, level: _Level) -> torch.memory_format:
        """Return the memory format in which a level's graph is faster; NCHW if none can run."""
        median_ns: dict[torch.memory_format, float] = {}
        for self.layout in LAYOUTS:
            try:
                arrange(level.network, self.layout)
                self._warm_up(level)
                replay = self._cuda.capture(level.run, is_trial=True)
                median_ns[self.layout] = statistics.median(
                    self._replay_ns(replay) for _ in range(LAYOUT_TRIALS)
                )
            except RuntimeError:  # usually out of memory; `_prepare` notes it
                self.recover()
        return min(median_ns, key=lambda layout: median_ns[layout], default=LAYOUTS[-1])

    def _replay_ns(self, replay: Run) -> int:
        start_ns = time.perf_counter_ns()
        replay()
        self._cuda.synchronise()
        return time.perf_counter_ns() - start_ns


def use_exact_arithmetic() -> None:
    """Disable TF32 for the whole process, so that fp32 means fp32."""
    with warnings.catch_warnings():
        # Newer releases recommend other names for these flags, which older ones do not have.
        warnings.simplefilter('ignore')
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def _search_of_algorithms() -> Iterator[None]:
    """Let cuDNN measure its algorithms for every new shape; a graph keeps the fastest ones."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def arrange(network: nn.Module, layout: torch.memory_format) -> None:
    """Convert a network's weights to a memory format, in place."""
    # Module.to with a memory format is missing from PyTorch's type information.
    network.to(memory_format=layout)  # type: ignore[call-overload]
