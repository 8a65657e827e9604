"""A complete training run: data, training, evaluation, and files.

The folder of a run contains `checkpoint.pt` to resume it, `metrics.csv` and `curves.png`,
TensorBoard files if TensorBoard is installed, `confusion_largest` and `confusion_smallest`
(`.csv`, `.png`), and `backbone.safetensors` with `backbone.yaml`, the input of `dynamic-ofa
build`. The backbone is that of the best epoch so far, so it can be used whenever a run is stopped.

Under `torchrun`, several processes train together; the first one decodes, writes and reports. All
of them must have the data and the folder of the run at the same path.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from torch import nn

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import BACKBONE_FILE, BackboneSpec, Preprocessing, sha256_of
from dynamic_ofa_ros.files import locked, naming, printable
from dynamic_ofa_ros.offline.accuracy.evaluation import (
    Evaluator,
    PreparedImages,
    calibration_subset,
    confusion_matrix,
    load_as_stored,
)
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, RenderedSigns, open_splits
from dynamic_ofa_ros.offline.data.store import build_store, open_store, remove_store
from dynamic_ofa_ros.offline.training.augmentation import Augmentation
from dynamic_ofa_ros.offline.training.classes import (
    describe_classes,
    draw_confusion,
    write_confusion,
)
from dynamic_ofa_ros.offline.training.curves import Curves, epochs_without_progress
from dynamic_ofa_ros.offline.training.distributed import World, joined, started_world
from dynamic_ofa_ros.offline.training.fine_tuning import Start, start_of
from dynamic_ofa_ros.offline.training.request import (
    SIGNS,
    TrainingRequest,
    check_output_folder,
)
from dynamic_ofa_ros.offline.training.run_folder import (
    DataIdentity,
    forget_metrics_after,
    read_metrics,
)
from dynamic_ofa_ros.offline.training.trainer import (
    CHECKPOINT_FILE,
    Trainer,
    TrainingSettings,
    check_batch_size,
)
from dynamic_ofa_ros.progress import ProgressReport, progress
from dynamic_ofa_ros.runtime.host import usable_cpus
from dynamic_ofa_ros.supernet.devices import check_device
from dynamic_ofa_ros.supernet.network import MOBILENET_V3
from dynamic_ofa_ros.supernet.trained import (
    TrainedBackbone,
    open_backbone,
)

logger = logging.getLogger(__name__)

# Images are stored larger than the largest resolution, so that random crops lose no detail.
STORE_MARGIN = 1.25
# Maximum fraction of free disk and memory for a store. The images of a larger dataset are decoded
# for every batch: they are read in random order, which is slow if they do not fit into memory.
STORE_SHARE = 0.6
# Height of scenes in camera images; for training, scenes are rendered at the size of the store.
SCENE_HEIGHT, SMALLEST_SCENE_HEIGHT = 480, 240
CALIBRATION_IMAGES = 1000
SAVE_EVERY_S = 60.0


# In the names of backbones.
_SHORT = {
    MOBILENET_V3: 'mbv3',
    'ofa_proxyless': 'proxyless',
    'efficientnet_lite': 'lite',
    'ofa_resnet50': 'resnet50',
}


@dataclass(frozen=True)
class TrainingReport:
    """Held-out top-1 at the end of a run, and the file of the weights."""

    smallest: float
    largest: float
    weights_path: Path


def held_out_side(resolutions: Sequence[int]) -> int:
    """Return the stored size of held-out images: twice the input, at most that of camera images.

    Area averaging from this size gives the same result as from the original.
    """
    largest = max(resolutions)
    return max(largest, min(2 * largest, SCENE_HEIGHT))


def open_data(
    data: str, rendered_images: int, rendered_held_out: int, training_height: int = SCENE_HEIGHT
) -> tuple[ImageDataset, ImageDataset]:
    """Open `signs` or a user's folder; return the training and the held-out split.

    Training scenes may be rendered at a smaller height, because they are reduced anyway; held-out
    ones always have the size of camera images, 640x480.
    """
    if data == SIGNS:
        return (
            RenderedSigns(rendered_images, split='train', height=training_height),
            RenderedSigns(rendered_held_out, split='held_out'),
        )
    return open_splits(data)


def train(request: TrainingRequest) -> TrainingReport:
    """Train until all epochs are done, or resume a training; write the files of the run.

    In processes of torchrun other than the first, the accuracies of the report are NaN.
    """
    world = started_world()
    device = _choose_device(request.device, world)
    cores = max(1, usable_cpus() // world.local_size)
    torch.set_num_threads(request.threads or cores)
    directory = Path(request.output).expanduser()
    with joined(world, device), naming(directory):
        return _train(request, directory, device, world)


def _train(request: TrainingRequest, directory: Path, device: str, world: World) -> TrainingReport:
    start = start_of(
        open_backbone(request.start_from) if request.start_from else None,
        request.kind,
        request.width_mult,
        request.resolutions,
    )
    cv2.setNumThreads(1)
    training, held_out = open_data(
        request.data,
        request.rendered_images,
        request.rendered_held_out_images,
        min(max(_store_side(start.resolutions), SMALLEST_SCENE_HEIGHT), SCENE_HEIGHT),
    )
    check_batch_size(len(training), request.batch_size, world.size)
    check_output_folder(request, directory, start)
    directory.mkdir(parents=True, exist_ok=True)
    if not world.is_first:
        return _run(request, directory, device, world, start, training, held_out)
    busy = CheckpointError(
        f'another process trains in {printable(directory)}: wait for it, or choose another folder'
    )
    with locked(directory, busy):
        for torn in directory.glob('.*.partial'):  # of a killed run; a store can be large
            torn.unlink()
        return _run(request, directory, device, world, start, training, held_out)


def _run(
    request: TrainingRequest,
    directory: Path,
    device: str,
    world: World,
    start: Start,
    training: ImageDataset,
    held_out: ImageDataset,
) -> TrainingReport:
    resolutions, preprocessing = start.resolutions, start.preprocessing
    side = _store_side(resolutions)
    classes = training.classes
    identity = DataIdentity.of(training)
    if not world.is_first:
        world.wait()  # until the first process has decoded the images
    training = _stored(training, directory / f'train-{side}.npy', side, 'decoding training images')
    held_out = _stored(
        held_out,
        directory / 'held_out.npy',
        held_out_side(resolutions),
        'decoding held-out images',
    )
    if world.is_first:
        world.wait()
    settings = TrainingSettings(
        resolutions=resolutions,
        epochs=request.epochs,
        largest_only_epochs=request.largest_only_epochs,
        random_subnets=request.random_subnets,
        batch_size=request.batch_size,
        learning_rate=request.learning_rate,
        weight_decay=request.weight_decay,
        label_smoothing=request.label_smoothing,
        augmentation=Augmentation(
            request.mirror,
            # A far sign near the edge must stay in the image.
            0.9 if request.data == SIGNS else Augmentation.smallest_crop,
            request.is_strong,
        ),
        mixup=request.mixup,
        is_balanced=request.is_balanced,
        averaging=request.averaging,
        is_half=request.is_half,
        seed=request.seed,
        start_from=sha256_of(start.backbone.directory / BACKBONE_FILE) if start.backbone else '',
        body_rate=start.body_rate(classes) if request.body_rate is None else request.body_rate,
    )
    data_name = printable(Path(request.data).name) or 'images'
    name = f'{data_name}_{_SHORT[start.kind]}_w{start.width_mult:g}'
    backbone = BackboneSpec(name, start.kind, start.width_mult, len(classes))
    trainer = Trainer(
        backbone,
        settings,
        preprocessing,
        training,
        directory,
        device,
        start.weights(classes),
        world,
        identity,
    )
    is_resumed = trainer.resume()
    if is_resumed and world.is_first:
        logger.info('resuming at step %d of %d', trainer.step, trainer.steps)
    held_out_as = _HeldOut(trainer, training, held_out, preprocessing)

    def save(kind: str, epochs: float, top1: Top1) -> None:
        network = trainer.last if kind == 'last' else trainer.averaged
        TrainedBackbone(
            directory=directory,
            backbone=backbone,
            preprocessing=preprocessing,
            labels=classes,
            resolutions=resolutions,
            training={
                'data': printable(Path(request.data).name),
                'images': len(training),
                'epochs': round(epochs, 3),
                'resolutions': list(resolutions),
                'weights': kind,
                **({'fine_tuned_from': dict(start.backbone.training)} if start.backbone else {}),
                **dict(zip(TOP1_FIELDS, top1, strict=True)),
            },
        ).save(network)

    kept = _Kept(save, _saved_top1(directory) if is_resumed else None)
    _run_epochs(trainer, world, directory, request.patience, held_out_as, kept)
    if not world.is_first:
        world.wait()
        return TrainingReport(math.nan, math.nan, directory / BACKBONE_FILE)
    smallest, largest = _keep_the_better(trainer, held_out_as, kept)
    held_out_as.report_classes(open_backbone(directory), classes)
    world.wait()
    return TrainingReport(smallest, largest, directory / BACKBONE_FILE)


def _store_side(resolutions: Sequence[int]) -> int:
    return round(max(resolutions) * STORE_MARGIN)


class _HeldOut:
    """Measures the smallest and the largest sub-network of a supernet on held-out images."""

    def __init__(
        self,
        trainer: Trainer,
        training: ImageDataset,
        held_out: ImageDataset,
        preprocessing: Preprocessing,
    ) -> None:
        self._ends = (trainer.space.smallest(), trainer.space.largest())
        sizes = [architecture.r for architecture in self._ends]
        self._calibration = PreparedImages(
            calibration_subset(training, CALIBRATION_IMAGES), preprocessing, sizes
        )
        self._held_out = PreparedImages(held_out, preprocessing, sizes)
        self._directory = trainer.directory

    def top1(self, supernet: nn.Module) -> tuple[float, float]:
        """Return the held-out top-1 of the smallest and the largest sub-network, as fractions."""
        evaluator = Evaluator(supernet, self._calibration, self._held_out)
        smallest, largest = (evaluator.evaluate(architecture).top1 for architecture in self._ends)
        return smallest, largest

    def report_classes(self, trained: TrainedBackbone, classes: Sequence[str]) -> None:
        """Write the confusion matrices of both sub-networks; log the least accurate classes."""
        evaluator = Evaluator(load_as_stored(trained), self._calibration, self._held_out)
        for name, architecture in zip(('smallest', 'largest'), self._ends, strict=True):
            subnet = evaluator.calibrated(architecture)
            matrix = confusion_matrix(subnet, architecture.r, self._held_out, len(classes))
            draw_confusion(matrix, classes, self._directory / f'confusion_{name}.png')
            write_confusion(matrix, classes, self._directory / f'confusion_{name}.csv')
            logger.info('%s: %s', name, describe_classes(matrix, classes))


TOP1_FIELDS = 'held_out_top1_smallest', 'held_out_top1_largest'
Top1 = tuple[float, float]
SaveBackbone = Callable[[str, float, Top1], None]


class _Kept:
    """The weights in the training's folder: the most accurate ones so far.

    save: called with the kind of the weights, the epoch and top-1. top1: that of the weights in
    the folder (smallest, largest), as fractions; None if there are none.
    """

    def __init__(self, save: SaveBackbone, top1: Top1 | None) -> None:
        self._save = save
        self.top1 = top1

    def offer(self, kind: str, epochs: float, top1: Top1) -> bool:
        """Keep weights if they are better; return whether they are."""
        smallest, largest = (round(value, 5) for value in top1)
        if self.top1 is not None and smallest + largest <= sum(self.top1):
            return False
        self.top1 = smallest, largest
        self._save(kind, epochs, self.top1)
        return True


def _saved_top1(directory: Path) -> Top1 | None:
    """Return the held-out top-1 of the weights in a folder; None if they are incomplete."""
    if not (directory / BACKBONE_FILE).is_file():
        return None
    try:
        training = open_backbone(directory).training
        smallest, largest = (float(training[field]) for field in TOP1_FIELDS)
    except (CheckpointError, KeyError, TypeError, ValueError):
        return None
    return smallest, largest


def _run_epochs(
    trainer: Trainer,
    world: World,
    directory: Path,
    patience: int,
    held_out: _HeldOut,
    kept: _Kept,
) -> None:
    """Train until all epochs are done, or until the held-out accuracy stops increasing."""
    if world.is_first:
        forget_metrics_after(directory, trainer.step)
    curves = Curves(directory, trainer.step) if world.is_first else None
    with _reporting(trainer.steps, world) as report:
        report.update(trainer.step)
        last_save = time.monotonic()
        while trainer.step < trainer.steps:
            # The first process writes a file that all processes read.
            world.wait()
            stalled = epochs_without_progress(read_metrics(directory))
            if 0 < patience <= stalled:
                if world.is_first:
                    logger.info('no progress for %d epochs: the training stops', stalled)
                break
            end_of_epoch = (trainer.step // trainer.steps_per_epoch + 1) * trainer.steps_per_epoch
            losses: list[tuple[float, float]] = []
            started = time.monotonic()
            for pair in trainer.steps_until(end_of_epoch):
                losses.append(pair)
                rate = _rate(losses, trainer.settings.batch_size, started)
                report.update(trainer.step, f'{_in_words(losses[-50:])}, {rate:.0f} img/s')
                if time.monotonic() - last_save > SAVE_EVERY_S:
                    trainer.save()
                    last_save = time.monotonic()
            trainer.report_damaged()
            of_largest, of_smallest = _means(losses)
            if of_largest is None or not _is_finite(trainer.last):
                raise CheckpointError(
                    'the loss or weights are NaN or infinite, so the training has diverged; start '
                    f'again with a lower --learning-rate, after deleting {CHECKPOINT_FILE}'
                )
            if curves is None:
                continue
            rate = _rate(losses, trainer.settings.batch_size, started)
            smallest, largest = held_out.top1(trainer.averaged)
            epochs = trainer.step / trainer.steps_per_epoch
            curves.append(
                {
                    'step': trainer.step,
                    'epoch': round(epochs, 3),
                    'loss_largest': of_largest,
                    'loss_smallest': of_smallest,
                    'held_out_top1_smallest': round(smallest, 5),
                    'held_out_top1_largest': round(largest, 5),
                    'images_per_s': round(rate, 1),
                }
            )
            logger.info(
                'epoch %.0f: held-out top-1 %.1f %% (smallest), %.1f %% (largest)',
                epochs,
                smallest * 100,
                largest * 100,
            )
            kept.offer('averaged', epochs, (smallest, largest))
            trainer.save()
            last_save = time.monotonic()
    if curves is not None:
        curves.close()


def _is_finite(network: nn.Module) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


def _keep_the_better(trainer: Trainer, held_out: _HeldOut, kept: _Kept) -> Top1:
    """Save the last weights if they are better than the kept ones; return the best top-1."""
    epochs = trainer.step / trainer.steps_per_epoch
    if kept.top1 is None:  # the files were removed, or are incomplete
        kept.offer('averaged', epochs, held_out.top1(trainer.averaged))
    is_last_better = kept.offer('last', epochs, held_out.top1(trainer.last))
    assert kept.top1 is not None
    logger.info(
        '%s weights kept: held-out top-1 %.1f %% (smallest), %.1f %% (largest)',
        'last' if is_last_better else 'best averaged',
        *(100.0 * value for value in kept.top1),
    )
    return kept.top1


@contextmanager
def _reporting(steps: int, world: World) -> Iterator[ProgressReport | SilentReport]:
    if world.is_first:
        with progress('training', steps) as report:
            yield report
    else:
        yield SilentReport()


class SilentReport:
    """Receives the progress of processes other than the first; does nothing."""

    def update(self, done: int, note: str = '') -> None:
        """Say nothing."""


def _means(losses: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    """Return the mean losses of the largest and the smallest sub-network, None without any.

    While the largest is trained alone, the smallest has no loss. A step that overflows in half
    precision has no losses and changes nothing.
    """
    largest, smallest = (
        [loss for loss in column if math.isfinite(loss)] for column in zip(*losses, strict=True)
    )
    return (
        round(float(np.mean(largest)), 5) if largest else None,
        round(float(np.mean(smallest)), 5) if smallest else None,
    )


def _in_words(losses: Sequence[tuple[float, float]]) -> str:
    largest, smallest = ('none' if mean is None else f'{mean:.3f}' for mean in _means(losses))
    return f'loss {largest} (largest), {smallest} (smallest)'


def _rate(losses: Sequence[object], batch_size: int, started: float) -> float:
    return len(losses) * batch_size / (time.monotonic() - started)


def _stored(dataset: ImageDataset, path: Path, side: int, description: str) -> ImageDataset:
    stored = open_store(dataset, path, side)
    if stored is not None:
        return stored
    remove_store(path)  # it has other images; its space is free again
    if len(dataset) * side * side * 3 > _room_for_store(path.parent):
        return dataset
    with progress(description, len(dataset)) as report:
        return build_store(dataset, path, side, usable_cpus(), report.update)


def _room_for_store(directory: Path) -> float:
    free_memory: int = psutil.virtual_memory().available
    return STORE_SHARE * min(free_memory, shutil.disk_usage(directory).free)


def _choose_device(device: str, world: World) -> str:
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cuda' and world.size > 1 and torch.cuda.is_available():
        if world.local_size > torch.cuda.device_count():
            raise CheckpointError(
                f'torchrun started {world.local_size} processes on this machine, which has '
                f'{torch.cuda.device_count()} GPUs; start at most one process per GPU'
            )
        return f'cuda:{world.local_rank}'
    return check_device(device)
