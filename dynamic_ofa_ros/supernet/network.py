"""Build supernets with the `ofa` package and extract static sub-networks from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dynamic_ofa_ros.errors import ArchitectureError, BackboneError
from dynamic_ofa_ros.family import BackboneSpec, Family
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.spaces import (
    SPACES,
    EfficientNetLiteSpace,
    ProxylessSpace,
    ResNet50Space,
    search_space,
)
from dynamic_ofa_ros.supernet import efficientnet_lite
from dynamic_ofa_ros.supernet.batch_norm import load_statistics
from dynamic_ofa_ros.supernet.ofa_package import import_ofa
from dynamic_ofa_ros.supernet.weights import load_weights

MOBILENET_V3 = SearchSpace.kind

# Classes of the supernets. All are defined in `ofa`, except that of EfficientNet-Lite.
_CLASSES = {
    MOBILENET_V3: 'OFAMobileNetV3',
    ProxylessSpace.kind: 'OFAProxylessNASNets',
    EfficientNetLiteSpace.kind: efficientnet_lite.CLASS_NAME,
    ResNet50Space.kind: 'OFAResNets',
}
_BATCH_NORM_MOMENTUM = 0.1

# With a smaller width multiplier, the first stage of a ResNet-50 would be as wide as the stem, but
# `ofa` distinguishes them by their widths.
_NARROWEST_RESNET = 0.1

# Supernets trained on ImageNet, as published by `ofa.model_zoo.ofa_net`.
PUBLISHED = {
    name: BackboneSpec(name, kind, width_mult, 1000)
    for name, kind, width_mult in (
        ('ofa_mbv3_d234_e346_k357_w1.0', MOBILENET_V3, 1.0),
        ('ofa_mbv3_d234_e346_k357_w1.2', MOBILENET_V3, 1.2),
        ('ofa_proxyless_d234_e346_k357_w1.3', ProxylessSpace.kind, 1.3),
        ('ofa_resnet50', ResNet50Space.kind, 1.0),
    )
}


def build_supernet(backbone: BackboneSpec, dropout_rate: float = 0.0) -> nn.Module:
    """Build a supernet with random weights; raise BackboneError for an unknown kind."""
    if backbone.kind not in SPACES:
        raise BackboneError(
            f'backbone {backbone.name} is of the unknown kind {backbone.kind!r}; known kinds are '
            f'{", ".join(SPACES)}'
        )
    batch_norm = (_BATCH_NORM_MOMENTUM, SPACES[backbone.kind].batch_norm_epsilon)
    if backbone.kind == EfficientNetLiteSpace.kind:
        return efficientnet_lite.build(
            backbone.classes, backbone.width_mult, dropout_rate, batch_norm
        )
    networks = import_ofa('imagenet_classification.elastic_nn.networks')
    supernet: nn.Module = getattr(networks, _CLASSES[backbone.kind])(
        n_classes=backbone.classes,
        bn_param=batch_norm,
        dropout_rate=dropout_rate,
        **_structure(backbone),
    )
    return supernet


def published_backbone(name: str) -> BackboneSpec:
    """Return the supernet published under `name`, a name of `ofa_net`; raise BackboneError."""
    try:
        return PUBLISHED[name]
    except KeyError:
        raise BackboneError(
            f'there is no published backbone {name!r}; known are {", ".join(PUBLISHED)}'
        ) from None


def set_active(supernet: nn.Module, architecture: SubnetArchitecture) -> None:
    """Select the sub-network that the forward pass of the supernet computes.

    Raise ArchitectureError if `architecture` is not a sub-network of this supernet. Any resolution
    is accepted.
    """
    class_name = type(supernet).__name__
    (kind,) = (kind for kind, name in _CLASSES.items() if name == class_name)
    space = search_space(kind, (architecture.r,))
    space.validate(architecture)
    supernet.set_active_subnet(  # type: ignore[operator]
        **{
            genes.field: list(architecture.values(genes.field))
            for genes in space.genes
            if genes.field != 'r'
        }
    )


def extract_subnet(supernet: nn.Module, architecture: SubnetArchitecture) -> nn.Module:
    """Return the static network of `architecture`, in eval mode, with its own copy of the weights.

    Its output equals that of the supernet with the same architecture selected. Its batch-norm
    statistics are slices of the supernet's and wrong until they are recalculated or loaded.
    """
    try:
        set_active(supernet, architecture)
    except ArchitectureError as error:
        raise ArchitectureError(f'cannot extract a sub-network: {error}') from None
    with torch.no_grad():
        subnet: nn.Module = supernet.get_active_subnet(preserve_weight=True)  # type: ignore[operator]
    return subnet.eval()


def load_supernet(family: Family) -> nn.Module:
    """Build a family's supernet and load its weights; float32, eval mode, on the CPU."""
    supernet = build_supernet(family.backbone)
    load_weights(supernet, family.weights_path)
    return supernet.eval()


def load_level(family: Family, index: int, supernet: nn.Module | None = None) -> nn.Module:
    """Return the network of level `index` (1-based), with its statistics; eval mode, on the CPU.

    supernet: the result of `load_supernet`; pass it to read the weights once for several levels.
    """
    level = family.level(index)
    subnet = extract_subnet(supernet or load_supernet(family), level.architecture)
    load_statistics(subnet, family.batch_norm_path, level.index)
    return subnet


def state_in_half(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a copy of a state dict with floating-point tensors as float16, for storage."""
    return {
        name: value.half() if value.is_floating_point() else value for name, value in state.items()
    }


def _structure(backbone: BackboneSpec) -> dict[str, Any]:
    """Return the choices of the search space as arguments of the classes of `ofa`."""
    space = search_space(backbone.kind)
    structure: dict[str, Any] = {
        'expand_ratio_list': list(space.expand_ratios),
        'depth_list': list(space.depths),
    }
    if not isinstance(space, ResNet50Space):
        return {
            **structure,
            'ks_list': list(space.kernel_sizes),
            'width_mult': backbone.width_mult,
        }
    if backbone.width_mult < _NARROWEST_RESNET:
        raise BackboneError(
            f'backbone {backbone.name} has width {backbone.width_mult:g}; a ResNet-50 requires at '
            f'least {_NARROWEST_RESNET:g}'
        )
    widths = [width * backbone.width_mult for width in space.width_mults]
    return {**structure, 'width_mult_list': widths}
