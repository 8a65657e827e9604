"""What a training takes over from the backbone that it starts from."""

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
"""Learning rate of all layers before the classifier, times the classifier's, where classes are
new: what the body has learnt must not be lost to a classifier that begins at random."""

CLASSIFIER = 'classifier.'


@dataclass(frozen=True)
class Start:
    """The network that a training trains, and the backbone that it comes from, if any."""

    kind: str
    width_mult: float
    resolutions: tuple[int, ...]
    preprocessing: Preprocessing
    backbone: TrainedBackbone | None = None

    def has_classes(self, classes: Sequence[str]) -> bool:
        """Tell whether the backbone tells these classes apart, in this order."""
        return self.backbone is not None and tuple(classes) == tuple(self.backbone.labels)

    def body_rate(self, classes: Sequence[str]) -> float:
        """Return the learning rate of all but the classifier, times the classifier's."""
        return 1.0 if self.backbone is None or self.has_classes(classes) else NEW_CLASSES_BODY_RATE

    def weights(self, classes: Sequence[str]) -> Mapping[str, torch.Tensor] | None:
        """Return the first weights, without a classifier of other classes; None: at random."""
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
    """Return where a training starts: what is left open is the backbone's, or the default.

    Raise CheckpointError where another network than the backbone's is asked for.
    """
    if backbone is None:
        return Start(
            kind or DEFAULT_KIND,
            width_mult or DEFAULT_WIDTH,
            resolutions or DEFAULT_RESOLUTIONS,
            # Class folders hold objects that fill the picture; a scene's sign may be anywhere.
            Preprocessing(crop_fraction=1.0, interpolation='area'),
        )
    own = backbone.backbone
    kind, width_mult = kind or own.kind, width_mult or own.width_mult
    if (kind, width_mult) != (own.kind, own.width_mult):
        raise CheckpointError(
            f'{backbone.directory} is {own.kind} of width {own.width_mult:g}; asked for are '
            f'{kind} and width {width_mult:g}: leave --kind and --width-mult out to take its own'
        )
    return Start(
        kind, width_mult, resolutions or backbone.resolutions, backbone.preprocessing, backbone
    )
