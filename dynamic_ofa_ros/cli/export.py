"""`dynamic-ofa export`: the levels of a family as ONNX files."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dynamic_ofa_ros.cli.numbers import several, whole_number
from dynamic_ofa_ros.family import MAX_LEVELS


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'export',
        help='write the levels of a family as ONNX files, for other programs',
        description='Write one ONNX file per level, with the labels, the preprocessing and the '
        'accuracy of the level as JSON in its metadata (dynamic_ofa.labels, '
        'dynamic_ofa.preprocessing, dynamic_ofa.level). PyTorch is not required.',
    )
    parser.add_argument(
        'family', nargs='?', help='directory or name of a family; default: the shipped one'
    )
    parser.add_argument('--output', required=True, metavar='FOLDER', help='a new folder')
    parser.add_argument(
        '--levels',
        type=several(whole_number(1, MAX_LEVELS)),
        default=(),
        metavar='N,N,...',
        help='levels to write; default: all',
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of sentences')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the files and name them."""
    from pathlib import Path

    from dynamic_ofa_ros.family import Family, default_family
    from dynamic_ofa_ros.offline.networks.export import export_family

    family = Family.load(args.family or default_family())
    files = export_family(family, Path(args.output).expanduser(), args.levels)
    if args.json:
        print(json.dumps({'family': str(family.directory), 'files': [str(f) for f in files]}))
        return 0
    for file in files:
        print(f'{file} ({file.stat().st_size / 1e6:.1f} MB)')
    return 0
