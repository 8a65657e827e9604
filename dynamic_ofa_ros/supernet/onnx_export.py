"""Write a PyTorch network as ONNX: the one way in which this package does it."""

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
    """Export a network in eval mode to a path or a buffer, for an input such as `image`.

    free_sides: names of its height and width, where they are to stay free.
    """
    arguments: dict[str, Any] = {
        'input_names': [NETWORK_INPUT],
        'output_names': [NETWORK_OUTPUT],
        'opset_version': OPSET,
    }
    if free_sides:
        arguments['dynamic_axes'] = {NETWORK_INPUT: dict(enumerate(free_sides, start=2))}
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        # The newer exporter takes ten times as long and needs more packages, for the same network.
        arguments['dynamo'] = False
    with warnings.catch_warnings(), torch.no_grad():
        # It announces its own deprecation, and warns of shapes that are constant by intent.
        warnings.simplefilter('ignore')
        torch.onnx.export(network, (image,), target, **arguments)
