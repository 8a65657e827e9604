"""Time single operators of a backbone with the engine that runs whole networks.

An operator that runs alone includes the overhead of a call, and the engine rearranges tensors at
its input and output. A network has this overhead only once. Therefore each operator runs between a
1x1 convolution, which makes its input from an image, and a global average pool. This frame also
runs without the operator, and the difference is the time of the operator.

The operators of a group run alternately, so that the caches contain data of others, as in a
network. There is no pause before a run, unlike between whole networks (`runtime/profiling.py`),
because the delay after a pause occurs once per network. The offset of the correction includes it.
"""

from __future__ import annotations

import copy
import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.offline.latency.operator_layout import OperatorLayout
from dynamic_ofa_ros.supernet.network import extract_subnet
from dynamic_ofa_ros.supernet.onnx_export import write_onnx

ENGINES = ('onnxruntime', 'openvino', 'pytorch')

FloatArray = npt.NDArray[np.float64]
Call = Callable[[], object]

SETTLE_ROUNDS = 5
SETTLED_WITHIN = 0.05
"""The warm-up ends when the medians of two successive spans of rounds differ by less."""

MAX_WARMUP_ROUNDS = 50
MIN_ROUNDS = 30
MAX_ROUNDS = 200
PRECISE_WITHIN = 0.01
"""Timing ends when the standard error of the group's total is below this fraction of it."""

LAYOUT_TRIALS = 5
IMAGE_CHANNELS = 3
_SIDES = ('height', 'width')
_ACTIVATIONS: dict[str, type[nn.Module]] = {'Hswish': nn.Hardswish, 'Hsigmoid': nn.Hardsigmoid}


@dataclass(frozen=True)
class Operator:
    """A module with the shape of its input, (1, C, H, W) or (1, C), at each resolution."""

    name: str
    module: nn.Module
    input_shapes: tuple[tuple[int, ...], ...]
    is_first: bool


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one operator, without the time of the frame."""

    median_ms: float
    mean_ms: float
    sd_ms: float
    count: int


def collect_operators(supernet: nn.Module, layout: OperatorLayout) -> list[Operator]:
    """Extract every operator of the search space, in the order of `layout.names`."""
    found: dict[str, Operator] = {}
    sides: list[list[tuple[int, ...]]] = []
    for architecture in layout.covering():
        network = extract_subnet(supernet, architecture)
        if not sides:  # they depend only on the position
            of_resolutions = [_input_shapes(network, r) for r in layout.space.resolutions]
            sides = [
                [shape[2:] for shape in of_place] for of_place in zip(*of_resolutions, strict=True)
            ]
        modules = _modules(network)
        shapes = _input_shapes(network, architecture.r)
        names = layout.names_in(architecture)
        for place, (name, module) in enumerate(zip(names, modules, strict=True)):
            found.setdefault(
                name,
                Operator(
                    name,
                    module,
                    tuple((*shapes[place][:2], *side) for side in sides[place]),
                    is_first=place == 0,
                ),
            )
    return [found[name] for name in layout.names]


def _modules(network: nn.Module) -> list[nn.Module]:
    """Return the operators of a static network of `ofa`, in the order of its forward pass."""
    children = list(network.children())
    return [m for c in children for m in (c if isinstance(c, nn.ModuleList) else (c,))]


def _input_shapes(network: nn.Module, resolution: int) -> list[tuple[int, ...]]:
    """Return the shape of the input of every operator."""
    modules = _modules(network)
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        shapes[module] = tuple(inputs[0].shape)

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    with torch.inference_mode():
        network(torch.zeros(1, IMAGE_CHANNELS, resolution, resolution))
    for hook in hooks:
        hook.remove()
    return [shapes[module] for module in modules]


class Framed(nn.Module):
    """An operator between the layers of the frame, or the frame alone.

    `key` is equal for equal computations, also at other resolutions.
    """

    def __init__(self, operator: Operator, is_frame_alone: bool = False) -> None:
        super().__init__()
        channels, *sides = operator.input_shapes[0][1:]
        self.is_flat = not sides
        self.key = operator.name
        self.before: nn.Module = nn.Identity()
        if not operator.is_first:
            self.before = nn.Conv2d(IMAGE_CHANNELS, channels, 1)
        self.operator: nn.Module = copy.deepcopy(operator.module)
        if is_frame_alone:
            self.key = f'frame {channels} {self.is_flat} {operator.is_first}'
            self.operator = nn.Identity()
        self.after = nn.AdaptiveAvgPool2d(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Run on (1, 3, H, W); return (1, C) or (1, C, 1, 1)."""
        made = self.before(image)
        result: torch.Tensor = self.operator(made.flatten(1) if self.is_flat else made)
        if result.dim() == 2:
            return result
        pooled: torch.Tensor = self.after(result)
        return pooled


