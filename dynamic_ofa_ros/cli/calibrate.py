"""`dynamic-ofa calibrate`: batch-norm statistics of a family from other images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.offline.accuracy.calibration import StudyRow, StudySettings
    from dynamic_ofa_ros.offline.data.datasets import ImageDataset

# Scenes are rendered at this height: half the camera's, a quarter of the work.
STUDY_SCENE_HEIGHT = 240
# Starting a process takes as long as decoding some hundred images.
FEW_IMAGES = 500


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'calibrate',
        help='adapt the batch norms of a family to other images, or study what that is worth',
        description='Calculate the batch-norm statistics of every level of a family anew, on '
        'images of your camera or on more images than the build used, and measure top-1 before '
        'and after on images held out. The family is written to a new folder; latencies are kept. '
        'With --study nothing is written: a table says what the number of images and their '
        'augmentation are worth.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        '--family', help='directory or name of a family; default: the shipped one', default=''
    )
    parser.add_argument(
        '--data',
        required=True,
        metavar='FOLDER|signs',
        help='class folders named as the labels of the family (not all of them are needed), with '
        'train/ and val/ or split by name; "signs" renders road and warehouse signs',
    )
    parser.add_argument('--output', metavar='FOLDER', help='the family to write')
    parser.add_argument('--images', type=int, default=2000, help='images to calibrate on')
    parser.add_argument(
        '--held-out-images', type=int, default=2000, help='images to measure top-1 on, at most'
    )
    parser.add_argument(
        '--augment',
        action='store_true',
        help='random crops in random light, as in training, instead of what evaluation sees; '
        'seldom better: see docs/own_data.md',
    )
    parser.add_argument(
        '--no-mirror',
        action='store_true',
        help='never flip images when augmenting: left and right differ (signs, text)',
    )
    parser.add_argument('--seed', type=int, default=1, help='which images are drawn')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads; 0 = one per core')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    study = parser.add_argument_group('study')
    study.add_argument('--study', action='store_true', help='compare kinds of calibration')
    study.add_argument(
        '--counts', default='0,200,2000,10000', metavar='N,N,...', help='numbers of images'
    )
    study.add_argument('--seeds', type=int, default=2, help='repetitions of each')
    study.add_argument(
        '--levels', default='', metavar='N,N,...', help='levels to study; default: all'
    )
    study.add_argument(
        '--store',
        metavar='FOLDER',
        help='where decoded images are kept for another study, to be deleted when the data '
        'changes; default: in the cache folder',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate and print what changed, or study and print the table."""
    import torch

    from dynamic_ofa_ros.errors import DatasetError
    from dynamic_ofa_ros.family import Family, default_family
    from dynamic_ofa_ros.runtime.host import usable_cpus

    if not args.study and not args.output:
        raise DatasetError('give --output FOLDER for the calibrated family, or --study')
    torch.set_num_threads(args.threads or usable_cpus())
    family = Family.load(args.family or default_family())
    return _study(args, family) if args.study else _calibrate(args, family)


def _calibrate(args: argparse.Namespace, family: Family) -> int:
    from dynamic_ofa_ros.offline.accuracy.calibration import CalibrationSettings, calibrate_family
    from dynamic_ofa_ros.offline.training.train import open_data
    from dynamic_ofa_ros.progress import progress

    training, held_out = open_data(args.data, args.images, args.held_out_images)
    with progress('calibrating levels', len(family.levels)) as bar:
        report = calibrate_family(
            family,
            training,
            _at_most(held_out, args.held_out_images),
            Path(args.output).expanduser(),
            CalibrationSettings(args.images, args.augment, _mirror(args), args.seed),
            _device(args.device),
            lambda done, top1: bar.update(done, f'top-1 {top1:.1%}'),
        )
    if args.json:
        document = {
            'family': str(report.family.directory),
            'checksum': report.family.checksum,
            'calibration_images': report.calibration_images,
            'held_out_images': report.held_out_images,
            'levels': [
                {'index': level.index, 'top1_before': level.before, 'top1_after': level.after}
                for level in report.levels
            ],
        }
        print(json.dumps(document, indent=1))
        return 0
    print(f'{"level":>5} {"before %":>9} {"after %":>8} {"change":>7}')
    for level in report.levels:
        print(
            f'{level.index:>5} {level.before * 100:>9.2f} {level.after * 100:>8.2f} '
            f'{(level.after - level.before) * 100:>+7.2f}'
        )
    print(
        f'top-1 on {report.held_out_images} held-out images; '
        f'{report.calibration_images} images calibrated on'
    )
    print(f'family: {args.output}')
    return 0


