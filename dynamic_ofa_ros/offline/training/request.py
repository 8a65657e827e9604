"""The request of a training run, and checks before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dynamic_ofa_ros.errors import CheckpointError, DatasetError
from dynamic_ofa_ros.family import FAMILY_FILE
from dynamic_ofa_ros.family.new_folder import check_outside_families
from dynamic_ofa_ros.files import printable
from dynamic_ofa_ros.offline.data.folders import check_output
from dynamic_ofa_ros.offline.training.fine_tuning import Start
from dynamic_ofa_ros.offline.training.trainer import TrainingSettings

SIGNS = 'signs'

# The widest published network has a width of 1.3.
WIDEST = 4.0
# Beyond it, the optimiser computes with infinite numbers.
LARGEST_RATE = 100.0


@dataclass(frozen=True)
class TrainingRequest:
    """The settings of a training run; see `dynamic-ofa train --help`.

    Empty settings and None are replaced by those of the initial backbone, or by defaults.
    patience: epochs without progress after which the run stops, 0: never.
    """

    data: str
    output: str
    width_mult: float | None
    resolutions: tuple[int, ...]
    epochs: float
    largest_only_epochs: float
    random_subnets: int
    batch_size: int
    learning_rate: float
    mirror: bool
    rendered_images: int
    rendered_held_out_images: int
    device: str
    threads: int
    seed: int
    start_from: str = ''
    kind: str = ''
    body_rate: float | None = None
    patience: int = 0
    is_strong: bool = False
    mixup: float = 0.0
    is_balanced: bool = False
    label_smoothing: float = TrainingSettings.label_smoothing
    weight_decay: float = TrainingSettings.weight_decay
    averaging: float = TrainingSettings.averaging
    is_half: bool = True


def check_request(request: TrainingRequest) -> None:
    """Raise DatasetError if a setting is out of its range."""
    if not 0.0 < request.epochs < math.inf:
        raise DatasetError(f'--epochs is {request.epochs:g}; it must be above 0')
    for name, number, most in (
        ('--learning-rate', request.learning_rate, LARGEST_RATE),
        ('--width-mult', request.width_mult, WIDEST),
    ):
        if number is not None and not 0.0 < number <= most:
            raise DatasetError(f'{name} is {number:g}; it must be above 0, and {most:g} at most')
    if request.batch_size < 2:
        raise DatasetError(f'--batch-size is {request.batch_size}; it must be at least 2')
    if request.body_rate is not None and not 0.0 <= request.body_rate <= 1.0:
        raise DatasetError(f'--body-rate is {request.body_rate:g}; it must be from 0 to 1')
    for name, share in (
        ('--label-smoothing', request.label_smoothing),
        ('--averaging', request.averaging),
    ):
        if not 0.0 <= share < 1.0:
            raise DatasetError(f'{name} is {share:g}; it must be from 0 to below 1')
    for name, amount in (
        ('--patience', request.patience),
        ('--mixup', request.mixup),
        ('--weight-decay', request.weight_decay),
        ('--largest-only-epochs', request.largest_only_epochs),
    ):
        if not 0.0 <= amount < math.inf:
            raise DatasetError(f'{name} is {amount:g}; it must be 0 or above')
    sizes = request.resolutions
    if sizes and (min(sizes) < 32 or max(sizes) > 512):
        raise DatasetError(f'--resolutions {sizes}: give sizes from 32 to 512 pixels')


def check_output_folder(request: TrainingRequest, directory: Path, start: Start) -> None:
    """Raise an error if the training would damage other data in its output folder."""
    if request.data != SIGNS:
        check_output(directory, request.data)
    check_outside_families(directory)
    if (directory / FAMILY_FILE).exists():
        raise CheckpointError(
            f'{printable(directory)} is a family: the training would replace its weights; '
            'choose another output folder'
        )
    if start.backbone and directory.resolve() == start.backbone.directory.resolve():
        raise CheckpointError(
            f'--output and --start-from are the same folder, {printable(directory)}; choose '
            'another output folder'
        )
