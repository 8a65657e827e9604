"""The inputs of a build, and its measurements, which are kept in the work folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.errors import DatasetError, LatencyTableError
from dynamic_ofa_ros.family import (
    BACKBONE_FILE,
    LatencyProfile,
    LevelLatency,
    read_profile,
    sha256_of,
    write_profile,
)
from dynamic_ofa_ros.offline.accuracy.evaluation import calibration_subset, halves, load_as_stored
from dynamic_ofa_ros.offline.accuracy.evaluation_pool import EvaluationPool
from dynamic_ofa_ros.offline.data.datasets import (
    ImageDataset,
    Subset,
    check_classes,
    fingerprint,
)
from dynamic_ofa_ros.offline.data.store import build_store
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.offline.latency.measured import read_measured
from dynamic_ofa_ros.offline.latency.on_device import (
    measure_architectures,
    resolve_auto,
    time_networks,
)
from dynamic_ofa_ros.offline.latency.table import LatencyModel, read_table
from dynamic_ofa_ros.offline.search.candidates import key_of
from dynamic_ofa_ros.offline.work_folder import Journal, WorkFolder, read_result, write_result
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.host import cpu_name, usable_cpus
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

# Measuring time of a network that a latency predictor is fitted to.
SECONDS_A_TIMED_NETWORK = 0.25
# Decoded images are stored on disk up to this size; larger sets are decoded at each use.
LARGEST_STORE_BYTES = 2 << 30
# For networks below this cost, several threads of torch are slower than one.
MACS_WORTH_THREADS = 100_000_000
FEWEST_ARCHITECTURES_FOR_WORKERS = 20


@dataclass(frozen=True)
class BuildSettings:
    """How to build; see `dynamic-ofa build --help`.

    levels: maximum number; span: maximum difference in top-1 from the most accurate level, a
    fraction; sampled_calibration_images: for the sub-networks that predictors are fitted to, which
    need fewer images than a level; architectures: those of a level file, used without a search;
    measured: file of latencies from a robot; by_table: use the latencies of the table `lut`;
    precisions: of the levels, fp32 or int8.
    """

    levels: int = 8
    span: float = 0.2
    candidates: int = 150
    finalists: int = 40
    search: str = 'nsga2'
    evaluations: int = 20000
    calibration_images: int = 2000
    sampled_calibration_images: int = 500
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
    precisions: tuple[str, ...] = ('fp32',)

    @property
    def times_here(self) -> bool:
        """Return whether latencies of candidates and levels are measured on this machine."""
        return not (self.measured or self.by_table)


@dataclass(frozen=True)
class BuildContext:
    """The inputs of all stages.

    selection: images for the choice of levels; report: images for the accuracies that the family
    states; backbone_id: identifies the weights.
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
        """Return everything except the architecture on which an accuracy depends."""
        return {
            'backbone': self.backbone_id,
            'preprocessing': asdict(self.trained.preprocessing),
            'calibration': fingerprint(calibration_subset(self.training, calibration_images)),
            'held_out': fingerprint(held_out),
            'device': accuracy_device(self.settings),
        }

    def latency_id(self) -> dict[str, Any]:
        """Return everything except the architecture on which a latency depends."""
        return {
            'backbone': self.backbone_id,
            'device': asdict(self._requested_settings()),
            'machine': cpu_name(),
        }

    def macs(self, architecture: SubnetArchitecture) -> int:
        """Return the multiply-accumulates of a sub-network."""
        backbone = self.trained.backbone
        cost = self.trained.space.count_cost(architecture, backbone.width_mult, backbone.classes)
        return cost.macs

    def device_settings(self) -> DeviceSettings:
        """Return the device settings; `auto` is resolved once, by a short measurement."""
        requested = self._requested_settings()
        if 'auto' not in (requested.device, requested.engine):
            return requested
        path = self.work.path('device', self.latency_id(), '.json')
        resolved = read_result(path)
        if resolved is None:
            settings, _ = resolve_auto(self.trained, self.supernet, requested, self._scratch)
            resolved = asdict(settings)
            write_result(path, resolved)
        return DeviceSettings(**resolved)

    def measure_latency(self, architectures: Sequence[SubnetArchitecture]) -> LatencyProfile:
        """Return comparable latencies of sub-networks: measured in turns, or those of a robot."""
        if self.settings.measured:
            return read_measured(self.settings.measured).of(architectures)
        if self.settings.by_table:
            return self._from_table(architectures)
        keys = [key_of(a) for a in architectures]
        path = self.work.path('latency', {**self.latency_id(), 'architectures': keys}, '.yaml')
        if not path.is_file():
            profile = measure_architectures(
                self.trained, self.supernet, architectures, self.device_settings(), self._scratch
            )
            write_profile(profile, path)
        return read_profile(path)

    def _from_table(self, architectures: Sequence[SubnetArchitecture]) -> LatencyProfile:
        table, predict = open_table(self.settings.lut, self.trained.space)
        predicted = predict(GenomeEncoding(self.trained.space).encode(architectures)).tolist()
        levels = tuple(LevelLatency(ms, ms, 0.0, ms, ms, runs=0) for ms in predicted)
        how = {'predicted_by': Path(self.settings.lut).name}
        return LatencyProfile(table.platform, levels, 'not measured', how)

    def time_networks(self, architectures: Sequence[SubnetArchitecture]) -> list[float]:
        """Return latencies in milliseconds, measured in groups: less exact, but much faster."""
        journal = Journal(self.work.path('latencies', self.latency_id(), '.jsonl'), 'name')
        return time_networks(
            self.trained,
            self.supernet,
            architectures,
            self.device_settings(),
            journal,
            self._scratch,
            SECONDS_A_TIMED_NETWORK,
        )

    def measure_accuracy(
        self, architectures: Sequence[SubnetArchitecture], calibration_images: int, what: str
    ) -> list[float]:
        """Return top-1 on the selection images, fractions."""
        depends_on = self.accuracy_id(calibration_images, self.selection)
        rows = Journal(self.work.path('accuracies', depends_on, '.jsonl'), 'architecture')
        missing = list({key_of(a): a for a in architectures if key_of(a) not in rows}.values())
        if missing:
            with progress(f'accuracy of {what}', len(architectures)) as bar:
                bar.update(done := len(architectures) - len(missing))
                for architecture, top1 in self._evaluate(missing, calibration_images):
                    rows.add({'architecture': key_of(architecture), 'top1': top1})
                    bar.update(done := done + 1, f'top-1 {top1:.1%}')
        return [float(rows[key_of(a)]['top1']) for a in architectures]

    def set_threads(self) -> None:
        """Let torch use all cores for large networks, and one for small networks."""
        is_large = self.macs(self.trained.space.largest()) > MACS_WORTH_THREADS
        torch.set_num_threads(usable_cpus() if is_large else 1)

    def _evaluate(
        self, architectures: Sequence[SubnetArchitecture], calibration_images: int
    ) -> Iterable[tuple[SubnetArchitecture, float]]:
        workers = self._workers(len(architectures))
        if workers == 1:
            self.set_threads()
        # A smaller subset is the beginning of a larger one: decode the images once for all stages.
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
        """Decode images into a file that all workers and later runs share, unless it is too large.

        They are stored at twice the largest input size, so that the scaled images equal those
        scaled from the originals.
        """
        side = 2 * max(self.trained.resolutions)
        if 3 * side * side * len(dataset) > LARGEST_STORE_BYTES:
            return dataset
        path = self.work.path('images', {'images': fingerprint(dataset), 'side': side}, '.npy')
        with progress('decoding images', len(dataset)) as bar:
            return build_store(dataset, path, side, usable_cpus(), bar.update)

    @property
    def _scratch(self) -> Path:
        return self.work.scratch / 'engine'

    def _requested_settings(self) -> DeviceSettings:
        return DeviceSettings(self.settings.device, self.settings.engine, self.settings.threads)