def _study(args: argparse.Namespace, family: Family) -> int:
    from dynamic_ofa_ros.offline.accuracy.calibration import StudySettings, study, study_cells
    from dynamic_ofa_ros.progress import progress

    settings = StudySettings(
        counts=_numbers('--counts', args.counts),
        seeds=tuple(range(args.seed, args.seed + max(1, args.seeds))),
        levels=_numbers('--levels', args.levels) if args.levels else (),
        mirror=_mirror(args),
    )
    levels = settings.levels or tuple(level.index for level in family.levels)
    training, held_out = _stores(args, family, max(settings.counts))
    with progress('studying calibration', len(study_cells(settings)) * len(levels)) as bar:
        rows = study(
            family,
            training,
            held_out,
            settings,
            _device(args.device),
            lambda done, top1: bar.update(done, f'top-1 {top1:.1%}'),
        )
    if args.json:
        print(json.dumps(_document(rows, settings, family, len(held_out)), indent=1))
    else:
        _print_study(rows, len(held_out), len(settings.seeds))
    return 0


def _stores(
    args: argparse.Namespace, family: Family, images: int
) -> tuple[ImageDataset, ImageDataset]:
    """Decode both splits once: the study reads every image many times."""
    from dynamic_ofa_ros.files import cache_directory
    from dynamic_ofa_ros.offline.accuracy.evaluation import calibration_subset
    from dynamic_ofa_ros.offline.data.store import build_store
    from dynamic_ofa_ros.offline.training.train import SIGNS, open_data
    from dynamic_ofa_ros.progress import progress
    from dynamic_ofa_ros.runtime.host import usable_cpus

    training, held_out = open_data(args.data, images, args.held_out_images, STUDY_SCENE_HEIGHT)
    if args.data != SIGNS:
        training = calibration_subset(training, images)
    # Twice the input: area averaging from there is what averaging the original would give.
    side = 2 * max(level.resolution for level in family.levels)
    folder = Path(args.store).expanduser() if args.store else cache_directory() / 'calibration'
    stores: list[ImageDataset] = []
    for name, split in (
        ('train', training),
        ('held_out', _at_most(held_out, args.held_out_images)),
    ):
        path = folder / _key(args.data) / f'{name}-{len(split)}-{side}.npy'
        processes = 1 if len(split) < FEW_IMAGES else usable_cpus()
        with progress(f'decoding {name} images', len(split)) as bar:
            stores.append(build_store(split, path, side, processes, bar.update))
    return stores[0], stores[1]


def _key(data: str) -> str:
    """Return a folder name that is the data's own: two folders may share their last part."""
    import hashlib
    import os

    from dynamic_ofa_ros.offline.training.train import SIGNS

    if data == SIGNS:
        return data
    digest = hashlib.sha256(os.fsencode(Path(data).expanduser().resolve())).hexdigest()
    return f'{Path(data).name}-{digest[:8]}'


def _print_study(rows: list[StudyRow], held_out: int, seeds: int) -> None:
    print(f'{"level":>5} {"px":>4} {"images":>7} {"augmented":>9} {"top-1 %":>8} {"spread":>7}')
    for row in rows:
        print(
            f'{row.level:>5} {row.resolution:>4} {row.images:>7} '
            f'{"yes" if row.augment else "no":>9} {row.mean * 100:>8.2f} '
            f'{f"{row.spread * 100:.2f}" if len(row.top1) > 1 else "-":>7}'
        )
    print(f'top-1 on {held_out} held-out images, mean of {seeds} draws; spread: best minus worst')


def _document(
    rows: list[StudyRow], settings: StudySettings, family: Family, held_out: int
) -> dict[str, Any]:
    return {
        'family': family.name,
        'checksum': family.checksum,
        'held_out_images': held_out,
        'seeds': list(settings.seeds),
        'rows': [
            {
                'level': row.level,
                'resolution': row.resolution,
                'images': row.images,
                'augment': row.augment,
                'top1': list(row.top1),
                'mean': row.mean,
                'spread': row.spread,
            }
            for row in rows
        ],
    }


def _at_most(dataset: ImageDataset, images: int) -> ImageDataset:
    from dynamic_ofa_ros.offline.accuracy.evaluation import calibration_subset

    return dataset if len(dataset) <= images else calibration_subset(dataset, images)


def _mirror(args: argparse.Namespace) -> bool:
    from dynamic_ofa_ros.offline.training.train import SIGNS

    return not (args.no_mirror or args.data == SIGNS)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from dynamic_ofa_ros.errors import DatasetError

    try:
        return tuple(int(part) for part in text.split(','))
    except ValueError:
        raise DatasetError(
            f'{option} {text!r}: give whole numbers with commas between them'
        ) from None


def _device(name: str) -> str:
    import torch

    from dynamic_ofa_ros.errors import EngineError

    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(
            f'device {name} cannot be used ({str(error).splitlines()[0]}); use --device cpu, or '
            'install a torch built for your GPU'
        ) from None
    return name
