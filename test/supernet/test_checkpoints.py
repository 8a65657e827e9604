from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from families import randomise

from dynamic_ofa_ros.errors import BackboneError, CheckpointError
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.supernet.network import build_supernet
from dynamic_ofa_ros.supernet.published.checkpoints import (
    fetched_folder,
    load_published,
    published_checkpoint,
    published_names,
    read_published_predictor,
    read_state,
    resolve_backbone,
)

BACKBONE = BackboneSpec('tiny', 'ofa_mobilenetv3', 0.1, 4)


class CodeThatRuns:
    """Creates a file when it is unpickled, like a malicious checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), 'w')


@pytest.fixture(scope='module')
def state() -> dict[str, torch.Tensor]:
    supernet = build_supernet(BACKBONE)
    randomise(supernet, torch.Generator().manual_seed(1))
    return dict(supernet.state_dict())


def save(document: object, path: Path, **options: bool) -> Path:
    torch.save(document, path, **options)
    return path


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state with the tensor names of the published checkpoints of `ofa`."""
    return {
        name.replace('.conv.', '.mobile_inverted_conv.', 1)
        if name.startswith('blocks.')
        else name: value
        for name, value in state.items()
    }


@pytest.mark.parametrize('form', ['published', 'bare', 'old names', 'old format'])
def test_all_tensors_of_a_checkpoint_are_loaded(
    state: dict[str, torch.Tensor], tmp_path: Path, form: str
) -> None:
    document = {
        'published': {'epoch': 7, 'state_dict': state},
        'bare': state,
        'old names': {'state_dict': old_names(state)},
        'old format': {'state_dict': state},
    }[form]
    path = save(document, tmp_path / 'file', _use_new_zipfile_serialization=form != 'old format')
    loaded = load_published(BACKBONE, path)
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_code_in_a_checkpoint_is_rejected_and_not_executed(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    proof = tmp_path / 'proof'
    path = save({'state_dict': {**state, 'x': CodeThatRuns(proof)}}, tmp_path / 'file')
    with pytest.raises(CheckpointError, match=r'contains code, which would call io\.open'):
        read_state(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)['state_dict']['x'].close()
    assert proof.exists(), 'the attack would have worked'


def test_checkpoints_of_other_networks_are_rejected(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    name = 'classifier.linear.weight'
    lacking = {key: value for key, value in state.items() if key != name}
    for change, message in (
        ({**state, name: torch.zeros(9, 9)}, rf'{name} is \[9, 9\], expected \[4, '),
        (lacking, rf'1 tensors are missing or contain NaN or infinity, for instance {name}'),
        ({**state, name: state[name] * torch.nan}, '1 tensors are missing or contain NaN'),
        ({**state, 'heads.0.weight': torch.zeros(1)}, 'unknown tensor heads'),
        ({'fc.weight': torch.zeros(1)}, r'unknown tensor'),
    ):
        path = save({'state_dict': change}, tmp_path / 'file')
        with pytest.raises(CheckpointError, match=message) as caught:
            load_published(BACKBONE, path)
        assert 'is not a checkpoint of tiny' in str(caught.value)


def test_files_that_are_not_checkpoints_are_rejected(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / 'file'
    whole = save(state, path).read_bytes()
    for data in (b'', b'garbage', b'<html></html>', whole[: len(whole) // 2], whole[100:]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match='is damaged or not a PyTorch checkpoint'):
            read_state(path)
    for document in ({}, {'state_dict': 3}, {'epoch': 7}, [state], torch.zeros(3)):
        with pytest.raises(CheckpointError, match='it contains no named tensors'):
            read_state(save(document, path))
    with pytest.raises(CheckpointError, match='is missing'):
        read_state(tmp_path / 'nowhere')


def test_every_published_backbone_has_an_address_and_a_supernet() -> None:
    assert published_names() == (
        'ofa_mbv3_d234_e346_k357_w1.0',
        'ofa_mbv3_d234_e346_k357_w1.2',
        'ofa_proxyless_d234_e346_k357_w1.3',
        'ofa_resnet50',
    )
    for name in published_names():
        checkpoint = published_checkpoint(name)
        assert checkpoint.url.startswith('https://')
        assert (checkpoint.backbone.name, checkpoint.backbone.classes) == (name, 1000)
    with pytest.raises(BackboneError, match='known are ofa_mbv3'):
        published_checkpoint('ofa_huge')


@pytest.mark.parametrize('kind', ['ofa_proxyless', 'ofa_resnet50'])
def test_checkpoints_of_the_other_kinds_are_loaded(kind: str, tmp_path: Path) -> None:
    backbone = BackboneSpec('tiny', kind, 0.2, 4)
    supernet = build_supernet(backbone)
    path = save({'state_dict': supernet.state_dict()}, tmp_path / 'file')
    loaded = load_published(backbone, path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in supernet.state_dict().items())
    with pytest.raises(CheckpointError, match='is not a checkpoint of tiny'):
        load_published(BACKBONE, path)


def test_a_backbone_is_found_by_path_or_by_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path))
    assert resolve_backbone(tmp_path) == tmp_path
    assert resolve_backbone('runs/mine') == Path('runs/mine')
    with pytest.raises(CheckpointError, match='fetch it with: dynamic-ofa fetch ofa_resnet50'):
        resolve_backbone('ofa_resnet50')
    fetched_folder('ofa_resnet50').mkdir(parents=True)
    assert resolve_backbone('ofa_resnet50') == tmp_path / 'backbones' / 'ofa_resnet50'


def predictor(*widths: int) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def test_the_authors_accuracy_predictor_is_converted(tmp_path: Path) -> None:
    network = predictor(128, 8, 8, 1)
    arrays = read_published_predictor(save(network.state_dict(), tmp_path / 'file'))
    assert list(arrays) == ['w0', 'b0', 'w1', 'b1', 'w2', 'b2']
    values = np.ones(128, np.float32)
    for layer in range(3):
        values = arrays[f'w{layer}'] @ np.maximum(values, 0.0) + arrays[f'b{layer}']
    assert values == pytest.approx(network(torch.ones(128)).item(), abs=1e-5)


def test_files_that_are_not_predictors_are_rejected(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    broken = {**predictor(128, 8, 1).state_dict(), '2.weight': torch.zeros(1, 9)}
    for document, message in (
        (state, 'not linear'),
        ({'fc.weight': torch.zeros(1, 2), 'fc.bias': torch.zeros(1)}, r'0\.weight is missing'),
        (predictor(128, 8, 2).state_dict(), 'are not a network with one output'),
        (broken, 'are not a network with one output'),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_published_predictor(save(document, tmp_path / 'file'))
