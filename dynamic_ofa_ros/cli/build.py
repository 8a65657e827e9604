"""`dynamic-ofa build`: make a family from a backbone."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.device_options import add_device_options, precisions
from dynamic_ofa_ros.cli.help_format import DefaultsHelpFormatter
from dynamic_ofa_ros.cli.numbers import (
    FEWEST_CALIBRATION_IMAGES,
    MOST_EVALUATIONS,
    MOST_IMAGES,
    MOST_SCENES,
    MOST_SUBNETS,
    MOST_WORKERS,
    number,
    resolutions,
    seed,
    whole_number,
)
from dynamic_ofa_ros.family import MAX_LEVELS

if TYPE_CHECKING:
    from dynamic_ofa_ros.offline.build.build import BuildReport
    from dynamic_ofa_ros.offline.data.datasets import ImageDataset
    from dynamic_ofa_ros.space.architecture import SubnetArchitecture
    from dynamic_ofa_ros.supernet.trained import TrainedBackbone

DEFAULT_COUNT = 8
DEFAULT_SPAN_POINTS = 20.0
# Rendering a scene takes longer than classifying it, so the default number is small.
RENDERED_HELD_OUT_IMAGES = 8000


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'build',
        help='choose levels from a backbone, calibrate and measure them',
        description='Make a family from a backbone, labelled images and measurements on this '
        'device: measure sampled sub-networks, fit predictors of accuracy and latency, search, '
        'measure the networks found, choose levels from the Pareto front, calibrate their batch '
        'norm and measure them again. Run the same command again to resume an interrupted build.',
        formatter_class=DefaultsHelpFormatter,
    )
    parser.add_argument(
        '--backbone',
        required=True,
        metavar='FOLDER|NAME|FAMILY',
        help='a folder written by dynamic-ofa train, the name of a fetched backbone, or a family, '
        'whose backbone is reused',
    )
    parser.add_argument(
        '--data',
        required=True,
        metavar='FOLDER|signs',
        help='the data the backbone was trained on: the training split calibrates the levels, the '
        'held-out split measures their accuracy',
    )
    parser.add_argument(
        '--output',
        metavar='FOLDER',
        help='folder of the new family; default: families/<name>',
    )
    parser.add_argument(
        '--name', help='name of the family; default: the name of the output folder or level file'
    )
    parser.add_argument(
        '--resolutions',
        type=resolutions(),
        metavar='PX,PX,...',
        help='input sizes to choose from; default: the training resolutions. Larger sizes are '
        'often more accurate, because random crops enlarge the objects in training images',
    )
    parser.add_argument('--seed', type=seed, default=1, help='random seed')
    parser.add_argument('--json', action='store_true', help='print JSON instead of tables')
    _add_levels(parser.add_argument_group('levels'))
    _add_images(parser.add_argument_group('images'))
    _add_machine(parser.add_argument_group('this machine'))
    _add_robot(parser.add_argument_group('a robot that is not this machine'))
    parser.set_defaults(run=run)


def _add_levels(group: Any) -> None:
    group.add_argument(
        '--count',
        type=whole_number(1, MAX_LEVELS),
        default=DEFAULT_COUNT,
        help='number of levels; fewer if neighbours would differ by less than a point of top-1',
    )
    group.add_argument(
        '--span',
        type=number(0, 100, above=True),
        default=DEFAULT_SPAN_POINTS,
        metavar='POINTS',
        help='leave out levels whose top-1 is more than POINTS points below the best level',
    )
    group.add_argument(
        '--levels',
        type=_levels,
        default='',
        metavar='FILE|N',
        help='a level file, or the name of one in config/levels: use its architectures instead of '
        'searching. A number means the same as --count',
    )
    group.add_argument(
        '--merge',
        default='',
        metavar='FAMILY',
        help='add the levels of this family, which must have the same backbone; for example, '
        'levels chosen on another device',
    )
    group.add_argument(
        '--precisions',
        type=precisions,
        default='fp32',
        metavar='fp32,int8',
        help='with int8, each level is also quantised, and the fp32 and int8 networks on the '
        'Pareto front become the levels. They are separate networks (ONNX), without a supernet',
    )
    group.add_argument(
        '--search',
        choices=('nsga2', 'algorithm1', 'none'),
        default='nsga2',
        help='algorithm1: the search of the Dynamic-OFA paper; none: choose among the sampled '
        'sub-networks only',
    )
    group.add_argument(
        '--candidates',
        type=whole_number(2, MOST_SUBNETS),
        default=150,
        help='sampled sub-networks to fit the predictors to',
    )
    group.add_argument(
        '--finalists',
        type=whole_number(2, MOST_SUBNETS),
        default=40,
        help='sub-networks to choose levels from',
    )
    group.add_argument(
        '--evaluations',
        type=whole_number(1, MOST_EVALUATIONS),
        default=20000,
        help='sub-networks that the search may evaluate',
    )
    group.add_argument(
        '--predictor',
        default='',
        metavar='FILE',
        help='accuracy predictor to use; default: fit one',
    )
    group.add_argument(
        '--lut', default='', metavar='FILE', help='latency model (dynamic-ofa '
        'profile) for the search; default: a predictor fitted to whole networks',
    )  # fmt: skip


def _levels(text: str) -> int | str:
    """Return the number of levels, or the name of a level file."""
    is_number = text.lstrip('+-').isdigit()
    return whole_number(1, MAX_LEVELS)(text) if is_number else text


def _add_robot(group: Any) -> None:
    group.add_argument(
        '--candidates-to',
        default='',
        metavar='FOLDER',
        help='only write a family of all candidates to FOLDER; copy it to the robot and measure '
        'it there with dynamic-ofa measure FOLDER --output FILE',
    )
    group.add_argument(
        '--measured',
        default='',
        metavar='FILE',
        help='choose levels among the sub-networks in FILE by their latencies on the robot; no '
        'latency is measured on this machine',
    )
    group.add_argument(
        '--by-table',
        action='store_true',
        help='choose levels by the latencies of --lut, measured on the robot; no latency is '
        'measured on this machine, and the robot measures the family at its first start',
    )


def _add_images(group: Any) -> None:
    group.add_argument(
        '--calibration-images',
        type=whole_number(FEWEST_CALIBRATION_IMAGES, MOST_IMAGES),
        default=2000,
        help='training images for the batch-norm statistics of each level',
    )
    group.add_argument(
        '--selection-images',
        type=whole_number(1, MOST_IMAGES),
        default=4000,
        help='maximum number of held-out images for the choice of levels; at most half of them',
    )
    group.add_argument(
        '--held-out-images',
        type=whole_number(0, MOST_IMAGES),
        default=0,
        help=f'number of held-out images; 0 = all of them (signs: {RENDERED_HELD_OUT_IMAGES})',
    )
    group.add_argument(
        '--images',
        type=whole_number(1, MOST_SCENES),
        default=56000,
        help='signs: number of training scenes',
    )


def _add_machine(group: Any) -> None:
    add_device_options(group)
    group.add_argument(
        '--workers',
        type=whole_number(0, MOST_WORKERS),
        default=0,
        help='processes that measure accuracy; 0 = one per core if that is faster',
    )
    group.add_argument(
        '--ray',
        default='',
        metavar='ADDRESS',
        help='measure accuracy on a Ray cluster instead: host:port, auto, or local',
    )
    group.add_argument(
        '--work',
        metavar='FOLDER',
        help='folder for intermediate results, kept after the build; a build for another device '
        'with the same folder reuses the measured accuracies. Default: a folder next to the '
        'output, removed after the build',
    )


def run(args: argparse.Namespace) -> int:
    """Build, then print the table of levels and the time of each stage."""
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.offline.build.build import BuildSettings, build_family
    from dynamic_ofa_ros.offline.data.folders import check_output
    from dynamic_ofa_ros.offline.fetch import with_labels_of
    from dynamic_ofa_ros.offline.training.request import SIGNS
    from dynamic_ofa_ros.supernet.trained import open_backbone

    trained = open_backbone(args.backbone)
    wanted = _wanted(args, trained)
    merge_with = Family.load(args.merge) if args.merge else None
    training, held_out = _open_images(args)
    trained = with_labels_of(wanted.trained, training.classes)
    name = args.name or (Path(args.output).name if args.output else wanted.name)
    output = Path(args.output or Path('families') / name).expanduser()
    candidates_to = Path(args.candidates_to).expanduser() if args.candidates_to else None
    work_folder = Path(args.work).expanduser() if args.work else None
    if args.data != SIGNS:
        for folder in (output, candidates_to, work_folder):
            if folder is not None:
                check_output(folder, args.data)
    report = build_family(
        trained,
        training,
        held_out,
        output,
        BuildSettings(
            levels=wanted.count,
            span=args.span / 100,
            candidates=args.candidates,
            finalists=args.finalists,
            search=args.search,
            evaluations=args.evaluations,
            calibration_images=args.calibration_images,
            selection_images=args.selection_images,
            device=args.device,
            engine=args.engine,
            threads=args.threads,
            workers=args.workers,
            ray=args.ray,
            seed=args.seed,
            lut=args.lut,
            predictor=args.predictor,
            architectures=wanted.architectures,
            measured=args.measured,
            by_table=args.by_table,
            precisions=args.precisions,
        ),
        name,
        work_folder=work_folder,
        merge_with=merge_with,
        candidates_to=candidates_to,
    )
    if report is None:
        print(f'candidates: {candidates_to}')
        return 0
    _print_report(report, output, args.json)
    return 0


@dataclass(frozen=True)
class _Wanted:
    """The result of --levels, --count and --resolutions."""

    trained: TrainedBackbone
    count: int
    architectures: tuple[SubnetArchitecture, ...]
    name: str


def _wanted(args: argparse.Namespace, trained: TrainedBackbone) -> _Wanted:
    from dynamic_ofa_ros.supernet.published.level_file import read_levels

    if args.resolutions:
        trained = replace(trained, resolutions=args.resolutions)
    if not args.levels or isinstance(args.levels, int):
        return _Wanted(trained, args.levels or args.count, (), trained.backbone.name)
    file = read_levels(args.levels)
    file.check_fits(trained.backbone, trained.space)
    return _Wanted(trained, len(file.levels), file.architectures, file.name)


def _open_images(args: argparse.Namespace) -> tuple[ImageDataset, ImageDataset]:
    from dynamic_ofa_ros.offline.accuracy.evaluation import calibration_subset
    from dynamic_ofa_ros.offline.training.request import SIGNS
    from dynamic_ofa_ros.offline.training.train import open_data

    most = args.held_out_images
    training, held_out = open_data(args.data, args.images, most or RENDERED_HELD_OUT_IMAGES)
    if args.data != SIGNS and 0 < most < len(held_out):
        held_out = calibration_subset(held_out, most)  # the same random subset every time
    return training, held_out


def _print_report(report: BuildReport, output: Path, as_json: bool) -> None:
    from dynamic_ofa_ros.cli.levels import print_levels, table_document

    if as_json:
        document = {
            'family': str(output),
            'platform': report.profile.platform,
            'seconds': dict(report.seconds),
            'left_out': list(report.left_out),
            'build': dict(report.family.provenance.get('build', {})),
            **table_document(report.family),
        }
        print(json.dumps(document, indent=1))
        return
    print_levels(report.family)
    for sentence in report.left_out:
        print(sentence)
    for stage, seconds in report.seconds.items():
        print(f'{stage:<32} {seconds:>8.1f} s')
    print(f'{"all stages":<32} {sum(report.seconds.values()):>8.1f} s')
    print(f'family: {output}')
