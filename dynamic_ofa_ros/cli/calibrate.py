"""`dynamic-ofa calibrate`: recompute the batch-norm statistics of a family."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.help_format import DefaultsHelpFormatter
from dynamic_ofa_ros.cli.numbers import (
    FEWEST_CALIBRATION_IMAGES,
    MOST_IMAGES,
    MOST_THREADS,
    seed,
    whole_number,
)

if TYPE_CHECKING:
    from dynamic_ofa_ros.offline.data.datasets import ImageDataset


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'calibrate',
        help='recompute the batch-norm statistics of a family on other images',
        description='Recompute the batch-norm statistics of every level of a family, on images of '
        'your camera or on more images than the build used, and measure top-1 on held-out images '
        'before and after. The result is a new family with the same latencies.',
        formatter_class=DefaultsHelpFormatter,
    )
    parser.add_argument(
        '--family', help='directory or name of a family; default: the shipped one', default=''
    )
    parser.add_argument(
        '--data',
        required=True,
        metavar='FOLDER|signs',
        help='folders named after labels of the family (labels may be missing), in train/ and '
        'val/, or directly, to be split automatically; "signs" renders road and warehouse signs',
    )
    parser.add_argument(
        '--output', required=True, metavar='FOLDER', help='new folder for the calibrated family'
    )
    parser.add_argument(
        '--images',
        type=whole_number(FEWEST_CALIBRATION_IMAGES, MOST_IMAGES),
        default=2000,
        help='images to calibrate on',
    )
    parser.add_argument(
        '--held-out-images',
        type=whole_number(1, MOST_IMAGES),
        default=2000,
        help='images to measure top-1 on, at most',
    )
    parser.add_argument(
        '--augment',
        action='store_true',
        help='calibrate with the random crops and brightness of training; seldom better',
    )
    parser.add_argument(
        '--no-mirror',
        action='store_true',
        help='with --augment, never flip images, because left and right differ (signs, text)',
    )
    parser.add_argument(
        '--seed', type=seed, default=1, help='random seed for the choice of images'
    )
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--threads',
        type=whole_number(0, MOST_THREADS),
        default=0,
        help='CPU threads; 0 = one per core',
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate and print the accuracy of each level before and after."""
    import torch

    from dynamic_ofa_ros.family import Family, default_family
    from dynamic_ofa_ros.offline.accuracy.calibration import CalibrationSettings, calibrate_family
    from dynamic_ofa_ros.offline.data.folders import check_output
    from dynamic_ofa_ros.offline.training.request import SIGNS
    from dynamic_ofa_ros.offline.training.train import open_data
    from dynamic_ofa_ros.progress import progress
    from dynamic_ofa_ros.runtime.host import usable_cpus
    from dynamic_ofa_ros.supernet.devices import check_device

    torch.set_num_threads(args.threads or usable_cpus())
    family = Family.load(args.family or default_family())
    if args.data != SIGNS:
        check_output(Path(args.output).expanduser(), args.data)
    training, held_out = open_data(args.data, args.images, args.held_out_images)
    with progress('calibrating levels', len(family.levels)) as bar:
        report = calibrate_family(
            family,
            training,
            _at_most(held_out, args.held_out_images),
            Path(args.output).expanduser(),
            CalibrationSettings(args.images, args.augment, _mirror(args), args.seed),
            check_device(args.device),
            lambda done, top1: bar.update(done, f'top-1 {top1:.1%}'),
        )
    if args.json:
        document = {
            'family': str(report.family.directory),
            'checksum': report.family.checksum,
            'calibration_images': report.calibration_images,
            'held_out_images': report.held_out_images,
            'levels': [
                {'index': level.index, 'top1_before': level.before, 'top1_after': level.after}
                for level in report.levels
            ],
        }
        print(json.dumps(document, indent=1))
        return 0
    print(f'{"level":>5} {"before %":>9} {"after %":>8} {"change":>7}')
    for level in report.levels:
        print(
            f'{level.index:>5} {level.before * 100:>9.2f} {level.after * 100:>8.2f} '
            f'{(level.after - level.before) * 100:>+7.2f}'
        )
    print(
        f'top-1 on {report.held_out_images} held-out images; '
        f'{report.calibration_images} calibration images'
    )
    print(f'family: {args.output}')
    return 0


def _at_most(dataset: ImageDataset, images: int) -> ImageDataset:
    from dynamic_ofa_ros.offline.accuracy.evaluation import calibration_subset

    return dataset if len(dataset) <= images else calibration_subset(dataset, images)


def _mirror(args: argparse.Namespace) -> bool:
    from dynamic_ofa_ros.offline.training.request import SIGNS

    return not (args.no_mirror or args.data == SIGNS)
