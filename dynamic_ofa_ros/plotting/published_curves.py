"""The curves published in the paper, read from the folder of reference data if it exists."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.files import share_directory

REFERENCE_VARIABLE = 'DYNAMIC_OFA_REFERENCE'
LEVELS_FILE = 'levels_xavier_nx.json'
OURS = 'dynamic_ofa'

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class PublishedCurves:
    """Points (x, top-1 in per cent) by system, in ascending order; ImageNet, Jetson Xavier NX.

    gpu_ms, cpu_ms: latency, batch 1 (figures 3 and 4); macs_m: millions of multiply-accumulates
    (figure 5). The paper's own levels are under `dynamic_ofa`.
    """

    gpu_ms: Mapping[str, Curve]
    cpu_ms: Mapping[str, Curve]
    macs_m: Mapping[str, Curve]


def reference_directory() -> Path:
    """Return the folder of reference data.

    This is $DYNAMIC_OFA_REFERENCE, or else shared/reference beside the checkout.
    """
    default = share_directory().parent / 'shared' / 'reference'
    return Path(os.environ.get(REFERENCE_VARIABLE) or default).expanduser()


def read_published_curves(directory: Path | None = None) -> PublishedCurves | None:
    """Return the paper's curves; None if there is no reference data.

    Raise FamilyError if the file exists and is invalid.
    """
    path = (directory or reference_directory()) / LEVELS_FILE
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
        compared = document['comparison']
        gpu = _curve([level['latency_ms'], level['top1']] for level in document['gpu'])
        cpu = _curve([level['latency_ms'], level['top1']] for level in document['cpu'])
        macs = _curve([level['macs'] / 1e6, level['top1']] for level in document['gpu'])
        return PublishedCurves(
            {OURS: gpu, **_curves(compared['gpu_latency_ms'])},
            {OURS: cpu, **_curves(compared['cpu_latency_s'], scale=1e3)},
            {OURS: macs, **_curves(compared['flops_M'])},
        )
    except OSError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FamilyError(
            f'{path} is not the table of published levels ({type(error).__name__}: {error}); '
            f'set {REFERENCE_VARIABLE} to the folder that contains it'
        ) from None


def _curves(systems: Mapping[str, Any], scale: float = 1.0) -> dict[str, Curve]:
    return {name: _curve([scale * x, y] for x, y in points) for name, points in systems.items()}


def _curve(points: Any) -> Curve:
    return tuple(sorted((float(x), float(y)) for x, y in points))
