"""Accuracy of levels by the number of calibration images, with and without augmentation.

    python -m benchmarks.calibration [--levels 1,4] [--counts 0,200,2000,10000] [--seeds 2]

On rendered signs. No images: the supernet's own batch-norm statistics.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.common import print_table, write_results
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.offline.accuracy.calibration import (
    CalibrationSettings,
    Relabelled,
    calibrate_level,
    ready,
)
from dynamic_ofa_ros.offline.accuracy.evaluation import (
    PreparedImages,
    calibration_subset,
    top1,
)
from dynamic_ofa_ros.offline.data.datasets import ImageDataset
from dynamic_ofa_ros.offline.data.store import build_store
from dynamic_ofa_ros.offline.training.request import SIGNS
from dynamic_ofa_ros.offline.training.train import open_data
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.host import OthersLoad, usable_cpus
from dynamic_ofa_ros.supernet.network import extract_subnet, load_supernet

SCENE_HEIGHT = 240
"""Half of the camera's height, a quarter of the time to render."""


@dataclass(frozen=True)
class Row:
    """Held-out top-1 of a level with one kind of calibration, one value per seed."""

    level: int
    resolution: int
    images: int
    augment: bool
    top1: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return sum(self.top1) / len(self.top1)

    @property
    def spread(self) -> float:
        """Return the difference between the best and the worst seed."""
        return max(self.top1) - min(self.top1)


def main() -> None:
    """Calibrate in all ways, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default=default_family(), help='name or path of a family')
    parser.add_argument('--levels', default='1,4', metavar='N,N,...')
    parser.add_argument('--counts', default='0,200,2000,10000', metavar='N,N,...')
    parser.add_argument('--seeds', type=int, default=2, help='repetitions of each')
    parser.add_argument('--held-out-images', type=int, default=2000)
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    levels, counts = (
        [int(part) for part in text.split(',')] for text in (options.levels, options.counts)
    )
    load = OthersLoad()
    family = Family.load(options.family)
    splits = open_data(SIGNS, max(counts), options.held_out_images, SCENE_HEIGHT)
    side = 2 * max(family.level(level).resolution for level in levels)
    with tempfile.TemporaryDirectory() as folder:
        training, held_out = (stored(split, Path(folder), side) for split in splits)
        rows = measure(family, training, held_out, levels, counts, range(1, 1 + options.seeds))
    print_table(
        'top-1, %',
        ('level', 'px', 'images', 'augmented', 'mean', 'spread'),
        [
            (
                row.level,
                row.resolution,
                row.images,
                'yes' if row.augment else 'no',
                f'{100 * row.mean:.2f}',
                f'{100 * row.spread:.2f}',
            )
            for row in rows
        ],
    )
    write_results(
        'calibration',
        {'rows': [{**asdict(row), 'mean': row.mean, 'spread': row.spread} for row in rows]},
        configuration={'held_out_images': options.held_out_images, 'seeds': options.seeds},
        input_checksum=family.checksum,
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def stored(split: ImageDataset, folder: Path, side: int) -> ImageDataset:
    """Render all images of a split once."""
    with progress('rendering', len(split)) as bar:
        path = folder / f'{len(split)}-{id(split)}.npy'
        return build_store(split, path, side, usable_cpus(), bar.update)


def measure(
    family: Family,
    training: ImageDataset,
    held_out: ImageDataset,
    levels: Sequence[int],
    counts: Sequence[int],
    seeds: Sequence[int],
) -> list[Row]:
    """Return the held-out top-1 of every level with every kind of calibration.

    Without images, and with all images without augmentation, every seed gives the same: one value.
    """
    held_out = Relabelled.to(family.labels, held_out)
    supernet = load_supernet(family)
    cells = [
        (level, count, augmented)
        for level in levels
        for count in counts
        for augmented in ((False, True) if count else (False,))
    ]
    rows: list[Row] = []
    with progress('calibrating', len(cells)) as bar:
        for index, count, augmented in cells:
            level = family.level(index)
            images = PreparedImages(held_out, family.preprocessing, (level.resolution,))
            is_one_draw = count == 0 or (count == len(training) and not augmented)
            found = []
            for seed in seeds[:1] if is_one_draw else seeds:
                subnet = ready(extract_subnet(supernet, level.architecture), 'cpu')
                if count:
                    how = CalibrationSettings(count, augmented, mirror=False, seed=seed)
                    prepared = PreparedImages(
                        calibration_subset(training, count, seed),
                        family.preprocessing,
                        (level.resolution,),
                        workers=1,
                        cache_bytes=0,
                    )
                    calibrate_level(subnet, level, family, prepared, how, 'cpu')
                found.append(top1(subnet, level.resolution, images, torch.device('cpu')))
            rows.append(Row(index, level.resolution, count, augmented, tuple(found)))
            bar.update(len(rows), f'top-1 {rows[-1].mean:.1%}')
    return rows


if __name__ == '__main__':
    main()
