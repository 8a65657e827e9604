"""Fine-tuning with few photographs against training from scratch and against a single network.

    python -m benchmarks.fine_tuning [--images 2000] [--epochs 5] [--minutes 8]

Trains on the first images of each class of CIFAR-10 and tests on the first of its test images.
Three runs have the same images, epochs, batches and resolutions: the supernet from the ImageNet
weights, the supernet from scratch, and the largest network alone from the ImageNet weights. A
call ends after --minutes; the same command goes on from the last checkpoint, and writes the
results of this number of images when all runs are done. Requires the extra `imagenet`.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import RESULTS, print_table, reference_directory, write_results
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, fingerprint, open_splits
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.offline.latency.on_device import level_of, measure_architectures
from dynamic_ofa_ros.offline.training.augmentation import Augmentation, Augmented, Batch
from dynamic_ofa_ros.runtime.host import OthersLoad, usable_cpus
from dynamic_ofa_ros.supernet.trained import open_backbone

CLASSES = 10
TEST_IMAGES_A_CLASS = 200
NOT_FINISHED = 75
FINISHED_FILE = 'confusion_largest.csv'  # the last file that a training writes
LOADED_IMAGES, LOADED_BATCH = 2000, 32

FROM_IMAGENET = ('--start-from', 'imagenet', '--body-rate', '0.2')
FROM_SCRATCH = ('--kind', 'efficientnet_lite', '--width-mult', '1.0')


def main() -> int:
    """Go on with the runs; write the results when they are done; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--images', type=int, default=2000, help='training images in all')
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--resolutions', default='48,64,96')
    parser.add_argument('--threads', type=int, default=usable_cpus(), help='CPU threads')
    parser.add_argument('--minutes', type=float, default=8.0, help='of this call')
    parser.add_argument('--work', type=Path, default=Path('build/fine_tuning'))
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of the JSON file')
    args = parser.parse_args()
    load = OthersLoad()
    work = args.work / str(args.images)
    data = work / 'data'
    if not data.is_dir():
        unpack(reference_directory() / 'cifar10.tar.xz', data, args.images // CLASSES)
    ends_s = time.monotonic() + 60.0 * args.minutes
    for name, options in runs(args.images, args.epochs, args.batch_size).items():
        settings = (
            '--resolutions', args.resolutions,
            '--epochs', str(args.epochs),
            '--batch-size', str(args.batch_size),
            '--threads', str(args.threads),
        )  # fmt: skip
        if not trained((*settings, *options), data, work / name, ends_s):
            print(f'{name} is not finished: run the same command again', file=sys.stderr)
            return NOT_FINISHED
    training, _ = open_splits(data)
    result = {
        'epochs': args.epochs,
        'batch_size': args.batch_size,
        'resolutions': args.resolutions,
        'threads': args.threads,
        'images_sha256': fingerprint(training),
        'test_images': CLASSES * TEST_IMAGES_A_CLASS,
        'runs': {name: outcome(work / name) for name in runs(args.images, 1, 1)},
        'ends': ends(work / 'fine_tuned', work / 'scratch_of_latency'),
        'loading_images_per_s': loading(training, max(map(int, args.resolutions.split(',')))),
    }
    print_table(
        f'{args.images} images, {args.epochs} epochs',
        ('run', 'largest', 'smallest', 'minutes'),
        [
            (name, run['top1_largest'], run['top1_smallest'], run['minutes'])
            for name, run in result['runs'].items()
        ],
    )
    write_results(
        'fine_tuning',
        {'sets': {**earlier_sets(args.output), str(args.images): result}},
        configuration={'from_imagenet': FROM_IMAGENET, 'from_scratch': FROM_SCRATCH},
        input_checksum=fingerprint(training),
        load=load,
        folder=args.output,
    )
    return 0


def runs(images: int, epochs: int, batch_size: int) -> dict[str, tuple[str, ...]]:
    """Return the options of each run.

    A training ends with a step of all sub-networks, at a learning rate of nearly zero: `single` is
    the largest network alone in all steps but that one.
    """
    all_but_one_step = epochs - 1 / (images // batch_size)
    return {
        'fine_tuned': (*FROM_IMAGENET, '--largest-only-epochs', '1'),
        'scratch': (*FROM_SCRATCH, '--largest-only-epochs', '1'),
        'single': (*FROM_IMAGENET, '--largest-only-epochs', f'{all_but_one_step - 1e-9:.12f}'),
    }


def unpack(archive: Path, data: Path, training_images_a_class: int) -> None:
    """Unpack the first images of each class of both splits."""
    most = {'train': training_images_a_class, 'test': TEST_IMAGES_A_CLASS}
    unfinished = data.with_suffix('.part')
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts[-3:]
            if not member.isfile() or int(Path(parts[2]).stem) >= most[parts[0]]:
                continue
            path = unfinished.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            path.write_bytes(content.read())
    unfinished.rename(data)


def trained(options: Sequence[str], data: Path, output: Path, ends_s: float) -> bool:
    """Train, or go on; return whether that was done when the time was over."""
    if (output / FINISHED_FILE).is_file():
        return True
    remaining_s = ends_s - time.monotonic()
    if remaining_s <= 0.0:
        return False
    command = [
        sys.executable, '-m', 'dynamic_ofa_ros.cli.main', 'train',
        '--data', str(data), '--output', str(output), *options,
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, timeout=remaining_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def outcome(run: Path) -> dict[str, Any]:
    """Return top-1 after the last epoch, whichever epoch was best, and the time of all steps."""
    with (run / 'metrics.csv').open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    images = len(open_splits(run.parent / 'data')[0])
    rates = [float(row['images_per_s']) for row in rows]
    return {
        'top1_largest': float(rows[-1]['held_out_top1_largest']),
        'top1_smallest': float(rows[-1]['held_out_top1_smallest']),
        'images_per_s': round(len(rates) / sum(1 / rate for rate in rates), 1),
        'minutes': round(sum(images / rate for rate in rates) / 60, 1),
    }


def ends(run: Path, scratch: Path) -> dict[str, Any]:
    """Return multiply-accumulates and latency of the smallest and the largest sub-network."""
    backbone = open_backbone(run)
    architectures = (backbone.space.smallest(), backbone.space.largest())
    settings = DeviceSettings('cpu', 'onnxruntime', 1)
    profile = measure_architectures(backbone, backbone.load(), architectures, settings, scratch)
    return {
        name: {
            'resolution': architecture.r,
            'macs_m': round(level_of(1, backbone, architecture, 0.5).macs / 1e6, 1),
            'median_ms': round(latency.median_ms, 3),
        }
        for name, architecture, latency in zip(
            ('smallest', 'largest'), architectures, profile.levels, strict=True
        )
    }


class Drawn(Dataset[tuple[Augmented, int]]):
    """Augmented images for the worker processes of `torch.utils.data`."""

    def __init__(self, images: ImageDataset, augmentation: Augmentation, side: int) -> None:
        self._images, self._augmentation, self._side = images, augmentation, side

    def __len__(self) -> int:
        """Return how many images are read in one pass."""
        return min(LOADED_IMAGES, len(self._images))

    def __getitem__(self, index: int) -> tuple[Augmented, int]:
        """Decode and augment an image."""
        rng = np.random.default_rng(index)
        drawn = self._augmentation.draw(self._images.image(index), self._side, rng)
        return drawn, self._images.label(index)


def collate(items: Sequence[tuple[Augmented, int]]) -> Batch:
    """Put images of `Drawn` together."""
    return Batch.of([image for image, _ in items], [label for _, label in items])


def loading(images: ImageDataset, side: int) -> dict[str, dict[str, float]]:
    """Return images a second of decoding and augmenting, by augmentation and kind of worker."""
    cv2.setNumThreads(1)
    workers = usable_cpus()
    rates: dict[str, dict[str, float]] = {}
    for name, is_strong in (('light', False), ('strong', True)):
        drawn = Drawn(images, Augmentation(is_strong=is_strong), side)
        loader = DataLoader(
            drawn, LOADED_BATCH, num_workers=workers, collate_fn=collate,
            persistent_workers=True, multiprocessing_context='spawn',
        )  # fmt: skip
        starts = range(0, len(drawn), LOADED_BATCH)

        def batch(start: int, drawn: Drawn = drawn) -> Batch:
            stop = min(start + LOADED_BATCH, len(drawn))
            return collate([drawn[index] for index in range(start, stop)])

        with ThreadPoolExecutor(workers) as threads:

            def in_threads(threads: ThreadPoolExecutor = threads) -> None:
                for _ in threads.map(batch, starts):  # noqa: B023 - called in this round only
                    pass

            def in_processes(loader: DataLoader[Any] = loader) -> None:
                for _ in loader:
                    pass

            rates[name] = {
                'threads': len(drawn) / fastest_s(in_threads),
                'processes': len(drawn) / fastest_s(in_processes),
            }
    return {
        name: {kind: round(rate) for kind, rate in by_kind.items()}
        for name, by_kind in rates.items()
    }


def fastest_s(call: Callable[[], None], passes: int = 3) -> float:
    """Return the seconds of the fastest pass, after one that starts the workers."""
    call()
    seconds = []
    for _ in range(passes):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def earlier_sets(folder: Path) -> dict[str, Any]:
    """Return the results of other numbers of images."""
    path = folder / 'fine_tuning.json'
    if not path.is_file():
        return {}
    sets: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))['results']['sets']
    return sets


if __name__ == '__main__':
    sys.exit(main())
