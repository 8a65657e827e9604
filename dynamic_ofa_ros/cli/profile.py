"""`dynamic-ofa profile`: a look-up table of operator latencies on this device."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.device_options import add_device_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dynamic_ofa_ros.offline.latency.table import LatencyModel


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'profile',
        help='time the operators of a backbone on this device: the table that search needs',
        description='Time every operator of a backbone here, one by one, so that the latency of '
        'any of its sub-networks can be summed up from the table; then measure a few whole '
        'networks and correct the sums by them. The file goes to dynamic-ofa search --lut. '
        'Run the same command again after a kill and it goes on. Use a quiet machine of the kind '
        'that the networks are for.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        '--backbone',
        required=True,
        metavar='FOLDER|NAME',
        help='the output of dynamic-ofa train, the name of a backbone that dynamic-ofa fetch got, '
        'or a family (a folder or its name): its backbone is meant',
    )
    parser.add_argument('--output', required=True, metavar='FILE', help='the table, JSON')
    parser.add_argument(
        '--resolutions',
        metavar='PX,PX,...',
        help='input sizes to profile; default: all of the backbone, for a family those of its '
        'levels',
    )
    parser.add_argument(
        '--whole-networks',
        type=int,
        metavar='N',
        help='measure N whole networks (about 100) instead of operators, and fit a predictor: '
        'for devices on which the table takes too long, and engines that cannot run operators '
        'alone',
    )
    parser.add_argument(
        '--networks', type=int, default=12, help='whole networks to correct the table by'
    )
    add_device_options(parser)
    parser.add_argument('--seed', type=int, default=1, help='which whole networks are measured')
    parser.add_argument(
        '--fresh', action='store_true', help='start anew instead of going on after a kill'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of sentences')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Profile, write the file and say how far it can be trusted."""
    from pathlib import Path

    from dynamic_ofa_ros.cli.train import parse_resolutions
    from dynamic_ofa_ros.offline.latency.measure_model import (
        measure_latency_predictor,
        measure_operator_table,
    )
    from dynamic_ofa_ros.offline.latency.table import read_document
    from dynamic_ofa_ros.supernet.trained import open_backbone

    output = Path(args.output).expanduser()
    profile: Callable[..., LatencyModel] = measure_operator_table
    networks = args.networks
    if args.whole_networks is not None:
        profile, networks = measure_latency_predictor, args.whole_networks
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
        f"Kendall's tau {quality['kendall_tau']:.2f} (leave one out)"
    )
    print(f'written:   {output}')
    return 0


def _summary(document: Mapping[str, Any], output: str) -> dict[str, Any]:
    """Return what is worth printing of a table's or a predictor's document."""
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
