"""Build a family from a backbone: search, calibrate, measure, choose, write.

The results of the eight stages are kept in a work folder, so that an interrupted build can be
resumed. The output folder is created only when the family is complete.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import FamilyError, SearchError
from dynamic_ofa_ros.family import FAMILY_FILE, MAX_LEVELS, Family, LatencyProfile
from dynamic_ofa_ros.family.model_card import write_model_card
from dynamic_ofa_ros.family.new_folder import check_new_folder
from dynamic_ofa_ros.files import creating_folder, naming, printable
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor
from dynamic_ofa_ros.offline.build.assembly import (
    calibrate_levels,
    merged,
    without_dominated,
    without_useless,
    write_members,
    write_platforms,
    write_scatter,
)
from dynamic_ofa_ros.offline.build.build_context import (
    BuildContext,
    BuildSettings,
    check_data,
    open_context,
    open_table,
)
from dynamic_ofa_ros.offline.build.precisions import write_in_precisions
from dynamic_ofa_ros.offline.build.stages import (
    SEARCHES,
    BuildCandidates,
    find_candidates,
    hopeful_candidates,
    stage,
)
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, fingerprint
from dynamic_ofa_ros.offline.latency.measured import read_measured
from dynamic_ofa_ros.offline.latency.on_device import write_candidate_family
from dynamic_ofa_ros.offline.search.candidates import FINALIST, Candidate
from dynamic_ofa_ros.offline.search.pareto import choose_levels
from dynamic_ofa_ros.offline.work_folder import WorkFolder
from dynamic_ofa_ros.runtime.engine import engine_names
from dynamic_ofa_ros.runtime.reference import add_reference
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.supernet.devices import check_device
from dynamic_ofa_ros.supernet.published.checkpoints import published_names
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

__all__ = ['BuildReport', 'BuildSettings', 'build_family']

logger = logging.getLogger(__name__)

PUBLISHED_LICENCE = 'MIT, as the Once-for-all repository (mit-han-lab) that published them'

# Settings that family.yaml records.
_RECORDED = (
    'levels', 'span', 'candidates', 'finalists', 'search', 'evaluations', 'calibration_images',
    'selection_images', 'threads', 'seed',
)  # fmt: skip


@dataclass(frozen=True)
class BuildReport:
    """The family, the latency profile of the platform, and the time of each stage.

    left_out: a sentence for every network that did not become a level because of its precision.
    """

    family: Family
    profile: LatencyProfile
    seconds: Mapping[str, float]
    left_out: tuple[str, ...] = ()


def build_family(
    trained: TrainedBackbone,
    training: ImageDataset,
    held_out: ImageDataset,
    output: Path,
    settings: BuildSettings,
    name: str,
    *,
    work_folder: Path | None = None,
    merge_with: Family | None = None,
    candidates_to: Path | None = None,
) -> BuildReport | None:
    """Build a family in the folder `output`, which must not exist.

    Levels are chosen by one half of the held-out images; the family states their accuracies on the
    other half. Levels of a level file are not chosen, so their accuracies use all images. A given
    `work_folder` is kept: a build for another platform then measures only latencies. `merge_with`
    is a family of the same backbone whose levels are added. With `candidates_to` the build ends
    after stage 4: the candidates are written as a family into that new folder, to be measured on a
    robot, and None is returned. With precisions other than fp32, the family has separate networks
    instead of a supernet.
    """
    default_work = output.with_name(f'.{output.name}.build')
    if (output / FAMILY_FILE).is_file():  # of a build that was killed after its last stage
        shutil.rmtree(default_work, ignore_errors=True)
    _check(trained, training, held_out, output, settings)
    _check_robot(trained, settings, merge_with, candidates_to)
    _check_int8(settings, candidates_to)
    work = WorkFolder(work_folder or default_work, is_kept=work_folder is not None)
    busy = FamilyError(
        f'another process uses {printable(work.folder)}: wait for it, or choose another '
        f'{"--work folder" if work_folder else "--output"}'
    )
    with naming(work.folder), work.alone(busy):
        context = open_context(trained, training, held_out, work, settings)
        if candidates_to is not None:
            _write_candidates(context, candidates_to)
            return None
        return _build(context, output, name, merge_with)


def _write_candidates(context: BuildContext, folder: Path) -> None:
    """Run stages 1 to 4 and write the candidates as a family; the work folder is kept."""
    chosen, _, _ = hopeful_candidates(context)
    chosen = sorted(chosen, key=lambda c: c.macs)[:MAX_LEVELS]
    with creating_folder(folder) as partial:
        write_candidate_family(
            partial, context.trained, context.supernet, [c.architecture for c in chosen]
        )
        add_reference(partial)
    logger.info(
        '%d candidates: measure them on the robot with dynamic-ofa measure FOLDER --output FILE, '
        'then run this command with --measured FILE in place of --candidates-to',
        len(chosen),
    )


def _check_robot(
    trained: TrainedBackbone,
    settings: BuildSettings,
    merge_with: Family | None,
    candidates_to: Path | None,
) -> None:
    chosen = [
        name
        for name, is_given in (
            ('--candidates-to', candidates_to is not None),
            ('--measured', bool(settings.measured)),
            ('--levels with a file', bool(settings.architectures)),
        )
        if is_given
    ]
    if len(chosen) > 1:
        raise SearchError(f'{" and ".join(chosen)} cannot be combined: give one of them')
    if settings.by_table and not settings.lut:
        raise SearchError('--by-table requires --lut FILE, the latency model of the robot')
    if merge_with is not None and not settings.times_here:
        raise SearchError(
            '--merge measures all levels on this machine: build without it and merge on the '
            'robot, or omit --measured and --by-table'
        )
    if candidates_to is not None:
        check_new_folder(candidates_to)
    if settings.measured:
        read_measured(settings.measured).check_fits(trained.backbone, trained.space)


def _check_int8(settings: BuildSettings, candidates_to: Path | None) -> None:
    if 'int8' not in settings.precisions:
        return
    if candidates_to is not None or not settings.times_here:
        raise SearchError(
            '--precisions with int8 measures all levels on this machine: build with fp32, and on '
            'the robot run dynamic-ofa export and dynamic-ofa family from-onnx with int8'
        )
    if settings.engine == 'pytorch':
        raise SearchError(
            'engine pytorch runs no quantised networks: give another --engine, or omit int8'
        )
    if len(settings.precisions) * settings.levels > MAX_LEVELS:
        raise SearchError(
            f'{settings.levels} levels in {len(settings.precisions)} precisions are more than '
            f'{MAX_LEVELS}: give a lower --count'
        )


def _build(
    context: BuildContext, output: Path, name: str, merge_with: Family | None
) -> BuildReport:
    settings, work, trained = context.settings, context.work, context.trained
    found = BuildCandidates([], {})
    if settings.architectures:
        logger.info('%d levels are given: stages 1 to 6 are omitted', len(settings.architectures))
        chosen: Sequence[SubnetArchitecture] = settings.architectures
    else:
        found = find_candidates(context)
        stage(6, 'choosing levels from the Pareto front')
        chosen = _choose(found.candidates, settings)
    with work.timed('7 levels calibrated and measured'):
        stage(7, f'calibrating {len(chosen)} levels and measuring them again')
        members = without_dominated(
            context, without_useless(context, calibrate_levels(context, chosen))
        )
        if merge_with is not None:
            members, new = merged(context, members, merge_with)
            logger.info('%d levels are added to %d', len(new), len(merge_with.levels))
    left_out: tuple[str, ...] = ()
    with work.timed('8 written'):
        stage(8, f'writing {output}')
        provenance, licence = _provenance(context, found.facts, merge_with), _licence(trained)
        if 'int8' in settings.precisions:
            exact = work.fresh_folder('exact')
            write_members(exact, context, members, name, provenance)
            report = write_in_precisions(context, Family.load(exact), output, provenance, licence)
            profile, left_out = report.profile, report.left_out
        else:
            with creating_folder(output) as folder:
                write_members(folder, context, members, name, provenance)
                profile = write_platforms(folder, context, members, merge_with)
                write_scatter(
                    folder, context, members, found.candidates, profile.platform, merge_with
                )
                write_model_card(folder, licence)
    seconds = dict(sorted(work.times_s.items()))
    work.finish()
    return BuildReport(Family.load(output), profile, seconds, left_out)


def _check(
    trained: TrainedBackbone,
    training: ImageDataset,
    held_out: ImageDataset,
    output: Path,
    settings: BuildSettings,
) -> None:
    check_new_folder(output)
    if settings.search not in SEARCHES:
        raise SearchError(f'--search {settings.search!r}: give one of {", ".join(SEARCHES)}')
    check_data(trained, training, held_out)
    # Otherwise, the first stages would run before these errors.
    check_device(settings.device)
    if settings.engine not in ('auto', *engine_names()):
        names = ', '.join(('auto', *engine_names()))
        raise SearchError(f'--engine is {settings.engine!r}; give one of {names}')
    if settings.lut and not settings.architectures and not settings.measured:
        open_table(settings.lut, trained.space)
    if settings.predictor:
        read_predictor(settings.predictor)


def _choose(candidates: Sequence[Candidate], settings: BuildSettings) -> list[SubnetArchitecture]:
    """Stage 6: choose levels from the Pareto front of the finalists, fastest first."""
    finalists = [c for c in candidates if c.kind == FINALIST]
    floor = max(c.top1 for c in finalists) - settings.span
    worthy = [c for c in finalists if c.top1 >= floor and c.top1 > 0.0]
    chosen = choose_levels(
        [c.latency_ms for c in worthy], [c.top1 for c in worthy], settings.levels
    )
    return [worthy[i].architecture for i in chosen]


def _licence(trained: TrainedBackbone) -> str:
    """Return the licence of the weights if it is known, which is that of published backbones."""
    return PUBLISHED_LICENCE if trained.backbone.name in published_names() else ''


def _provenance(
    context: BuildContext, facts: Mapping[str, Any], merge_with: Family | None
) -> dict[str, Any]:
    settings = context.settings
    recorded = {name: value for name, value in asdict(settings).items() if name in _RECORDED}
    if settings.architectures:
        for irrelevant in ('levels', 'span', 'candidates', 'finalists', 'search', 'evaluations'):
            del recorded[irrelevant]
    images = min(settings.calibration_images, len(context.training))
    return {
        'training': dict(context.trained.training),
        'build': {
            **recorded,
            'resolutions': list(context.trained.resolutions),
            'calibration_images': images,
            'held_out_id': fingerprint(context.report),
            **facts,
            'seconds': dict(sorted(context.work.times_s.items())),
        },
        # The accuracies decide which levels are dominated, so the report images do take part in
        # that.
        'accuracy': f'top-1 on {len(context.report)} held-out images that were not used '
        'for training, calibration or search; levels that are dominated on them are omitted',
        **({'merged': dict(merge_with.provenance)} if merge_with is not None else {}),
    }
