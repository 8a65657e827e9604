"""Latency of sub-networks with the real engine: what decides which levels a family gets."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    BATCH_NORM_FILE,
    Family,
    LatencyProfile,
    Level,
    write_family,
)
from dynamic_ofa_ros.offline.latency.device_profile import SECONDS_A_LEVEL, Place, profile_family
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.supernet.batch_norm import save_statistics, statistics_of
from dynamic_ofa_ros.supernet.network import extract_subnet
from dynamic_ofa_ros.supernet.trained import TrainedBackbone
from dynamic_ofa_ros.supernet.weights import save_tensors


def measure_architectures(
    trained: TrainedBackbone,
    supernet: nn.Module,
    architectures: Sequence[SubnetArchitecture],
    place: Place,
    scratch: Path,
    seconds_a_level: float = SECONDS_A_LEVEL,
) -> LatencyProfile:
    """Measure the latency of any sub-networks, all in turns; `scratch` is a folder to work in.

    They are made a family for a while.
    """
    folder, cache = scratch / 'family', scratch / 'cache'
    shutil.rmtree(scratch, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        write_candidate_family(folder, trained, supernet, architectures)
        return profile_family(Family.load(folder), place, cache, seconds_a_level)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_candidate_family(
    folder: Path,
    trained: TrainedBackbone,
    supernet: nn.Module,
    architectures: Sequence[SubnetArchitecture],
) -> None:
    """Write sub-networks as a family that is there only to be measured.

    They have the supernet's own batch-norm statistics: latency does not depend on their values.
    """
    save_tensors(supernet.state_dict(), folder / BACKBONE_FILE)
    levels = [level_of(i, trained, a, 0.5) for i, a in enumerate(architectures, start=1)]
    save_statistics(
        {
            level.index: statistics_of(extract_subnet(supernet, level.architecture))
            for level in levels
        },
        folder / BATCH_NORM_FILE,
    )
    write_family(
        folder,
        name='candidates',
        source=trained.backbone,
        preprocessing=trained.preprocessing,
        levels=levels,
        labels=trained.labels,
    )


def level_of(
    index: int, trained: TrainedBackbone, architecture: SubnetArchitecture, accuracy: float
) -> Level:
    """Return a level with its cost counted and a name that tells it from others."""
    backbone = trained.backbone
    cost = trained.space.count_cost(architecture, backbone.width_mult, backbone.classes)
    return Level(
        index=index,
        name=f'{backbone.name}_{cost.macs / 1e6:.3g}M_r{architecture.r}',
        network=architecture,
        accuracy=accuracy,
        macs=cost.macs,
        parameters=cost.parameters,
    )