class OperatorEngine:
    """Prepares modules for timing, as the engine of the runtime would run them.

    engine: one of `ENGINES`; device: 'cpu', 'cuda' or 'cuda:N'. `largest` determines the memory
    layout, as in the engine for PyTorch.
    """

    def __init__(
        self, engine: str, device: str, threads: int, largest: nn.Module, resolution: int
    ) -> None:
        if engine not in ENGINES:
            raise EngineError(
                f'engine {engine!r} cannot time single operators; use {", ".join(ENGINES)}, or '
                'measure whole networks: dynamic-ofa profile --whole-networks 100'
            )
        self._engine, self._device, self._threads = engine, device, threads
        self._exported: dict[str, bytes] = {}
        self._layout = torch.contiguous_format
        if engine == 'pytorch':
            torch.set_num_threads(threads)
            self._layout = self._faster_layout(largest, resolution)

    def prepare(self, framed: Framed, side: int) -> Call:
        """Return a function that runs `framed` on a square image and waits for the end."""
        image = torch.randn(1, IMAGE_CHANNELS, side, side)
        if self._engine == 'onnxruntime':
            return self._session(framed, image)
        if self._engine == 'openvino':
            return self._request(framed, image)
        return self._network(framed, image, self._layout)

    def _network(
        self, module: nn.Module, image: torch.Tensor, layout: torch.memory_format
    ) -> Call:
        from dynamic_ofa_ros.runtime.engines.pytorch import fold_batch_norms

        network = fold_batch_norms(copy.deepcopy(module).eval()).to(self._device)
        network.to(memory_format=layout)  # type: ignore[call-overload]
        array = image.numpy()

        def run() -> object:
            with torch.inference_mode():
                tensor = torch.from_numpy(array).to(self._device, memory_format=layout)
                # .cpu() waits for a CUDA device, as in the engine.
                return network(tensor)[0].float().cpu().numpy()

        return run

    def _faster_layout(self, network: nn.Module, resolution: int) -> torch.memory_format:
        """Return the faster memory format of the largest network, as chosen by the engine."""
        image = torch.zeros(1, IMAGE_CHANNELS, resolution, resolution)
        medians: dict[torch.memory_format, float] = {}
        for layout in (torch.channels_last, torch.contiguous_format):
            call = self._network(network, image, layout)
            medians[layout] = statistics.median(
                [_time_ms(call) for _ in range(LAYOUT_TRIALS + 2)][2:]
            )
        return min(medians, key=lambda layout: medians[layout])

    def _session(self, framed: Framed, image: torch.Tensor) -> Call:
        import onnxruntime

        from dynamic_ofa_ros.runtime.engines import onnxruntime as engine

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = engine.QUIET
        # Shapes are constant, as in the engine.
        for name, size in zip(_SIDES, image.shape[2:], strict=True):
            options.add_free_dimension_override_by_name(name, size)
        session = onnxruntime.InferenceSession(
            self._onnx(framed, image), options, providers=engine.execution_providers(self._device)
        )
        feed = {'input': image.numpy()}
        return lambda: session.run(None, feed)

    def _request(self, framed: Framed, image: torch.Tensor) -> Call:
        from dynamic_ofa_ros.runtime.engines.openvino import Request, compile_network

        onnx = io.BytesIO(self._onnx(framed, image))
        network = compile_network(onnx, image.shape, self._threads)
        request = Request(network)
        request.input[...] = image.numpy()
        return lambda: request.infer(request.input)

    def _onnx(self, framed: Framed, image: torch.Tensor) -> bytes:
        """Return the ONNX model of an operator, which is valid for all resolutions."""
        if framed.key not in self._exported:
            self._exported[framed.key] = _export(framed.eval(), image)
        return self._exported[framed.key]


