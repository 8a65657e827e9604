"""The result of a training run: `backbone.safetensors` and `backbone.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    FAMILY_FILE,
    BackboneSpec,
    Family,
    Preprocessing,
    families_directory,
)
from dynamic_ofa_ros.files import write_text_atomically
from dynamic_ofa_ros.space.architecture import SearchSpace
from dynamic_ofa_ros.space.spaces import search_space
from dynamic_ofa_ros.supernet.network import build_supernet
from dynamic_ofa_ros.supernet.published import efficientnet_lite
from dynamic_ofa_ros.supernet.published.checkpoints import (
    fetched_folder,
    published_names,
    resolve_backbone,
)
from dynamic_ofa_ros.supernet.published.imagenet_labels import imagenet_labels
from dynamic_ofa_ros.supernet.weights import load_weights, save_tensors

BACKBONE_DOCUMENT = 'backbone.yaml'
IMAGENET = 'imagenet'


@dataclass(frozen=True)
class TrainedBackbone:
    """A trained supernet in a folder, with all information required to build a family from it."""

    directory: Path
    backbone: BackboneSpec
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    resolutions: tuple[int, ...]
    training: Mapping[str, Any]

    @property
    def space(self) -> SearchSpace:
        """Return the search space the supernet was trained for."""
        return search_space(self.backbone.kind, self.resolutions)

    def load(self) -> nn.Module:
        """Build the supernet and load its weights; float32, eval mode, on the CPU."""
        supernet = build_supernet(self.backbone)
        load_weights(supernet, self.directory / BACKBONE_FILE)
        return supernet.eval()

    def save(self, supernet: nn.Module) -> None:
        """Write the weights and then the YAML file, each atomically."""
        state: Mapping[str, torch.Tensor] = supernet.state_dict()
        save_tensors(state, self.directory / BACKBONE_FILE)
        document = {
            'backbone': asdict(self.backbone),
            'resolutions': list(self.resolutions),
            'preprocessing': {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self.preprocessing).items()
            },
            'labels': list(self.labels),
            'training': dict(self.training),
        }
        write_text_atomically(
            self.directory / BACKBONE_DOCUMENT,
            yaml.safe_dump(document, sort_keys=False, default_flow_style=None),
        )


def open_backbone(path_or_name: str | Path) -> TrainedBackbone:
    """Read a backbone from a training folder, from a published backbone, or from a family.

    path_or_name: a folder, or the name of a fetched backbone or of a family. `imagenet` is
    EfficientNet-Lite0; it is built at first use from the packages of the extra `imagenet`. Raise
    CheckpointError if the backbone is missing, incomplete or damaged.
    """
    folder = resolve_backbone(path_or_name)
    if str(path_or_name) == IMAGENET and not folder.exists():
        folder = _imagenet_folder()
    path = folder / BACKBONE_DOCUMENT
    if not path.exists() and _is_family(folder, path_or_name):
        return backbone_of(Family.load(path_or_name))
    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
        return TrainedBackbone(
            directory=folder,
            backbone=BackboneSpec(**document['backbone']),
            preprocessing=_preprocessing(document['preprocessing']),
            labels=tuple(document['labels']),
            resolutions=tuple(int(r) for r in document['resolutions']),
            training=document.get('training', {}),
        )
    except FileNotFoundError:
        raise CheckpointError(
            f'{path} is missing: {folder} is not the output folder of a finished dynamic-ofa '
            f'train, a family or a published backbone ({", ".join(published_names())})'
        ) from None
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f'{path} is damaged: {type(error).__name__}: {error}') from None


def _imagenet_folder() -> Path:
    """Return the folder of the backbone `imagenet`; build it if it does not exist."""
    backbone = efficientnet_lite.LITE0_BACKBONE
    folder = fetched_folder(backbone.name)
    if not (folder / BACKBONE_DOCUMENT).is_file():
        supernet = efficientnet_lite.load_supernet()
        folder.mkdir(parents=True, exist_ok=True)
        TrainedBackbone(
            directory=folder,
            backbone=backbone,
            preprocessing=efficientnet_lite.preprocessing(efficientnet_lite.NATIVE_LITE0),
            labels=imagenet_labels(),
            resolutions=search_space(backbone.kind).resolutions,
            training={'data': 'ImageNet', 'weights': 'EfficientNet-Lite0, largest network only'},
        ).save(supernet)
    return folder


def backbone_of(family: Family) -> TrainedBackbone:
    """Return the backbone of a family, to build another family from it.

    Its resolutions are those that the family was built with; if they are not recorded, those of
    its levels.
    """
    provenance = family.provenance
    resolutions = {level.resolution for level in family.levels}
    for section in ('training', 'build'):
        recorded = provenance.get(section)
        if isinstance(recorded, Mapping) and recorded.get('resolutions'):
            resolutions = {int(r) for r in recorded['resolutions']}
    training = provenance.get('training')
    return TrainedBackbone(
        directory=family.directory,
        backbone=family.backbone,
        preprocessing=family.preprocessing,
        labels=family.labels,
        resolutions=tuple(sorted(resolutions)),
        training=training if isinstance(training, Mapping) else {},
    )


def _is_family(folder: Path, path_or_name: str | Path) -> bool:
    shipped = families_directory() / str(path_or_name)
    return (folder / FAMILY_FILE).is_file() or (shipped / FAMILY_FILE).is_file()


def _preprocessing(document: Mapping[str, Any]) -> Preprocessing:
    mean, std = ([float(v) for v in document[key]] for key in ('mean', 'std'))
    return Preprocessing(
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
        float(document['crop_fraction']),
        str(document['interpolation']),
    )
