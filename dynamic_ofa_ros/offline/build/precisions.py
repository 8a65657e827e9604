"""Add int8 levels to a family that was built from a backbone.

Quantised weights are not those of the supernet, so the result is a family of separate networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.offline.accuracy.evaluation import calibration_subset
from dynamic_ofa_ros.offline.build.build_context import BuildContext
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.offline.networks.export import export_family
from dynamic_ofa_ros.offline.networks.network_files import (
    NetworkFile,
    NetworkSettings,
    open_candidates,
)
from dynamic_ofa_ros.offline.networks.networks import NetworksReport, build_networks_family
from dynamic_ofa_ros.offline.networks.quantization import CALIBRATION_IMAGES, in_precisions


def write_in_precisions(
    context: BuildContext,
    exact: Family,
    output: Path,
    provenance: Mapping[str, Any],
    licence: str,
) -> NetworksReport:
    """Write the levels of `exact` in `context.settings.precisions` that are on the Pareto front.

    All of them are measured again: latency on this machine, accuracy on the report images.
    """
    settings = context.settings
    files = export_family(exact, context.work.fresh_folder('precisions') / 'networks')
    candidates = [
        replace(candidate, name=level.name)
        for candidate, level in zip(
            open_candidates([NetworkFile(file, NetworkSettings()) for file in files]),
            exact.levels,
            strict=True,
        )
    ]
    calibration = calibration_subset(context.training, CALIBRATION_IMAGES)
    architectures = {level.name: level.architecture.to_mapping() for level in exact.levels}
    return build_networks_family(
        in_precisions(candidates, calibration, settings.precisions),
        exact.labels,
        context.report,
        output,
        exact.name,
        device_settings=DeviceSettings(settings.device, settings.engine, settings.threads),
        description=exact.source.name,
        provenance={**provenance, 'architectures': architectures},
        licence=licence,
    )
