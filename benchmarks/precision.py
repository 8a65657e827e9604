"""Latency and accuracy of every level in fp32, fp16, bf16 and int8.

    python -m benchmarks.precision [--images 500] [--photographs FOLDER] [--runs 60]

The families are signs (rendered scenes), imagenet (if it is installed and photographs are given),
and OFA-MobileNetV3 w1.2 with random weights (latency only). int8 is static post-training
quantisation with training images, with one scale per channel for weights; it runs in OpenVINO and
ONNX Runtime.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.common import in_turns, print_table, summary, write_results
from benchmarks.published import published_family
from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import FREE_SIDE, NETWORK_INPUT, Family, Level
from dynamic_ofa_ros.offline.data.datasets import ClassFolder, ImageDataset, RenderedSigns, Subset
from dynamic_ofa_ros.offline.networks.quantization import CALIBRATION_IMAGES, quantize
from dynamic_ofa_ros.runtime.build_cache import BuildCache
from dynamic_ofa_ros.runtime.engine import probe_input
from dynamic_ofa_ros.runtime.engines.onnx_files import level_files
from dynamic_ofa_ros.runtime.engines.openvino import Request, compile_network, shared_core
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.image import FloatArray, preprocess

BASELINE = 'onnxruntime fp32'
Run = Callable[[FloatArray], FloatArray]


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=500, help='images to classify')
    parser.add_argument('--photographs', type=Path, help='photographs, a folder per class')
    parser.add_argument('--runs', type=int, default=60, help='timed runs a level')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        signs = Family.load('signs')
        scenes = (
            RenderedSigns(CALIBRATION_IMAGES, split='train'),
            RenderedSigns(options.images, split='held_out'),
        )
        results['signs'] = _measure(signs, *scenes, options.runs, work)
        if options.photographs:
            try:
                family = Family.load('imagenet')
            except FamilyError as error:
                print(f'left out: {error}')
            else:
                halves = _halves(ClassFolder.open(options.photographs), options.images)
                results['imagenet'] = _measure(family, *halves, options.runs, work)
        published = published_family(work / 'published')
        results[published.name] = _measure(published, scenes[0], None, options.runs, work)
    write_results(
        'precision',
        results,
        configuration={'runs': options.runs, 'threads': 1, 'calibration': CALIBRATION_IMAGES},
        input_checksum='',
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def _halves(images: ImageDataset, most: int) -> tuple[ImageDataset, ImageDataset]:
    """Return images for calibrating the quantisation, and other images for evaluation."""
    order = np.random.default_rng(1).permutation(len(images)).tolist()
    return (
        Subset(images, tuple(order[:CALIBRATION_IMAGES])),
        Subset(images, tuple(order[CALIBRATION_IMAGES : CALIBRATION_IMAGES + most])),
    )


def _measure(
    family: Family,
    calibration: ImageDataset,
    images: ImageDataset | None,
    runs: int,
    work: Path,
) -> list[dict[str, Any]]:
    paths = level_files(family, BuildCache(family, work / 'cache'), None)
    found = []
    for level, path in zip(family.levels, paths, strict=True):
        contenders = _contenders(family, level, path, calibration, work)
        probe = probe_input(level.resolution)
        calls = {name: partial(run, probe) for name, run in contenders.items()}
        times = {name: summary(ms) for name, ms in in_turns(calls, runs).items()}
        right = _right(family, level, contenders, images) if images else {}
        entry: dict[str, Any] = {'level': level.index, 'resolution': level.resolution}
        for name, numbers in times.items():
            entry[name] = {
                'median_ms': numbers['median_ms'],
                'ratio': round(numbers['median_ms'] / times[BASELINE]['median_ms'], 3),
                **({'top1_percent': right[name]} if right else {}),
            }
        found.append(entry)
        print_table(
            f'{family.name}, level {level.index}, {level.resolution} px',
            ['', 'median ms', f'/ {BASELINE}', 'top-1 %'],
            [
                [name, entry[name]['median_ms'], entry[name]['ratio'], right.get(name, '-')]
                for name in times
            ],
        )
    return found


def _contenders(
    family: Family, level: Level, path: Path, calibration: ImageDataset, work: Path
) -> dict[str, Run]:
    """Return a call for each available engine and precision."""
    shape = (1, 3, level.resolution, level.resolution)
    contract = family.preprocessing_of(level.index)
    inputs = (
        preprocess(calibration.image(index), level.resolution, contract)
        for index in islice(range(len(calibration)), CALIBRATION_IMAGES)
    )
    in_int8 = work / f'{family.checksum[:8]}-{level.index}-int8.onnx'
    quantize(path, inputs, in_int8)
    contenders = {
        BASELINE: _session(path, level.resolution),
        'onnxruntime int8': _session(in_int8, level.resolution),
    }
    has = shared_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    for precision in ('fp32', 'bf16', 'fp16'):
        if precision.upper() in has:
            network = compile_network(path, shape, 1, precision)
            contenders[f'openvino {precision}'] = Request(network).infer
    contenders['openvino int8'] = Request(compile_network(in_int8, shape, 1)).infer
    return contenders


def _session(path: Path, resolution: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_free_dimension_override_by_name(FREE_SIDE, resolution)
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])

    def run(tensor: FloatArray) -> FloatArray:
        logits: FloatArray = session.run(None, {NETWORK_INPUT: tensor})[0][0]
        return logits

    return run


def _right(
    family: Family, level: Level, contenders: dict[str, Run], images: ImageDataset
) -> dict[str, float]:
    """Return the top-1 of each contender in %."""
    counts = dict.fromkeys(contenders, 0)
    contract = family.preprocessing_of(level.index)
    for index in range(len(images)):
        tensor = preprocess(images.image(index), level.resolution, contract)
        for name, run in contenders.items():
            counts[name] += int(run(tensor).argmax()) == images.label(index)
    return {name: round(100.0 * count / len(images), 2) for name, count in counts.items()}


if __name__ == '__main__':
    main()
