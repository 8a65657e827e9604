"""What a build works with, and how it measures: every measurement is kept once it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    LatencyProfile,
    LevelLatency,
    read_profile,
    sha256_of,
    write_profile,
)
from dynamic_ofa_ros.offline.accuracy.evaluation import calibration_subset
from dynamic_ofa_ros.offline.accuracy.evaluation_pool import EvaluationPool
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, Subset, fingerprint
from dynamic_ofa_ros.offline.data.store import build_store
from dynamic_ofa_ros.offline.latency.device_profile import Place, place_of
from dynamic_ofa_ros.offline.latency.measured import read_measured
from dynamic_ofa_ros.offline.latency.on_device import measure_architectures
from dynamic_ofa_ros.offline.latency.table import LatencyModel, read_table
from dynamic_ofa_ros.offline.search.candidates import key_of
from dynamic_ofa_ros.offline.work_folder import Rows, WorkFolder, read_result, write_result
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.host import cpu_name, usable_cpus
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

# Networks timed to fit a predictor share an engine by so many, for so long each.
TIMED_TOGETHER = 20
SECONDS_A_TIMED_NETWORK = 0.25
# Decoded images are kept on disk up to this size; larger sets are decoded at each use.
LARGEST_STORE_BYTES = 2 << 30
# Networks below this many multiply-accumulates an image wait for torch's threads longer than
# these save.
MACS_WORTH_THREADS = 100_000_000
FEWEST_ARCHITECTURES_FOR_WORKERS = 20


@dataclass(frozen=True)
class BuildSettings:
    """How to build; see `dynamic-ofa build --help`.

    levels: how many are wanted, at most; span: how far below the most accurate level another may
    be, a fraction; architectures: those of a level file, which leave no choice; measured: file of
    latencies from a robot; by_table: latencies are those of the table `lut`.
    """

    levels: int = 8
    span: float = 0.2
    candidates: int = 150
    finalists: int = 40
    search: str = 'nsga2'
    evaluations: int = 20000
    calibration_images: int = 2000
    selection_images: int = 4000
    device: str = 'auto'
    engine: str = 'auto'
    threads: int = 1
    workers: int = 0
    ray: str = ''
    seed: int = 1
    lut: str = ''
    predictor: str = ''
    architectures: tuple[SubnetArchitecture, ...] = ()
    measured: str = ''
    by_table: bool = False

    @property
    def times_here(self) -> bool:
        """Return whether latencies of candidates and levels are measured on this machine."""
        return not (self.measured or self.by_table)


@dataclass(frozen=True)
class BuildContext:
    """Everything the stages work with.

    selection: images that levels are chosen by; report: those their accuracy is reported on;
    backbone_id: what tells these weights from others.
    """

    trained: TrainedBackbone
    supernet: nn.Module
    training: ImageDataset
    selection: ImageDataset
    report: ImageDataset
    work: WorkFolder
    settings: BuildSettings
    backbone_id: str

    def accuracy_id(self, calibration_images: int, held_out: ImageDataset) -> dict[str, Any]:
        """Return all that an accuracy depends on besides the architecture."""
        return {
            'backbone': self.backbone_id,
            'preprocessing': asdict(self.trained.preprocessing),
            'calibration': fingerprint(calibration_subset(self.training, calibration_images)),
            'held_out': fingerprint(held_out),
            'device': accuracy_device(self.settings),
        }

    def latency_id(self) -> dict[str, Any]:
        """Return all that a latency depends on besides the architecture."""
        settings = self.settings
        place = Place(settings.device, settings.engine, settings.threads)
        return {'backbone': self.backbone_id, 'place': asdict(place), 'machine': cpu_name()}

    def macs(self, architecture: SubnetArchitecture) -> int:
        """Return the multiply-accumulates of a sub-network."""
        backbone = self.trained.backbone
        cost = self.trained.space.count_cost(architecture, backbone.width_mult, backbone.classes)
        return cost.macs

    def place(self) -> Place:
        """Return where latency is measured; `auto` is settled once, by a trial of the extremes."""
        settings = self.settings
        wanted = Place(settings.device, settings.engine, settings.threads)
        if 'auto' not in (wanted.device, wanted.engine):
            return wanted
        path = self.work.path('place', self.latency_id(), '.json')
        settled = read_result(path)
        if settled is None:
            space = self.trained.space
            profile = self._measure((space.smallest(), space.largest()), wanted, 1.0)
            settled = asdict(place_of(profile) or wanted)
            write_result(path, settled)
        return Place(**settled)

    def profile(self, architectures: Sequence[SubnetArchitecture]) -> LatencyProfile:
        """Return the latencies of sub-networks to be compared: measured in turns, or a robot's."""
        if self.settings.measured:
            return read_measured(self.settings.measured).of(architectures)
        if self.settings.by_table:
            return self._from_table(architectures)
        keys = [key_of(a) for a in architectures]
        path = self.work.path('profile', {**self.latency_id(), 'architectures': keys}, '.yaml')
        if not path.is_file():
            write_profile(self._measure(architectures, self.place()), path)
        return read_profile(path)

    def _from_table(self, architectures: Sequence[SubnetArchitecture]) -> LatencyProfile:
        table, predict = open_table(self.settings.lut, self.trained.space)
        predicted = predict(GenomeEncoding(self.trained.space).encode(architectures)).tolist()
        levels = tuple(LevelLatency(ms, ms, 0.0, ms, ms, runs=0) for ms in predicted)
        how = {'predicted_by': Path(self.settings.lut).name}
        return LatencyProfile(table.platform, levels, 'not measured', how)

    def time_networks(self, architectures: Sequence[SubnetArchitecture]) -> dict[str, float]:
        """Return latencies by key, in milliseconds; a few networks are measured at a time."""
        rows = Rows(self.work.path('latencies', self.latency_id(), '.jsonl'), 'architecture')
        missing = [a for a in architectures if key_of(a) not in rows]
        done = len(architectures) - len(missing)
        with progress('timing whole networks', len(architectures)) as bar:
            bar.update(done)
            for start in range(0, len(missing), TIMED_TOGETHER):
                batch = missing[start : start + TIMED_TOGETHER]
                profile = self._measure(batch, self.place(), SECONDS_A_TIMED_NETWORK)
                for architecture, level in zip(batch, profile.levels, strict=True):
                    rows.add({'architecture': key_of(architecture), 'ms': level.median_ms})
                bar.update(done := done + len(batch))
        return {key_of(a): float(rows[key_of(a)]['ms']) for a in architectures}

    def measure_accuracy(
        self, architectures: Sequence[SubnetArchitecture], calibration_images: int, what: str
    ) -> list[float]:
        """Return top-1 on the selection images, fractions."""
        depends_on = self.accuracy_id(calibration_images, self.selection)
        rows = Rows(self.work.path('accuracies', depends_on, '.jsonl'), 'architecture')
        missing = list({key_of(a): a for a in architectures if key_of(a) not in rows}.values())
        if missing:
            with progress(f'accuracy of {what}', len(architectures)) as bar:
                bar.update(done := len(architectures) - len(missing))
                for architecture, top1 in self._evaluate(missing, calibration_images):
                    rows.add({'architecture': key_of(architecture), 'top1': top1})
                    bar.update(done := done + 1, f'top-1 {top1:.1%}')
        return [float(rows[key_of(a)]['top1']) for a in architectures]

    def set_threads(self) -> None:
        """Let torch use all cores for large networks, one for small ones."""
        is_large = self.macs(self.trained.space.largest()) > MACS_WORTH_THREADS
        torch.set_num_threads(usable_cpus() if is_large else 1)

    def _evaluate(
        self, architectures: Sequence[SubnetArchitecture], calibration_images: int
    ) -> Iterable[tuple[SubnetArchitecture, float]]:
        workers = self._workers(len(architectures))
        if workers == 1:
            self.set_threads()
        # Fewer images are the first of more: decode them once for all stages.
        most = max(calibration_images, self.settings.calibration_images)
        calibration = self._stored(calibration_subset(self.training, most))
        with EvaluationPool(
            self.trained,
            Subset(calibration, tuple(range(min(calibration_images, len(calibration))))),
            self._stored(self.selection),
            workers=workers,
            ray_address=self.settings.ray,
            device=accuracy_device(self.settings),
        ) as pool:
            for index, top1 in pool.evaluate_many(architectures):
                yield architectures[index], top1

    def _workers(self, architectures: int) -> int:
        settings = self.settings
        if settings.workers or settings.ray:
            return settings.workers
        on_gpu = accuracy_device(settings) != 'cpu'
        return 1 if on_gpu or architectures < FEWEST_ARCHITECTURES_FOR_WORKERS else usable_cpus()

    def _stored(self, dataset: ImageDataset) -> ImageDataset:
        """Decode images once, where they fit on the disk: every worker and every run shares them.

        Twice the largest input: averaged down from there, they are what the originals would give.
        """
        side = 2 * max(self.trained.resolutions)
        if 3 * side * side * len(dataset) > LARGEST_STORE_BYTES:
            return dataset
        path = self.work.path('images', {'images': fingerprint(dataset), 'side': side}, '.npy')
        with progress('decoding images', len(dataset)) as bar:
            return build_store(dataset, path, side, usable_cpus(), bar.update)

    def _measure(
        self,
        architectures: Sequence[SubnetArchitecture],
        place: Place,
        seconds_each: float | None = None,
    ) -> LatencyProfile:
        scratch = self.work.folder / 'engine'
        options = {} if seconds_each is None else {'seconds_a_level': seconds_each}
        return measure_architectures(
            self.trained, self.supernet, architectures, place, scratch, **options
        )


