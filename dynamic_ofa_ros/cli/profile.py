"""`dynamic-ofa profile`: measure a look-up table of operator latencies on this device."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.place import add_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dynamic_ofa_ros.offline.latency.table import LatencyModel


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'profile',
        help='measure the operator latencies of a backbone on this device, for a search',
        description='Measure the latency of each operator of a backbone on this device, so that '
        'the latency of any sub-network is a sum of table entries. Then measure a few whole '
        'networks and correct the sums. The table is the file for dynamic-ofa search --lut. Run '
        'the same command again to resume an interrupted run. Use a quiet machine of the kind '
        'that will run the networks.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        '--backbone',
        required=True,
        metavar='FOLDER|NAME',
        help='a folder written by dynamic-ofa train, the name of a fetched backbone, or a family, '
        'whose backbone is profiled',
    )
    parser.add_argument('--output', required=True, metavar='FILE', help='the table, JSON')
    parser.add_argument(
        '--resolutions',
        metavar='PX,PX,...',
        help='input sizes to profile; default: all of the backbone, or those of the levels of a '
        'family',
    )
    parser.add_argument(
        '--whole-networks',
        type=int,
        metavar='N',
        help='measure N whole networks (about 100) instead of operators, and fit a predictor: '
        'for devices on which the table takes too long, and for engines that cannot run a single '
        'operator',
    )
    parser.add_argument(
        '--networks', type=int, default=12, help='whole networks that correct the table'
    )
    add_place(parser)
    parser.add_argument(
        '--seed', type=int, default=1, help='random seed for the choice of whole networks'
    )
    parser.add_argument(
        '--fresh', action='store_true', help='start again instead of resuming an interrupted run'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of sentences')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Profile, write the file and print its prediction error."""
    from pathlib import Path

    from dynamic_ofa_ros.cli.train import parse_resolutions
    from dynamic_ofa_ros.offline.latency.profile import profile_networks, profile_operators
    from dynamic_ofa_ros.offline.latency.table import read_document
    from dynamic_ofa_ros.supernet.trained import open_backbone

    output = Path(args.output).expanduser()
    profile: Callable[..., LatencyModel] = profile_operators
    networks = args.networks
    if args.whole_networks is not None:
        profile, networks = profile_networks, args.whole_networks
    profile(
        open_backbone(args.backbone),
        output,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
        resolutions=parse_resolutions(args.resolutions) if args.resolutions else None,
        resume=not args.fresh,
        networks=networks,
        seed=args.seed,
    )
    summary = _summary(read_document(output), str(output))
    if args.json:
        print(json.dumps(summary, indent=1))
        return 0
    quality = summary['leave_one_out']
    print(f'platform:  {summary["platform"]}')
    if 'offset_ms' in summary:
        print(f'operators: {summary["operators"]} at {len(summary["resolutions"])} resolutions')
        print(f'corrected: {summary["offset_ms"]:.3g} ms + {summary["factor"]:.3g} x sum')
    print(
        f'networks:  {summary["networks"]} measured; error {quality["mean_error"]:.1%} on '
        f'average, {quality["largest_error"]:.1%} at most, '
        f'{quality["within_10_percent"]:.0%} within 10 %, '
        f"Kendall's tau {quality['kendall_tau']:.2f} (leave-one-out)"
    )
    print(f'written:   {output}')
    return 0


def _summary(document: Mapping[str, Any], output: str) -> dict[str, Any]:
    """Return the fields of a table's or a predictor's document that are printed."""
    summary: dict[str, Any] = {
        'output': output,
        'format': document['format'],
        'platform': document['platform'],
        'resolutions': document['resolutions'],
        'networks': len(document['networks']),
        'conditions': document['conditions'],
    }
    correction = document.get('correction')
    if correction is None:
        return {**summary, 'leave_one_out': document['leave_one_out']}
    return {**summary, 'operators': len(document['operators']), **correction}