def check_data(trained: TrainedBackbone, training: ImageDataset, held_out: ImageDataset) -> None:
    """Raise DatasetError unless the classes are those of the backbone and there are two images."""
    check_classes(trained.labels, training.classes, 'training')
    check_classes(trained.labels, held_out.classes, 'held-out')
    if len(held_out) < 2:
        raise DatasetError(f'found {len(held_out)} held-out images; at least 2 are required')


def open_context(
    trained: TrainedBackbone,
    training: ImageDataset,
    held_out: ImageDataset,
    work: WorkFolder,
    settings: BuildSettings,
) -> BuildContext:
    """Load the supernet and split the held-out images.

    One half of the images is for the choice of levels, the other for the accuracies that the
    family states. With given architectures there is no choice, and all are for the latter.
    """
    selection, report = halves(held_out)
    return BuildContext(
        trained=trained,
        supernet=load_as_stored(trained),
        training=training,
        selection=Subset(selection, tuple(range(min(len(selection), settings.selection_images)))),
        report=held_out if settings.architectures else report,
        work=work,
        settings=settings,
        backbone_id=backbone_id(trained),
    )


def open_table(
    file: str, space: SearchSpace
) -> tuple[LatencyModel, Callable[[Genomes], npt.NDArray[np.float64]]]:
    """Read a latency table; return it and a function that predicts genomes of `space`, in ms.

    Raise LatencyTableError if it belongs to another space or lacks a resolution.
    """
    path = Path(file).expanduser()
    table = read_table(path)
    missing = sorted(set(space.resolutions) - set(table.space.resolutions))
    if replace(table.space, resolutions=space.resolutions) != space or missing:
        what = f'resolutions {", ".join(map(str, missing))}' if missing else 'this search space'
        raise LatencyTableError(
            f'{path} lacks {what}; measure this backbone with dynamic-ofa profile, or give '
            'fewer --resolutions'
        )
    position = np.array([table.space.resolutions.index(r) for r in space.resolutions])

    def predict(genomes: Genomes) -> npt.NDArray[np.float64]:
        theirs = genomes.copy()
        theirs[:, -1] = position[genomes[:, -1]]
        return table.predict(theirs)

    return table, predict


def accuracy_device(settings: BuildSettings) -> str:
    """Return the device that measures accuracy: the GPU if there is one and it is allowed."""
    if settings.device == 'cpu' or not torch.cuda.is_available():
        return 'cpu'
    return settings.device if settings.device.startswith('cuda') else 'cuda'


def backbone_id(trained: TrainedBackbone) -> str:
    """Return a text that identifies a backbone: its weights and its specification."""
    return f'{sha256_of(trained.directory / BACKBONE_FILE)} {trained.backbone}'
