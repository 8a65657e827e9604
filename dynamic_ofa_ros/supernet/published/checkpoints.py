"""Published backbones: their addresses, and reading checkpoints without executing code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dynamic_ofa_ros.errors import BackboneError, CheckpointError
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.files import cache_directory
from dynamic_ofa_ros.supernet.network import build_supernet, published_backbone

BACKBONES_FOLDER = 'backbones'
PREDICTOR_FILE = 'accuracy_predictor.npz'


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published supernet.

    predictor_url: the accuracy predictor published for it, if any. sha256, predictor_sha256: empty
    if the publisher states none.
    """

    backbone: BackboneSpec
    url: str
    sha256: str = ''
    predictor_url: str = ''
    predictor_sha256: str = ''


# The addresses that `ofa` 0.1 uses (ofa/model_zoo.py, ofa/tutorial/accuracy_predictor.py). The
# authors state no checksums, so the first download of a file is trusted (see checksums.py).
_OFA = 'https://raw.githubusercontent.com/han-cai/files/master/ofa'
_ADDRESSES = {
    'ofa_mbv3_d234_e346_k357_w1.0': f'{_OFA}/ofa_nets/ofa_mbv3_d234_e346_k357_w1.0',
    'ofa_mbv3_d234_e346_k357_w1.2': f'{_OFA}/ofa_nets/ofa_mbv3_d234_e346_k357_w1.2',
    'ofa_proxyless_d234_e346_k357_w1.3': f'{_OFA}/ofa_nets/ofa_proxyless_d234_e346_k357_w1.3',
    # `ofa` uses drive.google.com/uc?id=..., which returns a confirmation page instead of the file.
    'ofa_resnet50': (
        'https://drive.usercontent.google.com/download'
        '?id=1xy6VIPEHXqbbqNu3xEZUxhp5FbTVs5cQ&export=download&confirm=t'
    ),
}
_PREDICTORS = {'ofa_mbv3_d234_e346_k357_w1.2': f'{_OFA}/acc_predictor.pth'}


def published_names() -> tuple[str, ...]:
    """Return the names of all published backbones."""
    return tuple(_ADDRESSES)


def published_checkpoint(name: str) -> PublishedCheckpoint:
    """Return the published backbone `name`; raise BackboneError if the name is unknown."""
    if name not in _ADDRESSES:
        raise BackboneError(
            f'there is no published backbone {name!r}; known are {", ".join(_ADDRESSES)}'
        )
    return PublishedCheckpoint(
        published_backbone(name), _ADDRESSES[name], predictor_url=_PREDICTORS.get(name, '')
    )


def fetched_folder(name: str) -> Path:
    """Return the folder in which `dynamic-ofa fetch` stores a backbone by default."""
    return cache_directory() / BACKBONES_FOLDER / name


def resolve_backbone(path_or_name: str | Path) -> Path:
    """Return the folder of a backbone, given as a path or by its published name.

    Raise CheckpointError if it is the name of a published backbone that has not been fetched. A
    path is not checked.
    """
    path = Path(path_or_name).expanduser()
    name = str(path_or_name)
    if path.exists() or name not in _ADDRESSES:
        return path
    if not fetched_folder(name).is_dir():
        raise CheckpointError(
            f'{name} has not been fetched; fetch it with: dynamic-ofa fetch {name}'
        )
    return fetched_folder(name)


def load_published(backbone: BackboneSpec, path: Path) -> nn.Module:
    """Build a supernet and load its published checkpoint; float32, eval mode, on the CPU.

    No code in the file is executed. Raise CheckpointError if the file is damaged, contains
    anything but tensors, or does not match the supernet.
    """
    state = read_state(path)
    supernet = build_supernet(backbone)
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)  # a tensor that stays NaN is missing in the checkpoint
    mismatch = f'{path} is not a checkpoint of {backbone.name}'
    try:
        supernet.load_state_dict(state)  # `ofa` renames the keys of its older checkpoints
    except (AssertionError, ValueError, KeyError) as error:
        raise CheckpointError(f'{mismatch}: it has the unknown tensor {error}') from None
    except RuntimeError as error:
        found = re.search(r'size mismatch for (\S+): .*?(\[.*?\]).*?(\[.*?\])', str(error), re.S)
        detail = (
            f'{found[1]} is {found[2]}, expected {found[3]}'
            if found
            else ' '.join(str(error).split())
        )
        raise CheckpointError(f'{mismatch}: {detail}') from None
    missing = [
        name for name, value in supernet.state_dict().items() if not bool(value.isfinite().all())
    ]
    if missing:
        raise CheckpointError(
            f'{mismatch}: {len(missing)} tensors are missing or contain NaN or infinity, for '
            f'instance {missing[0]}'
        )
    return supernet.eval()


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a PyTorch checkpoint, which is the dict or has it as `state_dict`.

    No code in the file is executed. Raise CheckpointError if the file contains anything else.
    """
    try:
        document: Any = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f'{path} is missing') from None
    except pickle.UnpicklingError as error:
        code = re.search(r'GLOBAL\s+([\w.]+)', str(error))
        if code:
            raise CheckpointError(
                f'{path} was not loaded, because it contains code, which would call {code[1]}. '
                'Save only the state_dict, or use the file of the original publisher'
            ) from None
        raise CheckpointError(f'{path} is damaged or not a PyTorch checkpoint') from None
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(
            f'{path} is damaged or not a PyTorch checkpoint '
            f'({" ".join(str(error).split()) or type(error).__name__})'
        ) from None
    state = document.get('state_dict', document) if isinstance(document, Mapping) else document
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise CheckpointError(f'{path} is not a checkpoint: it contains no named tensors')
    return {str(name): value for name, value in state.items()}


def read_published_predictor(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read the authors' accuracy predictor as `w0, b0, w1, ...`; raise CheckpointError.

    It consists of linear layers with ReLUs between them, so its tensors are called `0.weight`,
    `0.bias`, `2.weight` and so on.
    """
    state = read_state(path)
    if any(value.ndim not in (1, 2) for value in state.values()):
        raise CheckpointError(
            f'{path} is not an accuracy predictor of ofa: it has layers that are not linear'
        )
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for layer in range(len(state) // 2):
        for letter, kind in (('w', 'weight'), ('b', 'bias')):
            tensor = state.get(f'{2 * layer}.{kind}')
            if tensor is None:
                raise CheckpointError(
                    f'{path} is not an accuracy predictor of ofa: {2 * layer}.{kind} is missing'
                )
            arrays[f'{letter}{layer}'] = tensor.float().numpy()
    shapes = [arrays[f'w{layer}'].shape for layer in range(len(arrays) // 2)]
    is_chain = all(before[0] == after[1] for before, after in pairwise(shapes))
    if not is_chain or shapes[-1][0] != 1:
        raise CheckpointError(
            f'{path} is not an accuracy predictor of ofa: its layers {shapes} are not a network '
            'with one output'
        )
    return arrays
