"""`dynamic-ofa predictor`: fit an accuracy predictor for a backbone, or check one."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamic_ofa_ros.offline.build.pairs import Pair
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
        'statistics, and fit a predictor. The measurements are kept in OUTPUT.pairs.jsonl; run '
        'the same command again to resume an interrupted run. The printed error is that of a '
        'cross-validation.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
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
    parser.add_argument('--samples', type=int, default=200, help='sub-networks to measure')
    parser.add_argument(
        '--resolutions',
        default='',
        metavar='PX,PX,...',
        help='input sizes to sample from; default: the training resolutions',
    )
    parser.add_argument(
        '--calibration-images', type=int, default=500, help='images for batch-norm statistics'
    )
    parser.add_argument(
        '--evaluation-images', type=int, default=10000, help='maximum number of held-out images'
    )
    parser.add_argument(
        '--images', type=int, default=56000, help='signs: number of training scenes'
    )
    parser.add_argument(
        '--held-out-images', type=int, default=8000, help='signs: number of held-out scenes'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=0,
        help='processes that measure; 0 = only this process (with --ray: one per core)',
    )
    parser.add_argument(
        '--ray',
        default='',
        metavar='ADDRESS',
        help='measure on a Ray cluster: host:port, auto, or local to start one on this machine; '
        'the backbone and the images are sent to its workers',
    )
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument(
        '--threads', type=int, default=0, help='CPU threads of each worker; 0 = its share of cores'
    )
    parser.add_argument('--seed', type=int, default=1)
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
    from dynamic_ofa_ros.offline.accuracy.predictor_fit import encode_pairs, fit_predictor
    from dynamic_ofa_ros.offline.build.pairs import read_pairs

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
            f'{"*" if name == report.model else "":<2}{name:<10} {agreement.mae * 100:>7.3f} '
            f'{agreement.rmse * 100:>7.3f} {agreement.kendall_tau:>12.3f}'
        )
    print(f'* written to {output}')
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Compare predicted with measured accuracies and print the agreement."""
    from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor
    from dynamic_ofa_ros.offline.accuracy.agreement import Agreement
    from dynamic_ofa_ros.offline.accuracy.predictor_fit import check_accuracies, encode_pairs
    from dynamic_ofa_ros.offline.build.pairs import read_pairs
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
    from dataclasses import replace

    from dynamic_ofa_ros.cli.train import parse_resolutions
    from dynamic_ofa_ros.errors import PredictorError
    from dynamic_ofa_ros.family import BACKBONE_FILE, sha256_of
    from dynamic_ofa_ros.offline.accuracy.evaluation import calibration_subset, halves
    from dynamic_ofa_ros.offline.accuracy.evaluation_pool import EvaluationPool
    from dynamic_ofa_ros.offline.accuracy.predictor_fit import FEWEST_PAIRS
    from dynamic_ofa_ros.offline.build.pairs import PairsFile, measure_pairs
    from dynamic_ofa_ros.offline.data.datasets import Subset, check_classes
    from dynamic_ofa_ros.offline.search.candidates import sample_candidates
    from dynamic_ofa_ros.offline.training.train import open_data
    from dynamic_ofa_ros.supernet.batch_norm import FEWEST_IMAGES
    from dynamic_ofa_ros.supernet.trained import open_backbone

    if not (args.backbone and args.data):
        raise PredictorError(
            'give --backbone and --data to measure sub-networks, or --pairs to use measured ones'
        )
    for option, least in (('calibration_images', FEWEST_IMAGES), ('evaluation_images', 1)):
        if getattr(args, option) < least:
            name = option.replace('_', '-')
            raise PredictorError(f'--{name} is {getattr(args, option)}; give {least} or more')
    if args.samples < FEWEST_PAIRS:
        raise PredictorError(
            f'--samples is {args.samples}; a predictor requires {FEWEST_PAIRS} or more'
        )
    trained = open_backbone(args.backbone)
    if args.resolutions:
        trained = replace(trained, resolutions=parse_resolutions(args.resolutions))
    training, held_out = open_data(args.data, args.images, args.held_out_images)
    check_classes(trained.labels, training.classes, 'training')
    check_classes(trained.labels, held_out.classes, 'held-out')
    selection, _ = halves(held_out)
    used = range(min(args.evaluation_images, len(selection)))
    calibration = calibration_subset(training, args.calibration_images)
    file = PairsFile(
        output.with_suffix('.pairs.jsonl'),
        {
            'backbone': sha256_of(trained.directory / BACKBONE_FILE),
            'data': Path(args.data).name,
            'training_images': len(training),
            'held_out_images': len(held_out),
            'evaluation_images': len(used),
            'calibration_images': len(calibration),
        },
    )
    with EvaluationPool(
        trained,
        calibration,
        Subset(selection, tuple(used)),
        workers=args.workers if args.ray else max(1, args.workers),
        ray_address=args.ray,
        device=args.device,
        threads=args.threads or None,
    ) as pool:
        architectures = sample_candidates(trained.space, args.samples, args.seed)
        return measure_pairs(pool, architectures, file), trained.space
