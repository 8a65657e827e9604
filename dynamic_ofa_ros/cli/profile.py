"""`dynamic-ofa profile`: predict the latency of any sub-network on this device."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.device_options import add_device_options
from dynamic_ofa_ros.cli.help_format import DefaultsHelpFormatter
from dynamic_ofa_ros.cli.numbers import FEWEST_PAIRS, MOST_SUBNETS, resolutions, seed, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dynamic_ofa_ros.offline.latency.table import LatencyModel


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'profile',
        help='measure a latency model of a backbone on this device, for search and build',
        description='Time every operator of a backbone on this device and write a table. The '
        'latency of a sub-network is the sum of its operators, corrected by a line that is fitted '
        'to a few whole networks. The file is for dynamic-ofa search --lut and build --lut. An '
        'interrupted measurement is resumed by the same command. Run it on the target device, '
        'while no other program uses it.',
        formatter_class=DefaultsHelpFormatter,
    )
    parser.add_argument(
        '--backbone',
        required=True,
        metavar='FOLDER|NAME',
        help='the output of dynamic-ofa train, the name of a fetched backbone, or a family, whose '
        'backbone is measured',
    )
    parser.add_argument('--output', required=True, metavar='FILE', help='the model, JSON')
    parser.add_argument(
        '--resolutions',
        type=resolutions(),
        metavar='PX,PX,...',
        help='input sizes to measure; default: those of the backbone, or of the levels of a '
        'family',
    )
    parser.add_argument(
        '--whole-networks',
        type=whole_number(FEWEST_PAIRS, MOST_SUBNETS),
        metavar='N',
        help='measure N whole networks (about 100) instead of operators, and fit a predictor: '
        'for slow devices, and for engines that cannot run single operators',
    )
    parser.add_argument(
        '--networks',
        type=whole_number(3, MOST_SUBNETS),
        default=12,
        help='whole networks for the correction of the table',
    )
    add_device_options(parser)
    parser.add_argument('--seed', type=seed, default=1, help='selects the whole networks')
    parser.add_argument('--fresh', action='store_true', help='start again instead of resuming')
    parser.add_argument('--json', action='store_true', help='print JSON instead of sentences')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write the file, and print the error on left-out networks."""
    from pathlib import Path

    from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
    from dynamic_ofa_ros.offline.latency.measure_model import (
        measure_latency_predictor,
        measure_operator_table,
    )
    from dynamic_ofa_ros.offline.latency.table import read_document
    from dynamic_ofa_ros.supernet.trained import open_backbone

    output = Path(args.output).expanduser()
    measure: Callable[..., LatencyModel] = measure_operator_table
    networks = args.networks
    if args.whole_networks is not None:
        measure, networks = measure_latency_predictor, args.whole_networks
    measure(
        open_backbone(args.backbone),
        output,
        DeviceSettings(args.device, args.engine, args.threads),
        resolutions=args.resolutions,
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
    """Return the summary of a table or a predictor."""
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
