"""`dynamic-ofa search`: find the most accurate architectures within latency limits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.help_format import DefaultsHelpFormatter
from dynamic_ofa_ros.cli.numbers import (
    LARGEST,
    MOST_EVALUATIONS,
    WIDEST,
    number,
    seed,
    several,
    whole_number,
)
from dynamic_ofa_ros.family import MAX_RESOLUTION

if TYPE_CHECKING:
    from dynamic_ofa_ros.offline.latency.table import LatencyModel
    from dynamic_ofa_ros.offline.search.objectives import Objectives
    from dynamic_ofa_ros.offline.search.search import SearchResult
    from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture


LARGEST_COST = 1e15
MOST_CLASSES = 1_000_000
_MILLISECONDS = number(0, LARGEST, above=True)


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'search',
        help='find the most accurate architectures within latency limits',
        description='Search a space with a table of operator latencies and an accuracy predictor. '
        'All limits share one search and its evaluations. Without a limit, the whole Pareto front '
        'is printed. The same seed gives the same result.',
        formatter_class=DefaultsHelpFormatter,
    )
    parser.add_argument(
        '--lut',
        required=True,
        metavar='FILE',
        help='latency model, written by dynamic-ofa profile',
    )
    parser.add_argument(
        '--predictor', required=True, metavar='FILE', help='accuracy predictor, .npz'
    )
    parser.add_argument(
        '--limit-ms',
        type=_MILLISECONDS,
        action='append',
        default=[],
        help='latency limit; repeatable',
    )
    parser.add_argument(
        '--evaluations',
        type=whole_number(1, MOST_EVALUATIONS),
        default=20000,
        help='accuracy evaluations for all limits together; a gradient counts as 3',
    )
    parser.add_argument('--seed', type=seed, default=1, help='random seed')
    parser.add_argument(
        '--warm-start', metavar='FILE', help='start from architectures printed by --json'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    constraints = parser.add_argument_group('further constraints')
    constraints.add_argument(
        '--resolutions',
        type=several(whole_number(1, MAX_RESOLUTION)),
        help='input sizes to use, such as 160,176',
    )
    constraints.add_argument(
        '--min-latency-ms', type=_MILLISECONDS, help='smallest latency allowed'
    )
    constraints.add_argument(
        '--max-latency-ms', type=_MILLISECONDS, help='largest latency allowed'
    )
    constraints.add_argument(
        '--max-macs',
        type=number(0, LARGEST_COST, above=True),
        help='most multiply-accumulates per image',
    )
    constraints.add_argument(
        '--max-parameters',
        type=number(0, LARGEST_COST, above=True),
        help='most learnable parameters',
    )
    constraints.add_argument(
        '--width-mult',
        type=number(0, WIDEST, above=True),
        help='width of the backbone, if the table does not contain it',
    )
    constraints.add_argument(
        '--classes',
        type=whole_number(1, MOST_CLASSES),
        help='classes of the backbone, if the table does not contain them',
    )
    paper = parser.add_argument_group('algorithm; the other options require algorithm1')
    paper.add_argument(
        '--algorithm',
        choices=['nsga2', 'algorithm1'],
        default='nsga2',
        help='nsga2, or algorithm 1 of the Dynamic-OFA paper, which requires limits',
    )
    paper.add_argument('--min-accuracy', type=number(0, 1), help='a fraction (default: 0)')
    paper.add_argument('--max-accuracy', type=number(0, 1), help='a fraction (default: 1)')
    paper.add_argument(
        '--latency-step-ms',
        type=_MILLISECONDS,
        help='step that relaxes the limit until a first network is found; networks above the '
        'limit are not printed (default: a hundredth of the latency range of the table)',
    )
    paper.add_argument(
        '--step-every',
        type=whole_number(1, MOST_EVALUATIONS),
        help='samples without a fit before each step (default: 1000)',
    )
    paper.add_argument(
        '--latency-cap-ms', type=_MILLISECONDS, help='largest relaxed limit; default: ten steps'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search and print the best architecture at each limit, or the front without limits."""
    from dynamic_ofa_ros.errors import SearchError
    from dynamic_ofa_ros.offline.latency.table import read_table
    from dynamic_ofa_ros.offline.search.search import find_front

    table = read_table(args.lut)
    objectives = _objectives(args, table)
    given = _settings_of_algorithm_1(args)
    if given and args.algorithm != 'algorithm1':
        option = f'--{next(iter(given)).replace("_", "-")}'
        raise SearchError(f'{option} requires --algorithm algorithm1')
    if args.algorithm == 'algorithm1':
        result = _algorithm_1(args, objectives)
    else:
        known = _read_architectures(args.warm_start, objectives.encoding.space)
        result = find_front(
            objectives, args.limit_ms, args.evaluations, args.seed, warm_start=known
        )
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


