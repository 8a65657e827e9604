"""Start a training from the weights of a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.space.architecture import SearchSpace

if TYPE_CHECKING:
    import torch

    from dynamic_ofa_ros.supernet.trained import TrainedBackbone

DEFAULT_KIND, DEFAULT_WIDTH = SearchSpace.kind, 0.35
DEFAULT_RESOLUTIONS = (32, 40, 48, 56, 64)

NEW_CLASSES_BODY_RATE = 0.1
"""Relative learning rate of all layers before a new classifier, so that the random classifier does
not destroy what they have learned."""

CLASSIFIER = 'classifier.'


@dataclass(frozen=True)
class Start:
    """The network to train, and the backbone that it starts from, if any."""

    kind: str
    width_mult: float
    resolutions: tuple[int, ...]
    preprocessing: Preprocessing
    backbone: TrainedBackbone | None = None

    def has_classes(self, classes: Sequence[str]) -> bool:
        """Return whether the backbone has these classes in this order."""
        return self.backbone is not None and tuple(classes) == tuple(self.backbone.labels)

    def body_rate(self, classes: Sequence[str]) -> float:
        """Return the learning rate of all layers before the classifier, relative to its own."""
        return 1.0 if self.backbone is None or self.has_classes(classes) else NEW_CLASSES_BODY_RATE

    def weights(self, classes: Sequence[str]) -> Mapping[str, torch.Tensor] | None:
        """Return the initial weights, without a classifier of other classes; None: random."""
        if self.backbone is None:
            return None
        weights: Mapping[str, torch.Tensor] = self.backbone.load().state_dict()
        if self.has_classes(classes):
            return weights
        return {name: w for name, w in weights.items() if not name.startswith(CLASSIFIER)}


def start_of(
    backbone: TrainedBackbone | None,
    kind: str = '',
    width_mult: float | None = None,
    resolutions: tuple[int, ...] = (),
) -> Start:
    """Return the start of a training; missing settings are those of the backbone or the defaults.

    Raise CheckpointError if the settings contradict the backbone.
    """
    if backbone is None:
        return Start(
            kind or DEFAULT_KIND,
            width_mult or DEFAULT_WIDTH,
            resolutions or DEFAULT_RESOLUTIONS,
            # In class folders, objects fill the image; the sign of a scene can be anywhere.
            Preprocessing(crop_fraction=1.0, interpolation='area'),
        )
    own = backbone.backbone
    kind, width_mult = kind or own.kind, width_mult or own.width_mult
    if (kind, width_mult) != (own.kind, own.width_mult):
        raise CheckpointError(
            f'{backbone.directory} is {own.kind} of width {own.width_mult:g}, not '
            f'{kind} of width {width_mult:g}: omit --kind and --width-mult to use its own'
        )
    return Start(
        kind, width_mult, resolutions or backbone.resolutions, backbone.preprocessing, backbone
    )
