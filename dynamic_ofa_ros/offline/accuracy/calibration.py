"""Recalibrate the batch norms of an existing family on other images.

This adapts a family to another camera without training. The effect on accuracy can be as large as
the difference between two levels (docs/own_data.md).
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

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    BATCH_NORM_FILE,
    PLATFORMS_FOLDER,
    Family,
    Level,
    write_family,
)
from dynamic_ofa_ros.family.model_card import write_model_card
from dynamic_ofa_ros.family.new_folder import check_new_folder
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
from dynamic_ofa_ros.supernet.network import load_level, load_supernet

logger = logging.getLogger(__name__)

UInt8 = npt.NDArray[np.uint8]

BATCH = 100

OnLevel = Callable[[int, float], None]
"""Called with the number of finished levels and the last top-1."""


@dataclass(frozen=True)
class CalibrationSettings:
    """The number of images, and whether they are augmented as in training.

    mirror: whether augmentation may flip images left to right.
    """

    images: int = DEFAULT_IMAGES
    augment: bool = False
    mirror: bool = True
    seed: int = 1


@dataclass(frozen=True)
class LevelChange:
    """Top-1 of a level on held-out images, before and after the calibration."""

    index: int
    before: float
    after: float


@dataclass(frozen=True)
class CalibrationReport:
    """A recalibrated family, the numbers of images, and the change of each level."""

    family: Family
    calibration_images: int
    held_out_images: int
    levels: tuple[LevelChange, ...]


@dataclass(frozen=True)
class Relabelled:
    """A dataset whose labels are mapped to a larger list of classes."""

    dataset: ImageDataset
    classes: tuple[str, ...]
    _label_of: tuple[int, ...] = field(repr=False)

    @classmethod
    def to(cls, classes: tuple[str, ...], dataset: ImageDataset) -> Relabelled:
        """Match classes by name; raise DatasetError if `classes` lacks some of them."""
        unknown = [name for name in dataset.classes if name not in classes]
        if unknown:
            raise DatasetError(
                f'the data has classes that the family lacks: {", ".join(unknown[:5])}'
                f'{", ..." if len(unknown) > 5 else ""}; it has {", ".join(classes[:5])}'
                f'{", ..." if len(classes) > 5 else ""}: rename or remove these folders'
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
    """Write a copy of `family` to the new folder `output`, with levels calibrated on other images.

    Statistics come from `training`, accuracies from `held_out`; classes are matched by name.
    Latencies are copied, because they do not depend on the statistics. Raise FamilyError if
    `output` exists, and DatasetError if the images do not match the family.
    """
    check_new_folder(output)
    if settings.images < FEWEST_IMAGES:
        raise DatasetError(f'--images is {settings.images}; at least {FEWEST_IMAGES} are required')
    held_out = Relabelled.to(family.labels, held_out)
    subset = calibration_subset(training, settings.images, settings.seed)
    resolutions = [level.resolution for level in family.levels]
    images = PreparedImages(held_out, family.preprocessing, resolutions)
    # Without augmentation, all levels use the same images, which are decoded once.
    prepared = PreparedImages(subset, family.preprocessing, resolutions)
    supernet = load_supernet(family)
    changes, statistics, used = [], {}, 0
    for level in family.levels:
        subnet = ready(load_level(family, level.index, supernet), device)
        before = top1(subnet, level.resolution, images, torch.device(device))
        used = calibrate_level(subnet, level, family, prepared, settings, device)
        after = top1(subnet, level.resolution, images, torch.device(device))
        if after == 0.0:
            raise DatasetError(
                f'level {level.index} classifies all {len(images)} held-out images wrongly after '
                'the calibration; check that they show the classes of the family'
            )
        statistics[level.index] = statistics_of(subnet)
        changes.append(LevelChange(level.index, before, after))
        if on_level is not None:
            on_level(level.index, after)
    for faster, slower in pairwise(changes):
        if slower.after <= faster.after:
            logger.warning(
                'level %d is not more accurate than level %d on these images (%.1f and %.1f %%): '
                'use more images, or build a family from them',
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
    """Yield (N, 3, r, r) float32 batches of images augmented as in training.

    The same settings give the same crops for all levels.
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


def ready(subnet: nn.Module, device: str) -> nn.Module:
    """Move a network to its device, in the memory layout that is fastest on CPUs."""
    subnet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return subnet.to(device)


def calibrate_level(
    subnet: nn.Module,
    level: Level,
    family: Family,
    images: PreparedImages,
    settings: CalibrationSettings,
    device: str,
) -> int:
    """Recalculate the batch-norm statistics of a level; return the number of used images."""
    batches = (
        _augmented(images.dataset, level, family, settings)
        if settings.augment
        else (batch for batch, _ in images.batches(level.resolution))
    )
    return recalculate(subnet, (batch.to(device) for batch in batches))
