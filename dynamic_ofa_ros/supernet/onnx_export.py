"""Export a PyTorch network as ONNX."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dynamic_ofa_ros.family import NETWORK_INPUT, NETWORK_OUTPUT

OPSET = 17


def write_onnx(
    network: nn.Module, image: torch.Tensor, target: Any, free_sides: Sequence[str] = ()
) -> None:
    """Export a network in eval mode to a path or a buffer.

    image: an example of the input, (N, 3, H, W). free_sides: names for height and width if these
    dimensions are to be variable.
    """
    arguments: dict[str, Any] = {
        'input_names': [NETWORK_INPUT],
        'output_names': [NETWORK_OUTPUT],
        'opset_version': OPSET,
    }
    if free_sides:
        arguments['dynamic_axes'] = {NETWORK_INPUT: dict(enumerate(free_sides, start=2))}
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        # The newer exporter is ten times slower and needs more packages for the same result.
        arguments['dynamo'] = False
    with warnings.catch_warnings(), torch.no_grad():
        # Ignored: the deprecation of this exporter, and shapes that are intentionally constant.
        warnings.simplefilter('ignore')
        torch.onnx.export(network, (image,), target, **arguments)
