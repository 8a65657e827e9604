"""Calibrate the batch norms of an existing family anew, and study what calibration is worth.

Batch-norm statistics are worth a whole level (docs/calibration.md), and they are the one thing a
user can adapt to a camera of their own without training.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.errors import DatasetError, FamilyError
from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    BATCH_NORM_FILE,
    PLATFORMS_FOLDER,
    Family,
    Level,
    write_family,
)
from dynamic_ofa_ros.family.model_card import write_model_card
from dynamic_ofa_ros.files import creating_folder
from dynamic_ofa_ros.offline.accuracy.evaluation import PreparedImages, calibration_subset, top1
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, report_damaged
from dynamic_ofa_ros.offline.training.augmentation import Augmentation, Augmented, Batch
from dynamic_ofa_ros.runtime.reference import add_reference
from dynamic_ofa_ros.supernet.batch_norm import (
    DEFAULT_IMAGES,
    FEWEST_IMAGES,
    recalculate,
    save_statistics,
    statistics_of,
)
from dynamic_ofa_ros.supernet.network import extract_subnet, load_level, load_supernet

logger = logging.getLogger(__name__)

UInt8 = npt.NDArray[np.uint8]

BATCH = 100

OnLevel = Callable[[int, float], None]
"""Called with the levels (or measurements) done and the last top-1."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate: on how many images, and whether they are augmented as in training.

    mirror: whether augmentation may flip images left to right.
    """

    images: int = DEFAULT_IMAGES
    augment: bool = False
    mirror: bool = True
    seed: int = 1


@dataclass(frozen=True)
class LevelChange:
    """Top-1 of a level on held-out images, before and after."""

    index: int
    before: float
    after: float


@dataclass(frozen=True)
class CalibrationReport:
    """A family calibrated anew, and on how many images each top-1 was measured."""

    family: Family
    calibration_images: int
    held_out_images: int
    levels: tuple[LevelChange, ...]


@dataclass(frozen=True)
class Relabelled:
    """A dataset whose classes are some of another's: its labels as indices into those."""

    dataset: ImageDataset
    classes: tuple[str, ...]
    _label_of: tuple[int, ...] = field(repr=False)

    @classmethod
    def to(cls, classes: tuple[str, ...], dataset: ImageDataset) -> Relabelled:
        """Look up every class by name; raise DatasetError naming those that are not there."""
        unknown = [name for name in dataset.classes if name not in classes]
        if unknown:
            raise DatasetError(
                f'the data has classes that the family does not know: {", ".join(unknown[:5])}'
                f'{", ..." if len(unknown) > 5 else ""}; it knows {", ".join(classes[:5])}'
                f'{", ..." if len(classes) > 5 else ""}: rename the folders, or leave them out'
            )
        return cls(dataset, classes, tuple(classes.index(name) for name in dataset.classes))

    def __len__(self) -> int:
        return len(self.dataset)

    def label(self, index: int) -> int:
        """Return the label of image `index`, an index into `classes`."""
        return self._label_of[self.dataset.label(index)]

    def image(self, index: int) -> UInt8:
        """Return image `index`."""
        return self.dataset.image(index)


def calibrate_family(
    family: Family,
    training: ImageDataset,
    held_out: ImageDataset,
    output: Path,
    settings: CalibrationSettings,
    device: str = 'cpu',
    on_level: OnLevel | None = None,
) -> CalibrationReport:
    """Write `family` anew into the new folder `output`, its levels calibrated on other images.

    Statistics come from `training`, accuracies from `held_out`; classes are matched by name.
    Latencies are kept: they do not depend on statistics. Raise FamilyError where `output` exists,
    DatasetError where the images do not fit.
    """
    if output.exists():
        raise FamilyError(f'{output} exists already; choose another folder, or remove it first')
    if settings.images < FEWEST_IMAGES:
        raise DatasetError(
            f'--images is {settings.images}; statistics need {FEWEST_IMAGES} images or more'
        )
    held_out = Relabelled.to(family.labels, held_out)
    subset = calibration_subset(training, settings.images, settings.seed)
    resolutions = [level.resolution for level in family.levels]
    images = PreparedImages(held_out, family.preprocessing, resolutions)
    # Where images are not augmented, every level sees the same: decode them once for all.
    prepared = PreparedImages(subset, family.preprocessing, resolutions)
    supernet = load_supernet(family)
    changes, statistics, used = [], {}, 0
    for level in family.levels:
        subnet = _ready(load_level(family, level.index, supernet), device)
        before = top1(subnet, level.resolution, images, torch.device(device))
        batches = (
            _augmented(subset, level, family, settings)
            if settings.augment
            else (batch for batch, _ in prepared.batches(level.resolution))
        )
        used = recalculate(subnet, (batch.to(device) for batch in batches))
        after = top1(subnet, level.resolution, images, torch.device(device))
        if after == 0.0:
            raise DatasetError(
                f'level {level.index} classifies none of the {len(images)} held-out images '
                'rightly after calibration: are these the classes the family was trained on?'
            )
        statistics[level.index] = statistics_of(subnet)
        changes.append(LevelChange(level.index, before, after))
        if on_level is not None:
            on_level(level.index, after)
    for faster, slower in pairwise(changes):
        if slower.after <= faster.after:
            logger.warning(
                'level %d is no more accurate than level %d on these images (%.1f and %.1f %%): '
                'use more of them, or build a family on them',
                slower.index,
                faster.index,
                slower.after * 100,
                faster.after * 100,
            )
    measured_on = len(images) - len(images.damaged)
    report = CalibrationReport(family, used, measured_on, tuple(changes))
    return replace(report, family=_write(report, statistics, output, settings))


