"""The request of a training run, and checks before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import FAMILY_FILE
from dynamic_ofa_ros.family.new_folder import check_outside_families
from dynamic_ofa_ros.files import printable
from dynamic_ofa_ros.offline.data.folders import check_output
from dynamic_ofa_ros.offline.training.fine_tuning import Start
from dynamic_ofa_ros.offline.training.trainer import TrainingSettings

SIGNS = 'signs'


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
