"""Latency of every level with each engine and with the dynamic forward pass of `ofa`; batch 1.

OpenVINO is also measured without the engine, to show the engine's overhead, and ONNX Runtime with
files exported by PyTorch, to show the benefit of the package's own export.

    python -m benchmarks.engines [--family NAME] [--runs 200] [--threads 1] [--skip-published]

Measures (a) a family, by default the demo family, and (b) OFA-MobileNetV3 w1.2 with 1000 classes
and the six published GPU architectures, with random weights. Latency does not depend on the values
of the weights as long as activations are in a normal range, which recalculated batch norms ensure.
"""

from __future__ import annotations

import argparse
import functools
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import (
    checksum,
    in_turns,
    print_table,
    summary,
    write_results,
)
from benchmarks.published import published_family
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import NETWORK_INPUT, Family, default_family
from dynamic_ofa_ros.runtime.build_cache import BuildCache
from dynamic_ofa_ros.runtime.engine import PRECISIONS, Engine, create_engine, engine_names
from dynamic_ofa_ros.runtime.engines.onnx_files import level_files
from dynamic_ofa_ros.runtime.host import OthersLoad

if TYPE_CHECKING:
    import torch

DYNAMIC = 'supernet'
BARE = 'OpenVINO called directly'
EXPORTED = "onnxruntime with PyTorch's export"


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default=default_family(), help='name or path of a family')
    parser.add_argument('--runs', type=int, default=200, help='timed runs per level and engine')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--skip-published', action='store_true', help='measure the family only')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    results: dict[str, Any] = {}
    inputs: list[np.ndarray[Any, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        families = [Family.load(options.family)]
        if not options.skip_published:
            families.append(published_family(Path(folder) / 'published'))
        for family in families:
            results[family.name] = _measure(family, options, Path(folder) / 'cache', inputs)
    write_results(
        'engines',
        results,
        configuration={
            'runs': options.runs,
            'threads': options.threads,
            'device': options.device,
            'batch': 1,
            'order': 'engines in random order, blocks of 5',
        },
        input_checksum=checksum(inputs),
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def _measure(
    family: Family,
    options: argparse.Namespace,
    cache: Path,
    inputs: list[np.ndarray[Any, Any]],
) -> dict[str, Any]:
    """Measure all engines on all levels of a family, print the table and return the numbers."""
    import torch

    from dynamic_ofa_ros.supernet.network import load_supernet, set_active

    engines: dict[str, Engine] = {}
    for name in engine_names():
        try:
            engines[name] = create_engine(
                family,
                device=options.device,
                engine=name,
                threads=options.threads,
                cache_dir=cache,
                progress=lambda text: print(f'  {text}', flush=True),
            )
        except EngineError as error:
            print(f'  left out: {error}')
    for precision in PRECISIONS[1:]:
        try:
            engines[f'openvino {precision}'] = create_engine(
                family,
                device=options.device,
                engine='openvino',
                precision=precision,
                threads=options.threads,
                cache_dir=cache,
            )
        except EngineError as error:
            print(f'  left out: {error}')
    bare = _bare_openvino(family, cache, options.threads) if 'openvino' in engines else {}
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    supernet = load_supernet(family).to(device)
    rows: list[list[object]] = []
    levels = []
    for level in family.levels:
        shape = (1, 3, level.resolution, level.resolution)
        images = np.random.default_rng(level.index).standard_normal(shape).astype(np.float32)
        inputs.append(images)
        tensor = torch.from_numpy(images)
        set_active(supernet, level.architecture)

        def dynamic(tensor: torch.Tensor = tensor) -> object:
            with torch.inference_mode():
                return supernet(tensor.to(device)).cpu()

        contenders: dict[str, Callable[[], object]] = {DYNAMIC: dynamic}
        for name, engine in engines.items():
            buffer = engine.buffer(level.index)
            if buffer is not None:
                buffer[...] = images
            given = images if buffer is None else buffer
            contenders[name] = functools.partial(engine.infer, level.index, given)
        if bare:
            contenders[BARE] = bare[level.index]
            contenders[EXPORTED] = _exported(
                family, level.index, supernet, images, options.threads
            )
        measured = {
            name: summary(samples) for name, samples in in_turns(contenders, options.runs).items()
        }
        base_ms = measured[DYNAMIC]['median_ms']
        entry: dict[str, Any] = {'level': level.index, 'resolution': level.resolution}
        for name, numbers in measured.items():
            ratio = base_ms / numbers['median_ms']
            entry[name] = {**numbers, 'times_faster_than_dynamic': round(ratio, 3)}
            row = [level.index, level.resolution, round(level.macs / 1e6, 2), name]
            rows.append([*row, *(numbers[k] for k in ('median_ms', 'p95_ms', 'p99_ms')), ratio])
        levels.append(entry)
    for engine in engines.values():
        engine.close()
    print_table(
        f'{family.name}: {options.device}, {options.threads} thread(s), batch 1, '
        f'{options.runs} runs',
        ['level', 'px', 'MMACs', 'engine', 'median ms', 'p95 ms', 'p99 ms', 'x dynamic'],
        rows,
    )
    return {'family_sha256': family.checksum, 'levels': levels}


def _bare_openvino(family: Family, cache: Path, threads: int) -> dict[int, Callable[[], object]]:
    """Return a call for every level that runs OpenVINO without copying the input."""
    from dynamic_ofa_ros.runtime.engines.openvino import compile_network

    calls: dict[int, Callable[[], object]] = {}
    for level, path in zip(
        family.levels, level_files(family, BuildCache(family, cache), None), strict=True
    ):
        shape = (1, 3, level.resolution, level.resolution)
        request = compile_network(path, shape, threads).create_infer_request()
        images = np.random.default_rng(level.index).standard_normal(shape).astype(np.float32)
        request.get_input_tensor().data[...] = images
        calls[level.index] = functools.partial(request.infer, share_outputs=True)
    return calls


def _exported(
    family: Family,
    index: int,
    supernet: torch.nn.Module,
    images: np.ndarray[Any, Any],
    threads: int,
) -> Callable[[], object]:
    """Return a call that runs a level, exported by PyTorch, in ONNX Runtime."""
    import onnxruntime
    import torch

    from dynamic_ofa_ros.supernet.network import load_level
    from dynamic_ofa_ros.supernet.onnx_export import write_onnx

    file = io.BytesIO()
    write_onnx(load_level(family, index, supernet), torch.from_numpy(images), file)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file.getvalue(), settings)
    return functools.partial(session.run, None, {NETWORK_INPUT: images})


if __name__ == '__main__':
    main()
