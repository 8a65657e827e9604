from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynamic_ofa_ros.errors import CheckpointError
from dynamic_ofa_ros.supernet.weights import load_tensors, load_weights, save_tensors


def test_half_precision_is_read_back_as_float(tmp_path: Path) -> None:
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    path = tmp_path / 'w.safetensors'
    save_tensors({name: value.half() for name, value in source.state_dict().items()}, path)
    load_weights(target, path)
    assert target.weight.dtype == torch.float32
    torch.testing.assert_close(target.weight, source.weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ('tensors', 'message'),
    [
        ({'weight': torch.zeros(2, 3)}, '1 tensors are missing, for instance bias'),
        (
            {'weight': torch.zeros(2, 3), 'bias': torch.zeros(2), 'more': torch.zeros(1)},
            '1 tensors are unknown, for instance more',
        ),
        ({'weight': torch.zeros(9, 3), 'bias': torch.zeros(2)}, '1 tensors are of another shape'),
    ],
)
def test_weights_that_do_not_match_are_rejected(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    path = tmp_path / 'w.safetensors'
    save_tensors(tensors, path)
    with pytest.raises(CheckpointError, match=message):
        load_weights(torch.nn.Linear(3, 2), path)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / 'w.safetensors'
    with pytest.raises(CheckpointError, match='is missing'):
        load_tensors(path)
    path.write_bytes(b'not tensors')
    with pytest.raises(CheckpointError, match='cannot be read as safetensors'):
        load_tensors(path)
