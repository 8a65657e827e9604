"""`dynamic-ofa family`: make a family of existing networks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.device_options import add_device_options, precisions
from dynamic_ofa_ros.cli.numbers import (
    LARGEST,
    MOST_IMAGES,
    number,
    resolutions,
    several,
    whole_number,
)

if TYPE_CHECKING:
    from dynamic_ofa_ros.offline.networks.network_files import NetworkFile, NetworkSettings
    from dynamic_ofa_ros.offline.networks.networks import NetworksReport

MARGIN = 3.0
"""If the best level is at most this many times as accurate as guessing, a warning is printed."""


def add_parser(subparsers: Any) -> None:
    """Add the verb, its own verbs and their options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'family',
        help='make a family of ONNX classifiers, or the ImageNet family',
        description='Make a family whose levels are separate networks instead of sub-networks of '
        'one supernet.',
    )
    verbs = parser.add_subparsers(dest='family_verb', required=True)
    _add_from_onnx(verbs)
    _add_imagenet(verbs)


def _add_from_onnx(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        'from-onnx',
        help='make a family of ONNX classifiers of the same classes',
        description='Make a family of ONNX classifiers of the same classes. Accuracy is measured '
        'on class folders or given as an option; latency is measured on this machine. Networks '
        'that are slower and less accurate than another one are left out. Run the same command '
        'again to resume an interrupted run.',
    )
    parser.add_argument(
        'networks', nargs='+', metavar='FILE.onnx|LIST.yaml',
        help='the networks, or a list of networks with options for each of them',
    )  # fmt: skip
    parser.add_argument(
        '--output', required=True, metavar='FOLDER', help='folder of the new family'
    )
    parser.add_argument('--name', help='name of the family; default: the name of the folder')
    parser.add_argument(
        '--labels', metavar='FILE', help='text file with one class per line, in the order of the '
        'outputs; default: the labels in the ONNX files, or the sorted names of the class folders',
    )  # fmt: skip
    accuracy = parser.add_argument_group('accuracy')
    accuracy.add_argument(
        '--data', metavar='FOLDER', help='class folders of images that were not used in training; '
        'each folder is named after its label or the index of its output',
    )  # fmt: skip
    accuracy.add_argument(
        '--images', type=whole_number(0, MOST_IMAGES), default=0, metavar='N',
        help='use N of the images, the same ones every time; default: all',
    )  # fmt: skip
    accuracy.add_argument(
        '--accuracy', type=several(number(0, 1, above=True)), metavar='TOP1,TOP1,...',
        help='use these accuracies instead of measuring them: one fraction per network, in order',
    )  # fmt: skip
    _add_precisions(accuracy)
    _add_input(parser)
    _add_place(parser)
    parser.set_defaults(run=run_from_onnx)


def _add_precisions(parser: Any) -> None:
    parser.add_argument(
        '--precisions', type=precisions, default='fp32', metavar='fp32,int8',
        help='with int8, each network is also quantised, and the int8 network becomes a level if '
        'it is worth it: half the latency on processors with int8 instructions. Requires --data; '
        '128 of its images calibrate the activation ranges and are excluded from the accuracy',
    )  # fmt: skip


