"""`dynamic-ofa measure`: measure the latency of a family's levels on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.device_options import add_device_options
from dynamic_ofa_ros.cli.help_format import DefaultsHelpFormatter
from dynamic_ofa_ros.cli.numbers import MOST_IMAGES, whole_number

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings

RENDERED_IMAGES = 2000


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'measure',
        help='measure a family on this machine and add the platform to it',
        description='Measure the latency of every level on this machine and write it to the '
        'family as platforms/<platform>.yaml, so that one family serves several devices. Run it '
        'on a quiet machine. Without this file, a node measures the latencies when it starts.',
        formatter_class=DefaultsHelpFormatter,
    )
    parser.add_argument(
        'family', nargs='?', help='directory or name of a family; default: the shipped one'
    )
    add_device_options(parser)
    parser.add_argument(
        '--precision',
        default='fp32',
        help='fp32, bf16 or fp16; with --data, the accuracy at this precision is measured too',
    )
    parser.add_argument(
        '--data',
        metavar='FOLDER|signs',
        help='held-out images to measure the accuracy on: one folder per class, or signs',
    )
    parser.add_argument(
        '--images',
        type=whole_number(0, MOST_IMAGES),
        default=0,
        help='maximum number of them; 0 = all',
    )
    parser.add_argument(
        '--force', action='store_true', help='replace earlier measurements of this platform'
    )
    parser.add_argument(
        '--output',
        metavar='FILE',
        help='also write the measurements to FILE, for dynamic-ofa build --measured on another '
        'machine',
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write, and print the table."""
    from dynamic_ofa_ros.cli.levels import print_levels
    from dynamic_ofa_ros.family import PLATFORMS_FOLDER, Family, default_family
    from dynamic_ofa_ros.offline.latency.family_profile import (
        MEASURE_AGAIN,
        DeviceSettings,
        add_platform,
    )
    from dynamic_ofa_ros.runtime.profiling import warn_when_busy

    def accuracies(settings: DeviceSettings) -> tuple[float, ...]:
        return _accuracies(family, settings, args.data, args.images)

    family = Family.load(args.family or default_family())
    if args.output:
        _ = family.backbone  # raises FamilyError before measuring if a build cannot use the family
    profile = add_platform(
        family,
        DeviceSettings(args.device, args.engine, args.threads, args.precision),
        is_forced=args.force,
        progress=lambda text: print(text, file=sys.stderr),
        accuracies=accuracies if args.data else None,
    )
    warn_when_busy(profile.load_of_others, MEASURE_AGAIN)
    path = family.directory / PLATFORMS_FOLDER / f'{profile.platform}.yaml'
    if args.output:
        from dynamic_ofa_ros.offline.latency.measured import write_measured

        write_measured(family, path, Path(args.output).expanduser())
    if args.json:
        document = {
            'family': str(family.directory),
            'platform': profile.platform,
            'file': str(path),
            'measured_at': profile.measured_at,
            'conditions': dict(profile.conditions),
            'accuracies': list(profile.accuracies),
            'levels': [
                {'index': index, **asdict(latency)}
                for index, latency in enumerate(profile.levels, start=1)
            ],
        }
        print(json.dumps(document, indent=1))
        return 0
    print_levels(Family.load(family.directory))
    print(f'written: {path}')
    if args.output:
        print(f'written: {args.output}')
    return 0


def _accuracies(
    family: Family, settings: DeviceSettings, data: str, most: int
) -> tuple[float, ...]:
    """Measure the accuracy of every level, say what the precision changed, return it."""
    from dynamic_ofa_ros.offline.accuracy.precision import measure_precision
    from dynamic_ofa_ros.offline.data.datasets import ImageDataset, RenderedSigns
    from dynamic_ofa_ros.offline.data.labelled import open_labelled
    from dynamic_ofa_ros.progress import progress

    images: ImageDataset
    if data == 'signs':
        images = RenderedSigns(most or RENDERED_IMAGES, split='held_out')
    else:
        images = open_labelled(data, family.labels, most)
    with progress('classifying images', len(images)) as bar:
        report = measure_precision(family, settings, images, bar.update)
    mean, in_fp32 = (
        100.0 * sum(shares) / len(shares) for shares in (report.accuracies, report.in_fp32)
    )
    print(
        f'{settings.precision} on {report.images} images: {mean:.2f} % right, levels averaged '
        f'(fp32 {in_fp32:.2f} %); the same answer as fp32 in {100.0 * report.agreement:.2f} %',
        file=sys.stderr,
    )
    return report.accuracies
