"""The curves that the paper publishes, and values computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family.document import parse_yaml
from dynamic_ofa_ros.files import share_directory

FILE = 'published_xavier_nx.yaml'
OURS = 'dynamic_ofa'
BASELINE = 'autoslim_mnasnet'
# A level within this share of a baseline's latency is one of similar latency.
SIMILAR = 0.05

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class PublishedCurves:
    """Points (x, top-1 in per cent) by system, in ascending order; ImageNet, Jetson Xavier NX.

    gpu_ms, cpu_ms: latency, batch 1 (figures 4a and 4b); macs_m: millions of multiply-accumulates
    (figure 5; counted for the paper's levels, MFLOPs as published for others). The paper's own
    levels are under `dynamic_ofa`. figure_3: the GPU levels with the latencies of figure 3;
    mflops: with the MFLOPs as published; measured: all sub-networks of figure 5, published MFLOPs.
    """

    gpu_ms: Mapping[str, Curve]
    cpu_ms: Mapping[str, Curve]
    macs_m: Mapping[str, Curve]
    figure_3: Curve
    mflops: Curve
    measured: Curve
    switching_ms: Mapping[str, float]
    load_batch_norm_ms: float
    headline: Mapping[str, float]


def read_published_curves(path: Path | None = None) -> PublishedCurves:
    """Read the paper's curves; raise FamilyError if the file is invalid."""
    path = path or share_directory() / 'config' / FILE
    try:
        document = parse_yaml(path, path.read_bytes())
        levels = document['gpu_levels']

        def curve(x: str) -> Curve:
            return _curve([level[x], level['top1']] for level in levels)

        return PublishedCurves(
            {OURS: curve('figure_4a_ms'), **_curves(document['gpu_ms'])},
            {OURS: _curve(document['cpu_levels']), **_curves(document['cpu_ms'])},
            {OURS: curve('macs_m'), **_curves(document['mflops'])},
            curve('figure_3_ms'),
            curve('published_mflops'),
            _curve(document['measured_mflops']),
            {name: float(ms) for name, ms in document['switching_ms'].items()},
            float(document['load_batch_norm_ms']),
            {name: float(value) for name, value in document['headline'].items()},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FamilyError(
            f'{path} is not the table of published levels ({type(error).__name__}: {error})'
        ) from None


def speedup(curve: Curve, baseline: Curve) -> float:
    """Return the largest speed-up of `curve` over a point of `baseline` at the same top-1.

    The curve is interpolated between levels; points outside its range of top-1 are left out.
    """
    latency_ms, top1 = np.array(curve).T
    return max(
        ms / float(np.interp(accuracy, top1, latency_ms))
        for ms, accuracy in baseline
        if top1[0] <= accuracy <= top1[-1]
    )


def points_more(curve: Curve, baseline: Curve) -> float:
    """Return the largest gain of a level of `curve` over a point of `baseline`, points of top-1.

    Only levels whose latency differs by at most SIMILAR from that of the point are compared.
    """
    return max(
        level_top1 - top1
        for ms, top1 in baseline
        for level_ms, level_top1 in curve
        if abs(level_ms - ms) <= SIMILAR * ms
    )


def headline(curves: PublishedCurves) -> dict[str, float]:
    """Compute from the curves what the abstract states, against AutoSlim."""
    return {
        f'{device}_{name}': compute(by_system[OURS], by_system[BASELINE])
        for name, compute in (('speedup', speedup), ('points', points_more))
        for device, by_system in (('gpu', curves.gpu_ms), ('cpu', curves.cpu_ms))
    }


def _curves(systems: Mapping[str, Any]) -> dict[str, Curve]:
    return {name: _curve(points) for name, points in systems.items()}


def _curve(points: Any) -> Curve:
    return tuple(sorted((float(x), float(y)) for x, y in points))