def _add_input(parser: argparse.ArgumentParser) -> None:
    from dynamic_ofa_ros.family import CHANNELS, INTERPOLATIONS, RESIZES

    group = parser.add_argument_group('input of the networks, if the files do not describe it')
    group.add_argument(
        '--resolutions',
        type=resolutions(),
        metavar='PX,PX,...',
        help='input sizes of the levels, for networks whose input may have any size',
    )
    group.add_argument(
        '--values', metavar='NAME', help="range of the input values: imagenet (normalised by "
        "ImageNet's mean and standard deviation, as in torchvision and timm), unit (0 to 1), "
        'signed (-1 to 1) or raw (0 to 255)',
    )  # fmt: skip
    group.add_argument(
        '--mean',
        type=_triple(number(-LARGEST, LARGEST)),
        metavar='A,B,C',
        help='mean of each channel; excludes --values',
    )
    group.add_argument(
        '--std',
        type=_triple(number(0, LARGEST, above=True)),
        metavar='A,B,C',
        help='standard deviation of each channel',
    )
    group.add_argument(
        '--pixel-max', type=number(0, LARGEST, above=True), metavar='1|255',
        help='value of a white pixel in the units of --mean and --std; default: 1',
    )  # fmt: skip
    group.add_argument('--channels', choices=CHANNELS, help='default: rgb')
    group.add_argument(
        '--layout', choices=('nchw', 'nhwc'), help='needed only if the input shape is ambiguous'
    )
    group.add_argument(
        '--resize', choices=RESIZES, help='crop the centre (default), stretch, or pad with black'
    )
    group.add_argument(
        '--crop-fraction', type=number(0, 1, above=True), metavar='F',
        help='share of the shorter side that the crop keeps; default: 0.875',
    )  # fmt: skip
    group.add_argument(
        '--interpolation', choices=INTERPOLATIONS, help='default: area, which is closest to Pillow'
    )


