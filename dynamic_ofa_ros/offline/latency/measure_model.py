"""Measure a latency model of a backbone on this device: an operator table or a predictor.

Measurements are kept in a journal beside the output, so that an interrupted run can be resumed.
The journal is removed when the output is complete.
"""

from __future__ import annotations

import datetime
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.offline.latency.device_state import DeviceWatch
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.offline.latency.latency_predictor import (
    LatencyPredictor,
    fit_latency_predictor,
    write_predictor,
)
from dynamic_ofa_ros.offline.latency.on_device import resolve_auto, time_networks
from dynamic_ofa_ros.offline.latency.operator_layout import OperatorLayout
from dynamic_ofa_ros.offline.latency.operators import (
    Operator,
    OperatorEngine,
    collect_operators,
    time_operators,
)
from dynamic_ofa_ros.offline.latency.table import (
    CorrectionReport,
    OperatorTable,
    PredictionReport,
    fit_correction,
    write_table,
)
from dynamic_ofa_ros.offline.search.candidates import sample_candidates
from dynamic_ofa_ros.offline.work_folder import Journal
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.profiling import PAUSE_S, warn_when_busy
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.supernet.network import extract_subnet
from dynamic_ofa_ros.supernet.trained import TrainedBackbone

FloatArray = npt.NDArray[np.float64]

CORRECTION_NETWORKS = 12
PREDICTOR_NETWORKS = 100
GROUP_OPERATORS = 32
"""Operators that are timed in turns: together their data exceed the caches of the processor.

A group is drawn at random from all operators and resolutions. A temporary disturbance therefore
affects a few operators of each network slightly instead of one resolution strongly.
"""

SECONDS_A_NETWORK = 1.0
POOR_ABOVE = 0.15
"""Mean error on left-out networks above which a search with the model is not reliable."""

