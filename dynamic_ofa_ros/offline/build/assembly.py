"""The last stages of a build: calibrate levels, measure them again, and write the family."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dynamic_ofa_ros.errors import EngineError, FamilyError
from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    BATCH_NORM_FILE,
    PLATFORMS_FOLDER,
    Family,
    LatencyProfile,
    write_family,
    write_profile,
)
from dynamic_ofa_ros.offline.accuracy.evaluation import (
    Evaluator,
    PreparedImages,
    calibration_subset,
)
from dynamic_ofa_ros.offline.build.build_context import BuildContext, accuracy_device
from dynamic_ofa_ros.offline.build.stages import check_some_are_right
from dynamic_ofa_ros.offline.latency.family_profile import (
    MEASURE_AGAIN,
    profile_family,
    settings_of,
)
from dynamic_ofa_ros.offline.latency.on_device import level_of
from dynamic_ofa_ros.offline.search.candidates import (
    CANDIDATES_FOLDER,
    Candidate,
    key_of,
    write_candidates,
)
from dynamic_ofa_ros.offline.search.pareto import front
from dynamic_ofa_ros.offline.work_folder import Journal
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.profiling import warn_when_busy
from dynamic_ofa_ros.runtime.reference import add_reference
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.supernet.batch_norm import save_statistics, statistics_of
from dynamic_ofa_ros.supernet.network import state_in_half
from dynamic_ofa_ros.supernet.weights import load_tensors, save_tensors

logger = logging.getLogger(__name__)

Statistics = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Member:
    """A future level: its top-1 on the report images and its batch-norm statistics."""

    architecture: SubnetArchitecture
    top1: float
    statistics: Statistics


def calibrate_levels(
    context: BuildContext, architectures: Sequence[SubnetArchitecture]
) -> list[Member]:
    """Calibrate each architecture and measure its top-1 on the report images.

    Each level is stored as soon as it is done: its statistics in a file, its top-1 in a journal.
    """
    trained, images = context.trained, context.settings.calibration_images
    depends_on = context.accuracy_id(images, context.report)
    rows = Journal(context.work.path('reported', depends_on, '.jsonl'), 'architecture')
    paths = {
        key_of(a): context.work.path('level', {**depends_on, 'level': key_of(a)}, '.safetensors')
        for a in architectures
    }
    missing = [a for a in architectures if key_of(a) not in rows or not paths[key_of(a)].is_file()]
    if missing:
        context.set_threads()
        resolutions = tuple({a.r for a in missing})
        supernet = context.supernet.to(accuracy_device(context.settings))
        evaluator = Evaluator(
            supernet,
            PreparedImages(
                calibration_subset(context.training, images), trained.preprocessing, resolutions
            ),
            PreparedImages(context.report, trained.preprocessing, resolutions),
        )
        with progress('calibrating the levels', len(architectures)) as bar:
            bar.update(done := len(architectures) - len(missing))
            for architecture in missing:
                evaluation = evaluator.evaluate(architecture)
                key = key_of(architecture)
                save_tensors(statistics_of(evaluation.subnet), paths[key])
                rows.add({'architecture': key, 'top1': evaluation.top1})
                bar.update(done := done + 1, f'top-1 {evaluation.top1:.1%}')
        context.supernet.cpu()
    return [
        Member(a, float(rows[key_of(a)]['top1']), load_tensors(paths[key_of(a)]))
        for a in architectures
    ]


def members_of(family: Family) -> list[Member]:
    """Return the levels of an existing family."""
    stored = load_tensors(family.batch_norm_path)
    members = []
    for level in family.levels:
        prefix = f'level_{level.index}/'
        statistics = {
            name[len(prefix) :]: value for name, value in stored.items() if name.startswith(prefix)
        }
        members.append(Member(level.architecture, level.accuracy, statistics))
    return members


def without_useless(context: BuildContext, members: Sequence[Member]) -> list[Member]:
    """Return the members that classify any image correctly; log the others.

    Raise DatasetError if there are none.
    """
    check_some_are_right([m.top1 for m in members], len(context.report))
    for member in members:
        if not member.top1:
            logger.warning(
                'a level of %d px is omitted: it classifies all %d report images wrongly; with '
                'more held-out images it may become a level',
                member.architecture.r,
                len(context.report),
            )
    return [m for m in members if m.top1]


def without_dominated(context: BuildContext, members: Sequence[Member]) -> list[Member]:
    """Return the members on the Pareto front, fastest first; log the others.

    Latency is measured again, in turns; top-1 is that of the report images.
    """
    profile = context.measure_latency([m.architecture for m in members])
    latency_ms = [level.median_ms for level in profile.levels]
    top1 = [member.top1 for member in members]
    kept = front(latency_ms, top1)
    for index in sorted(set(range(len(members))) - set(kept)):
        better = next(
            i for i in kept if latency_ms[i] <= latency_ms[index] and top1[i] >= top1[index]
        )
        logger.warning(
            'a level of %d px (%.2f ms, top-1 %.2f %%) is omitted: measured again, one of '
            '%d px is not slower and not less accurate (%.2f ms, %.2f %%)',
            members[index].architecture.r,
            latency_ms[index],
            top1[index] * 100,
            members[better].architecture.r,
            latency_ms[better],
            top1[better] * 100,
        )
    return [members[i] for i in kept]


def merged(
    context: BuildContext, members: Sequence[Member], other: Family
) -> tuple[list[Member], list[Member]]:
    """Return all levels of two families of one backbone, ascending in accuracy, and the new ones.

    Raise FamilyError unless backbone, labels and preprocessing are equal.
    """
    for what, mine, theirs in (
        ('backbone', context.trained.backbone, other.backbone),
        ('labels', context.trained.labels, other.labels),
        ('preprocessing', context.trained.preprocessing, other.preprocessing),
    ):
        if mine != theirs:
            raise FamilyError(
                f'{other.directory} cannot be merged: its {what} differs from that of this build; '
                'all levels of a family must share one backbone'
            )
    weights, stored = (
        state_in_half(context.supernet.state_dict()),
        load_tensors(other.weights_path),
    )
    if weights.keys() != stored.keys() or any(
        not torch.equal(value, stored[name].to(value.dtype)) for name, value in weights.items()
    ):
        raise FamilyError(
            f'{other.directory} cannot be merged: its weights differ from those of this backbone; '
            'give the backbone that it was built from, or the family itself as --backbone'
        )
    space = context.trained.space
    old = members_of(other)
    known = {m.architecture.canonical(space) for m in old}
    new = [m for m in members if m.architecture.canonical(space) not in known]
    everything = sorted([*old, *new], key=lambda m: (m.top1, context.macs(m.architecture)))
    return everything, new


def write_members(
    folder: Path,
    context: BuildContext,
    members: Sequence[Member],
    name: str,
    provenance: Mapping[str, Any],
) -> Family:
    """Write the files of the family into `folder`, without platforms."""
    save_tensors(state_in_half(context.supernet.state_dict()), folder / BACKBONE_FILE)
    save_statistics(
        {i: member.statistics for i, member in enumerate(members, start=1)},
        folder / BATCH_NORM_FILE,
    )
    write_family(
        folder,
        name=name,
        source=context.trained.backbone,
        preprocessing=context.trained.preprocessing,
        levels=[
            level_of(i, context.trained, member.architecture, member.top1)
            for i, member in enumerate(members, start=1)
        ],
        labels=context.trained.labels,
        provenance=provenance,
    )
    return add_reference(folder)


def write_platforms(
    folder: Path, context: BuildContext, members: Sequence[Member], other: Family | None
) -> LatencyProfile:
    """Write the latencies of this platform, and of the merged family's that can be measured here.

    Other platforms lack the new levels, so their files are omitted with a warning. Such a machine
    measures the family at its first start.
    """
    profile = context.measure_latency([m.architecture for m in members])
    if context.settings.times_here:
        warn_when_busy(profile.load_of_others, MEASURE_AGAIN)
    # Predictions of a table are not written: the robot measures the family at its first start.
    profiles = [] if context.settings.by_table else [profile]
    for platform, earlier in (other.platforms if other is not None else {}).items():
        if platform == profile.platform:
            continue
        device_settings = settings_of(earlier)
        found = None
        if device_settings is not None:
            try:
                found = profile_family(
                    Family.load(folder), device_settings, context.work.scratch / 'cache'
                )
            except EngineError as error:
                logger.info('%s', error)
        if found is None or found.platform != platform:
            logger.warning(
                'the latencies of %s are omitted, because the new levels were not measured '
                'there: they are measured at its first start, or with dynamic-ofa measure',
                platform,
            )
            continue
        profiles.append(found)
    for item in profiles:
        write_profile(item, folder / PLATFORMS_FOLDER / f'{item.platform}.yaml')
    return profile


def write_scatter(
    folder: Path,
    context: BuildContext,
    members: Sequence[Member],
    candidates: Sequence[Candidate],
    platform: str,
    other: Family | None,
) -> None:
    """Write the candidates beside the family, with those of the merged family."""
    if other is not None and (other.directory / CANDIDATES_FOLDER).is_dir():
        shutil.copytree(other.directory / CANDIDATES_FOLDER, folder / CANDIDATES_FOLDER)
    if not candidates:
        return
    index = {
        key_of(m.architecture.canonical(context.trained.space)): i
        for i, m in enumerate(members, start=1)
    }
    write_candidates(
        folder,
        platform,
        [replace(c, level=index.get(key_of(c.architecture), 0)) for c in candidates],
    )
