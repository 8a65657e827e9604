"""`dynamic-ofa predictor`: measure and fit, fit given pairs, check; errors for bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from families import make_random_backbone
from image_files import write_noise
from offline.pool_data import CLASSES
from reference import reference_file

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import read_predictor
from dynamic_ofa_ros.offline.accuracy.pairs import read_pairs
from dynamic_ofa_ros.offline.search.candidates import sample_candidates
from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.space.spaces import SPACES, search_space


@pytest.fixture(scope='module')
def measuring(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return options that measure 20 tiny sub-networks on noise, with some damaged images."""
    root = tmp_path_factory.mktemp('predictor')
    make_random_backbone(root / 'backbone', CLASSES)
    write_noise(root / 'train', CLASSES, 8)
    write_noise(root / 'val', CLASSES, 14, seed=2)
    for index in range(4):
        (root / 'val' / 'a' / f'{index:02}.png').write_bytes(b'damaged')
    return [
        'predictor', 'fit', '--backbone', str(root / 'backbone'), '--data', str(root),
        '--samples', '20', '--calibration-images', '8', '--device', 'cpu', '--workers', '1',
    ]  # fmt: skip


@pytest.fixture(scope='module')
def fitted(measuring: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp('fitted') / 'p.npz'
    threads = torch.get_num_threads()
    assert main([*measuring, '--output', str(output)]) == 0
    torch.set_num_threads(threads)
    return output


def pairs_of(kind: str, count: int = 40) -> list[dict[str, object]]:
    """Return sampled architectures whose accuracy grows with their cost."""
    space = search_space(kind, (32, 48, 64))
    architectures = sample_candidates(space, count, 1)
    macs = np.array([space.count_cost(a, 0.35, 10).macs for a in architectures])
    top1 = 0.5 + 0.1 * np.log(macs / macs.min())
    return [
        {'architecture': a.to_mapping(), 'top1': float(t)}
        for a, t in zip(architectures, top1, strict=True)
    ]


def write(path: Path, pairs: list[dict[str, object]]) -> Path:
    path.write_text(''.join(json.dumps(pair) + '\n' for pair in pairs))
    return path


def test_measured_sub_networks_are_kept_and_fitted(fitted: Path) -> None:
    pairs = read_pairs(fitted.with_suffix('.pairs.jsonl'))
    assert len({pair.architecture for pair in pairs}) == 20
    assert len({pair.top1 for pair in pairs}) > 3
    assert all(0 <= pair.top1 <= 1 for pair in pairs)


def test_an_interrupted_measurement_is_resumed(
    fitted: Path, measuring: list[str], tmp_path: Path
) -> None:
    work = tmp_path / 'work'
    arguments = [*measuring, '--work', str(work)]
    assert main([*arguments, '--output', str(tmp_path / 'first.npz')]) == 0
    (journal,) = work.glob('accuracies-*.jsonl')
    lines = journal.read_text().splitlines(keepends=True)
    marked = {**json.loads(lines[0]), 'top1': 0.123}  # a new measurement would differ
    journal.write_text(''.join([json.dumps(marked) + '\n', *lines[1:18], lines[18][:30]]))
    assert main([*arguments, '--output', str(tmp_path / 'second.npz')]) == 0
    pairs = read_pairs(tmp_path / 'second.pairs.jsonl')
    assert [pair.top1 for pair in pairs].count(0.123) == 1
    assert pairs[1:] == read_pairs(fitted.with_suffix('.pairs.jsonl'))[1:]


def test_pairs_of_another_measurement_are_not_used(measuring: list[str], tmp_path: Path) -> None:
    """They depend on the calibration images, so other images give other pairs."""
    found = []
    for images in ('8', '9'):
        output = tmp_path / f'{images}.npz'
        arguments = ['--work', str(tmp_path / 'work'), '--calibration-images', images]
        assert main([*measuring, *arguments, '--output', str(output)]) == 0
        found.append(read_pairs(output.with_suffix('.pairs.jsonl')))
    assert found[0] != found[1]


def test_nothing_but_predictor_and_pairs_is_left(fitted: Path) -> None:
    assert sorted(path.name for path in fitted.parent.iterdir()) == ['p.npz', 'p.pairs.jsonl']


@pytest.mark.parametrize('kind', SPACES)
def test_given_pairs_are_fitted_and_checked(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, output = write(tmp_path / 'pairs.jsonl', pairs_of(kind)), tmp_path / 'p.npz'
    arguments = ['predictor', 'fit', '--pairs', str(pairs), '--kind', kind]
    assert main([*arguments, '--output', str(output), '--json']) == 0
    fit = json.loads(capsys.readouterr().out)
    assert fit['kendall_tau'] > 0.5
    assert fit['held_out_mae'] < 0.7 * fit['held_out']['mean']['mae']
    assert main(['predictor', 'check', str(output), '--pairs', str(pairs), '--json']) == 0
    check = json.loads(capsys.readouterr().out)
    assert check['pairs'] == 40
    assert check['kendall_tau'] > fit['kendall_tau'], (
        'training pairs are easier than held-out ones'
    )


def test_csv_and_json_lines_give_the_same_pairs(tmp_path: Path) -> None:
    pairs = pairs_of('ofa_resnet50', 5)
    rows = ['e,d,w,r,top1']
    for pair in pairs:
        a = pair['architecture']
        assert isinstance(a, dict)
        lists = [' '.join(map(str, a[name])) for name in ('e', 'd', 'w')]
        rows.append(','.join([*lists, str(a['r']), repr(pair['top1'])]))
    (tmp_path / 'pairs.csv').write_text('\n'.join(rows) + '\n')
    assert read_pairs(tmp_path / 'pairs.csv') == read_pairs(write(tmp_path / 'p.jsonl', pairs))


def test_bias_and_ranking_are_reported_separately(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published predictor ranks correctly but predicts some points too much."""
    file = reference_file('acc_predictor.npz')
    space = search_space('ofa_mobilenetv3', (160, 176))
    architectures = sample_candidates(space, 30, 1)
    predicted = read_predictor(file).predict(GenomeEncoding(space).encode(architectures), space)
    pairs: list[dict[str, object]] = [
        {'architecture': a.to_mapping(), 'top1': float(p) - 0.05}
        for a, p in zip(architectures, predicted, strict=True)
    ]
    path = write(tmp_path / 'pairs.jsonl', pairs)
    assert main(['predictor', 'check', str(file), '--pairs', str(path), '--json']) == 0
    check = json.loads(capsys.readouterr().out)
    assert check['bias'] == pytest.approx(0.05)
    assert check['mae'] == pytest.approx(0.05)
    assert check['mae_without_bias'] == pytest.approx(0.0, abs=1e-9)
    assert check['kendall_tau'] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"architecture": {"ks": [3]}, "top1": 0.5}', 'line 3: an architecture needs'),
        ('{"architecture": {"e": [3.0]}}', "line 3: 'top1' is missing"),
        ('{"top1": 0.5}', "line 3: 'architecture' is missing"),
        ('nonsense', 'line 3: not a JSON object'),
        ('[1, 2]', 'line 3: not a JSON object'),
    ],
)
def test_an_invalid_line_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    path = write(tmp_path / 'pairs.jsonl', pairs_of('ofa_mobilenetv3', 2))
    path.write_text(path.read_text() + line + '\n')
    arguments = ['predictor', 'fit', '--pairs', str(path), '--output', str(tmp_path / 'p.npz')]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'p.npz').exists()


def test_invalid_accuracies_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for top1, message in ((76.5, '0.765, not 76.5'), ('high', "top1 is 'high'"), (None, 'None')):
        pairs = pairs_of('ofa_mobilenetv3', 25)
        pairs[7]['top1'] = top1
        path = write(tmp_path / 'pairs.jsonl', pairs)
        arguments = ['predictor', 'fit', '--pairs', str(path), '--output', str(tmp_path / 'p')]
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['fit', '--output', 'p.npz'], 'give --backbone and --data'),
        (['fit', '--output', 'p.npz', '--pairs', 'nowhere.csv'], 'nowhere.csv is missing'),
        (['check', 'nowhere.npz', '--pairs', 'x'], 'nowhere.npz is missing'),
    ],
)
def test_missing_input_is_reported(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(['predictor', *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (['--data', 'signs'], 'has 28 classes'),
    ],
)
def test_bad_options_are_reported(
    measuring: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    message: str,
) -> None:
    assert main([*measuring, '--output', str(tmp_path / 'p.npz'), *option]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_a_full_disk_is_named(
    measuring: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Path.open

    def full(self: Path, mode: str = 'r', **options: object) -> object:
        return original(Path('/dev/full') if mode == 'a' else self, mode, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, 'open', full)
        assert main([*measuring, '--output', str(tmp_path / 'p.npz')]) == 2
    error = capsys.readouterr().err
    assert f'{tmp_path}/.p.npz.work/accuracies-' in error
    assert 'No space left on device' in error
