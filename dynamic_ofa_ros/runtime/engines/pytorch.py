"""Engine on PyTorch: every level extracted, its batch norms folded into its convolutions."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dynamic_ofa_ros.backbone.supernet import load_level, load_supernet
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.runtime.engine import platform_name
from dynamic_ofa_ros.runtime.host import cpu_name
from dynamic_ofa_ros.runtime.image import FloatArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

LAYOUT_TRIALS = 5


class PytorchEngine:
    """Runs each level as a static network of PyTorch, on the CPU or a CUDA device.

    On the CPU the number of threads is a setting of the whole process in PyTorch
    (`torch.set_num_threads`): the last engine created wins.
    """

    name = 'pytorch'

    def __init__(
        self,
        family: Family,
        cache: BuildCache,
        *,
        device: str = 'cpu',
        threads: int = 1,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self._device = _checked_device(device)
        torch.set_num_threads(threads)
        device_name = (
            cpu_name() if self._device.type == 'cpu' else torch.cuda.get_device_name(self._device)
        )
        self.platform = platform_name(
            self._device.type, device_name, self.name, precision='fp32', threads=threads
        )
        self.notes: tuple[str, ...] = ()
        supernet = load_supernet(family)
        self._levels: list[nn.Module] = []
        for level in family.levels:
            if progress:
                progress(f'PyTorch: level {level.index} of {len(family.levels)}')
            network = fold_batch_norms(load_level(family, level.index, supernet))
            self._levels.append(network.to(self._device))
        self._layout = self._faster_layout(family.levels[-1].resolution)
        for network in self._levels:
            _arrange(network, self._layout)

    @property
    def level_count(self) -> int:
        """The number of levels, all resident."""
        return len(self._levels)

    def infer(self, index: int, tensor: FloatArray) -> FloatArray:
        """Run level `index` (from 1) on (1, 3, r, r) float32; return (classes,) float32 logits.

        Waits for the device, so that the time around the call is the inference's.
        """
        try:
            with torch.inference_mode():
                images = torch.from_numpy(tensor).to(self._device, memory_format=self._layout)
                logits = self._levels[index - 1](images)
                # .cpu() waits for a CUDA device to finish: no other synchronisation is needed.
                result: FloatArray = logits[0].float().cpu().numpy()
        except RuntimeError as error:
            raise EngineError(f'PyTorch failed at level {index}: {error}') from error
        return result

    def close(self) -> None:
        """Free the networks and, on a GPU, their memory."""
        self._levels = []
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    def _faster_layout(self, resolution: int) -> torch.memory_format:
        """Return the memory format in which the highest level is faster, tried in turns."""
        network = self._levels[-1]
        images = torch.zeros(1, 3, resolution, resolution, device=self._device)
        times: dict[torch.memory_format, list[int]] = {
            torch.channels_last: [],
            torch.contiguous_format: [],
        }
        with torch.inference_mode():
            for layout, samples in times.items():
                _arrange(network, layout)
                arranged = images.contiguous(memory_format=layout)
                for _ in range(LAYOUT_TRIALS + 2):
                    start_ns = time.perf_counter_ns()
                    network(arranged)[0].cpu()
                    samples.append(time.perf_counter_ns() - start_ns)
        return min(times, key=lambda layout: statistics.median(times[layout][2:]))


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every batch norm that directly follows a convolution into it, in place; eval mode only.

    Children that follow each other in a module are taken to run one after the other, which holds
    for `ofa`'s layers; the comparison with the reference logits would catch a network where not.
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
    """Return the logits of every level by the plain networks, nothing folded, on the CPU.

    `input_of` gives the input for a resolution. This is what every engine is compared with.
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


def _arrange(network: nn.Module, layout: torch.memory_format) -> None:
    # Module.to with a memory format is missing from PyTorch's type information.
    network.to(memory_format=layout)  # type: ignore[call-overload]


def _checked_device(device: str) -> torch.device:
    if not device.startswith('cuda'):
        return torch.device(device)
    if not torch.cuda.is_available():
        raise EngineError(
            f"device '{device}' was asked for, but PyTorch {torch.__version__} sees no CUDA "
            "device: use device 'cpu' or 'auto', or install a CUDA build of PyTorch and the "
            "GPU's driver"
        )
    index = int(device.partition(':')[2] or 0)
    if index >= torch.cuda.device_count():
        raise EngineError(
            f"device '{device}' was asked for, but there are {torch.cuda.device_count()} CUDA "
            f'devices: cuda:0 to cuda:{torch.cuda.device_count() - 1}'
        )
    return torch.device('cuda', index)