def open_table(
    file: str, space: SearchSpace
) -> tuple[LatencyModel, Callable[[Genomes], npt.NDArray[np.float64]]]:
    """Read a latency table; return it, and how it predicts genomes of `space`, in milliseconds.

    Raise LatencyTableError when it is of another space or lacks a resolution.
    """
    path = Path(file).expanduser()
    table = read_table(path)
    missing = sorted(set(space.resolutions) - set(table.space.resolutions))
    if replace(table.space, resolutions=space.resolutions) != space or missing:
        what = f'resolutions {", ".join(map(str, missing))}' if missing else 'this search space'
        raise LatencyTableError(
            f'{path} is a table of another space: it lacks {what}; make one with dynamic-ofa '
            'profile for this backbone, or choose from fewer --resolutions'
        )
    position = np.array([table.space.resolutions.index(r) for r in space.resolutions])

    def predict(genomes: Genomes) -> npt.NDArray[np.float64]:
        theirs = genomes.copy()
        theirs[:, -1] = position[genomes[:, -1]]
        return table.predict(theirs)

    return table, predict


def accuracy_device(settings: BuildSettings) -> str:
    """Return where accuracy is measured: on the GPU unless the CPU was asked for."""
    if settings.device == 'cpu' or not torch.cuda.is_available():
        return 'cpu'
    return settings.device if settings.device.startswith('cuda') else 'cuda'


def backbone_id(trained: TrainedBackbone) -> str:
    """Return what identifies a backbone: its weights and what they were trained for."""
    return f'{sha256_of(trained.directory / BACKBONE_FILE)} {trained.backbone}'
