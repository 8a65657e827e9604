"""`dynamic-ofa predictor`: fit an accuracy predictor for a backbone, or check one."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.help_format import DefaultsHelpFormatter
from dynamic_ofa_ros.cli.numbers import (
    FEWEST_CALIBRATION_IMAGES,
    FEWEST_PAIRS,
    MOST_IMAGES,
    MOST_SCENES,
    MOST_SUBNETS,
    MOST_WORKERS,
    resolutions,
    seed,
    whole_number,
)

if TYPE_CHECKING:
    from dynamic_ofa_ros.offline.accuracy.pairs import Pair
    from dynamic_ofa_ros.space.architecture import SearchSpace

DEFAULT_KIND = 'ofa_mobilenetv3'


def add_parser(subparsers: Any) -> None:
    """Add the verb, its two commands and their options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'predictor',
        help='fit an accuracy predictor for a backbone, or check one',
        description='An accuracy predictor estimates the top-1 of a sub-network in microseconds, '
        'while a measurement takes seconds to minutes. dynamic-ofa search requires a predictor. '
        'It is fitted to sub-networks whose accuracy was measured.',
    )
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    _add_fit(commands)
    _add_check(commands)


def _add_fit(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        'fit',
        help='measure sampled sub-networks and fit a predictor to them',
        description='Measure the top-1 of sampled sub-networks, each with its own batch-norm '
        'statistics, and fit a predictor to these pairs, which are also written to '
        'OUTPUT.pairs.jsonl. An interrupted measurement is resumed by the same command. The '
        'printed error is that of a cross-validation.',
        formatter_class=DefaultsHelpFormatter,
    )
    parser.add_argument(
        '--backbone',
        default='',
        metavar='FOLDER|NAME',
        help='a folder written by dynamic-ofa train, or the name of a fetched backbone',
    )
    parser.add_argument(
        '--data',
        default='',
        metavar='FOLDER|signs',
        help='the data the backbone was trained on: the training split calibrates, one half of '
        'the held-out split measures accuracy; the other half is kept to report levels on',
    )
    parser.add_argument(
        '--pairs',
        default='',
        metavar='FILE',
        help='fit measured pairs of this file instead of measuring: JSON lines {"architecture": '
        '{"ks": [...], "e": [...], "d": [...], "r": 160}, "top1": 0.765} or CSV with the columns '
        'ks, e, d, r and top1',
    )
    parser.add_argument(
        '--kind',
        default='',
        help=f'kind of backbone, with --pairs and without --backbone; default: {DEFAULT_KIND}',
    )
    parser.add_argument('--output', required=True, metavar='FILE', help='the predictor, .npz')
    parser.add_argument(
        '--samples',
        type=whole_number(FEWEST_PAIRS, MOST_SUBNETS),
        default=200,
        help='sub-networks to measure',
    )
    parser.add_argument(
        '--resolutions',
        type=resolutions(),
        metavar='PX,PX,...',
        help='input sizes to sample from; default: the training resolutions',
    )
    parser.add_argument(
        '--calibration-images',
        type=whole_number(FEWEST_CALIBRATION_IMAGES, MOST_IMAGES),
        default=500,
        help='images for batch-norm statistics',
    )
    parser.add_argument(
        '--selection-images',
        type=whole_number(1, MOST_IMAGES),
        default=4000,
        help='held-out images that top-1 is measured on; at most one half of them',
    )
    parser.add_argument(
        '--images',
        type=whole_number(1, MOST_SCENES),
        default=56000,
        help='signs: number of training scenes',
    )
    parser.add_argument(
        '--held-out-images',
        type=whole_number(1, MOST_SCENES),
        default=8000,
        help='signs: number of held-out scenes',
    )
    parser.add_argument(
        '--workers',
        type=whole_number(0, MOST_WORKERS),
        default=0,
        help='processes that measure accuracy; 0 = one per core if that is faster',
    )
    parser.add_argument(
        '--ray',
        default='',
        metavar='ADDRESS',
        help='measure accuracy on a Ray cluster: host:port, auto, or local',
    )
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--work',
        metavar='FOLDER',
        help='folder of intermediate results, which is kept; a build with the same folder does '
        'not measure these sub-networks again. Default: a temporary folder beside the output',
    )
    parser.add_argument('--seed', type=seed, default=1, help='random seed')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.set_defaults(run=run_fit)