def _triple(parse: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    """Return a type for argparse: three numbers, or one for all channels."""

    def triple(text: str) -> tuple[float, ...]:
        values = several(parse)(text)
        if len(values) not in (1, 3):
            raise argparse.ArgumentTypeError(
                f'is {text!r}; give one number, or one for each channel'
            )
        return values * 3 if len(values) == 1 else values

    return triple


def _add_place(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('where latency is measured')
    add_device_options(group)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def _add_imagenet(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        'imagenet',
        help='EfficientNet-Lite with ImageNet weights: 1,000 classes',
        description="Make the family 'imagenet' of EfficientNet-Lite 0, 1 and 2 with the "
        'published weights, from the packages of the extra imagenet. Top-1 is measured on --data. '
        'Without --data, it is the published value at the published input sizes and an estimate '
        'at the other sizes.',
    )
    parser.add_argument(
        '--output', metavar='FOLDER',
        help='folder of the new family; default: the folder that family:=imagenet reads',
    )  # fmt: skip
    parser.add_argument(
        '--data', metavar='FOLDER', help='class folders of photographs to measure all levels on; '
        'each folder is named after its label or has its WordNet id (n01440764)',
    )  # fmt: skip
    parser.add_argument(
        '--images',
        type=whole_number(0, MOST_IMAGES),
        default=0,
        metavar='N',
        help='use N of them; default: all',
    )
    _add_precisions(parser)
    parser.add_argument('--force', action='store_true', help='replace an existing family')
    _add_place(parser)
    parser.set_defaults(run=run_imagenet)


def run_from_onnx(args: argparse.Namespace) -> int:
    """Read the networks, measure them, write the family, print its table."""
    from dynamic_ofa_ros.offline.networks.network_files import common_labels, open_candidates
    from dynamic_ofa_ros.offline.networks.networks import build_networks_family, check_labels
    from dynamic_ofa_ros.offline.networks.quantization import with_precisions

    output = Path(args.output).expanduser()
    candidates = open_candidates(_files(args))
    labels = _labels(args, common_labels(candidates), candidates[0].network.classes)
    check_labels(candidates, labels)
    candidates, images = with_precisions(
        candidates, _images(args.data, args.images, labels), args.precisions
    )
    report = build_networks_family(
        candidates,
        labels,
        images,
        output,
        args.name or output.name,
        device_settings=_device_settings(args),
    )
    _print_report(report, args.json)
    return 0


def run_imagenet(args: argparse.Namespace) -> int:
    """Export the networks, measure them, write the family, print its table."""
    from dynamic_ofa_ros.family import IMAGENET_FAMILY, Family, own_families_directory
    from dynamic_ofa_ros.offline.networks.imagenet import build_imagenet_family

    output = (
        Path(args.output).expanduser()
        if args.output
        else own_families_directory() / IMAGENET_FAMILY
    )
    if output.exists() and not args.force and not args.data:
        family = Family.load(output)
        print(f'{family.name} exists already: {output} (--force builds it again)')
        return 0
    report = build_imagenet_family(
        output,
        data=args.data,
        most_images=args.images,
        precisions=args.precisions,
        device_settings=_device_settings(args),
        is_forced=args.force,
    )
    _print_report(report, args.json)
    return 0


def _files(args: argparse.Namespace) -> list[NetworkFile]:
    from dataclasses import replace

    from dynamic_ofa_ros.errors import FamilyError
    from dynamic_ofa_ros.offline.networks.network_files import NetworkFile, read_list

    common = _settings(args)
    files: list[NetworkFile] = []
    for given in args.networks:
        path = Path(given).expanduser()
        if path.suffix in ('.yaml', '.yml'):
            files += [
                replace(file, settings=file.settings.over(common)) for file in read_list(path)
            ]
        else:
            files.append(NetworkFile(path, common))
    if args.accuracy:
        if len(args.accuracy) != len(files):
            raise FamilyError(
                f'--accuracy has {len(args.accuracy)} values for {len(files)} networks; give one '
                'for each'
            )
        files = [
            replace(file, settings=replace(file.settings, accuracy=value))
            for file, value in zip(files, args.accuracy, strict=True)
        ]
    return files


def _settings(args: argparse.Namespace) -> NetworkSettings:
    from dynamic_ofa_ros.errors import FamilyError
    from dynamic_ofa_ros.offline.networks.network_files import NetworkSettings

    if args.values and (args.mean or args.std):
        raise FamilyError('--values excludes --mean and --std; give one or the other')
    if bool(args.mean) != bool(args.std):
        raise FamilyError('give --mean and --std together')
    return NetworkSettings(
        values=args.values,
        mean=args.mean,
        std=args.std,
        pixel_max=args.pixel_max,
        channels=args.channels,
        layout=args.layout,
        resize=args.resize,
        crop_fraction=args.crop_fraction,
        interpolation=args.interpolation,
        resolutions=args.resolutions,
    )


def _labels(args: argparse.Namespace, own: Sequence[str], classes: int) -> tuple[str, ...]:
    """Return the labels of --labels, of the ONNX files, or of the class folders."""
    from dynamic_ofa_ros.errors import FamilyError
    from dynamic_ofa_ros.offline.data.datasets import ClassFolder
    from dynamic_ofa_ros.offline.data.folders import held_out_folder

    if args.labels:
        path = Path(args.labels).expanduser()
        try:
            return tuple(path.read_text(encoding='utf-8').rstrip().splitlines())
        except UnicodeDecodeError as error:
            raise FamilyError(f'{path} is not UTF-8 text: {error}') from None
    if own:
        return tuple(own)
    names = ClassFolder.open(held_out_folder(args.data)).classes if args.data else ()
    if len(names) == classes:
        return names
    raise FamilyError(
        f'the files do not name their {classes} classes; give --labels, a text file with one '
        'class per line, in the order of the outputs'
    )


def _images(data: str | None, most: int, labels: Sequence[str]) -> Any:
    from dynamic_ofa_ros.offline.data.labelled import open_labelled

    return None if data is None else open_labelled(data, labels, most)


def _device_settings(args: argparse.Namespace) -> Any:
    from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings

    return DeviceSettings(args.device, args.engine, args.threads)


def _print_report(report: NetworksReport, as_json: bool) -> None:
    import sys

    from dynamic_ofa_ros.cli.levels import print_levels, table_document

    family = report.family
    if as_json:
        document = {
            'family': str(family.directory),
            'platform': report.profile.platform,
            'left_out': list(report.left_out),
            **table_document(family),
        }
        print(json.dumps(document, indent=1))
    else:
        print_levels(family)
        for sentence in report.left_out:
            print(sentence)
        print(f'family: {family.directory}')
    best = family.levels[-1]
    guess = min(0.5, MARGIN / len(family.labels))
    if best.accuracy_source == 'measured' and best.accuracy < guess:
        print(
            f'dynamic-ofa: warning: the best level has only {best.accuracy:.1%} top-1; check that '
            'the labels are in the order of the outputs, and that the values and channels of the '
            'input are those of the training',
            file=sys.stderr,
        )