def _export(module: nn.Module, image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    _replace_activations(module)
    try:
        write_onnx(module, image, buffer, _SIDES)
    except Exception as error:
        raise EngineError(
            f'PyTorch cannot export an operator to ONNX ({type(error).__name__}: {error}); '
            'check that the versions of onnx, numpy and torch match, or use engine pytorch'
        ) from error
    return buffer.getvalue()


def _replace_activations(module: nn.Module) -> None:
    """Replace the activations of `ofa` by PyTorch's, which the engines run as one operator."""
    for name, child in module.named_children():
        if type(child).__name__ in _ACTIVATIONS:
            setattr(module, name, _ACTIVATIONS[type(child).__name__]())
        else:
            _replace_activations(child)


def time_operators(
    places: Sequence[tuple[Operator, int]], engine: OperatorEngine, rng: np.random.Generator
) -> list[Timing]:
    """Time a group of (operator, index of the resolution) alternately; return times in order."""
    calls: list[Call] = []
    frames: dict[tuple[str, int], int] = {}
    of_place: list[tuple[int, int]] = []
    for operator, resolution in places:
        shape = operator.input_shapes[resolution]
        side = shape[2] if len(shape) > 2 else 1
        frame = Framed(operator, is_frame_alone=True)
        if (frame.key, side) not in frames:
            frames[frame.key, side] = len(calls)
            calls.append(engine.prepare(frame, side))
        of_place.append((len(calls), frames[frame.key, side]))
        calls.append(engine.prepare(Framed(operator), side))
    samples = time_in_turns(calls, rng)
    framed, alone = (np.array(column) for column in zip(*of_place, strict=True))
    return [summarise(column) for column in (samples[:, framed] - samples[:, alone]).T]


def time_in_turns(calls: Sequence[Call], rng: np.random.Generator) -> FloatArray:
    """Return (rounds, calls) milliseconds; each round runs all calls once, in random order.

    Rounds of the warm-up are not included. The measurement ends when the total is precise.
    """

    def one_round() -> FloatArray:
        times = np.empty(len(calls))
        for index in rng.permutation(len(calls)):
            times[index] = _time_ms(calls[index])
        return times

    before = _median_total([one_round() for _ in range(SETTLE_ROUNDS)])
    for _ in range(MAX_WARMUP_ROUNDS // SETTLE_ROUNDS):
        after = _median_total([one_round() for _ in range(SETTLE_ROUNDS)])
        if abs(after - before) <= SETTLED_WITHIN * before:
            break
        before = after
    rounds = [one_round() for _ in range(MIN_ROUNDS)]
    while len(rounds) < MAX_ROUNDS and not _is_precise(np.sum(rounds, axis=1)):
        rounds += [one_round() for _ in range(SETTLE_ROUNDS)]
    return np.array(rounds)


def summarise(samples_ms: FloatArray) -> Timing:
    """Return median, mean, sd and count.

    The difference of noisy times can be negative; medians and means are at least 0.
    """
    return Timing(
        median_ms=max(0.0, float(np.median(samples_ms))),
        mean_ms=max(0.0, float(samples_ms.mean())),
        sd_ms=float(samples_ms.std(ddof=1)) if len(samples_ms) > 1 else 0.0,
        count=len(samples_ms),
    )


def _median_total(rounds: Sequence[FloatArray]) -> float:
    return float(np.median(rounds, axis=0).sum())


def _is_precise(totals: FloatArray) -> bool:
    """Return whether the standard error of the median total is small; robust to outliers."""
    middle = np.median(totals)
    scatter = 1.4826 * np.median(np.abs(totals - middle))
    return bool(1.25 * scatter / np.sqrt(len(totals)) <= PRECISE_WITHIN * middle)


def _time_ms(call: Call) -> float:
    start_ns = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start_ns) / 1e6