def _settings_of_algorithm_1(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given for Algorithm 1."""
    names = ('min_accuracy', 'max_accuracy', 'latency_step_ms', 'step_every', 'latency_cap_ms')
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _algorithm_1(args: argparse.Namespace, objectives: Objectives) -> SearchResult:
    from dynamic_ofa_ros.errors import SearchError
    from dynamic_ofa_ros.offline.search.algorithm1 import Algorithm1Settings, find_with_algorithm_1

    if args.warm_start:
        raise SearchError('Algorithm 1 starts at random; --warm-start requires --algorithm nsga2')
    settings = Algorithm1Settings(**_settings_of_algorithm_1(args))
    result, _ = find_with_algorithm_1(
        objectives, args.limit_ms, args.evaluations, args.seed, settings
    )
    return result


def _objectives(args: argparse.Namespace, table: LatencyModel) -> Objectives:
    """Combine predictors and constraints in the search space of the requested resolutions."""
    from dataclasses import replace

    import numpy as np

    from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor
    from dynamic_ofa_ros.offline.search.objectives import Bound, Objectives, cost_measure
    from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

    predictor = read_predictor(args.predictor)
    space = table.space
    if args.resolutions is not None:
        space = replace(space, resolutions=_resolutions(args.resolutions, space))
    encoding = GenomeEncoding(space)
    in_table = np.array([table.space.resolutions.index(r) for r in space.resolutions])

    def latency(genomes: Genomes) -> Any:
        return table.predict(np.column_stack([genomes[:, :-1], in_table[genomes[:, -1]]]))

    bounds = []
    if args.min_latency_ms is not None or args.max_latency_ms is not None:
        ends = {'smallest': args.min_latency_ms, 'largest': args.max_latency_ms}
        given = {name: value for name, value in ends.items() if value is not None}
        bounds.append(Bound('latency', 'ms', **given))
    for name, unit, largest in (
        ('macs', 'MACs', args.max_macs),
        ('parameters', 'parameters', args.max_parameters),
    ):
        if largest is not None:
            measure = cost_measure(encoding, name, *_width_and_classes(args, table))
            bounds.append(Bound('cost', unit, largest=largest, measure=measure))
    return Objectives(
        encoding,
        latency,
        lambda g: predictor.predict(g, space),
        bounds,
        lambda g: predictor.effects(g, space),
    )


def _width_and_classes(args: argparse.Namespace, table: LatencyModel) -> tuple[float, int]:
    """Return width and classes of the backbone; raise SearchError if options contradict it."""
    from dynamic_ofa_ros.errors import SearchError

    values: list[Any] = []
    for name in ('width_mult', 'classes'):
        option, given = f'--{name.replace("_", "-")}', getattr(args, name)
        known = getattr(table.backbone, name, None)
        if given is None and known is None:
            raise SearchError(
                f'{args.lut} does not name its backbone; give {option} to count MACs or parameters'
            )
        if given is not None and known is not None and given != known:
            raise SearchError(
                f'{option} is {given:g}, but the backbone of {args.lut} has {known:g}; omit the '
                'option'
            )
        values.append(known if given is None else given)
    width_mult, classes = values
    return float(width_mult), int(classes)


def _resolutions(chosen: Sequence[int], space: SearchSpace) -> tuple[int, ...]:
    """Return the sizes in ascending order; raise SearchError if one is not in the space."""
    from dynamic_ofa_ros.errors import SearchError

    possible = ', '.join(str(r) for r in space.resolutions)
    for resolution in chosen:
        if resolution not in space.resolutions:
            nearest = min(space.resolutions, key=lambda r: abs(r - resolution))
            raise SearchError(
                f'the latency table has no resolution {resolution}; the nearest is {nearest}; '
                f'available are {possible}'
            )
    return tuple(sorted(set(chosen)))


def _read_architectures(path: str | None, space: SearchSpace) -> list[SubnetArchitecture]:
    """Read architectures printed by --json; raise SearchError for any other file."""
    from dynamic_ofa_ros.errors import ArchitectureError, SearchError
    from dynamic_ofa_ros.space.architecture import SubnetArchitecture

    if path is None:
        return []
    try:
        rows = json.loads(Path(path).expanduser().read_text(encoding='utf-8'))
        found = [SubnetArchitecture.from_mapping(row['architecture']) for row in rows]
        for architecture in found:
            space.validate(architecture)
    except OSError as error:
        raise SearchError(f'{path} cannot be read: {error.strerror or error}') from None
    except ArchitectureError as error:
        raise SearchError(f'{path} belongs to another search space: {error}') from None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = []
    if not found:
        raise SearchError(
            f'{path} is not a search result; give the output of dynamic-ofa search --json'
        )
    return found
