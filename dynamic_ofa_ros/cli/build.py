"""`dynamic-ofa build`: make a family from a trained backbone."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'build',
        help='choose levels from a trained backbone, calibrate and measure them',
        description='Measure sampled sub-networks, keep the Pareto-optimal ones, calibrate their '
        'batch norm and write the family. Run the same command again after a kill and it goes on.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        '--backbone', required=True, metavar='FOLDER', help='the output of dynamic-ofa train'
    )
    parser.add_argument(
        '--data',
        required=True,
        metavar='FOLDER|signs',
        help='the data it was trained on: calibration uses the training split, accuracy the other',
    )
    parser.add_argument('--output', required=True, metavar='FOLDER', help='the family to write')
    parser.add_argument('--name', help='name of the family; default: that of the output folder')
    parser.add_argument('--levels', type=int, default=6, help='levels wanted')
    parser.add_argument('--candidates', type=int, default=150, help='sub-networks to measure')
    parser.add_argument(
        '--resolutions',
        metavar='PX,PX,...',
        help='input sizes to choose from; default: those of the training. Sizes somewhat above '
        'them often pay, for training crops make objects look larger than they will',
    )
    parser.add_argument(
        '--calibration-images', type=int, default=2000, help='images for batch-norm statistics'
    )
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--engine', default='auto', help='auto, pytorch or onnxruntime')
    parser.add_argument('--threads', type=int, default=1, help='threads of the engine')
    parser.add_argument('--images', type=int, default=56000, help='signs: training scenes')
    parser.add_argument('--held-out-images', type=int, default=8000, help='signs: test scenes')
    parser.add_argument('--seed', type=int, default=1)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, then print the table of levels."""
    from dynamic_ofa_ros.cli.levels import print_levels
    from dynamic_ofa_ros.cli.train import parse_resolutions
    from dynamic_ofa_ros.offline.backbone_run import open_backbone
    from dynamic_ofa_ros.offline.build import BuildSettings, build_family
    from dynamic_ofa_ros.offline.train import open_data

    training, held_out = open_data(args.data, args.images, args.held_out_images)
    output = Path(args.output).expanduser()
    trained = open_backbone(args.backbone)
    if args.resolutions:
        trained = replace(trained, resolutions=parse_resolutions(args.resolutions))
    family = build_family(
        trained,
        training,
        held_out,
        output,
        BuildSettings(
            levels=args.levels,
            candidates=args.candidates,
            calibration_images=args.calibration_images,
            device=args.device,
            engine=args.engine,
            threads=args.threads,
            seed=args.seed,
        ),
        name=args.name or output.name,
    )
    print_levels(family)
    print(f'family: {output}')
    return 0
