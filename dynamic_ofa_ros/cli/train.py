"""`dynamic-ofa train`: train a supernet on rendered signs or on a user's class folders."""

from __future__ import annotations

import argparse
import math
from typing import Any

from dynamic_ofa_ros.cli.help_format import DefaultsHelpFormatter
from dynamic_ofa_ros.cli.numbers import (
    MOST_SCENES,
    MOST_THREADS,
    WIDEST,
    number,
    resolutions,
    seed,
    whole_number,
)

MOST_EPOCHS = 10_000
LARGEST_BATCH = 16_384
# Beyond it, the optimiser computes with infinite numbers.
LARGEST_RATE = 100.0
# Larger inputs have never been trained on.
LARGEST_TRAINED_RESOLUTION = 512


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'train',
        help='train a supernet on class folders or on rendered signs',
        description='Train a Once-for-all supernet: the largest sub-network learns the labels, '
        'the smallest and random sub-networks learn its predictions. Run the same command again '
        'to resume an interrupted training, or with more --epochs to extend a finished one. On '
        'several GPUs or machines: torchrun --nproc-per-node 4 --no-python dynamic-ofa train ...; '
        'the number of processes may change when a training is resumed.',
        formatter_class=DefaultsHelpFormatter,
    )
    parser.add_argument(
        '--data',
        required=True,
        metavar='FOLDER|signs',
        help='folder with class folders in train/ and val/ (or test/), or class folders directly: '
        'a tenth of each class is then held out; "signs" renders road and warehouse signs',
    )
    parser.add_argument(
        '--output',
        required=True,
        metavar='FOLDER',
        help='folder for checkpoints and results',
    )
    parser.add_argument(
        '--kind',
        default=argparse.SUPPRESS,
        choices=('ofa_mobilenetv3', 'ofa_proxyless', 'efficientnet_lite', 'ofa_resnet50'),
        help='kind of supernet; ofa_resnet50 is the largest (default: ofa_mobilenetv3, or that of '
        '--start-from)',
    )
    parser.add_argument(
        '--width-mult',
        type=number(0, WIDEST, above=True),
        default=argparse.SUPPRESS,
        help='channels divided by those of the published network (default: 0.35, or that of '
        '--start-from)',
    )
    parser.add_argument(
        '--resolutions',
        type=resolutions(LARGEST_TRAINED_RESOLUTION),
        default=argparse.SUPPRESS,
        metavar='PX,PX,...',
        help='input sizes for training (default: 32,40,48,56,64, or those of --start-from)',
    )
    parser.add_argument(
        '--epochs',
        type=number(0, MOST_EPOCHS, above=True),
        default=20.0,
        help='passes over the training split',
    )
    parser.add_argument(
        '--largest-only-epochs',
        type=number(0, MOST_EPOCHS),
        default=4.0,
        help='first epochs that train the largest sub-network only; a fifth of --epochs if this '
        'is not less than --epochs',
    )
    parser.add_argument(
        '--random-subnets',
        type=whole_number(0, 100),
        default=1,
        help='random sub-networks per step',
    )
    parser.add_argument(
        '--batch-size', type=whole_number(2, LARGEST_BATCH), default=128, help='images per step'
    )
    parser.add_argument(
        '--learning-rate',
        type=number(0, LARGEST_RATE, above=True),
        default=3e-3,
        help='learning rate of AdamW',
    )
    parser.add_argument(
        '--patience',
        type=whole_number(0, MOST_EPOCHS),
        default=0,
        metavar='EPOCHS',
        help='stop after this many epochs without progress on the held-out images; 0 = never',
    )
    parser.add_argument(
        '--weight-decay', type=number(0, 10), default=0.02, help='weight decay of AdamW'
    )
    parser.add_argument(
        '--label-smoothing',
        type=number(0, 1, below=True),
        default=0.05,
        metavar='SHARE',
        help='share of each label that is spread over all classes',
    )
    parser.add_argument(
        '--averaging',
        type=number(0, 1, below=True),
        default=0.998,
        metavar='DECAY',
        help='decay of the moving average of the weights',
    )
    parser.add_argument(
        '--no-mirror', action='store_true', help='never flip images, because left and right differ'
    )
    parser.add_argument(
        '--augment',
        choices=('light', 'strong'),
        default='light',
        help='light: crops, flips and brightness; strong: also two random '
        'distortions (RandAugment)',
    )
    parser.add_argument(
        '--mixup',
        type=number(0, 100),
        default=0.0,
        metavar='ALPHA',
        help='mix pairs of images; 0 = never',
    )
    parser.add_argument('--balanced', action='store_true', help='draw all classes equally often')
    parser.add_argument(
        '--no-amp', action='store_true', help='no half precision on a GPU (CPUs never use it)'
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
        default=2800,
        help='signs: number of held-out scenes',
    )
    parser.add_argument(
        '--start-from',
        default='',
        metavar='FOLDER|NAME',
        help='start from the weights of another training or family, of a published backbone '
        '(dynamic-ofa fetch), or of imagenet (EfficientNet-Lite0, from the extra imagenet); its '
        'kind, width, resolutions and preprocessing are adopted; if the classes differ, the '
        'classifier layer is new',
    )
    parser.add_argument(
        '--body-rate',
        type=number(0, 1),
        default=argparse.SUPPRESS,
        metavar='F',
        help='learning rate of all layers before the classifier, relative to that of the '
        'classifier; 0 freezes them (default: 0.1 for new classes, else 1)',
    )
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--threads',
        type=whole_number(0, MOST_THREADS),
        default=0,
        help='CPU threads; 0 = one per core',
    )
    parser.add_argument('--seed', type=seed, default=1, help='random seed')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, then print the held-out top-1 of the smallest and the largest sub-network."""
    from dynamic_ofa_ros.offline.training.request import TrainingRequest
    from dynamic_ofa_ros.offline.training.train import train

    given = vars(args)
    report = train(
        TrainingRequest(
            data=args.data,
            output=args.output,
            width_mult=given.get('width_mult'),
            resolutions=given.get('resolutions', ()),
            epochs=args.epochs,
            largest_only_epochs=args.largest_only_epochs,
            random_subnets=args.random_subnets,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            mirror=not (args.no_mirror or args.data == 'signs'),
            rendered_images=args.images,
            rendered_held_out_images=args.held_out_images,
            device=args.device,
            threads=args.threads,
            seed=args.seed,
            start_from=args.start_from,
            kind=given.get('kind', ''),
            body_rate=given.get('body_rate'),
            patience=args.patience,
            is_strong=args.augment == 'strong',
            mixup=args.mixup,
            is_balanced=args.balanced,
            label_smoothing=args.label_smoothing,
            weight_decay=args.weight_decay,
            averaging=args.averaging,
            is_half=not args.no_amp,
        )
    )
    if math.isnan(report.largest):
        return 0  # under torchrun another process reports
    print(f'held-out top-1: smallest {report.smallest:.1%}, largest {report.largest:.1%}')
    print(f'by class: confusion_smallest, confusion_largest (.csv, .png) in {args.output}')
    print(f'weights: {report.weights_path}')
    print(
        f'next:    dynamic-ofa build --backbone {args.output} --data {args.data} --output FAMILY'
    )
    return 0