CANDIDATES = 600
"""Sampled networks from which those for the correction are chosen."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Session:
    """A backbone on a device, with the journal of its measurements."""

    trained: TrainedBackbone
    supernet: nn.Module
    settings: DeviceSettings
    platform: str
    journal: Journal
    watch: DeviceWatch
    scratch: Path

    def time_networks(self, networks: Sequence[SubnetArchitecture]) -> FloatArray:
        """Return the (N,) latencies of whole networks in milliseconds."""
        return np.array(
            time_networks(
                self.trained, self.supernet, networks, self.settings, self.journal,
                self.scratch, SECONDS_A_NETWORK,
            )
        )  # fmt: skip

    def head(self) -> dict[str, Any]:
        """Return the part of the file that describes the whole measurement."""
        conditions = {
            **asdict(self.settings),
            **self.watch.state(),
            'operators': 'in turns, one run each, no pause, time of the frame taken off',
            'networks': f'real engine, {PAUSE_S * 1e3:g} ms pause before each run',
        }
        return {
            'platform': self.platform,
            'backbone': asdict(self.trained.backbone),
            'resolutions': list(self.trained.resolutions),
            'measured_at': _now(),
            'conditions': conditions,
        }


def measure_operator_table(
    trained: TrainedBackbone,
    output: Path,
    settings: DeviceSettings = DeviceSettings(),  # noqa: B008 - it cannot be changed
    *,
    resolutions: Sequence[int] | None = None,
    resume: bool = True,
    networks: int = CORRECTION_NETWORKS,
    seed: int = 1,
) -> OperatorTable:
    """Time every operator of the backbone, fit a correction to whole networks, write `output`.

    resolutions: default: those of the backbone. Raise LatencyTableError if the output exists, or
    if the journal of an interrupted run belongs to another measurement.
    """
    trained = _with_resolutions(trained, resolutions)
    layout = OperatorLayout(trained.space)
    with _session(trained, output, settings, resume, 'operators') as session:
        operators = _time_all(session, layout)
        times = {name: [row['median_ms'] for row in rows] for name, rows in operators.items()}
        table = OperatorTable(
            session.platform,
            trained.space,
            np.array([times[name] for name in layout.names]),
            backbone=trained.backbone,
        )
        chosen = _spread_networks(table, networks, seed)
        measured = session.time_networks(chosen)
        sums = table.sum(GenomeEncoding(trained.space).encode(chosen))
        report = fit_correction(sums, measured)
        _warn_when_poor(report)
        write_table(
            output,
            session.head(),
            {
                name: {column: [row[column] for row in rows] for column in _COLUMNS}
                for name, rows in operators.items()
            },
            _correction_document(report, chosen, sums, measured),
        )
        return table.corrected(report.correction)


def measure_latency_predictor(
    trained: TrainedBackbone,
    output: Path,
    settings: DeviceSettings = DeviceSettings(),  # noqa: B008 - it cannot be changed
    *,
    resolutions: Sequence[int] | None = None,
    resume: bool = True,
    networks: int = PREDICTOR_NETWORKS,
    seed: int = 1,
) -> LatencyPredictor:
    """Measure whole networks, fit a latency predictor to them, write `output`.

    Arguments and errors are those of `measure_operator_table`.
    """
    trained = _with_resolutions(trained, resolutions)
    with _session(trained, output, settings, resume, 'networks') as session:
        chosen = sample_candidates(trained.space, networks, seed)
        measured = session.time_networks(chosen)
        genomes = GenomeEncoding(trained.space).encode(chosen)
        predictor = replace(
            fit_latency_predictor(genomes, measured, trained.space),
            platform=session.platform,
            backbone=trained.backbone,
        )
        _warn_when_poor(predictor.report)
        write_predictor(output, predictor, session.head(), _networks_document(chosen, measured))
        return predictor


_COLUMNS = ('median_ms', 'mean_ms', 'sd_ms', 'count')


@contextmanager
def _session(
    trained: TrainedBackbone, output: Path, settings: DeviceSettings, resume: bool, what: str
) -> Iterator[_Session]:
    """Resolve the device settings and open the journal; remove it after the block."""
    if output.exists():
        raise LatencyTableError(f'{output} exists already; remove it, or name another output')
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the tensors are too small to gain from more threads
    supernet = trained.load()
    with tempfile.TemporaryDirectory(prefix='dynamic_ofa_') as folder:
        scratch = Path(folder) / 'engine'
        resolved, platform = resolve_auto(trained, supernet, settings, scratch)
        path = output.with_name(f'{output.name}.journal')
        if not resume:
            path.unlink(missing_ok=True)
        journal = Journal(path, 'name')
        identity = {
            'name': 'identity',
            'what': what,
            'platform': platform,
            'backbone': asdict(trained.backbone),
            'resolutions': list(trained.resolutions),
        }
        if 'identity' in journal and journal['identity'] != identity:
            raise LatencyTableError(
                f'{path} belongs to another unfinished measurement: '
                f'{_differences(journal["identity"], identity)}; finish that one, choose another '
                'output, or start again with --fresh'
            )
        if 'identity' not in journal:
            journal.add(identity)
        watch = DeviceWatch(resolved.device)
        yield _Session(trained, supernet, resolved, platform, journal, watch, scratch)
    warn_when_busy(watch.load_of_others, 'repeat the measurement on an idle device')
    path.unlink(missing_ok=True)


def _time_all(session: _Session, layout: OperatorLayout) -> dict[str, list[dict[str, Any]]]:
    """Time the operators that the journal lacks; return rows by operator, one per resolution."""
    resolutions = session.trained.resolutions
    journal, rng = session.journal, np.random.default_rng(len(layout.names))
    wanted = [(name, index) for name in layout.names for index in range(len(resolutions))]
    left = [(n, i) for n, i in wanted if _key(n, resolutions[i]) not in journal]
    if left:
        largest = extract_subnet(session.supernet, session.trained.space.largest())
        settings = session.settings
        engine = OperatorEngine(
            settings.engine, settings.device, settings.threads, largest, max(resolutions)
        )
        by_name = {o.name: o for o in collect_operators(session.supernet, layout)}
        with progress('timing operators', len(wanted)) as bar:
            bar.update(len(wanted) - len(left))
            for group in _groups([left[k] for k in rng.permutation(len(left))], GROUP_OPERATORS):
                _time_group(group, by_name, resolutions, engine, journal, rng)
                left = left[len(group) :]
                bar.update(len(wanted) - len(left))
    return {
        name: [journal[_key(name, resolution)] for resolution in resolutions]
        for name in layout.names
    }


def _time_group(
    group: Sequence[tuple[str, int]],
    operators: Mapping[str, Operator],
    resolutions: Sequence[int],
    engine: OperatorEngine,
    journal: Journal,
    rng: np.random.Generator,
) -> None:
    timings = time_operators([(operators[name], index) for name, index in group], engine, rng)
    for (name, index), timing in zip(group, timings, strict=True):
        row = {k: round(v, 6) for k, v in asdict(timing).items()}
        journal.add({'name': _key(name, resolutions[index]), **row})


def _spread_networks(table: OperatorTable, count: int, seed: int) -> list[SubnetArchitecture]:
    """Choose networks whose sums are spread evenly over the range, on a logarithmic scale."""
    candidates = sample_candidates(table.space, max(CANDIDATES, count), seed)
    sums = np.log(table.sum(GenomeEncoding(table.space).encode(candidates)))
    free = np.ones(len(sums), bool)
    for target in np.linspace(sums.min(), sums.max(), count):
        free[np.argmin(np.where(free, np.abs(sums - target), np.inf))] = False
    return [candidates[i] for i in np.flatnonzero(~free)]


def _correction_document(
    report: CorrectionReport,
    networks: Sequence[SubnetArchitecture],
    sums: FloatArray,
    measured: FloatArray,
) -> dict[str, Any]:
    document = asdict(report)
    correction = document.pop('correction')
    correction['leave_one_out'] = {key: round(value, 4) for key, value in document.items()}
    rows = _networks_document(networks, measured)
    for row, total in zip(rows, sums, strict=True):
        row['sum_ms'] = round(float(total), 5)
    return {'correction': correction, 'networks': rows}


def _networks_document(
    networks: Sequence[SubnetArchitecture], measured: FloatArray
) -> list[dict[str, Any]]:
    return [
        {'architecture': architecture.to_mapping(), 'measured_ms': round(float(ms), 5)}
        for architecture, ms in zip(networks, measured, strict=True)
    ]


def _warn_when_poor(report: PredictionReport) -> None:
    if report.mean_error > POOR_ABOVE:
        logger.warning(
            'the mean error on left-out networks is %.0f %%: do not search with this file; other '
            'programs probably disturbed the measurement: repeat it on an idle device',
            report.mean_error * 100,
        )


def _with_resolutions(
    trained: TrainedBackbone, resolutions: Sequence[int] | None
) -> TrainedBackbone:
    if resolutions is None:
        return trained
    return replace(trained, resolutions=tuple(sorted(set(resolutions))))


def _groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _key(operator: str, resolution: int) -> str:
    return f'{operator} at {resolution}'


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{key} {found.get(key)} instead of {value}'
        for key, value in expected.items()
        if found.get(key) != value
    )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
