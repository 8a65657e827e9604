"""Build a family from a trained backbone: sample, calibrate, measure, choose, write.

The stages keep their results in a work folder beside the output, so that a killed build goes on
where it was. Nothing appears in the output folder before it is complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dynamic_ofa_ros.architecture import SearchSpace, SubnetArchitecture, count_cost
from dynamic_ofa_ros.backbone.batch_norm import save_statistics, statistics_of
from dynamic_ofa_ros.backbone.supernet import extract_subnet, state_in_half
from dynamic_ofa_ros.backbone.weights import save_tensors
from dynamic_ofa_ros.errors import DatasetError, FamilyError
from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    BATCH_NORM_FILE,
    PLATFORMS_FOLDER,
    Family,
    LatencyProfile,
    Level,
    sha256_of,
    write_family,
    write_profile,
)
from dynamic_ofa_ros.offline.accuracy import (
    Evaluator,
    Judged,
    PreparedImages,
    calibration_subset,
    halves,
)
from dynamic_ofa_ros.offline.backbone_run import TrainedBackbone
from dynamic_ofa_ros.offline.datasets import ImageDataset
from dynamic_ofa_ros.offline.pareto import choose_levels, front
from dynamic_ofa_ros.progress import progress

logger = logging.getLogger(__name__)

# Candidates are only ranked, so fewer calibration images do than for the levels in the end.
CANDIDATE_CALIBRATION_IMAGES = 500


@dataclass(frozen=True)
class BuildSettings:
    """How to build; see `dynamic-ofa build --help`."""

    levels: int = 6
    candidates: int = 150
    calibration_images: int = 2000
    device: str = 'auto'
    engine: str = 'auto'
    threads: int = 1
    seed: int = 1


@dataclass(frozen=True)
class Candidate:
    """An architecture with what was measured of it."""

    architecture: SubnetArchitecture
    accuracy: float
    latency_ms: float


def build_family(
    trained: TrainedBackbone,
    training: ImageDataset,
    held_out: ImageDataset,
    output: Path,
    settings: BuildSettings,
    name: str,
) -> Family:
    """Build a family into the folder `output`, which must not exist yet; return it.

    Levels are chosen by one half of the held-out images and reported on the other.
    """
    if output.exists():
        raise FamilyError(f'{output} exists already; choose another folder, or remove it first')
    for classes, split in ((training.classes, 'training'), (held_out.classes, 'held-out')):
        if classes != trained.labels:
            raise DatasetError(
                f'the {split} data has {len(classes)} classes ({", ".join(classes[:3])}, ...); '
                f'the backbone was trained on {len(trained.labels)} '
                f'({", ".join(trained.labels[:3])}, ...): give the data it was trained on'
            )
    torch.set_num_threads(os.cpu_count() or 1)  # for accuracy; the engine has threads of its own
    selection, report = halves(held_out)
    supernet = _in_stored_precision(trained)
    work = _Work(output.with_name(f'.{output.name}.build'), trained, settings, len(held_out))

    candidates = _measure_candidates(
        supernet,
        trained,
        Evaluator(
            supernet,
            _prepared(training, CANDIDATE_CALIBRATION_IMAGES, trained),
            PreparedImages(selection, trained.preprocessing, trained.resolutions),
        ),
        work,
        settings,
    )
    chosen = [
        candidates[i]
        for i in choose_levels(
            [c.latency_ms for c in candidates], [c.accuracy for c in candidates], settings.levels
        )
    ]
    resolutions = {candidate.architecture.r for candidate in chosen}
    evaluator = Evaluator(
        supernet,
        _prepared(training, settings.calibration_images, trained),
        PreparedImages(report, trained.preprocessing, tuple(resolutions)),
    )
    judged = []
    with progress('calibrating the chosen levels', len(chosen)) as bar:
        for done, candidate in enumerate(chosen, start=1):
            judged.append((candidate.architecture, evaluator.judge(candidate.architecture)))
            bar.update(done)
    staging = work.fresh_folder('family')
    family = _write(staging, trained, supernet, judged, name, settings, held_out)
    profile = _profile(family, work, settings)
    kept = front([level.median_ms for level in profile.levels], [j.top1 for _, j in judged])
    if len(kept) < len(judged):
        for index in sorted(set(range(len(judged))) - set(kept)):
            logger.warning(
                'level %d (%.2f ms, top-1 %.1f %%) is dominated once measured again, and dropped',
                index + 1,
                profile.latency_ms(index + 1),
                judged[index][1].top1 * 100,
            )
        staging = work.fresh_folder('family')
        judged = [judged[i] for i in kept]
        _write(staging, trained, supernet, judged, name, settings, held_out)
        profile = replace(profile, levels=tuple(profile.levels[i] for i in kept))
    write_profile(profile, staging / PLATFORMS_FOLDER / f'{profile.platform}.yaml')
    output.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(output)
    work.remove()
    return Family.load(output)


def sample_candidates(space: SearchSpace, count: int, seed: int) -> list[SubnetArchitecture]:
    """Draw architectures that cover the range of costs: the extremes, uniform ones, random ones.

    Independent random choices all cost about the average; so every draw first picks how large the
    network should be, then leans its choices that way.
    """
    rng = np.random.default_rng(seed)
    found = {
        architecture.canonical(space): None for architecture in (space.smallest(), space.largest())
    }
    for resolution in space.resolutions:
        for pick in (min, max):
            found.setdefault(
                SubnetArchitecture(
                    ks=(pick(space.kernel_sizes),) * space.blocks,
                    e=(pick(space.expand_ratios),) * space.blocks,
                    d=(pick(space.depths),) * space.stages,
                    r=resolution,
                ).canonical(space)
            )
    attempts = 0
    while len(found) < count and attempts < 50 * count:
        attempts += 1
        lean = rng.uniform(-1.5, 1.5)
        architecture = SubnetArchitecture(
            ks=_leaning(rng, space.kernel_sizes, space.blocks, lean),
            e=_leaning(rng, space.expand_ratios, space.blocks, lean),
            d=_leaning(rng, space.depths, space.stages, lean),
            r=_leaning(rng, space.resolutions, 1, lean)[0],
        )
        found.setdefault(architecture.canonical(space))
    return list(found)[:count]


def _leaning(
    rng: np.random.Generator, choices: Sequence[int], count: int, lean: float
) -> tuple[int, ...]:
    weights = np.exp(lean * np.arange(len(choices)))
    return tuple(int(v) for v in rng.choice(choices, count, p=weights / weights.sum()))


def _measure_candidates(
    supernet: nn.Module,
    trained: TrainedBackbone,
    evaluator: Evaluator,
    work: _Work,
    settings: BuildSettings,
) -> list[Candidate]:
    """Measure the accuracy of every candidate, then the latency of all with the real engine."""
    architectures = sample_candidates(trained.space, settings.candidates, settings.seed)
    accuracies: list[float] = []
    statistics: dict[int, dict[str, torch.Tensor]] = {}
    known = work.read_accuracies()
    with progress('measuring accuracy of candidates', len(architectures)) as bar:
        for index, architecture in enumerate(architectures, start=1):
            key = json.dumps(architecture.to_mapping())
            if key not in known:
                known[key] = evaluator.judge(architecture).top1
                work.append_accuracy(key, known[key])
            accuracies.append(known[key])
            bar.update(index, f'top-1 {known[key]:.1%}')
    # Only what can still be on the front is worth timing: cost in MACs stands in for latency, with
    # a generous margin for how badly it does.
    macs = [_macs(trained, architecture) for architecture in architectures]
    hopeful = [
        i
        for i in range(len(architectures))
        if not any(
            macs[j] < 0.7 * macs[i] and accuracies[j] > accuracies[i] for j in range(len(macs))
        )
    ]
    logger.info('%d of %d candidates are worth timing', len(hopeful), len(architectures))
    levels = [_level(i, trained, architectures[c], 0.5) for i, c in enumerate(hopeful, start=1)]
    folder = work.fresh_folder('candidates')
    save_tensors(state_in_half(supernet.state_dict()), folder / BACKBONE_FILE)
    for level in levels:
        # Latency does not depend on the values of the statistics: the supernet's own will do.
        statistics[level.index] = statistics_of(extract_subnet(supernet, level.architecture))
    save_statistics(statistics, folder / BATCH_NORM_FILE)
    write_family(
        folder,
        name='candidates',
        backbone=trained.backbone,
        preprocessing=trained.preprocessing,
        levels=levels,
        labels=trained.labels,
    )
    profile = _profile(Family.load(folder), work, settings)
    shutil.rmtree(folder)
    return [
        Candidate(architectures[c], accuracies[c], profile.latency_ms(i))
        for i, c in enumerate(hopeful, start=1)
    ]


def _profile(family: Family, work: _Work, settings: BuildSettings) -> LatencyProfile:
    from dynamic_ofa_ros.runtime.engine import create_engine, profile_engine

    logger.info('preparing %d levels for the engine', len(family.levels))
    engine = create_engine(
        family,
        device=settings.device,
        engine=settings.engine,
        threads=settings.threads,
        cache_dir=work.folder / 'cache',
    )
    try:
        return profile_engine(engine, family, max_seconds=max(5.0, 0.5 * len(family.levels)))
    finally:
        engine.close()


def _write(
    folder: Path,
    trained: TrainedBackbone,
    supernet: nn.Module,
    judged: Sequence[tuple[SubnetArchitecture, Judged]],
    name: str,
    settings: BuildSettings,
    held_out: ImageDataset,
) -> Family:
    save_tensors(state_in_half(supernet.state_dict()), folder / BACKBONE_FILE)
    save_statistics(
        {i: statistics_of(judgement.subnet) for i, (_, judgement) in enumerate(judged, start=1)},
        folder / BATCH_NORM_FILE,
    )
    write_family(
        folder,
        name=name,
        backbone=trained.backbone,
        preprocessing=trained.preprocessing,
        levels=[
            _level(i, trained, architecture, judgement.top1)
            for i, (architecture, judgement) in enumerate(judged, start=1)
        ],
        labels=trained.labels,
        provenance={
            'training': dict(trained.training),
            'build': asdict(settings),
            'accuracy': f'top-1 on {len(held_out) - len(held_out) // 2} held-out images that took '
            'no part in training, calibration or the choice of levels',
        },
    )
    return Family.load(folder)


def _level(
    index: int, trained: TrainedBackbone, architecture: SubnetArchitecture, accuracy: float
) -> Level:
    cost = count_cost(architecture, trained.backbone.width_mult, trained.backbone.classes)
    return Level(
        index=index,
        name=f'{trained.backbone.name}_{cost.macs / 1e6:.3g}M_r{architecture.r}',
        architecture=architecture,
        accuracy=accuracy,
        macs=cost.macs,
        parameters=cost.parameters,
    )


def _macs(trained: TrainedBackbone, architecture: SubnetArchitecture) -> int:
    return count_cost(architecture, trained.backbone.width_mult, trained.backbone.classes).macs


def _prepared(training: ImageDataset, images: int, trained: TrainedBackbone) -> PreparedImages:
    return PreparedImages(
        calibration_subset(training, images), trained.preprocessing, trained.resolutions
    )


def _in_stored_precision(trained: TrainedBackbone) -> nn.Module:
    """Load the supernet as the family will store it: what is measured is what is shipped."""
    supernet = trained.load()
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    return supernet


class _Work:
    """The folder of intermediate results; started anew when backbone, data or settings differ."""

    def __init__(
        self, folder: Path, trained: TrainedBackbone, settings: BuildSettings, held_out: int
    ) -> None:
        self.folder = folder
        identity = json.dumps(
            {
                'backbone': sha256_of(trained.directory / BACKBONE_FILE),
                'seed': settings.seed,
                'held_out': held_out,
            }
        )
        marker = folder / 'identity.json'
        if folder.exists() and (not marker.is_file() or marker.read_text() != identity):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(identity)
        self._accuracies = folder / 'accuracies.jsonl'

    def read_accuracies(self) -> dict[str, float]:
        """Return what an earlier run measured, by architecture; skip a torn last line."""
        known: dict[str, float] = {}
        if self._accuracies.is_file():
            for line in self._accuracies.read_text().splitlines():
                try:
                    row: dict[str, Any] = json.loads(line)
                    known[row['architecture']] = float(row['top1'])
                except (ValueError, KeyError):
                    continue
        return known

    def append_accuracy(self, architecture: str, top1: float) -> None:
        with self._accuracies.open('a') as file:
            file.write(json.dumps({'architecture': architecture, 'top1': top1}) + '\n')

    def fresh_folder(self, name: str) -> Path:
        folder = self.folder / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        return folder

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
