"""Post-training quantisation of an ONNX network to int8: static, weights per channel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.family import NETWORK_INPUT
from dynamic_ofa_ros.files import replacing
from dynamic_ofa_ros.runtime.image import FloatArray

CALIBRATION_IMAGES = 128
"""Images whose activations set the ranges; more change them little, and take memory."""


def quantize(network: Path, inputs: Iterable[FloatArray], target: Path) -> None:
    """Write an int8 network (QDQ operators, which every engine for ONNX fuses) to `target`.

    network: an ONNX file whose input is `input`. inputs: preprocessed images, (1, 3, r, r) each,
    that set the ranges of the activations: training images, not those that accuracy is measured
    on. Raises MissingPackageError where onnx or onnxruntime is missing.
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
        prepared = Path(folder) / 'prepared.onnx'  # batch norms folded, shapes known
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
