"""Candidates for the levels of a family: architectures with measurements and predictions.

A build writes them to `candidates/<platform>.csv` in the family, for plots.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamic_ofa_ros.errors import ArchitectureError, FamilyError
from dynamic_ofa_ros.files import write_text_atomically
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture

CANDIDATES_FOLDER = 'candidates'
SAMPLED, FINALIST = 'sampled', 'finalist'
_COLUMNS = (
    'kind', 'level', 'resolution', 'macs', 'top1', 'latency_ms', 'predicted_top1',
    'predicted_latency_ms', 'architecture',
)  # fmt: skip

# Largest bias of samples to small or large choices: a choice is up to e^1.5 times as likely as the
# next one, so that samples cover the whole range of costs.
LARGEST_LEAN = 1.5


@dataclass(frozen=True)
class Candidate:
    """An architecture with its measurements and predictions; NaN if unknown.

    kind: `sampled`, or `finalist` if it was measured as carefully as a level. top1: a fraction, on
    the selection images. level: its index in the family, 0 if it is not a level.
    """

    architecture: SubnetArchitecture
    kind: str = SAMPLED
    macs: int = 0
    top1: float = math.nan
    latency_ms: float = math.nan
    predicted_top1: float = math.nan
    predicted_latency_ms: float = math.nan
    level: int = 0


def key_of(architecture: SubnetArchitecture) -> str:
    """Return the text that identifies an architecture in files."""
    return json.dumps(architecture.to_mapping(), separators=(',', ':'))


def sample_candidates(space: SearchSpace, count: int, seed: int) -> list[SubnetArchitecture]:
    """Draw distinct architectures that cover the range of costs; the extremes come first.

    Independent random choices would all have about the average cost. Therefore each draw first
    chooses a bias to small or large networks.
    """
    rng = np.random.default_rng(seed)
    extremes = [space.smallest(), space.largest()]
    for resolution in space.resolutions:
        narrowed = space.at_resolution(resolution)
        extremes += [narrowed.smallest(), narrowed.largest()]
    found = {architecture.canonical(space): None for architecture in extremes}
    attempts = 0
    while len(found) < count and attempts < 50 * count:
        attempts += 1
        lean = rng.uniform(-LARGEST_LEAN, LARGEST_LEAN)
        found.setdefault(space.sample_leaning(rng, lean).canonical(space))
    return list(found)[:count]


def spread(values: Sequence[float], count: int) -> list[int]:
    """Return the positions of `count` values spread evenly over the ranks, including the ends."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    if len(order) <= count:
        return order
    ranks = np.linspace(0, len(order) - 1, count).round().astype(int)
    return [order[rank] for rank in dict.fromkeys(ranks.tolist())]


def write_candidates(folder: Path, platform: str, candidates: Sequence[Candidate]) -> None:
    """Write `candidates/<platform>.csv` into a family's folder, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(_COLUMNS)
    for candidate in candidates:
        writer.writerow(
            [
                candidate.kind,
                candidate.level or '',
                candidate.architecture.r,
                candidate.macs,
                _written(candidate.top1),
                _written(candidate.latency_ms),
                _written(candidate.predicted_top1),
                _written(candidate.predicted_latency_ms),
                key_of(candidate.architecture),
            ]
        )
    path = folder / CANDIDATES_FOLDER / f'{platform}.csv'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, text.getvalue())


def read_candidates(path: Path) -> list[Candidate]:
    """Read a file of `write_candidates`; raise FamilyError if it is damaged."""
    try:
        with path.open(encoding='utf-8', newline='') as file:
            return [_candidate(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise FamilyError(f'{path} cannot be read: {error.strerror or error}') from None
    except (KeyError, TypeError, ValueError, ArchitectureError, csv.Error) as error:
        raise FamilyError(
            f'{path} is damaged ({type(error).__name__}: {error}); delete it; only the plot of '
            'the candidates requires it'
        ) from None


def _candidate(row: Mapping[str, str]) -> Candidate:
    return Candidate(
        architecture=SubnetArchitecture.from_mapping(json.loads(row['architecture'])),
        kind=row['kind'],
        macs=int(row['macs']),
        top1=_read(row['top1']),
        latency_ms=_read(row['latency_ms']),
        predicted_top1=_read(row['predicted_top1']),
        predicted_latency_ms=_read(row['predicted_latency_ms']),
        level=int(row['level'] or 0),
    )


def _written(value: float) -> str:
    return '' if math.isnan(value) else f'{value:.5g}'


def _read(text: str) -> float:
    return float(text) if text else math.nan
