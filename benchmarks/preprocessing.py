"""Time of preprocessing a camera image, and its effect on the accuracy.

    python -m benchmarks.preprocessing [--scenes 1000] [--photographs FOLDER]

Compares `preprocess` with its literal definition: conversion of the whole image to RGB, exact area
averaging by OpenCV, normalisation. The accuracy is compared on rendered scenes and, if the
ImageNet family is installed, on photographs in class folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np

from benchmarks.common import checksum, in_turns, print_table, summary, write_results
from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import Family, Preprocessing
from dynamic_ofa_ros.offline.data.datasets import ClassFolder, ImageDataset, RenderedSigns
from dynamic_ofa_ros.runtime import image as image_module
from dynamic_ofa_ros.runtime.engine import create_engine
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.image import FloatArray, ImageArray, RawImage, preprocess

SIZES = ((640, 480), (1280, 720), (1920, 1080))
RESOLUTIONS = (64, 96, 128, 160, 192, 224, 256)
PREPROCESSING = Preprocessing(crop_fraction=1.0, interpolation='area')


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=int, default=100, help='timed runs')
    parser.add_argument('--scenes', type=int, default=1000, help='rendered scenes to classify')
    parser.add_argument('--photographs', type=Path, help='photographs, a folder per class')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    cv2.setNumThreads(1)
    load = OthersLoad()
    inputs: list[ImageArray] = []
    results: dict[str, Any] = {'times': _times(options.runs, inputs), 'accuracy': {}}
    data: dict[str, ImageDataset] = {'signs': RenderedSigns(options.scenes, split='held_out')}
    if options.photographs:
        data['imagenet'] = ClassFolder.open(options.photographs)
    for name, images in data.items():
        try:
            results['accuracy'][name] = _accuracy(Family.load(name), images)
        except FamilyError as error:
            print(f'left out: {error}')
    write_results(
        'preprocessing',
        results,
        configuration={'runs': options.runs, 'threads': 1},
        input_checksum=checksum(inputs),
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def literal(source: RawImage, resolution: int) -> FloatArray:
    """Return the network's input by the literal definition."""
    rgb = source.decode()
    side = min(rgb.shape[:2])
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    square = _exact_means(rgb[top : top + side, left : left + side], resolution, resolution)
    mean, deviation = (
        np.asarray(values, np.float32)[:, None, None]
        for values in (PREPROCESSING.mean, PREPROCESSING.std)
    )
    tensor = np.empty((1, 3, resolution, resolution), np.float32)
    np.multiply(square.transpose(2, 0, 1), 1.0 / (255.0 * deviation), out=tensor[0])
    tensor -= mean / deviation
    return tensor


def _exact_means(values: ImageArray, width: int, height: int) -> ImageArray:
    resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)


def _times(runs: int, inputs: list[ImageArray]) -> list[dict[str, Any]]:
    random, found = np.random.default_rng(1), []
    for width, height in SIZES:
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        inputs.append(pixels)
        for encoding in ('rgb8', 'bgr8'):
            source = RawImage(pixels.tobytes(), width, height, encoding, 3 * width)
            for resolution in RESOLUTIONS:
                calls: dict[str, Callable[[], object]] = {
                    'now': partial(_now, source, resolution),
                    'literal': partial(literal, source, resolution),
                }
                numbers = {name: summary(ms) for name, ms in in_turns(calls, runs).items()}
                ratio = numbers['now']['median_ms'] / numbers['literal']['median_ms']
                found.append(
                    {
                        'image': f'{width}x{height}',
                        'encoding': encoding,
                        'resolution': resolution,
                        'ratio': round(ratio, 3),
                        **numbers,
                    }
                )
    print_table(
        'decode and preprocess, one thread',
        ['image', 'encoding', 'px', 'literal ms', 'now ms', 'ratio'],
        [
            [
                row['image'], row['encoding'], row['resolution'], row['literal']['median_ms'],
                row['now']['median_ms'], row['ratio'],
            ]
            for row in found
        ],
    )  # fmt: skip
    return found


def _now(source: RawImage, resolution: int) -> FloatArray:
    return preprocess(source.pixels(), resolution, PREPROCESSING)


def _accuracy(family: Family, images: ImageDataset) -> dict[str, Any]:
    """Return the accuracy of every level with exact and with fast averaging."""
    engine = create_engine(family, device='cpu')
    right = {name: np.zeros((len(images), len(family.levels)), bool) for name in ('exact', 'now')}
    for index in range(len(images)):
        image, label = images.image(index), images.label(index)
        for level in family.levels:
            contract = family.preprocessing_of(level.index)
            for name, marks in right.items():
                with mock.patch.object(
                    image_module,
                    '_averaged',
                    _exact_means if name == 'exact' else image_module._averaged,
                ):
                    tensor = preprocess(image, level.resolution, contract)
                answer = int(engine.infer(level.index, tensor).argmax())
                marks[index, level.index - 1] = answer == label
    engine.close()
    differences = 100.0 * (right['now'].mean(axis=1) - right['exact'].mean(axis=1))
    found = {
        'images': len(images),
        'levels': {
            name: [round(100.0 * float(share), 2) for share in marks.mean(axis=0)]
            for name, marks in right.items()
        },
        'now_less_exact_points': round(float(differences.mean()), 3),
        'interval_points': round(float(1.96 * differences.std() / np.sqrt(len(images))), 3),
    }
    print_table(
        f'{family.name}: accuracy in % on {len(images)} images; now less exact '
        f'{found["now_less_exact_points"]:+} +- {found["interval_points"]} points',
        ['level', 'exact means', 'now'],
        [
            [level.index, *(found['levels'][name][level.index - 1] for name in right)]
            for level in family.levels
        ],
    )
    return found


if __name__ == '__main__':
    main()
