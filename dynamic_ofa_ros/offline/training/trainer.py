"""Train or fine-tune a supernet with the sandwich rule and in-place distillation.

Each step trains the largest sub-network on the labels, and then the smallest one and random ones
on its soft predictions (Yu & Huang, ICCV 2019; Yu et al., BigNAS, ECCV 2020). Each sub-network has
its own resolution (elastic resolution, Cai et al., ICLR 2020).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dynamic_ofa_ros.errors import CheckpointError, DatasetError
from dynamic_ofa_ros.family import BackboneSpec, Preprocessing
from dynamic_ofa_ros.files import printable, replacing
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, UInt8, report_damaged
from dynamic_ofa_ros.offline.training.augmentation import Augmentation, Batch
from dynamic_ofa_ros.offline.training.distributed import World
from dynamic_ofa_ros.offline.training.fine_tuning import CLASSIFIER
from dynamic_ofa_ros.offline.training.run_folder import DataIdentity, change_of
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.spaces import search_space
from dynamic_ofa_ros.supernet.network import build_supernet, set_active
from dynamic_ofa_ros.supernet.weights import load_state

logger = logging.getLogger(__name__)

CHECKPOINT_FILE = 'checkpoint.pt'

# Threads that prepare images; more threads would only wait for the interpreter's lock.
MOST_THREADS = 8
# Fraction of the training for the largest sub-network alone, if it would otherwise be all of it.
LARGEST_ONLY_SHARE = 0.2


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a training. All of them are recorded with the result.

    epochs: passes over the training split; largest_only_epochs: number of epochs at the beginning
    that train only the largest sub-network (the first phase of progressive shrinking);
    random_subnets: sub-networks per step in addition to the largest and the smallest; mixup: alpha
    of the Beta distribution for mixing images (Zhang et al., ICLR 2018), 0: none; is_balanced:
    draw all classes equally often; averaging: decay of the averaged weights; is_half: half
    precision on a GPU; start_from: SHA-256 of the initial weights of a fine-tuning; body_rate:
    learning rate of all layers before the classifier, relative to its own; 0: they are not
    trained.
    """

    resolutions: tuple[int, ...]
    epochs: float = 20.0
    largest_only_epochs: float = 4.0
    random_subnets: int = 1
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixup: float = 0.0
    is_balanced: bool = False
    averaging: float = 0.998
    is_half: bool = True
    seed: int = 1
    start_from: str = ''
    body_rate: float = 1.0


