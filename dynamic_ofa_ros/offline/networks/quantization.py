"""Post-training quantisation of ONNX networks to int8: static, with weights per channel.

On processors with int8 instructions (VNNI, AMX), a convolutional network with ReLU6 takes half the
time and is almost as accurate. Networks with many small layers, squeeze-and-excitation and hard
swish become slower (benchmarks/results/precision.json).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.errors import DatasetError, FamilyError
from dynamic_ofa_ros.family import NETWORK_INPUT
from dynamic_ofa_ros.files import replacing
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, Subset
from dynamic_ofa_ros.offline.networks.networks import Candidate
from dynamic_ofa_ros.offline.networks.onnx_import import read_classifier
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.image import FloatArray, preprocess

CALIBRATION_IMAGES = 128
"""Images for the ranges of activations; more images change the ranges little."""


def quantize(network: Path, inputs: Iterable[FloatArray], target: Path) -> None:
    """Write an int8 network (QDQ operators, which all engines for ONNX fuse) to `target`.

    network: an ONNX file whose input is `input`. inputs: preprocessed images, (1, 3, r, r) each,
    for the ranges of activations; they should not be used to measure the accuracy. Raise
    MissingPackageError if onnx or onnxruntime is missing.
    """
    requirements.check('onnx', 'onnxruntime', reason='networks are to be quantised')
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, images: Iterator[FloatArray]) -> None:
            self._images = images

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._images, None)
            return None if image is None else {NETWORK_INPUT: image}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / 'prepared.onnx'  # with folded batch norms and known shapes
        quant_pre_process(str(network), str(prepared), skip_symbolic_shape=True)
        with replacing(target) as written:
            quantization.quantize_static(
                str(prepared),
                str(written),
                Reader(iter(inputs)),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )


def with_precisions(
    candidates: Sequence[Candidate], images: ImageDataset | None, precisions: Sequence[str]
) -> tuple[list[Candidate], ImageDataset | None]:
    """Return the candidates in these precisions, and the images for their accuracy.

    With `int8`, every network that is not int8 yet is also quantised. Some of the images determine
    the ranges and are not returned. Raise FamilyError if there are too few images.
    """
    if 'int8' not in precisions:
        return list(candidates), images
    found = 0 if images is None else len(images)
    if images is None or found < 2 * CALIBRATION_IMAGES:
        raise FamilyError(
            f'int8 requires labelled images, {CALIBRATION_IMAGES} for the ranges of activations '
            f'and at least as many for the accuracy; --data has {found}'
        )
    order = np.random.default_rng(1).permutation(found).tolist()
    calibration = Subset(images, tuple(order[:CALIBRATION_IMAGES]))
    rest = Subset(images, tuple(sorted(order[CALIBRATION_IMAGES:])))
    return in_precisions(candidates, calibration, precisions), rest


def in_precisions(
    candidates: Sequence[Candidate], calibration: ImageDataset, precisions: Sequence[str]
) -> list[Candidate]:
    """Return the candidates in these precisions; `calibration` images determine the ranges."""
    exact = [candidate for candidate in candidates if candidate.network.precision == 'fp32']
    quantised = _in_int8(exact, calibration) if 'int8' in precisions else []
    kept = [c for c in candidates if 'fp32' in precisions or c.network.precision == 'int8']
    return [*kept, *quantised]


def _in_int8(candidates: Sequence[Candidate], images: ImageDataset) -> list[Candidate]:
    """Return the candidates as int8 networks as well; `images` determine the ranges."""
    quantised = []
    with (
        tempfile.TemporaryDirectory() as folder,
        progress('quantising networks', len(candidates)) as report,
    ):
        for done, candidate in enumerate(candidates, start=1):
            stem = f'{Path(candidate.file).stem}_r{candidate.resolution}_int8'
            exact, target = Path(folder) / 'exact.onnx', Path(folder) / f'{stem}.onnx'
            exact.write_bytes(candidate.network.model)
            try:
                quantize(exact, _inputs(candidate, images), target)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                raise FamilyError(
                    f'{candidate.name} cannot be quantised ({" ".join(str(error).split())}): '
                    'remove int8 from --precisions'
                ) from error
            network = read_classifier(target, side=candidate.resolution)
            quantised.append(
                replace(
                    candidate,
                    name=f'{candidate.name}_int8',
                    network=network,
                    file=target.name,
                    accuracy=None,
                    quantised_from=candidate.name,
                )
            )
            report.update(done)
    return quantised


def _inputs(candidate: Candidate, images: ImageDataset) -> Iterator[FloatArray]:
    for index in range(len(images)):
        try:
            image = images.image(index)
        except DatasetError:
            continue  # damaged images are skipped
        yield preprocess(image, candidate.resolution, candidate.preprocessing)
