"""Build a family from separate networks: ONNX classifiers of one task.

Each network at each input size is a candidate. Its accuracy is measured on labelled images with
the code of the node, or given by the user; its latency is measured on this machine. Candidates
that are not better than another in latency or accuracy are omitted.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import DatasetError, FamilyError
from dynamic_ofa_ros.family import (
    MAX_LEVELS,
    NETWORKS_FOLDER,
    PLATFORMS_FOLDER,
    Family,
    LatencyProfile,
    Level,
    NetworksSpec,
    OnnxNetwork,
    Preprocessing,
    write_family,
    write_profile,
)
from dynamic_ofa_ros.family.model_card import write_model_card
from dynamic_ofa_ros.family.new_folder import check_new_folder
from dynamic_ofa_ros.files import creating_folder, naming
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, fingerprint, report_damaged
from dynamic_ofa_ros.offline.latency.family_profile import (
    MEASURE_AGAIN,
    DeviceSettings,
    profile_family,
)
from dynamic_ofa_ros.offline.networks.onnx_import import ImportedNetwork, check_resolution
from dynamic_ofa_ros.offline.search.pareto import front
from dynamic_ofa_ros.offline.work_folder import Journal, WorkFolder
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.classifier import Classifier
from dynamic_ofa_ros.runtime.engine import create_engine
from dynamic_ofa_ros.runtime.host import usable_cpus
from dynamic_ofa_ros.runtime.profiling import warn_when_busy

logger = logging.getLogger(__name__)

CHUNK = 50
"""Images that all candidates classify between two rows of the journal."""

UNKNOWN_ACCURACY = 0.5
"""Accuracy in a temporary family that is only measured."""


@dataclass(frozen=True)
class KnownAccuracy:
    """A top-1 that is not measured, a fraction; source: one of `family.ACCURACY_SOURCES`."""

    top1: float
    source: str = 'stated'


@dataclass(frozen=True)
class Candidate:
    """A network at an input size, which may become a level.

    quantised_from: the name of the candidate in fp32 that this one was made of; empty if none.
    """

    name: str
    network: ImportedNetwork
    file: str
    resolution: int
    preprocessing: Preprocessing
    accuracy: KnownAccuracy | None = None
    quantised_from: str = ''


@dataclass(frozen=True)
class NetworksReport:
    """The new family, and a sentence for every candidate that did not become a level."""

    family: Family
    profile: LatencyProfile
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Measured:
    """Top-1 of every candidate and its source; images: number of images, 0 if none were used."""

    accuracies: tuple[KnownAccuracy, ...]
    images: int = 0
    classes: int = 0
    data_id: str = ''


def build_networks_family(
    candidates: Sequence[Candidate],
    labels: Sequence[str],
    images: ImageDataset | None,
    output: Path,
    name: str,
    *,
    device_settings: DeviceSettings = DeviceSettings(),  # noqa: B008 - it cannot be changed
    description: str = '',
    provenance: Mapping[str, Any] | None = None,
    licence: str = '',
) -> NetworksReport:
    """Build a family in the folder `output`, which must not exist.

    `images` have the labels `labels`; without them, the accuracy of every candidate must be given.
    Measurements are kept in a hidden folder beside `output`, so that an interrupted run can be
    resumed. Raise FamilyError, DatasetError or EngineError if the input is invalid.
    """
    _check(candidates, labels, images, output)
    for candidate in candidates:
        check_resolution(candidate.network, candidate.resolution)
    spec = NetworksSpec(description or name, len(labels))
    with naming(output), _working(output) as work:
        trial = _trial_family(work.fresh_folder('family'), candidates, labels, spec)
        measured = _accuracies(trial, candidates, images, work, device_settings)
        profile = profile_family(
            trial,
            device_settings,
            work.scratch / 'cache',
            progress=lambda text: logger.info('%s', text),
        )
        warn_when_busy(profile.load_of_others, MEASURE_AGAIN)
        kept, left_out = _choose(candidates, measured.accuracies, profile)
        profile = replace(profile, levels=tuple(profile.levels[position] for position in kept))
        levels = [
            replace(
                trial.levels[position],
                index=index,
                accuracy=measured.accuracies[position].top1,
                accuracy_source=measured.accuracies[position].source,
            )
            for index, position in enumerate(kept, start=1)
        ]
        chosen = [candidates[position] for position in kept]
        with creating_folder(output) as folder:
            _write_networks(folder, chosen)
            write_profile(profile, folder / PLATFORMS_FOLDER / f'{profile.platform}.yaml')
            write_family(
                folder,
                name=name,
                source=spec,
                preprocessing=trial.preprocessing,
                levels=levels,
                labels=labels,
                provenance={
                    **(provenance or {}),
                    'accuracy': _explained(measured),
                    'networks': {c.file: _origin(c.network) for c in chosen},
                    'left_out': left_out,
                },
            )
            write_model_card(folder, licence)
            family = Family.load(folder)  # a family that cannot be read must not be published
        work.finish()
    return NetworksReport(replace(family, directory=output), profile, tuple(left_out))


def _origin(network: ImportedNetwork) -> dict[str, Any]:
    return {'from': network.name, 'adapted': list(network.notes)}


@contextmanager
def _working(output: Path) -> Iterator[WorkFolder]:
    """Yield the work folder beside `output`; raise FamilyError if another process uses it."""
    work = WorkFolder(output.with_name(f'.{output.name}.work'))
    with work.alone(
        FamilyError(f'another process builds {output}: wait for it, or choose another folder')
    ):
        yield work


def check_labels(candidates: Sequence[Candidate], labels: Sequence[str]) -> None:
    """Raise FamilyError unless there is one label per output of every network."""
    for network in (candidate.network for candidate in candidates):
        if network.classes != len(labels):
            raise FamilyError(
                f'{network.name} has {network.classes} outputs, but there are {len(labels)} '
                'labels: give the labels in the order of its outputs'
            )


def _check(
    candidates: Sequence[Candidate],
    labels: Sequence[str],
    images: ImageDataset | None,
    output: Path,
) -> None:
    check_new_folder(output)
    if not 1 <= len(candidates) <= MAX_LEVELS:
        raise FamilyError(
            f'{len(candidates)} networks and input sizes were given; a family has 1 to '
            f'{MAX_LEVELS} levels'
        )
    check_labels(candidates, labels)
    for candidate in candidates:
        if images is None and candidate.accuracy is None:
            raise FamilyError(
                f'the accuracy of {candidate.name} is unknown: measure it with --data, or give '
                'it with --accuracy'
            )
    names = [candidate.name for candidate in candidates]
    for name in names:
        if names.count(name) > 1:
            raise FamilyError(f'{name} was given {names.count(name)} times: give each file once')


def _write_networks(folder: Path, candidates: Sequence[Candidate]) -> None:
    (folder / NETWORKS_FOLDER).mkdir()
    for file, model in {c.file: c.network.model for c in candidates}.items():
        (folder / NETWORKS_FOLDER / file).write_bytes(model)


def _trial_family(
    folder: Path, candidates: Sequence[Candidate], labels: Sequence[str], spec: NetworksSpec
) -> Family:
    """Write a family of all candidates, so that they are measured with the code of the node."""
    common = candidates[-1].preprocessing
    _write_networks(folder, candidates)
    levels = [
        Level(
            index=index,
            name=candidate.name,
            network=OnnxNetwork(candidate.file, candidate.resolution, candidate.network.precision),
            accuracy=UNKNOWN_ACCURACY,
            macs=max(1, candidate.network.macs_at(candidate.resolution)),
            parameters=max(1, candidate.network.parameters),
            own_preprocessing=(
                candidate.preprocessing if candidate.preprocessing != common else None
            ),
        )
        for index, candidate in enumerate(candidates, start=1)
    ]
    write_family(
        folder, name='trial', source=spec, preprocessing=common, levels=levels, labels=labels
    )
    return Family.load(folder)


def _accuracies(
    trial: Family,
    candidates: Sequence[Candidate],
    images: ImageDataset | None,
    work: WorkFolder,
    device_settings: DeviceSettings,
) -> _Measured:
    """Measure every candidate on the same images, or use the given accuracies."""
    if images is None:
        return _Measured(tuple(c.accuracy for c in candidates if c.accuracy is not None))
    data_id = fingerprint(images)
    depends_on = {
        'images': data_id,
        'levels': [
            {
                'model': hashlib.sha256(candidate.network.model).hexdigest(),
                'resolution': candidate.resolution,
                'preprocessing': asdict(candidate.preprocessing),
            }
            for candidate in candidates
        ],
    }
    rows = Journal(work.path('accuracy', depends_on, '.jsonl'), 'chunk')
    engine = create_engine(
        trial,
        device=device_settings.device,
        engine=device_settings.engine,
        threads=usable_cpus(),
        cache_dir=work.scratch / 'cache',
        progress=lambda text: logger.info('%s', text),
    )
    classifier = Classifier(trial, engine)
    right = [0] * len(candidates)
    damaged: list[str] = []
    with progress('classifying images', len(images)) as report:
        for start in range(0, len(images), CHUNK):
            key = str(start)
            if key not in rows:
                rows.add({'chunk': key, **_classify(classifier, images, start)})
            damaged += rows[key]['damaged']
            for position, count in enumerate(rows[key]['right']):
                right[position] += count
            report.update(min(start + CHUNK, len(images)))
    engine.close()
    if damaged:
        report_damaged(damaged, len(images))
    total = len(images) - len(damaged)
    classes = len({images.label(index) for index in range(len(images))})
    top1 = tuple(KnownAccuracy(count / total, 'measured') for count in right)
    return _Measured(top1, total, classes, data_id)


def _classify(classifier: Classifier, images: ImageDataset, start: int) -> dict[str, Any]:
    """Return how many images of a chunk each level classifies correctly, and the damaged ones."""
    levels = [level.index for level in classifier.family.levels]
    right = [0] * len(levels)
    damaged = []
    for index in range(start, min(start + CHUNK, len(images))):
        try:
            image = images.image(index)
        except DatasetError as error:
            damaged.append(str(error))
            continue
        for position, level in enumerate(levels):
            best = classifier.classify(image, level, top_k=1).top1
            right[position] += best is not None and best.class_id == images.label(index)
    return {'right': right, 'damaged': damaged}


def _choose(
    candidates: Sequence[Candidate],
    accuracies: Sequence[KnownAccuracy],
    profile: LatencyProfile,
) -> tuple[list[int], list[str]]:
    """Return the positions of the levels, fastest first, and why the others were omitted."""
    top1 = [accuracy.top1 for accuracy in accuracies]
    latency_ms = [latency.median_ms for latency in profile.levels]
    worthy = _faster_than_exact(candidates, latency_ms)
    fastest = front([latency_ms[i] for i in worthy], [top1[i] for i in worthy])
    kept = [worthy[i] for i in fastest if top1[worthy[i]] > 0.0]
    if not kept:
        raise FamilyError(
            'all networks classified all images wrongly: check the labels (in the order of '
            "the networks' outputs) and the preprocessing"
        )
    left_out = []
    for position in sorted(set(range(len(candidates))) - set(kept)):
        what = f'{candidates[position].name} is omitted: '
        better = [i for i in kept if latency_ms[i] <= latency_ms[position]]
        if not better:
            left_out.append(f'{what}it classifies all images wrongly')
            continue
        other = better[-1]
        left_out.append(
            f'{what}it takes {latency_ms[position]:.2f} ms for a top-1 of '
            f'{top1[position]:.1%}, {candidates[other].name} {latency_ms[other]:.2f} ms for '
            f'{top1[other]:.1%}'
        )
    return kept, left_out


def _faster_than_exact(candidates: Sequence[Candidate], latency_ms: Sequence[float]) -> list[int]:
    """Return the positions without the quantised networks that are not faster than in fp32.

    Their accuracy may be higher by chance.
    """
    exact_ms = dict(zip((candidate.name for candidate in candidates), latency_ms, strict=True))
    return [
        position
        for position, candidate in enumerate(candidates)
        if latency_ms[position] < exact_ms.get(candidate.quantised_from, math.inf)
    ]


def _explained(measured: _Measured) -> str:
    if measured.images:
        return (
            f'top-1 on {measured.images} images of {measured.classes} classes '
            f'(data {measured.data_id})'
        )
    sources = dict.fromkeys(accuracy.source for accuracy in measured.accuracies)
    return f'not measured: {", ".join(sources)}'
