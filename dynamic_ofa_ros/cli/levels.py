"""`dynamic-ofa levels`: print a family's table."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family, Level

# The published curves are of ImageNet, so only families of ImageNet are drawn with them.
IMAGENET_CLASSES = 1000


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'levels',
        help="print a family's levels: accuracy, cost, latency on each measured platform",
        description='Print the look-up table of a family. --plot draws accuracy against latency '
        'and against MACs, for the levels and all measured candidates.',
    )
    parser.add_argument(
        'family', nargs='?', help='directory or name of a family; default: the shipped one'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.add_argument(
        '--plot',
        metavar='FILE',
        help='draw the family into a .png, .pdf or .svg file; families of ImageNet are drawn with '
        'the published curves',
    )
    parser.add_argument(
        '--platform',
        default='',
        help='platform whose candidates are drawn; default: the first that has candidates',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, verify and print."""
    from dynamic_ofa_ros.errors import FamilyError
    from dynamic_ofa_ros.family import Family, default_family

    family = Family.load(args.family or default_family())
    if args.platform and not args.plot:
        raise FamilyError('--platform selects the candidates to draw; add --plot FILE')
    if args.json:
        print(json.dumps(table_document(family), indent=1))
    else:
        print_levels(family)
    if args.plot:
        path = _draw(family, args.plot, args.platform)
        if not args.json:
            print(f'picture: {path}')
    return 0


def _draw(family: Family, file: str, platform: str) -> Path:
    from dynamic_ofa_ros.errors import FamilyError
    from dynamic_ofa_ros.offline.search.candidates import CANDIDATES_FOLDER, read_candidates
    from dynamic_ofa_ros.plotting.family import plot_family
    from dynamic_ofa_ros.plotting.published_curves import read_published_curves
    from dynamic_ofa_ros.plotting.style import check_picture_name, save_figure

    path = Path(file).expanduser()
    check_picture_name('--plot', path)
    if platform and platform not in family.platforms:
        raise FamilyError(
            f'{family.name} was not measured on {platform}; its platforms are '
            f'{", ".join(family.platforms) or "none"}'
        )
    published = read_published_curves() if len(family.labels) == IMAGENET_CLASSES else None
    candidates = {
        entry.stem: read_candidates(entry)
        for entry in sorted((family.directory / CANDIDATES_FOLDER).glob('*.csv'))
    }
    figure = plot_family(family, candidates, published, platform)
    return save_figure(figure, path)


def print_levels(family: Family) -> None:
    """Print the table of a family, with the latencies on every measured platform."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    table = Table(title=f'{family.name}: {len(family.labels)} classes, {family.source.name}')
    for heading in ('level', 'input px', 'top-1 %', 'MACs M', 'parameters'):
        table.add_column(heading, justify='right')
    for number in range(1, len(family.platforms) + 1):
        table.add_column(f'latency {number} ms (p95)', justify='right')
    for level in family.levels:
        latencies = [
            f'{entry.median_ms:.2f} ({entry.p95_ms:.2f})'
            for entry in (p.levels[level.index - 1] for p in family.platforms.values())
        ]
        table.add_row(
            str(level.index),
            str(level.resolution),
            _accuracy_text(level),
            f'{level.macs / 1e6:.2f}',
            f'{level.parameters:,}',
            *latencies,
        )
    console.print(table)
    for number, platform in enumerate(family.platforms, start=1):
        console.print(f'latency {number}: {platform}', highlight=False)


def table_document(family: Family) -> dict[str, Any]:
    """Return the table of a family as a document for JSON."""
    return {
        'name': family.name,
        'backbone': family.source.name,
        'classes': len(family.labels),
        'checksum': family.checksum,
        'levels': [
            {
                'index': level.index,
                'name': level.name,
                'resolution': level.resolution,
                'accuracy': level.accuracy,
                'macs': level.macs,
                'parameters': level.parameters,
                'accuracy_source': level.accuracy_source,
                **(
                    {'architecture': level.architecture.to_mapping()}
                    if family.is_supernet
                    else {'network': asdict(level.network)}
                ),
                'latency_ms': {
                    platform: _finite(profile.latency_ms(level.index))
                    for platform, profile in family.platforms.items()
                },
            }
            for level in family.levels
        ],
    }


def _accuracy_text(level: Level) -> str:
    percent = f'{level.accuracy * 100:.2f}'
    return percent if level.accuracy_source == 'measured' else f'{percent} {level.accuracy_source}'


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
