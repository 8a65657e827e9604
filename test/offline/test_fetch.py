from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import randomise
from file_server import FileServer, serving

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import CheckpointError, DatasetError, DownloadError, FamilyError
from dynamic_ofa_ros.family import BackboneSpec, sha256_of
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor
from dynamic_ofa_ros.offline.fetch import (
    FetchSettings,
    fetch_backbone,
    placeholder_labels,
    read_labels,
    with_labels_of,
)
from dynamic_ofa_ros.supernet.network import build_supernet
from dynamic_ofa_ros.supernet.published import checkpoints
from dynamic_ofa_ros.supernet.published.checkpoints import PublishedCheckpoint
from dynamic_ofa_ros.supernet.published.download import alone
from dynamic_ofa_ros.supernet.trained import open_backbone

BACKBONE = BackboneSpec('tiny', 'ofa_mobilenetv3', 0.1, 4)


@pytest.fixture(scope='module')
def supernet() -> torch.nn.Module:
    network = build_supernet(BACKBONE).eval()
    randomise(network, torch.Generator().manual_seed(2))
    return network


@pytest.fixture(scope='module')
def file(supernet: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('published') / 'tiny.pth'
    torch.save({'state_dict': supernet.state_dict()}, path)
    return path


@pytest.fixture
def server(file: Path) -> Iterator[FileServer]:
    with serving(FileServer({'tiny': file.read_bytes()})) as running:
        yield running


@pytest.fixture
def published(server: FileServer) -> PublishedCheckpoint:
    return PublishedCheckpoint(BACKBONE, server.url('tiny'))


def leftovers(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.rglob('*') if path.is_file() and path.suffix != '.lock'
    )


def test_a_fetched_backbone_can_be_used_for_a_build(
    published: PublishedCheckpoint, supernet: torch.nn.Module, file: Path, tmp_path: Path
) -> None:
    report = fetch_backbone(published, tmp_path / 'out', cache=tmp_path / 'cache')
    assert report.is_first_use
    assert report.sha256 == sha256_of(file)
    trained = open_backbone(tmp_path / 'out')
    assert trained.backbone == BACKBONE
    assert trained.labels == ('class 0', 'class 1', 'class 2', 'class 3')
    assert trained.resolutions == tuple(range(128, 225, 4))
    assert trained.preprocessing.crop_fraction == 0.875
    assert trained.training['sha256'] == report.sha256
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = supernet(image)
        found = trained.load()(image)
    assert float(expected.std(0).mean()) > 0.01, 'the logits must differ'
    torch.testing.assert_close(found, expected)
    assert leftovers(tmp_path / 'out') == ['backbone.safetensors', 'backbone.yaml']
    assert leftovers(tmp_path / 'cache') == ['checksums.json'], 'the download is deleted'


def test_a_changed_file_is_rejected(
    published: PublishedCheckpoint, server: FileServer, file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / 'cache'
    fetch_backbone(published, tmp_path / 'first', cache=cache)
    again = fetch_backbone(published, tmp_path / 'again', cache=cache)
    assert not again.is_first_use
    server.files['tiny'] += b'x'
    for settings in (FetchSettings(), FetchSettings(url=server.url('tiny'))):
        with pytest.raises(DownloadError, match=rf'but {sha256_of(file)} is recorded'):
            fetch_backbone(published, tmp_path / 'out', settings, cache=cache)
    other = tmp_path / 'other.pth'
    other.write_bytes(server.files['tiny'])
    with pytest.raises(DownloadError, match='is recorded in'):
        fetch_backbone(published, tmp_path / 'out', FetchSettings(file=other), cache=cache)
    assert other.is_file(), "a user's own file is never deleted"
    assert not (tmp_path / 'out').exists()
    assert leftovers(cache) == ['checksums.json']


def test_a_given_checksum_takes_precedence(
    published: PublishedCheckpoint, file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / 'cache'
    stated = replace(published, sha256='0' * 64)
    with pytest.raises(DownloadError, match='is given; fetch the file from another address'):
        fetch_backbone(stated, tmp_path / 'out', cache=cache)
    settings = FetchSettings(sha256=sha256_of(file).upper())
    assert fetch_backbone(stated, tmp_path / 'out', settings, cache=cache).is_first_use


def test_a_local_file_requires_no_internet(file: Path, tmp_path: Path) -> None:
    checkpoint = PublishedCheckpoint(BACKBONE, 'http://127.0.0.1:1/nothing')
    settings = FetchSettings(file=file)
    report = fetch_backbone(checkpoint, tmp_path / 'out', settings, cache=tmp_path / 'cache')
    assert report.source == 'tiny.pth'
    assert open_backbone(tmp_path / 'out').load() is not None
    with pytest.raises(CheckpointError, match='there is no file'):
        fetch_backbone(
            checkpoint, tmp_path / 'x', FetchSettings(file=tmp_path / 'x'), cache=tmp_path
        )
    with pytest.raises(DownloadError, match='cannot be reached'):
        fetch_backbone(checkpoint, tmp_path / 'x', cache=tmp_path)


def test_an_invalid_download_is_neither_recorded_nor_kept(
    published: PublishedCheckpoint, server: FileServer, file: Path, tmp_path: Path
) -> None:
    wider = replace(published, backbone=replace(BACKBONE, classes=5))
    cache = tmp_path / 'cache'
    with pytest.raises(CheckpointError, match=r'is not a checkpoint of tiny: classifier'):
        fetch_backbone(wider, tmp_path / 'out', cache=cache)
    server.files['tiny'] = file.read_bytes()[:10_000]
    with pytest.raises(CheckpointError, match='is damaged or not a PyTorch checkpoint'):
        fetch_backbone(published, tmp_path / 'out', cache=cache)
    assert leftovers(tmp_path) == []
    server.files['tiny'] = file.read_bytes()
    assert fetch_backbone(published, tmp_path / 'out', cache=cache).is_first_use


def test_an_existing_folder_and_a_second_process_are_not_disturbed(
    published: PublishedCheckpoint, server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / 'out').mkdir()
    with pytest.raises(FamilyError, match='exists already; choose another'):
        fetch_backbone(published, tmp_path / 'out', cache=tmp_path / 'cache')
    with (
        alone(tmp_path / 'cache' / 'downloads' / 'tiny'),
        pytest.raises(DownloadError, match='another process is downloading tiny'),
    ):
        fetch_backbone(published, tmp_path / 'new', cache=tmp_path / 'cache')
    assert server.requests == []


def test_a_full_disk_during_the_conversion_leaves_no_files(file: Path, tmp_path: Path) -> None:
    checkpoint = PublishedCheckpoint(BACKBONE, 'http://127.0.0.1:1/nothing')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r'backbone\.safetensors cannot be written'):
            fetch_backbone(
                checkpoint, tmp_path / 'out', FetchSettings(file=file), cache=tmp_path / 'cache'
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert leftovers(tmp_path) == []
    assert not (tmp_path / 'out').exists()


def test_the_accuracy_predictor_is_fetched_too(
    published: PublishedCheckpoint, server: FileServer, tmp_path: Path
) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(128, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1))
    torch.save(network.state_dict(), tmp_path / 'predictor.pth')
    server.files['predictor'] = (tmp_path / 'predictor.pth').read_bytes()
    whole = replace(published, predictor_url=server.url('predictor'))
    cache = tmp_path / 'cache'
    report = fetch_backbone(whole, tmp_path / 'out', cache=cache)
    assert report.predictor_path == tmp_path / 'out' / 'accuracy_predictor.npz'
    weights = read_predictor(report.predictor_path).weights
    assert [w.shape for w in weights] == [(6, 128), (1, 6)]
    without = FetchSettings(predictor=False)
    assert fetch_backbone(whole, tmp_path / 'b', without, cache=cache).predictor_path is None
    own = FetchSettings(predictor_file=tmp_path / 'predictor.pth')
    assert fetch_backbone(published, tmp_path / 'c', own, cache=cache).predictor_path is not None
    del server.files['predictor']
    with pytest.raises(DownloadError, match='there is no file at'):
        fetch_backbone(whole, tmp_path / 'd', cache=cache)
    assert not (tmp_path / 'd').exists()


def test_labels_are_read_from_a_file_or_the_data(
    published: PublishedCheckpoint, tmp_path: Path
) -> None:
    (tmp_path / 'labels.txt').write_text('ant\nbee\n\ncat\ndog\n')
    for name in ('d', 'a', 'c', 'b'):
        (tmp_path / 'imagenet' / 'train' / name).mkdir(parents=True)
    assert read_labels(tmp_path / 'labels.txt') == ('ant', 'bee', 'cat', 'dog')
    assert read_labels(tmp_path / 'imagenet') == ('a', 'b', 'c', 'd')
    assert read_labels(tmp_path / 'imagenet' / 'train') == ('a', 'b', 'c', 'd')
    named = fetch_backbone(
        published,
        tmp_path / 'named',
        FetchSettings(labels=read_labels(tmp_path / 'labels.txt')),
        cache=tmp_path,
    ).trained
    numbered = fetch_backbone(published, tmp_path / 'numbered', cache=tmp_path).trained
    classes = ('a', 'b', 'c', 'd')
    assert with_labels_of(numbered, classes).labels == classes
    assert with_labels_of(numbered, classes[:3]).labels == placeholder_labels(4)
    assert with_labels_of(named, classes).labels == ('ant', 'bee', 'cat', 'dog')
    with pytest.raises(DatasetError, match='3 labels were given; tiny has 4 classes'):
        fetch_backbone(published, tmp_path / 'x', FetchSettings(labels=('a', 'b', 'c')))
    for path in (tmp_path / 'imagenet' / 'train' / 'a', tmp_path / 'nowhere'):
        with pytest.raises(DatasetError, match=r'contains no class folders|cannot be read'):
            read_labels(path)


def test_the_command_fetches_by_name(
    server: FileServer,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = 'ofa_mbv3_d234_e346_k357_w1.0'
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path))
    monkeypatch.setattr(checkpoints, 'published_backbone', lambda _: replace(BACKBONE, name=name))
    arguments = ['fetch', name, '--url', server.url('tiny')]
    assert main([*arguments, '--json']) == 0
    document = json.loads(capsys.readouterr().out)
    assert document['sha256'] == sha256_of(file)
    assert document['is_first_use']
    assert open_backbone(document['folder']).backbone.name == name
    assert main(arguments) == 2
    assert 'exists already' in capsys.readouterr().err
    assert main([*arguments, '--output', str(tmp_path / 'b')]) == 0
    assert f'{sha256_of(file)} (as expected)' in capsys.readouterr().out
    assert main(['fetch']) == 0
    assert f'{name}         {document["folder"]}' in capsys.readouterr().out
    assert main(['fetch', 'ofa_huge']) == 2
    assert 'known are ofa_mbv3' in capsys.readouterr().err
