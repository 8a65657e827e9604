"""Published backbones: where their checkpoints lie, and reading those without running code."""

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
    """A supernet that somebody publishes, with the SHA-256 where they state one.

    predictor_url: the accuracy predictor published for it, if any.
    """

    backbone: BackboneSpec
    url: str
    sha256: str = ''
    predictor_url: str = ''
    predictor_sha256: str = ''


# The addresses that `ofa` 0.1 itself uses (ofa/model_zoo.py, ofa/tutorial/accuracy_predictor.py).
# Its authors state no checksums, so the first download of a file is the one to be trusted.
_OFA = 'https://raw.githubusercontent.com/han-cai/files/master/ofa'
_ADDRESSES = {
    'ofa_mbv3_d234_e346_k357_w1.0': f'{_OFA}/ofa_nets/ofa_mbv3_d234_e346_k357_w1.0',
    'ofa_mbv3_d234_e346_k357_w1.2': f'{_OFA}/ofa_nets/ofa_mbv3_d234_e346_k357_w1.2',
    'ofa_proxyless_d234_e346_k357_w1.3': f'{_OFA}/ofa_nets/ofa_proxyless_d234_e346_k357_w1.3',
    # `ofa` names the file drive.google.com/uc?id=..., which shows a page to click through first.
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
    """Return where the backbone `name` is published; raise BackboneError for an unknown name."""
    if name not in _ADDRESSES:
        raise BackboneError(
            f'there is no published backbone {name!r}; known are {", ".join(_ADDRESSES)}'
        )
    return PublishedCheckpoint(
        published_backbone(name), _ADDRESSES[name], predictor_url=_PREDICTORS.get(name, '')
    )


def fetched_folder(name: str) -> Path:
    """Return where `dynamic-ofa fetch` puts a backbone unless told otherwise."""
    return cache_directory() / BACKBONES_FOLDER / name


def resolve_backbone(path_or_name: str | Path) -> Path:
    """Return the folder of a backbone given as a path or by its published name.

    Raise CheckpointError when a published one was not fetched yet.
    """
    path = Path(path_or_name).expanduser()
    name = str(path_or_name)
    if path.exists() or name not in _ADDRESSES:
        return path  # whoever opens it says what is wrong with it
    if not fetched_folder(name).is_dir():
        raise CheckpointError(
            f'{name} has not been fetched; get it with: dynamic-ofa fetch {name}'
        )
    return fetched_folder(name)


def load_published(backbone: BackboneSpec, path: Path) -> nn.Module:
    """Build a supernet and load a checkpoint as its authors publish it; float32, eval, CPU.

    No code in the file is run. Raise CheckpointError when it is damaged, holds anything but
    tensors, or does not fit.
    """
    state = read_state(path)
    supernet = build_supernet(backbone)
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)  # what is still NaN afterwards was not in the checkpoint
    misfit = f'{path} is not a checkpoint of {backbone.name}'
    try:
        supernet.load_state_dict(state)  # `ofa` renames the keys of its older checkpoints
    except (AssertionError, ValueError, KeyError) as error:
        raise CheckpointError(f'{misfit}: it has an unknown tensor {error}') from None
    except RuntimeError as error:
        found = re.search(r'size mismatch for (\S+): .*?(\[.*?\]).*?(\[.*?\])', str(error), re.S)
        detail = (
            f'{found[1]} is {found[2]}, expected {found[3]}'
            if found
            else ' '.join(str(error).split())
        )
        raise CheckpointError(f'{misfit}: {detail}') from None
    missing = [
        name for name, value in supernet.state_dict().items() if not bool(value.isfinite().all())
    ]
    if missing:
        raise CheckpointError(
            f'{misfit}: {len(missing)} tensors are missing or hold no numbers, for instance '
            f'{missing[0]}'
        )
    return supernet.eval()


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a PyTorch checkpoint, itself a state dict or with one inside.

    Raise CheckpointError for anything else; nothing in the file is executed.
    """
    try:
        document: Any = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f'{path} is missing') from None
    except pickle.UnpicklingError as error:
        code = re.search(r'GLOBAL\s+([\w.]+)', str(error))
        if code:
            raise CheckpointError(
                f'{path} holds more than tensors: loading it would call {code[1]}, so it is '
                'refused. Save its state_dict alone, or get it from its publisher'
            ) from None
        raise CheckpointError(f'{path} is no PyTorch checkpoint, or it is damaged') from None
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(
            f'{path} is no PyTorch checkpoint, or it is damaged '
            f'({" ".join(str(error).split()) or type(error).__name__})'
        ) from None
    state = document.get('state_dict', document) if isinstance(document, Mapping) else document
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise CheckpointError(f'{path} holds no tensors by name: it is no checkpoint')
    return {str(name): value for name, value in state.items()}


def read_published_predictor(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read the authors' accuracy predictor as `w0, b0, w1, ...`; raise CheckpointError.

    It is a stack of linear layers with a ReLU between each two, so its tensors are named
    `0.weight`, `0.bias`, `2.weight` and so on.
    """
    state = read_state(path)
    if any(value.ndim not in (1, 2) for value in state.values()):
        raise CheckpointError(f'{path} is no accuracy predictor of ofa: its layers are not linear')
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for layer in range(len(state) // 2):
        for letter, kind in (('w', 'weight'), ('b', 'bias')):
            tensor = state.get(f'{2 * layer}.{kind}')
            if tensor is None:
                raise CheckpointError(
                    f'{path} is no accuracy predictor of ofa: it lacks {2 * layer}.{kind}'
                )
            arrays[f'{letter}{layer}'] = tensor.float().numpy()
    shapes = [arrays[f'w{layer}'].shape for layer in range(len(arrays) // 2)]
    fits = all(before[0] == after[1] for before, after in pairwise(shapes))
    if not fits or shapes[-1][0] != 1:
        raise CheckpointError(
            f'{path} is no accuracy predictor of ofa: its layers are {shapes}, which is no '
            'network with one output'
        )
    return arrays
