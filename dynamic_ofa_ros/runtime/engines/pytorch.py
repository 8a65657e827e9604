"""Engine on PyTorch: extracted levels with batch norms folded into convolutions."""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime.engine import EngineBase, described, platform_name
from dynamic_ofa_ros.runtime.engines.cuda_levels import LAYOUTS, CudaDevice, CudaLevels, arrange
from dynamic_ofa_ros.runtime.host import cpu_name, gpu_index, gpu_name
from dynamic_ofa_ros.runtime.image import FloatArray
from dynamic_ofa_ros.supernet.network import load_level, load_supernet

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

LAYOUT_TRIALS = 5


class PytorchEngine(EngineBase):
    """Runs each level as a static PyTorch network, on the CPU or a CUDA device.

    On a CUDA device, each level is one CUDA graph, and TF32 is disabled for the whole process. On
    the CPU, the number of threads also applies to the whole process (`torch.set_num_threads`), so
    that of the last created engine is used.
    """

    name = 'pytorch'

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
        self.device = device
        self._device = _checked_device(device)
        torch.set_num_threads(threads)
        self.notes: tuple[str, ...] = (
            ('engine pytorch ignores max_resident_mb and keeps every level in memory',)
            if max_resident_mb
            else ()
        )
        self._levels: list[nn.Module] = []
        self._cuda_levels: CudaLevels | None = None
        self._lost = ''  # the error that made the device unusable
        try:
            device_name = (
                cpu_name()
                if self._device.type == 'cpu'
                else gpu_name(gpu_index(device), torch.cuda.get_device_name(self._device))
            )
            self.platform = platform_name(
                self._device.type, device_name, self.name, precision='fp32', threads=threads
            )
            self._load(family, progress)
        except RuntimeError as error:
            # PyTorch was built for other GPUs, memory is too small, the driver is too old, ...
            self.close()
            raise EngineError(
                f"PyTorch {torch.__version__} cannot use device '{device}': {described(error)}; "
                "use device 'cpu' or 'auto', or install the build of PyTorch for this device"
            ) from error
        except BaseException:
            self.close()
            raise

    def _load(self, family: Family, progress: Callable[[str], None] | None) -> None:
        supernet = load_supernet(family)
        for level in family.levels:
            if progress:
                progress(f'PyTorch: level {level.index} of {len(family.levels)}')
            network = fold_batch_norms(load_level(family, level.index, supernet))
            self._levels.append(network.to(self._device))
        resolutions = [level.resolution for level in family.levels]
        if self._device.type == 'cuda':
            self._cuda_levels = CudaLevels(self._levels, resolutions, CudaDevice(self._device))
            self.notes = (*self.notes, *self._cuda_levels.notes)
            return
        self._layout = self._faster_layout(resolutions[-1])
        for network in self._levels:
            arrange(network, self._layout)

    @property
    def level_count(self) -> int:
        """The number of levels, all resident."""
        return len(self._levels)

    def _infer(self, index: int, tensor: FloatArray) -> FloatArray:
        """Run a level and wait for the device, so that the time of the call is the inference time.

        After an error that a CUDA device cannot recover from, every call raises that error.
        """
        if self._lost:
            raise EngineError(f'PyTorch lost the GPU: {self._lost}; restart this process')
        try:
            if self._cuda_levels is not None:
                return self._cuda_levels.infer(index, tensor)
            with torch.inference_mode():
                images = torch.from_numpy(tensor).contiguous(memory_format=self._layout)
                logits: FloatArray = self._levels[index - 1](images)[0].numpy()
        except RuntimeError as error:
            self._check_device(error)
            raise
        return logits

    def close(self) -> None:
        """Free the networks and, on a GPU, their memory."""
        self._levels = []
        self._cuda_levels = None
        if self._device.type == 'cuda':
            with contextlib.suppress(RuntimeError):  # raised if the device is lost
                torch.cuda.empty_cache()

    def _check_device(self, error: RuntimeError) -> None:
        """Check whether a CUDA device is usable after an error, and free unused memory."""
        if self._cuda_levels is None:
            return
        try:
            self._cuda_levels.recover()
        except RuntimeError:  # a lost device raises its first error again in every call
            self._lost = described(error)

    def _faster_layout(self, resolution: int) -> torch.memory_format:
        """Return the memory format in which the highest level is faster on the CPU."""
        network = self._levels[-1]
        images = torch.zeros(1, 3, resolution, resolution)
        times: dict[torch.memory_format, list[int]] = {layout: [] for layout in LAYOUTS}
        with torch.inference_mode():
            for layout, samples in times.items():
                arrange(network, layout)
                arranged = images.contiguous(memory_format=layout)
                for _ in range(LAYOUT_TRIALS + 2):
                    start_ns = time.perf_counter_ns()
                    network(arranged)
                    samples.append(time.perf_counter_ns() - start_ns)
        return min(times, key=lambda layout: statistics.median(times[layout][2:]))


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every batch norm that directly follows a convolution into it, in place; eval mode only.

    Consecutive children of a module are assumed to run one after the other, as in the layers of
    `ofa`; otherwise the comparison with the reference logits fails.
    """
    for parent in network.modules():
        previous_name, previous = '', nn.Module()
        for name, child in list(parent.named_children()):
            if isinstance(previous, nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
                setattr(parent, previous_name, fuse_conv_bn_eval(previous, child))
                setattr(parent, name, nn.Identity())
            previous_name, previous = name, child
    return network


def reference_logits(
    family: Family, input_of: Callable[[int], FloatArray]
) -> dict[int, FloatArray]:
    """Return the logits of every level of a supernet, as a reference for all engines.

    They are computed on the CPU without folding. input_of: returns the input for a resolution.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        supernet = load_supernet(family)
        with torch.inference_mode():
            return {
                level.index: np.asarray(
                    load_level(family, level.index, supernet)(
                        torch.from_numpy(input_of(level.resolution))
                    )[0].numpy(),
                    dtype=np.float32,
                )
                for level in family.levels
            }
    finally:
        torch.set_num_threads(threads)


def _checked_device(device: str) -> torch.device:
    if not device.startswith('cuda'):
        return torch.device(device)
    if not torch.cuda.is_available():
        raise EngineError(
            f"device is '{device}', but PyTorch {torch.__version__} finds no CUDA "
            "device: use device 'cpu' or 'auto', or install a CUDA build of PyTorch and the "
            "GPU's driver"
        )
    index = gpu_index(device)
    if index >= torch.cuda.device_count():
        raise EngineError(
            f"device is '{device}', but there are {torch.cuda.device_count()} CUDA devices: "
            f'cuda:0 to cuda:{torch.cuda.device_count() - 1}'
        )
    return torch.device('cuda', index)
