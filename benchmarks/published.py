"""The six published GPU levels of OFA-MobileNetV3 w1.2 as a family with random weights.

Latency does not depend on the values of the weights as long as activations are in a normal range,
which recalculated batch norms ensure. The accuracies are the published ones; the labels are
placeholders.
"""

from __future__ import annotations

from pathlib import Path

from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    BATCH_NORM_FILE,
    Family,
    Level,
    Preprocessing,
    write_family,
)
from dynamic_ofa_ros.runtime.reference import add_reference
from dynamic_ofa_ros.space.spaces import search_space
from dynamic_ofa_ros.supernet.published.level_file import read_levels

LEVELS = 'ofa_mbv3_w12_xavier_nx_gpu'
CALIBRATION_IMAGES = 4


def published_family(directory: Path, *, only_highest: bool = False) -> Family:
    """Write the family, or only its highest level, to an empty or missing folder; return it."""
    import torch

    from dynamic_ofa_ros.supernet.batch_norm import recalculate, save_statistics, statistics_of
    from dynamic_ofa_ros.supernet.network import build_supernet, extract_subnet
    from dynamic_ofa_ros.supernet.weights import save_tensors

    torch.manual_seed(0)
    directory.mkdir(parents=True, exist_ok=True)
    listed = read_levels(LEVELS)
    backbone = listed.backbone
    space = search_space(backbone.kind)
    supernet = build_supernet(backbone).eval()
    save_tensors(supernet.state_dict(), directory / BACKBONE_FILE)
    levels, statistics = [], {}
    chosen = listed.levels[-1:] if only_highest else listed.levels
    for index, published in enumerate(chosen, start=1):
        architecture = published.architecture
        subnet = extract_subnet(supernet, architecture)
        recalculate(subnet, [torch.randn(CALIBRATION_IMAGES, 3, architecture.r, architecture.r)])
        statistics[index] = statistics_of(subnet)
        cost = space.count_cost(architecture, backbone.width_mult, backbone.classes)
        levels.append(
            Level(
                index=index,
                name=f'published {index}',
                network=architecture,
                accuracy=published.accuracy or 0.0,
                macs=cost.macs,
                parameters=cost.parameters,
            )
        )
    save_statistics(statistics, directory / BATCH_NORM_FILE)
    write_family(
        directory,
        name=f'{backbone.name} (random weights)',
        source=backbone,
        preprocessing=Preprocessing(),
        levels=levels,
        labels=[f'class {i}' for i in range(backbone.classes)],
    )
    return add_reference(directory)
