"""Top-1 after training with few images, by the weights that are kept.

    python -m benchmarks.small_data [--epochs 20] [--seed 1] [--work build/small_data]

Trains three data sets with the default settings of `dynamic-ofa train`: three colours with noise
(500 images), and the first images of each class of CIFAR-10 (500 and 2,000). The training does not
depend on the average, so one training gives three supernets:

- constant: average with a constant decay from the first step, the former average of `train`
- warmed_up: average whose decay increases at the start, the present one
- last: weights of the last step; `train` keeps the better of these two
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.common import RESULTS, checksum, print_table, reference_directory, write_results
from benchmarks.fine_tuning import CLASSES, unpack
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.offline.accuracy.evaluation import Evaluator, PreparedImages
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, ImageStore, open_splits
from dynamic_ofa_ros.offline.training.fine_tuning import start_of
from dynamic_ofa_ros.offline.training.trainer import Trainer, TrainingSettings
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.host import OthersLoad

FEW, MORE = 500, 2000
COLOURS = ('blue', 'green', 'red')
HELD_OUT_COLOURS = 1000


def main() -> int:
    """Train, measure and write the results; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--epochs', type=float, default=20.0)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--work', type=Path, default=Path('build/small_data'))
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of the JSON file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = OthersLoad()
    sets = {
        'colours': (colours(FEW, 1), colours(HELD_OUT_COLOURS, 2)),
        'cifar10_few': photographs(args.work, FEW),
        'cifar10_more': photographs(args.work, MORE),
    }
    settings = TrainingSettings(start_of(None).resolutions, args.epochs, seed=args.seed)
    found = {
        name: top1_by_weights(name, training, held_out, settings)
        for name, (training, held_out) in sets.items()
    }
    print_table(
        'top-1 after training with few images',
        ('data', 'weights', 'largest', 'smallest'),
        [
            (name, weights, top1['largest'], top1['smallest'])
            for name, result in found.items()
            for weights, top1 in result['top1'].items()
        ],
    )
    write_results(
        'small_data',
        found,
        configuration={
            'epochs': args.epochs,
            'seed': args.seed,
            'averaging': TrainingSettings.averaging,
            'batch_size': TrainingSettings.batch_size,
        },
        input_checksum=checksum(
            data.image(index) for data, _ in sets.values() for index in range(len(data))
        ),
        load=load,
        folder=args.output,
    )
    return 0


def colours(count: int, seed: int) -> ImageDataset:
    """Return noise of three colours, (48, 48, 3) each."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(COLOURS)
    images = rng.integers(0, 90, (count, 48, 48, 3)).astype(np.uint8)
    images[np.arange(count), ..., 2 - labels] += 150
    return ImageStore(COLOURS, images, labels)


def photographs(work: Path, images: int) -> tuple[ImageDataset, ImageDataset]:
    """Return the first images of each class of both splits of CIFAR-10, (32, 32, 3) each."""
    folder = work / str(images)
    if not folder.is_dir():
        unpack(reference_directory() / 'cifar10.tar.xz', folder, images // CLASSES)
    return open_splits(folder)


def top1_by_weights(
    name: str, training: ImageDataset, held_out: ImageDataset, settings: TrainingSettings
) -> dict[str, Any]:
    """Train a supernet; return the top-1 of its largest and smallest network by weights."""
    start = start_of(None)
    backbone = BackboneSpec(name, start.kind, start.width_mult, len(training.classes))
    # No checkpoint is written into the folder.
    trainer = Trainer(backbone, settings, start.preprocessing, training, Path())
    constant = AveragedModel(
        trainer.last,
        multi_avg_fn=get_ema_multi_avg_fn(settings.averaging),  # type: ignore[no-untyped-call]
    )
    began_s = time.monotonic()
    with progress(name, trainer.steps) as report:
        for _ in trainer.steps_until(trainer.steps):
            constant.update_parameters(trainer.last)
            report.update(trainer.step)
    minutes = (time.monotonic() - began_s) / 60.0
    ends = {'largest': trainer.space.largest(), 'smallest': trainer.space.smallest()}
    sides = [architecture.r for architecture in ends.values()]
    images = [PreparedImages(data, start.preprocessing, sides) for data in (training, held_out)]

    def top1(supernet: nn.Module) -> dict[str, float]:
        evaluator = Evaluator(supernet, *images)
        return {name: round(evaluator.evaluate(end).top1, 4) for name, end in ends.items()}

    return {
        'images': len(training),
        'classes': len(training.classes),
        'held_out_images': len(held_out),
        'steps': trainer.steps,
        'minutes': round(minutes, 1),
        'top1': {
            'constant': top1(constant.module),
            'warmed_up': top1(trainer.averaged),
            'last': top1(trainer.last),
        },
    }


if __name__ == '__main__':
    sys.exit(main())
