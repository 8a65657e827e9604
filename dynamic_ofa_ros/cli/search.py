"""`dynamic-ofa search`: the most accurate architectures within latency limits."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'search',
        help='find the most accurate architectures within latency limits',
        description='Search a space with a table of operator latencies and an accuracy predictor. '
        'All limits share one search and its evaluations. The same seed gives the same result.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--lut', required=True, metavar='FILE', help='operator latencies, JSON')
    parser.add_argument('--predictor', required=True, metavar='FILE', help='its weights, .npz')
    parser.add_argument(
        '--limit-ms', type=float, action='append', default=[], help='latency limit; repeatable'
    )
    parser.add_argument('--evaluations', type=int, default=20000, help='for all limits together')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search and print the best at each limit, or the whole front where no limit is given."""
    from dynamic_ofa_ros.offline.accuracy_predictor import read_predictor
    from dynamic_ofa_ros.offline.genome import Genetics
    from dynamic_ofa_ros.offline.latency import read_table
    from dynamic_ofa_ros.offline.search import Objectives, find_front

    table, predictor = read_table(args.lut), read_predictor(args.predictor)
    objectives = Objectives(
        Genetics(table.space), table.predict, lambda g: predictor.predict(g, table.space)
    )
    result = find_front(objectives, args.limit_ms, args.evaluations, args.seed)
    rows: list[dict[str, Any]] = [
        {
            'limit_ms': limit_ms,
            'latency_ms': round(found.latency_ms, 6),
            'accuracy': round(found.accuracy, 6),
            'evaluations': result.evaluations,
            'seconds': round(result.seconds, 3),
            'architecture': found.architecture.to_mapping(),
        }
        for limit_ms, found in (
            zip(args.limit_ms, result.at_limits, strict=True)
            if args.limit_ms
            else [(found.latency_ms, found) for found in result.front]
        )
    ]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f'{"limit ms":>10} {"latency ms":>11} {"top-1 %":>8}  architecture')
    for row in rows:
        print(
            f'{row["limit_ms"]:>10.4g} {row["latency_ms"]:>11.4f} {row["accuracy"] * 100:>8.3f}  '
            f'{json.dumps(row["architecture"])}'
        )
    print(f'{result.evaluations} evaluations in {result.seconds:.1f} s on {table.platform}')
    return 0
