"""The levels of the PyTorch engine on a CUDA device: a CUDA graph each, all in one memory pool."""

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
"""Free memory without which no capture begins: more than the graph of a level takes."""

LAYOUTS = (torch.channels_last, torch.contiguous_format)

Run = Callable[[], torch.Tensor]


class CudaDevice:
    """What the levels need of a CUDA device; tests put another one in its place.

    All work goes to the caller's current stream, so its order is that of the calls.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._first: torch.cuda.CUDAGraph | None = None

    def pinned(self, size: int) -> torch.Tensor:
        """Return a float32 buffer in page-locked host memory: copies from it need not wait."""
        return torch.zeros(size, pin_memory=True)

    def capture(self, run: Run, *, is_trial: bool = False) -> Run:
        """Return `run` as a CUDA graph: one launch, the result always in the same place.

        Graphs share their memory: the activations of one lie where another's did. The memory of
        a trial is its own and can be freed with it. Raises RuntimeError, mostly for want of
        memory; the device can be used afterwards.
        """
        self._rehearse(run)
        graph = torch.cuda.CUDAGraph()
        # A pool dies with its last graph and cannot be used again: the first graph is kept.
        pool = None if is_trial or self._first is None else self._first.pool()
        try:
            # A capture that does not begin would leave its stream current: the outer one restores.
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
        """Wait for the device; raise RuntimeError when its work failed."""
        torch.cuda.current_stream(self.device).synchronize()

    def release(self) -> None:
        """Give back memory that is not in use."""
        torch.cuda.empty_cache()

    def _rehearse(self, run: Run) -> None:
        """Run without capture: libraries allocate what they keep, a want of memory shows."""
        with torch.cuda.stream(_capture_stream(self.device)):
            run()
            self.synchronise()
        self.release()
        torch.empty(ROOM_FOR_A_GRAPH_BYTES, dtype=torch.uint8, device=self.device)
        self.release()


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of all captures: cuBLAS keeps a workspace for each it was used on."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def _keep_unless_ended(graph: torch.cuda.CUDAGraph) -> None:
    """Keep a graph for ever whose capture did not end: its destructor may abort the process.

    It does when memory ran out while the capture began (PyTorch 2.11: the graph takes itself off
    a list it is not yet on, and a destructor must not throw).
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

    An image goes through a page-locked buffer to a fixed place on the device and the logits come
    back through another: one copy, one launch, one copy, one wait. Where a graph cannot be had
    (out of memory, mostly) the level runs eagerly, and `notes` says so.
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
        """Run level `index` (from 1) on (1, 3, r, r) float32; return (classes,) float32 logits.

        Returns when the device has finished. Raises RuntimeError when it fails.
        """
        level = self.levels[index - 1]
        if tensor.shape != level.shape:
            raise EngineError(f'level {index} takes {level.shape}, found {tensor.shape}')
        np.copyto(level.host_input, tensor)
        level.device_input.copy_(level.pinned_input, non_blocking=True)
        self._pinned_output.copy_(level.run()[0], non_blocking=True)
        self._cuda.synchronise()
        logits: FloatArray = self._host_output.copy()
        return logits

    def recover(self) -> None:
        """Free unused memory after an error; raise RuntimeError when the device is lost."""
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
            note = f'level {index} runs without a CUDA graph, slower: {reason}'
            self.notes = (*self.notes, note)

    def _warm_up(self, level: _Level) -> None:
        for _ in range(WARM_UP_RUNS):  # the first looks for the fastest algorithms
            level.run()
        self._cuda.synchronise()

    def _faster_layout(self, level: _Level) -> torch.memory_format:
        """Return the memory format in which a level's graph is faster; NCHW when none can run."""
        median_ns: dict[torch.memory_format, float] = {}
        for self.layout in LAYOUTS:
            try:
                arrange(level.network, self.layout)
                self._warm_up(level)
                replay = self._cuda.capture(level.run, is_trial=True)
                median_ns[self.layout] = statistics.median(
                    self._replay_ns(replay) for _ in range(LAYOUT_TRIALS)
                )
            except RuntimeError:  # out of memory, mostly: `_prepare` meets it again and notes it
                self.recover()
        return min(median_ns, key=lambda layout: median_ns[layout], default=LAYOUTS[-1])

    def _replay_ns(self, replay: Run) -> int:
        start_ns = time.perf_counter_ns()
        replay()
        self._cuda.synchronise()
        return time.perf_counter_ns() - start_ns


def use_exact_arithmetic() -> None:
    """Turn TF32 off for the whole process: what is called fp32 computes in fp32."""
    with warnings.catch_warnings():
        # Newer releases recommend other names for the same; old ones do not have them.
        warnings.simplefilter('ignore')
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def _search_of_algorithms() -> Iterator[None]:
    """Let cuDNN time its algorithms for every new shape; a graph keeps those that were found."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def arrange(network: nn.Module, layout: torch.memory_format) -> None:
    """Put a network's weights into a memory format, in place."""
    # Module.to with a memory format is missing from PyTorch's type information.
    network.to(memory_format=layout)  # type: ignore[call-overload]
