"""Measure the latency of sub-networks with the engine that runs them on the robot."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import nn

from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    BATCH_NORM_FILE,
    Family,
    LatencyProfile,
    Level,
    write_family,
)
from dynamic_ofa_ros.offline.latency.family_profile import (
    SECONDS_A_LEVEL,
    DeviceSettings,
    profile_family,
    settings_of,
)
from dynamic_ofa_ros.offline.search.candidates import key_of
from dynamic_ofa_ros.offline.work_folder import Journal
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.supernet.batch_norm import save_statistics, statistics_of
from dynamic_ofa_ros.supernet.network import extract_subnet
from dynamic_ofa_ros.supernet.trained import TrainedBackbone
from dynamic_ofa_ros.supernet.weights import save_tensors

GROUP_NETWORKS = 20
"""Sub-networks that are measured in turns with one engine."""

SECONDS_TO_RESOLVE = 1.0


def measure_architectures(
    trained: TrainedBackbone,
    supernet: nn.Module,
    architectures: Sequence[SubnetArchitecture],
    settings: DeviceSettings,
    scratch: Path,
    seconds_a_level: float = SECONDS_A_LEVEL,
) -> LatencyProfile:
    """Measure the latency of sub-networks in turns.

    They are written into `scratch` as a temporary family; that folder is removed.
    """
    folder, cache = scratch / 'family', scratch / 'cache'
    shutil.rmtree(scratch, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        write_candidate_family(folder, trained, supernet, architectures)
        return profile_family(Family.load(folder), settings, cache, seconds_a_level)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def resolve_auto(
    trained: TrainedBackbone, supernet: nn.Module, settings: DeviceSettings, scratch: Path
) -> tuple[DeviceSettings, str]:
    """Return the settings with `auto` resolved, and the name of the platform.

    The smallest and the largest sub-network are measured, so an engine that does not work fails
    here.
    """
    extremes = (trained.space.smallest(), trained.space.largest())
    profile = measure_architectures(
        trained, supernet, extremes, settings, scratch, SECONDS_TO_RESOLVE
    )
    return settings_of(profile) or settings, profile.platform


def time_networks(
    trained: TrainedBackbone,
    supernet: nn.Module,
    architectures: Sequence[SubnetArchitecture],
    settings: DeviceSettings,
    journal: Journal,
    scratch: Path,
    seconds_each: float,
) -> list[float]:
    """Return the median latencies of many sub-networks in milliseconds.

    Those that the journal (by `name`) lacks are measured in groups of `GROUP_NETWORKS`; each group
    is in the journal before the next one starts.
    """
    missing = [a for a in architectures if key_of(a) not in journal]
    order = np.random.default_rng(len(architectures)).permutation(len(missing))
    done = len(architectures) - len(missing)
    with progress('measuring whole networks', len(architectures)) as bar:
        bar.update(done)
        for start in range(0, len(missing), GROUP_NETWORKS):
            group = [missing[k] for k in order[start : start + GROUP_NETWORKS]]
            # An engine may configure itself by the last level, which is the largest in a family.
            group.sort(key=lambda a: level_of(1, trained, a, 0.5).macs)
            profile = measure_architectures(
                trained, supernet, group, settings, scratch, seconds_each
            )
            for architecture, level in zip(group, profile.levels, strict=True):
                journal.add({'name': key_of(architecture), **asdict(level)})
            bar.update(done := done + len(group))
    return [float(journal[key_of(a)]['median_ms']) for a in architectures]


def write_candidate_family(
    folder: Path,
    trained: TrainedBackbone,
    supernet: nn.Module,
    architectures: Sequence[SubnetArchitecture],
) -> None:
    """Write sub-networks as a family whose latency is to be measured.

    They keep the supernet's batch-norm statistics, whose values do not influence the latency.
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
    """Return a level with its cost and a descriptive name."""
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
