"""The devices that torch can use."""

from __future__ import annotations

import torch

from dynamic_ofa_ros.errors import EngineError


def check_device(name: str) -> str:
    """Return the name of a device that torch can use; `auto` is a GPU if there is one.

    Raise EngineError if there is no such device, or if torch was built without it.
    """
    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    kind, _, number = name.partition(':')
    if kind not in ('cpu', 'cuda') or (number and not number.isdecimal()) or name == 'cuda:':
        raise EngineError(f'--device is {name!r}; give auto, cpu, cuda or cuda:N')
    if kind == 'cuda' and not torch.cuda.is_available():
        raise EngineError(
            f'torch finds no GPU for device {name}; use --device cpu, or install a torch built '
            'for your CUDA'
        )
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(
            f'device {name} cannot be used ({str(error).splitlines()[0]}); use another one'
        ) from None
    return name