def _add_check(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        'check',
        help='compare a predictor with measured accuracies',
        description='Print the error of a predictor against measured accuracies, and how well it '
        'ranks them (Kendall tau: 1 = the same order). A search depends on the ranking, not on a '
        'constant bias.',
    )
    parser.add_argument('predictor', metavar='FILE', help='the predictor, .npz')
    parser.add_argument(
        '--pairs', required=True, metavar='FILE', help='measured pairs, as for predictor fit'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.set_defaults(run=run_check)


def run_fit(args: argparse.Namespace) -> int:
    """Measure or read pairs, fit and save a predictor, print its cross-validation error."""
    from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import save_predictor
    from dynamic_ofa_ros.offline.accuracy.pairs import read_pairs
    from dynamic_ofa_ros.offline.accuracy.predictor_fit import encode_pairs, fit_predictor

    output = Path(args.output).expanduser()
    if args.pairs:
        pairs, source = read_pairs(args.pairs), args.pairs
        space = _space_of(args, pairs)
    else:
        pairs, space = _measure(args, output)
        source = 'the sample'
    genomes = encode_pairs([pair.architecture for pair in pairs], space, source)
    predictor, report = fit_predictor(genomes, [pair.top1 for pair in pairs], space, args.seed)
    save_predictor(predictor, output)
    if args.json:
        print(
            json.dumps(
                {
                    'output': str(output),
                    **asdict(report),
                    'held_out_mae': report.held_out_mae,
                    'held_out_rmse': report.held_out_rmse,
                    'kendall_tau': report.kendall_tau,
                }
            )
        )
        return 0
    print(
        f'{report.pairs} sub-networks, accuracy spread {report.spread * 100:.2f} points; '
        f'{report.folds}-fold cross-validation error in points of top-1:'
    )
    print(f'{"":2}{"model":<10} {"mean":>7} {"rms":>7} {"Kendall tau":>12}')
    for name, agreement in report.held_out.items():
        print(
            f'{"":2}{name:<10} {agreement.mae * 100:>7.3f} '
            f'{agreement.rmse * 100:>7.3f} {agreement.kendall_tau:>12.3f}'
        )
    print(f'written: {output}')
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Compare predicted with measured accuracies and print the agreement."""
    from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor
    from dynamic_ofa_ros.offline.accuracy.agreement import Agreement
    from dynamic_ofa_ros.offline.accuracy.pairs import read_pairs
    from dynamic_ofa_ros.offline.accuracy.predictor_fit import check_accuracies, encode_pairs
    from dynamic_ofa_ros.space.spaces import search_space

    predictor, pairs = read_predictor(args.predictor), read_pairs(args.pairs)
    space = search_space(predictor.kind, sorted({pair.architecture.r for pair in pairs}))
    genomes = encode_pairs([pair.architecture for pair in pairs], space, args.pairs)
    measured = check_accuracies([pair.top1 for pair in pairs])
    predicted = predictor.predict(genomes, space)
    agreement = Agreement.of(predicted, measured)
    unbiased = Agreement.of(predicted - agreement.bias, measured)
    if args.json:
        values = {**asdict(agreement), 'mae_without_bias': unbiased.mae, 'pairs': len(pairs)}
        print(json.dumps(values))
        return 0
    print(f'{len(pairs)} pairs; in points of top-1:')
    print(f'mean error    {agreement.mae * 100:8.3f}')
    print(f'rms error     {agreement.rmse * 100:8.3f}')
    print(f'bias          {agreement.bias * 100:+8.3f}  (predicted - measured)')
    print(f'without bias  {unbiased.mae * 100:8.3f}')
    print(f'Kendall tau   {agreement.kendall_tau:8.3f}')
    return 0


def _space_of(args: argparse.Namespace, pairs: list[Pair]) -> SearchSpace:
    """Return the search space of the pairs, with the resolutions that occur in them."""
    from dynamic_ofa_ros.space.spaces import search_space
    from dynamic_ofa_ros.supernet.trained import open_backbone

    kind = args.kind or DEFAULT_KIND
    if args.backbone:
        kind = open_backbone(args.backbone).backbone.kind
    return search_space(kind, sorted({pair.architecture.r for pair in pairs}))


def _measure(args: argparse.Namespace, output: Path) -> tuple[list[Pair], SearchSpace]:
    """Measure sampled sub-networks, as the first stage of a build does; keep the pairs."""
    from dataclasses import replace

    from dynamic_ofa_ros.errors import PredictorError
    from dynamic_ofa_ros.files import naming
    from dynamic_ofa_ros.offline.accuracy.pairs import Pair, write_pairs
    from dynamic_ofa_ros.offline.build.build_context import (
        BuildSettings,
        check_data,
        open_context,
    )
    from dynamic_ofa_ros.offline.build.stages import measure_sampled
    from dynamic_ofa_ros.offline.data.folders import check_output
    from dynamic_ofa_ros.offline.training.request import SIGNS
    from dynamic_ofa_ros.offline.training.train import open_data
    from dynamic_ofa_ros.offline.work_folder import WorkFolder
    from dynamic_ofa_ros.supernet.trained import open_backbone

    if not (args.backbone and args.data):
        raise PredictorError(
            'give --backbone and --data to measure sub-networks, or --pairs with measured ones'
        )
    trained = open_backbone(args.backbone)
    if args.resolutions:
        trained = replace(trained, resolutions=args.resolutions)
    training, held_out = open_data(args.data, args.images, args.held_out_images)
    check_data(trained, training, held_out)
    if args.work and args.data != SIGNS:
        check_output(Path(args.work).expanduser(), args.data)
    settings = BuildSettings(
        candidates=args.samples,
        calibration_images=args.calibration_images,
        sampled_calibration_images=args.calibration_images,
        selection_images=args.selection_images,
        device=args.device,
        workers=args.workers,
        ray=args.ray,
        seed=args.seed,
    )
    work = WorkFolder(
        Path(args.work).expanduser() if args.work else output.with_name(f'.{output.name}.work'),
        is_kept=bool(args.work),
    )
    busy = PredictorError(f'another process writes {output}: wait for it, or choose another file')
    with naming(work.folder), work.alone(busy):
        sampled = measure_sampled(open_context(trained, training, held_out, work, settings))
        pairs = [Pair(c.architecture, c.top1) for c in sampled]
        write_pairs(pairs, output.with_suffix('.pairs.jsonl'))
        work.finish()
    return pairs, trained.space
