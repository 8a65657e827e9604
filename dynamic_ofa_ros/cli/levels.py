"""`dynamic-ofa levels`: print a family's table."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'levels',
        help="print a family's levels: accuracy, cost, latency on each measured platform",
        description='Print the look-up table of a family.',
    )
    parser.add_argument(
        'family', nargs='?', help='directory or name of a family; default: the shipped one'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, verify and print."""
    from dynamic_ofa_ros.family import Family, default_family

    family = Family.load(args.family or default_family())
    if args.json:
        print(json.dumps(_document(family), indent=1))
    else:
        print_levels(family)
    return 0


def print_levels(family: Family) -> None:
    """Print the table of a family, with the latencies of every platform it was measured on."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f'{family.name}: {len(family.labels)} classes, {family.backbone.name}')
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
            f'{level.accuracy * 100:.2f}',
            f'{level.macs / 1e6:.2f}',
            f'{level.parameters:,}',
            *latencies,
        )
    console.print(table)
    for number, platform in enumerate(family.platforms, start=1):
        console.print(f'latency {number}: {platform}', highlight=False)


def _document(family: Family) -> dict[str, Any]:
    return {
        'name': family.name,
        'backbone': family.backbone.name,
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
                'architecture': level.architecture.to_mapping(),
                'latency_ms': {
                    platform: _finite(profile.latency_ms(level.index))
                    for platform, profile in family.platforms.items()
                },
            }
            for level in family.levels
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