class Trainer:
    """Trains a supernet; its checkpoint contains everything that is required to resume.

    In a `world` of several processes, each has a part of every batch. The result does not depend
    on their number, except for rounding and for batch norms, whose statistics are those of the
    part. A checkpoint can therefore be resumed with another number of processes.

    Damaged images are replaced by others in the batch.
    """

    def __init__(
        self,
        backbone: BackboneSpec,
        settings: TrainingSettings,
        preprocessing: Preprocessing,
        dataset: ImageDataset,
        directory: Path,
        device: str = 'cpu',
        weights: Mapping[str, torch.Tensor] | None = None,
        world: World = World(),  # noqa: B008 - it cannot be changed
        identity: DataIdentity | None = None,
    ) -> None:
        check_batch_size(len(dataset), settings.batch_size, world.size)
        self.backbone, self.settings, self.preprocessing = backbone, settings, preprocessing
        self._dataset, self.directory = dataset, directory
        self._data = identity or DataIdentity.of(dataset)
        self._damaged: dict[int, str] = {}
        self._reported = 0
        labels = np.array([dataset.label(i) for i in range(len(dataset))])
        chances = 1.0 / np.bincount(labels)[labels]
        self._chances = chances / chances.sum()  # if classes are balanced
        self._device, self._world = torch.device(device), world
        self.space = search_space(backbone.kind, settings.resolutions)
        torch.manual_seed(settings.seed)
        self._supernet = build_supernet(backbone)
        if weights is not None:
            load_state(self._supernet, weights)
        self._supernet.to(self._device)
        # channels_last doubles the speed of depthwise convolutions on CPUs.
        self._supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        world.copy_first(self._supernet)
        self._average = AveragedModel(
            self._supernet,
            multi_avg_fn=_moving_average(settings.averaging),
        )
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(self._supernet, settings), lr=settings.learning_rate
        )
        # AMP is for GPUs: on CPUs, bfloat16 convolutions of these sizes are slower than float32.
        self._amp = self._device.type == 'cuda' and settings.is_half
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._amp)
        # Threads are sufficient: OpenCV decodes and resizes without the interpreter's lock.
        self._threads = min(MOST_THREADS, torch.get_num_threads())
        self._executor = ThreadPoolExecutor(self._threads)
        self._ahead: dict[int, Future[Batch]] = {}
        self.steps_per_epoch = len(dataset) // settings.batch_size
        self.steps = max(1, round(settings.epochs * self.steps_per_epoch))
        self.step = 0
        self._largest_only_steps = math.ceil(settings.largest_only_epochs * self.steps_per_epoch)
        if self._largest_only_steps >= self.steps:
            self._largest_only_steps = int(LARGEST_ONLY_SHARE * self.steps)
            if world.is_first:
                logger.warning(
                    '--largest-only-epochs %g is not less than --epochs %g: the largest '
                    'sub-network is trained alone for %d of %d steps',
                    settings.largest_only_epochs,
                    settings.epochs,
                    self._largest_only_steps,
                    self.steps,
                )

    @property
    def averaged(self) -> nn.Module:
        """Return the supernet with averaged weights, usually more accurate than the last ones."""
        averaged: nn.Module = self._average.module
        return averaged

    @property
    def last(self) -> nn.Module:
        """Return the supernet with the weights of the last step."""
        return self._supernet

    def steps_until(self, stop_step: int) -> Iterator[tuple[float, float]]:
        """Train up to `stop_step`; yield the losses of largest and smallest after each step.

        That of the smallest is NaN while the largest is trained alone.
        """
        self._supernet.train()
        while self.step < min(stop_step, self.steps):
            yield self._train_step()

    def save(self) -> None:
        """Write the checkpoint, atomically; only the first of several processes does this.

        Raise OSError if the disk is full.
        """
        if not self._world.is_first:
            return
        state = {
            'identity': self._identity(),
            'step': self.step,
            'supernet': self._supernet.state_dict(),
            'average': self._average.state_dict(),
            'optimizer': self._optimizer.state_dict(),
            'scaler': self._scaler.state_dict(),
        }
        path = self.directory / CHECKPOINT_FILE
        with replacing(path) as temporary, temporary.open('wb') as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides it behind a position
                    raise error.__context__ from None
                raise

    def report_damaged(self) -> None:
        """Log the number and names of images that were found damaged since the last report."""
        sentences = tuple(self._damaged.values())
        if len(sentences) > self._reported:
            report_damaged(sentences, len(self._dataset))
        self._reported = len(sentences)

    def resume(self) -> bool:
        """Resume from the checkpoint of the directory if there is one; return whether there was.

        Raise CheckpointError if it is damaged or belongs to other data or settings.
        """
        path = self.directory / CHECKPOINT_FILE
        if not path.is_file():
            return False
        try:
            with path.open('rb') as file:
                state = torch.load(file, map_location=self._device, weights_only=True)
        except Exception as error:  # torch raises many types for a damaged file
            raise CheckpointError(
                f'{printable(path)} is damaged ({type(error).__name__}: {error}); delete it to '
                'start again'
            ) from error
        before = state.get('identity') if isinstance(state, dict) else None
        change = change_of(before, self._identity())
        if change:
            raise CheckpointError(
                f'{printable(path)} belongs to a training {change}; choose another output folder, '
                'or delete the checkpoint to start again'
            )
        if state['step'] > self.steps:
            raise CheckpointError(
                f'{printable(path)} has been trained for '
                f'{state["step"] / self.steps_per_epoch:g} epochs; --epochs '
                f'{self.settings.epochs:g} is less'
            )
        load_state(self._supernet, state['supernet'])
        load_state(self._average, state['average'])
        self._optimizer.load_state_dict(state['optimizer'])
        self._scaler.load_state_dict(state['scaler'])
        self.step = int(state['step'])
        return True

    def _identity(self) -> dict[str, Any]:
        """Return the identity of the training, which a checkpoint must match.

        It does not contain the name of the data folder or the number of epochs.
        """
        backbone = {'kind': self.backbone.kind, 'width_mult': self.backbone.width_mult}
        settings = asdict(self.settings)
        del settings['epochs']
        return {'data': asdict(self._data), 'settings': {**backbone, **settings}}

    def _train_step(self) -> tuple[float, float]:
        settings = self.settings
        # One generator per step, so that a resumed run and all processes draw the same numbers.
        rng = np.random.default_rng([settings.seed, self.step])
        learning_rate = self._learning_rate()
        for group in self._optimizer.param_groups:
            group['lr'] = learning_rate * group['share']
        batch = self._batch()
        images, labels = batch.network_input(self.preprocessing), batch.labels
        kept = float(rng.beta(settings.mixup, settings.mixup)) if settings.mixup else 1.0
        if kept < 1.0:
            images = kept * images + (1.0 - kept) * images.flip(0)
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            largest = self._forward(self.space.largest(), images)
            smoothing = settings.label_smoothing
            loss_largest = functional.cross_entropy(largest, labels, label_smoothing=smoothing)
            if kept < 1.0:
                loss_mixed_in = functional.cross_entropy(
                    largest, labels.flip(0), label_smoothing=smoothing
                )
                loss_largest = kept * loss_largest + (1.0 - kept) * loss_mixed_in
        torch.autograd.backward(self._scaler.scale(loss_largest))
        losses = [loss_largest.detach(), torch.full_like(loss_largest.detach(), math.nan)]
        if self.step >= self._largest_only_steps:
            soft_labels = largest.detach().float().softmax(1)
            for index, student in enumerate(self._students(rng)):
                with self._autocast():
                    loss = functional.cross_entropy(self._forward(student, images), soft_labels)
                torch.autograd.backward(self._scaler.scale(loss))
                if index == 0:
                    losses[1] = loss.detach()
        self._world.average_gradients(self._supernet)
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._supernet.parameters(), 5.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._average.update_parameters(self._supernet)
        self.step += 1
        # Read once per step, because reading a number waits for the GPU.
        of_largest, of_smallest = self._world.mean(torch.stack(losses)).tolist()
        return of_largest, of_smallest

    def _students(self, rng: np.random.Generator) -> list[SubnetArchitecture]:
        return [
            self.space.smallest(),
            *(self.space.sample(rng) for _ in range(self.settings.random_subnets)),
        ]

    def _forward(self, architecture: SubnetArchitecture, images: torch.Tensor) -> torch.Tensor:
        set_active(self._supernet, architecture)
        if images.shape[-1] != architecture.r:
            images = functional.interpolate(
                images, size=(architecture.r,) * 2, mode='bilinear', antialias=True
            )
        output: torch.Tensor = self._supernet(images.contiguous(memory_format=torch.channels_last))
        return output

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, enabled=self._amp)

    def _learning_rate(self) -> float:
        warm_up = min(200, self.steps // 10 + 1)
        rise = min(1.0, (self.step + 1) / warm_up)
        return self.settings.learning_rate * rise * _cosine(self.step / self.steps)

    def _batch(self) -> Batch:
        """Return this step's batch on the device; the next ones are prepared in parallel."""
        for step in range(self.step, min(self.step + self._threads + 1, self.steps)):
            if step not in self._ahead:
                self._ahead[step] = self._executor.submit(self._prepare, step)
        return self._ahead.pop(self.step).result().to(self._device)

    def _prepare(self, step: int) -> Batch:
        """Augment this process' part of the images of a step.

        Each image has its own generator, so the result does not depend on the distribution of the
        batch.
        """
        settings = self.settings
        epoch, position = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        whole = range(position * settings.batch_size, (position + 1) * settings.batch_size)
        mine = whole[self._world.rank :: self._world.size]
        images, labels = [], []
        for place in mine:
            image, label = self._readable(order, place)
            rng = np.random.default_rng([settings.seed, 78, epoch, place])
            side = max(settings.resolutions)
            images.append(settings.augmentation.draw(image, side, rng))
            labels.append(label)
        batch = Batch.of(images, labels)
        return batch.pinned() if self._device.type == 'cuda' else batch

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the indices of the images of an epoch, in random order."""
        rng = np.random.default_rng([self.settings.seed, 77, epoch])
        count = len(self._dataset)
        if not self.settings.is_balanced:
            return rng.permutation(count)
        return rng.choice(count, count, p=self._chances)

    def _readable(self, order: npt.NDArray[np.int64], place: int) -> tuple[UInt8, int]:
        """Return the image and label at a position of an epoch, or the next readable one."""
        for offset in range(len(order)):
            index = int(order[(place + offset) % len(order)])
            if index not in self._damaged:
                try:
                    return self._dataset.image(index), self._dataset.label(index)
                except DatasetError as error:
                    self._damaged[index] = str(error)
        sentence = next(iter(self._damaged.values()))
        raise DatasetError(f'all {len(order)} images are damaged, the first: {sentence}')


def check_batch_size(images: int, batch_size: int, processes: int = 1) -> None:
    """Raise DatasetError unless a batch has enough images for batch norm, and no more than all."""
    if images < batch_size:
        raise DatasetError(
            f'the training split has {images} images, fewer than one batch of {batch_size}; lower '
            '--batch-size'
        )
    if batch_size % processes:
        raise DatasetError(
            f'a batch of {batch_size} images does not divide among {processes} processes; give a '
            f'--batch-size that is a multiple of {processes}'
        )
    if batch_size < 2 * processes:
        raise DatasetError(
            f'--batch-size is {batch_size}; batch norm needs two images at least in each of '
            f'{processes} processes'
        )


def _moving_average(decay: float) -> Callable[..., None]:
    """Return an exponential moving average for `AveragedModel` whose decay increases at the start.

    With a constant decay, the initial weights would still contribute e^-1 of the average after
    1 / (1 - decay) steps, which is too much in a short training.
    """

    def average(
        averaged: list[torch.Tensor], current: list[torch.Tensor], steps: torch.Tensor
    ) -> None:
        warmed_up = min(decay, (1.0 + float(steps)) / (10.0 + float(steps)))
        get_ema_multi_avg_fn(warmed_up)(averaged, current, steps)  # type: ignore[no-untyped-call]

    return average


def _cosine(share: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def _parameter_groups(module: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Exclude batch norms and biases from weight decay; set the learning rate of the body."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        share = 1.0 if name.startswith(CLASSIFIER) else settings.body_rate
        parameter.requires_grad_(share > 0.0)
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    return [
        {'params': parameters, 'share': share, 'weight_decay': decay}
        for (share, decay), parameters in groups.items()
        if share > 0.0
    ]