def _write(
    report: CalibrationReport,
    statistics: dict[int, dict[str, torch.Tensor]],
    output: Path,
    settings: CalibrationSettings,
) -> Family:
    family = report.family
    with creating_folder(output) as folder:
        shutil.copyfile(family.weights_path, folder / BACKBONE_FILE)
        save_statistics(statistics, folder / BATCH_NORM_FILE)
        platforms = family.directory / PLATFORMS_FOLDER
        if platforms.is_dir():
            shutil.copytree(platforms, folder / PLATFORMS_FOLDER)
        write_family(
            folder,
            name=output.name,
            source=family.backbone,
            preprocessing=family.preprocessing,
            levels=[
                replace(level, accuracy=change.after)
                for level, change in zip(family.levels, report.levels, strict=True)
            ],
            labels=family.labels,
            provenance={
                **family.provenance,
                'calibration': {
                    **asdict(settings),
                    'images': report.calibration_images,
                    'calibrated_from': family.checksum,
                },
                'accuracy': f'top-1 on {report.held_out_images} held-out images that took no '
                'part in the calibration',
            },
        )
        add_reference(folder)
        write_model_card(folder)
    return Family.load(output)


def _augmented(
    dataset: ImageDataset, level: Level, family: Family, settings: CalibrationSettings
) -> Iterator[torch.Tensor]:
    """Yield (N, 3, r, r) float32 batches of random crops in random light, as training sees them.

    The same settings give the same crops, whatever the level.
    """
    augmentation = Augmentation(mirror=settings.mirror)
    damaged: list[str] = []
    images: list[Augmented] = []
    for index in range(len(dataset)):
        rng = np.random.default_rng([settings.seed, index])
        try:
            image = dataset.image(index)
        except DatasetError as error:
            damaged.append(str(error))
            continue
        images.append(augmentation.draw(image, level.resolution, rng))
        if len(images) == BATCH:
            yield Batch.of(images).network_input(family.preprocessing)
            images.clear()
    if images:
        yield Batch.of(images).network_input(family.preprocessing)
    if damaged:
        report_damaged(damaged, len(dataset))


@dataclass(frozen=True)
class StudySettings:
    """What to compare: numbers of calibration images, each with and without augmentation.

    seeds: how often each is repeated, with other images and other crops; levels: which, by index.
    """

    counts: tuple[int, ...] = (0, 200, 2000, 10000)
    seeds: tuple[int, ...] = (1, 2)
    levels: tuple[int, ...] = ()
    mirror: bool = True


@dataclass(frozen=True)
class StudyRow:
    """Held-out top-1 of a level with one kind of calibration, seed by seed."""

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


def study_cells(settings: StudySettings) -> list[tuple[int, bool]]:
    """Return the kinds of calibration compared: (images, augmented), without images once."""
    return [
        (count, augmented)
        for count in sorted(set(settings.counts))
        for augmented in ((False, True) if count else (False,))
    ]


def study(
    family: Family,
    training: ImageDataset,
    held_out: ImageDataset,
    settings: StudySettings,
    device: str = 'cpu',
    on_row: OnLevel | None = None,
) -> list[StudyRow]:
    """Measure what the number of calibration images and their augmentation are worth.

    No images means the supernet's own statistics: they, and all images that there are, are one
    draw only. Raise DatasetError where `training` has fewer images than asked for.
    """
    most = max(settings.counts)
    if min(settings.counts) < 0 or most > len(training):
        raise DatasetError(
            f'the study is to calibrate on {min(settings.counts)} to {most} images; '
            f'there are {len(training)}'
        )
    held_out = Relabelled.to(family.labels, held_out)
    supernet = load_supernet(family)
    rows: list[StudyRow] = []
    for index in settings.levels or tuple(level.index for level in family.levels):
        level = family.level(index)
        images = PreparedImages(held_out, family.preprocessing, (level.resolution,))
        for count, augmented in study_cells(settings):
            found = []
            is_one_draw = count == 0 or (count == len(training) and not augmented)
            for seed in settings.seeds[:1] if is_one_draw else settings.seeds:
                subnet = _ready(extract_subnet(supernet, level.architecture), device)
                if count:
                    how = CalibrationSettings(count, augmented, settings.mirror, seed)
                    _calibrate(subnet, level, family, training, how, device)
                found.append(top1(subnet, level.resolution, images, torch.device(device)))
            rows.append(StudyRow(index, level.resolution, count, augmented, tuple(found)))
            if on_row is not None:
                on_row(len(rows), rows[-1].mean)
    return rows


def _ready(subnet: nn.Module, device: str) -> nn.Module:
    """Move a network to its device, in the memory layout that CPUs convolve fastest."""
    subnet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return subnet.to(device)


def _calibrate(
    subnet: nn.Module,
    level: Level,
    family: Family,
    training: ImageDataset,
    settings: CalibrationSettings,
    device: str,
) -> None:
    subset = calibration_subset(training, settings.images, settings.seed)
    batches = (
        _augmented(subset, level, family, settings)
        if settings.augment
        else _as_evaluated(subset, level, family)
    )
    recalculate(subnet, (batch.to(device) for batch in batches))


def _as_evaluated(dataset: ImageDataset, level: Level, family: Family) -> Iterator[torch.Tensor]:
    prepared = PreparedImages(
        dataset, family.preprocessing, (level.resolution,), workers=1, cache_bytes=0
    )
    return (batch for batch, _ in prepared.batches(level.resolution))
