"""What a training takes over from the backbone that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.space.architecture import SearchSpace

if TYPE_CHECKING:
    import torch

    from dynamic_ofa_ros.offline.training.train import TrainingRequest
    from dynamic_ofa_ros.supernet.trained import TrainedBackbone

DEFAULT_KIND, DEFAULT_WIDTH = SearchSpace.kind, 0.35
DEFAULT_RESOLUTIONS = (32, 40, 48, 56, 64)

NEW_CLASSES_BODY_RATE = 0.1
"""Learning rate of all layers before the classifier, times the classifier's, where classes are
new: what the body has learnt must not be lost to a classifier that begins at random."""

CLASSIFIER = 'classifier.'


@dataclass(frozen=True)
class Start:
    """The request with nothing left open, the input of the networks, and the first weights.

    weights: without those of a classifier of other classes; None for a training from scratch.
    """

    request: TrainingRequest
    preprocessing: Preprocessing
    weights: Mapping[str, torch.Tensor] | None


def start_of(
    request: TrainingRequest, backbone: TrainedBackbone | None, classes: Sequence[str]
) -> Start:
    """Fill in what the request leaves open; raise CheckpointError where it wants another network.

    Kind, width, resolutions and preprocessing are the backbone's. Other classes than its own get a
    new classifier, and a lower learning rate for the rest.
    """
    if backbone is None:
        # Class folders hold objects that fill the picture; a scene's sign may be anywhere in it.
        preprocessing = Preprocessing(crop_fraction=1.0, interpolation='area')
        return Start(
            replace(
                request,
                kind=request.kind or DEFAULT_KIND,
                width_mult=request.width_mult or DEFAULT_WIDTH,
                resolutions=request.resolutions or DEFAULT_RESOLUTIONS,
                body_rate=1.0 if request.body_rate is None else request.body_rate,
            ),
            preprocessing,
            None,
        )
    spec = backbone.backbone
    kind, width = request.kind or spec.kind, request.width_mult or spec.width_mult
    if (kind, width) != (spec.kind, spec.width_mult):
        raise CheckpointError(
            f'{backbone.directory} is {spec.kind} of width {spec.width_mult:g}; asked for are '
            f'{kind} and width {width:g}: leave --kind and --width-mult out to take its own'
        )
    weights: Mapping[str, torch.Tensor] = backbone.load().state_dict()
    is_new = tuple(classes) != tuple(backbone.labels)
    if is_new:
        weights = {n: tensor for n, tensor in weights.items() if not n.startswith(CLASSIFIER)}
    body_rate = NEW_CLASSES_BODY_RATE if is_new else 1.0
    return Start(
        replace(
            request,
            kind=kind,
            width_mult=width,
            resolutions=request.resolutions or backbone.resolutions,
            body_rate=body_rate if request.body_rate is None else request.body_rate,
        ),
        backbone.preprocessing,
        weights,
    )
