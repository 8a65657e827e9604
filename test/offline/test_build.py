"""Builds of families: all stages, resumed builds, merged families, level files, full disks."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from families import make_random_backbone, make_random_family
from full_disk import files_up_to
from offline.fake_device import pretend_device, profile_quickly, replace_latencies

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.family import (
    Family,
    LatencyProfile,
    LevelLatency,
)
from dynamic_ofa_ros.offline.accuracy import evaluation, predictor_fit
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import save_predictor
from dynamic_ofa_ros.offline.accuracy.evaluation_pool import EvaluationPool
from dynamic_ofa_ros.offline.build import build_context, stages
from dynamic_ofa_ros.offline.latency import family_profile, on_device
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.offline.latency.measure_model import measure_operator_table
from dynamic_ofa_ros.offline.latency.on_device import level_of
from dynamic_ofa_ros.offline.search.candidates import FINALIST, key_of, read_candidates
from dynamic_ofa_ros.offline.work_folder import WorkFolder
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.supernet.trained import TrainedBackbone, open_backbone

LABELS = ('blue', 'green', 'red')
PLATFORM = 'cpu-pretended-pytorch-fp32-t1'
KILL_DEADLINE_S = 120.0

SMALL = ['--calibration-images', '8', '--workers', '1', '--device', 'cpu', '--engine', 'pytorch']
PLAIN = [
    *SMALL,
    '--search',
    'none',
    '--candidates',
    '6',
    '--finalists',
    '4',
    '--count',
    '3',
    '--span',
    '90',
]
SEARCHED = [
    *SMALL, '--candidates', '20', '--finalists', '6', '--count', '3', '--span', '90',
    '--evaluations', '400',
]  # fmt: skip


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes by hue, 24 training and 24 held-out JPEGs."""
    root = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(1)
    for split in ('train', 'val'):
        for label, name in enumerate(LABELS):
            (root / split / name).mkdir(parents=True)
            for index in range(8):
                image = rng.integers(0, 200, (40, 52, 3)).astype(np.uint8)
                image[..., label] //= 2
                cv2.imwrite(str(root / split / name / f'{index}.jpg'), image)
    return root


@pytest.fixture(scope='module')
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet with random weights, in the output folder of a training."""
    return make_random_backbone(tmp_path_factory.mktemp('backbone') / 'run', LABELS)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace latencies by a function of MACs; return the number of networks per call."""
    calls: list[int] = []

    def measure(
        trained: TrainedBackbone,
        _supernet: object,
        architectures: Sequence[SubnetArchitecture],
        settings: DeviceSettings,
        _scratch: Path,
        *_: object,
        **__: object,
    ) -> LatencyProfile:
        calls.append(len(architectures))
        macs = [level_of(1, trained, a, 0.5).macs for a in architectures]
        levels = [LevelLatency(*[0.5 + m / 1e6] * 2, 0.0, *[0.5 + m / 1e6] * 2, 9) for m in macs]
        conditions = {name: str(value) for name, value in asdict(settings).items()}
        return LatencyProfile(PLATFORM, tuple(levels), '2026-01-01T00:00:00+00:00', conditions)

    for module in (build_context, on_device):
        monkeypatch.setattr(module, 'measure_architectures', measure)
    monkeypatch.setattr(stages, 'FEWEST_PAIRS_TO_FIT', 20)
    return calls


def build(backbone: Path | str, photos: Path, output: Path, *options: str) -> int:
    arguments = ['--backbone', str(backbone), '--data', str(photos), '--output', str(output)]
    return main(['build', *arguments, *options])


def contents(family: Path) -> dict[str, object]:
    """Return everything of a family that does not depend on time."""
    document = yaml.safe_load((family / 'family.yaml').read_text())
    del document['provenance']['build']['seconds']
    search = document['provenance']['build'].get('search')
    if isinstance(search, dict):
        del search['seconds']
    others = {
        str(path.relative_to(family)): path.read_bytes()
        for path in sorted(family.rglob('*'))
        if path.is_file() and path.name != 'family.yaml'
    }
    return {'family.yaml': document, **others}


@pytest.fixture(scope='module')
def level_file(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    space = open_backbone(backbone).space
    document = {
        'format': 'dynamic_ofa_levels',
        'version': 1,
        'name': 'chosen_elsewhere',
        'source': 'a test',
        'platform': 'none',
        'backbone': asdict(open_backbone(backbone).backbone),
        'levels': [{'architecture': a.to_mapping()} for a in (space.smallest(), space.largest())],
    }
    path = tmp_path_factory.mktemp('levels') / 'chosen.yaml'
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_build_with_search_writes_all_results(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / 'colours'
    assert build(backbone, photos, output, *SEARCHED, '--json') == 0
    printed = json.loads(capsys.readouterr().out)
    family = Family.load(output)
    assert [path.name for path in tmp_path.iterdir()] == ['colours'], 'no other files remain'
    assert printed['platform'] == PLATFORM
    assert printed['checksum'] == family.checksum
    assert set(printed['seconds']) >= {'1 accuracy pairs', '4 search', '8 written'}
    facts = family.provenance['build']
    assert facts['accuracy_predictor']['pairs'] == 20
    assert facts['latency_model']['kendall_tau'] > 0.8
    assert facts['search']['evaluations'] <= 400
    assert facts['calibration_images'] == 8
    assert set(facts['seconds']) >= {'1 accuracy pairs', '5 candidates measured'}
    candidates = read_candidates(output / 'candidates' / f'{PLATFORM}.csv')
    assert 2 <= sum(c.kind == FINALIST for c in candidates) <= 6
    assert {key_of(c.architecture): c.level for c in candidates if c.level} == {
        key_of(level.architecture): level.index for level in family.levels
    }
    found = [c for c in candidates if c.kind == FINALIST and c.predicted_latency_ms > 0]
    error = [abs(c.predicted_latency_ms / c.latency_ms - 1) for c in found]
    assert np.median(error) < 0.2, 'the predictor was fitted to MACs'


def test_a_build_with_algorithm_1(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int]
) -> None:
    output = tmp_path / 'colours'
    assert build(backbone, photos, output, *SEARCHED, '--search', 'algorithm1') == 0
    family = Family.load(output)
    search = family.provenance['build']['search']
    assert search['algorithm'] == 'algorithm1'
    assert search['evaluations'] <= 400
    candidates = read_candidates(output / 'candidates' / f'{PLATFORM}.csv')
    predicted = [c.predicted_latency_ms for c in candidates if c.kind == FINALIST]
    assert len(predicted) >= 2
    assert not np.isnan(predicted).all(), 'the search found some of them'


def test_int8_levels_are_added_if_they_are_worth_it(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int], level_file: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    replace_latencies(monkeypatch)
    output = tmp_path / 'colours'
    options = (*SMALL, '--engine', 'onnxruntime', '--levels', str(level_file))

    assert build(backbone, photos, output, *options, '--precisions', 'fp32,int8', '--json') == 0
    assert [path.name for path in tmp_path.iterdir()] == ['colours'], 'no other files remain'
    printed, family = json.loads(capsys.readouterr().out), Family.load(output)
    assert not family.is_supernet
    assert family.provenance['build']['calibration_images'] == 8
    names = {level.name.removesuffix('_int8') for level in family.levels}
    assert names <= set(family.provenance['architectures'])
    assert len(family.levels) + len(printed['left_out']) == 4, 'two levels in two precisions'
    assert any(level.network.precision == 'int8' for level in family.levels)

    # Only int8, and what cannot be combined with it.
    only = tmp_path / 'only'
    assert build(backbone, photos, only, *options, '--precisions', 'int8') == 0
    assert {level.network.precision for level in Family.load(only).levels} == {'int8'}
    capsys.readouterr()
    for wrong, sentence in (
        (('--candidates-to', str(tmp_path / 'c')), 'measures all levels on this machine'),
        (('--engine', 'pytorch'), 'engine pytorch runs no quantised networks'),
        (('--levels', '33'), '33 levels in 2 precisions are more than 64'),
    ):
        status = build(backbone, photos, tmp_path / 'no', '--precisions', 'fp32,int8', *wrong)
        assert status == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / 'no').exists()


def test_a_build_interrupted_at_every_write_gives_the_same_family(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = tmp_path / 'whole'
    assert build(backbone, photos, whole, *SEARCHED, '--name', 'same') == 0
    output, interruptions = tmp_path / 'resumed', 0
    real_fsync, writes = os.fsync, [0]

    def fsync(handle: int) -> None:
        real_fsync(handle)
        writes[0] += 1
        # Steps of different length interrupt every stage; the last one is longer than stage 8.
        if writes[0] >= (9, 15, 29)[interruptions % 3]:
            raise KeyboardInterrupt

    while not output.exists():
        writes[0] = 0
        monkeypatch.setattr(os, 'fsync', fsync)
        status = build(backbone, photos, output, *SEARCHED, '--name', 'same')
        monkeypatch.setattr(os, 'fsync', real_fsync)
        assert status == (0 if output.exists() else 130)
        interruptions += status == 130
        assert interruptions < 40
    assert interruptions >= 5
    assert contents(output) == contents(whole)


def test_a_build_that_was_killed_after_its_last_stage_leaves_no_work_folder(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def killed(_: object) -> None:
        raise KeyboardInterrupt

    output = tmp_path / 'family'
    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, 'finish', killed)
        assert build(backbone, photos, output, *PLAIN) == 130
    assert len(list(tmp_path.iterdir())) == 2
    assert build(backbone, photos, output, *PLAIN) == 2
    assert 'exists already' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.long
def test_a_killed_build_is_resumed(backbone: Path, photos: Path, tmp_path: Path) -> None:
    """After two SIGKILLs, with real engines, all results except times are the same."""
    whole, output = tmp_path / 'whole', tmp_path / 'killed'
    assert build(backbone, photos, whole, *PLAIN) == 0
    command = [
        sys.executable, '-m', 'dynamic_ofa_ros.cli.main', 'build', '--backbone', str(backbone),
        '--data', str(photos), '--output', str(output), *PLAIN,
    ]  # fmt: skip
    work = tmp_path / '.killed.build'

    def has_lines(pattern: str, count: int) -> Callable[[], bool]:
        return lambda: any(p.read_text().count('\n') >= count for p in work.glob(pattern))

    for moment in (has_lines('accuracies-*.jsonl', 2), has_lines('reported-*.jsonl', 1)):
        kill_when(moment, command)
        assert not output.exists()
        assert moment(), 'measurements are kept'
    assert main(command[3:]) == 0
    mine, theirs = (
        {
            key_of(c.architecture): (c.kind, c.macs, c.top1)
            for c in read_candidates(next((family / 'candidates').iterdir()))
        }
        for family in (output, whole)
    )
    assert mine == theirs
    accuracies = {level.architecture: level.accuracy for level in Family.load(whole).levels}
    for level in Family.load(output).levels:
        assert level.accuracy == accuracies.get(level.architecture, level.accuracy)
    assert not work.exists()


def kill_when(moment: Callable[[], bool], command: list[str]) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + KILL_DEADLINE_S
    while not moment():
        assert process.poll() is None, 'it ended before it could be killed'
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_dataset_without_errors_is_built(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(evaluation, 'top1', lambda *_: 1.0)
    with caplog.at_level(logging.INFO):
        assert build(backbone, photos, tmp_path / 'family', *SEARCHED) == 0
    assert 'all 20 sampled sub-networks have the same top-1 (100.0 %)' in caplog.text
    (level,) = Family.load(tmp_path / 'family').levels
    assert level.architecture == open_backbone(backbone).space.smallest(), 'the fastest'


def test_a_level_that_is_always_wrong_is_omitted(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int], level_file: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(evaluation, 'top1', lambda _, resolution, *__: float(resolution > 32))
    given = [*SMALL, '--levels', str(level_file)]
    assert build(backbone, photos, tmp_path / 'given', *given) == 0
    assert 'a level of 32 px is omitted: it classifies all 24 report' in caplog.text
    assert build(backbone, photos, tmp_path / 'chosen', *PLAIN, '--span', '100') == 0
    for name in ('given', 'chosen'):
        assert {level.resolution for level in Family.load(tmp_path / name).levels} == {48}


def test_a_backbone_that_is_always_wrong_is_rejected_in_the_first_stage(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int], level_file: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(evaluation, 'top1', lambda *_: 0.0)
    for options in (SEARCHED, PLAIN, [*SMALL, '--levels', str(level_file)]):
        assert build(backbone, photos, tmp_path / 'family', *options) == 2
        assert (
            'held-out images wrongly: check that the backbone is trained'
            in capsys.readouterr().err
        )
    assert not pretended, 'nothing was timed'
    assert not (tmp_path / 'family').exists()


def test_other_settings_repeat_only_the_affected_stages(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    evaluated: list[int] = []
    evaluate_many = EvaluationPool.evaluate_many

    def counted(
        self: EvaluationPool, architectures: Sequence[SubnetArchitecture]
    ) -> Iterator[tuple[int, float]]:
        evaluated.append(len(architectures))
        return evaluate_many(self, architectures)

    monkeypatch.setattr(EvaluationPool, 'evaluate_many', counted)
    (tmp_path / 'work' / 'engine').mkdir(parents=True)
    (tmp_path / 'work' / 'engine' / 'mine').touch()
    kept = [*PLAIN, '--work', str(tmp_path / 'work')]
    assert build(backbone, photos, tmp_path / 'one', *kept) == 0
    folders = [entry for entry in (tmp_path / 'work').rglob('*') if entry.is_dir()]
    assert folders == [tmp_path / 'work' / 'engine'], 'other contents are not removed'
    assert (tmp_path / 'work' / 'engine' / 'mine').exists()
    assert evaluated == [6, pretended[0]], 'the sampled ones, then the candidates'
    first = list(pretended)
    assert build(backbone, photos, tmp_path / 'two', *kept, '--count', '2') == 0
    assert len(evaluated) == 2, 'no accuracy is measured twice'
    assert build(backbone, photos, tmp_path / 'three', *kept, '--candidates', '8') == 0
    assert evaluated[2] == 2, 'two more are sampled'
    pretended.clear()
    assert build(backbone, photos, tmp_path / 'four', *kept, '--threads', '2') == 0
    assert pretended == first, 'on another platform, only latencies are measured'
    assert sum(evaluated[4:]) == 0


def test_the_levels_of_a_file_are_used_unchanged(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int], level_file: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    arguments = ['build', '--backbone', str(backbone), '--data', str(photos)]
    status = main([*arguments, '--levels', str(level_file), *SMALL])
    family = Family.load(tmp_path / 'families' / 'chosen_elsewhere')
    assert status == 0
    space = open_backbone(backbone).space
    wanted = [space.smallest(), space.largest()]
    assert [level.architecture for level in family.levels] in (wanted, wanted[:1])
    assert '24 held-out images' in family.provenance['accuracy'], (
        'all images, because no levels were chosen'
    )
    if len(family.levels) == 1:
        assert 'is dropped' in caplog.text


def test_a_family_can_be_built_from_a_family(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int]
) -> None:
    assert build(backbone, photos, tmp_path / 'first', *PLAIN) == 0
    assert build(tmp_path / 'first', photos, tmp_path / 'again', *PLAIN, '--name', 'first') == 0
    mine, theirs = contents(tmp_path / 'again'), contents(tmp_path / 'first')
    assert mine['family.yaml']['levels'] == theirs['family.yaml']['levels']
    assert mine['backbone.safetensors'] == theirs['backbone.safetensors']


def test_families_of_one_backbone_are_merged(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int], level_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    assert build(backbone, photos, tmp_path / 'cpu', *PLAIN) == 0
    platforms = tmp_path / 'cpu' / 'platforms'
    elsewhere = (platforms / f'{PLATFORM}.yaml').read_text().replace('pretended', 'elsewhere')
    (platforms / 'cpu-elsewhere-pytorch-fp32-t1.yaml').write_text(
        '\n'.join(line for line in elsewhere.splitlines() if 'engine' not in line)
    )
    merge = ['--merge', str(tmp_path / 'cpu'), '--levels', str(level_file)]
    assert build(backbone, photos, tmp_path / 'both', *SMALL, *merge) == 0
    old, both = Family.load(tmp_path / 'cpu'), Family.load(tmp_path / 'both')
    members = {level.architecture: level.accuracy for level in both.levels}
    assert {level.architecture for level in old.levels} < set(members)
    assert all(members[level.architecture] == level.accuracy for level in old.levels)
    accuracies = [level.accuracy for level in both.levels]
    assert accuracies == sorted(accuracies)
    assert list(both.platforms) == [PLATFORM]
    assert len(both.platforms[PLATFORM].levels) == len(both.levels)
    assert 'the latencies of cpu-elsewhere-pytorch-fp32-t1 are omitted' in caplog.text
    assert (tmp_path / 'both' / 'candidates').is_dir(), 'the candidates of the merged family'


def test_a_family_of_another_backbone_cannot_be_merged(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stranger = make_random_backbone(tmp_path / 'stranger', LABELS, seed=2)
    assert build(stranger, photos, tmp_path / 'theirs', *PLAIN) == 0
    merge = ['--merge', str(tmp_path / 'theirs')]
    assert build(backbone, photos, tmp_path / 'both', *PLAIN, *merge) == 2
    assert 'its weights differ from those of this backbone' in capsys.readouterr().err
    assert not (tmp_path / 'both').exists()
    make_random_family(tmp_path / 'random')
    merge = ['--merge', str(tmp_path / 'random')]
    assert build(backbone, photos, tmp_path / 'both', *PLAIN, *merge) == 2
    assert 'its backbone differs from that of this build' in capsys.readouterr().err


@pytest.mark.parametrize(('size', 'what'), [(100_000, '.family.build')])
def test_a_full_disk_is_explained_and_leaves_no_family(
    size: int, what: str, backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / 'family'
    with files_up_to(size):
        assert build(backbone, photos, output, *PLAIN) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('dynamic-ofa: ')
    assert what in error
    assert 'File too large' in error
    assert not output.exists()
    assert [p.name for p in tmp_path.iterdir()] == ['.family.build']
    assert build(backbone, photos, output, *PLAIN) == 0, (
        'the build is resumed when there is space again'
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--levels', 'nowhere.yaml'], 'there is no level file nowhere.yaml'),
        (['--merge', 'nowhere'], 'there is no family at nowhere'),
        (['--device', 'gpu'], "--device is 'gpu'; give auto, cpu, cuda or cuda:N"),
        (['--engine', 'fast'], "--engine is 'fast'; give one of auto, "),
        (['--lut', 'nowhere.json'], 'nowhere.json cannot be read'),
        (['--predictor', 'nowhere.npz'], 'nowhere.npz is missing'),
    ],
)
def test_bad_options_are_explained(
    options: list[str], message: str, backbone: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert build(backbone, photos, tmp_path / 'family', *SMALL, *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_images_are_not_a_work_folder(
    backbone: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(photos.rglob('*'))
    work = ['--work', str(photos / 'train')]
    assert build(backbone, photos, tmp_path / 'family', *SMALL, *work) == 2
    assert f'is in {photos}/train, where it would become' in capsys.readouterr().err
    command = ['predictor', 'fit', '--backbone', str(backbone), '--data', str(photos)]
    output = str(tmp_path / 'p.npz')
    assert main([*command, '--output', output, *work]) == 2
    assert f'is in {photos}/train, where it would become' in capsys.readouterr().err
    assert sorted(photos.rglob('*')) == before


def test_a_given_table_and_predictor_are_used(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trained = open_backbone(backbone)
    with monkeypatch.context() as patch:
        pretend_device(patch)
        measure_operator_table(trained, tmp_path / 'lut.json')
    rng = np.random.default_rng(1)
    genomes = GenomeEncoding(trained.space).encode([trained.space.sample(rng) for _ in range(40)])
    predictor, _ = predictor_fit.fit_predictor(genomes, genomes.mean(axis=1) / 9, trained.space)
    save_predictor(predictor, tmp_path / 'predictor.npz')
    given = ['--lut', str(tmp_path / 'lut.json'), '--predictor', str(tmp_path / 'predictor.npz')]
    assert build(backbone, photos, tmp_path / 'colours', *SEARCHED, *given) == 0
    facts = Family.load(tmp_path / 'colours').provenance['build']
    assert facts['accuracy_predictor']['file'] == 'predictor.npz'
    assert facts['latency_model']['file'] == 'lut.json'
    assert '1 accuracy pairs' not in facts['seconds'], 'no predictor is fitted'
    assert facts['search']['evaluations'] <= 400
    assert max(pretended) <= 6, 'only candidates are timed, and no networks for a latency model'


def test_a_table_of_another_space_is_rejected(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from reference import reference_file

    table = ['--lut', str(reference_file('lut_xavier_nx_gpu.json'))]
    assert build(backbone, photos, tmp_path / 'family', *SEARCHED, *table) == 2
    assert 'lacks resolutions 32, 48' in capsys.readouterr().err


def test_names_of_families_and_backbones_are_distinguished(tmp_path: Path) -> None:
    assert open_backbone('signs').backbone.classes == 28, 'a shipped family'
    assert open_backbone('signs').resolutions == (
        48,
        64,
        80,
        96,
        112,
        128,
        160,
        192,
        224,
        256,
        288,
    )
    with pytest.raises(Exception, match='dynamic-ofa fetch ofa_resnet50'):
        open_backbone('ofa_resnet50')


@pytest.fixture
def quick_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    profile_quickly(monkeypatch)


def test_measure_adds_a_platform_and_replaces_it_only_with_force(
    tmp_path: Path, quick_profiles: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr('dynamic_ofa_ros.runtime.engine.usable_cpus', lambda: 2)
    family = make_random_family(tmp_path / 'family', levels=2, width_mult=0.1)
    arguments = ['measure', str(family), '--device', 'cpu', '--engine', 'pytorch']
    checksum = Family.load(family).checksum
    assert main([*arguments, '--json']) == 0
    printed = json.loads(capsys.readouterr().out)
    (profile,) = Family.load(family).platforms.values()
    assert profile.platform == printed['platform']
    assert profile.levels[0].median_ms == pytest.approx(printed['levels'][0]['median_ms'])
    assert family_profile.settings_of(profile) == DeviceSettings('cpu', 'pytorch', 1)
    assert Family.load(family).checksum == checksum
    before = Path(printed['file']).read_text()
    assert main(arguments) == 2
    assert '--force replaces them' in capsys.readouterr().err
    assert Path(printed['file']).read_text() == before
    assert main([*arguments, '--force']) == 0
    assert Path(printed['file']).read_text() != before
    assert 'latency 1 ms' in capsys.readouterr().out
    assert main([*arguments, '--threads', '2']) == 0
    assert len(Family.load(family).platforms) == 2


def test_levels_for_a_robot_are_chosen_by_its_measurements(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int], quick_profiles: None,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The complete workflow: candidates are measured on a robot, and levels are chosen here."""
    monkeypatch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path / 'cache'))
    candidates, file = tmp_path / 'candidates', tmp_path / 'measured.yaml'
    kept = [*PLAIN, '--work', str(tmp_path / 'work')]
    given = ['--candidates-to', str(candidates)]
    assert build(backbone, photos, tmp_path / 'mine', *kept, *given) == 0
    assert not (tmp_path / 'mine').exists()
    measured = Family.load(candidates).levels
    robot = ['measure', str(candidates), '--device', 'cpu', '--engine', 'pytorch']
    assert main([*robot, '--output', str(file)]) == 0
    document = yaml.safe_load(file.read_text())
    document['platform'] = 'cuda-robot-pytorch-fp32-t1'
    # On the robot, the last candidate, which has the highest cost, is by far the fastest.
    for key in ('median_ms', 'mean_ms', 'p95_ms', 'p99_ms'):
        document['levels'][-1][key] = 1e-3
    file.write_text(yaml.safe_dump(document))
    assert build(backbone, photos, tmp_path / 'mine', *kept, '--measured', str(file)) == 0
    family = Family.load(tmp_path / 'mine')
    assert list(family.platforms) == ['cuda-robot-pytorch-fp32-t1']
    assert family.levels[0].architecture == measured[-1].architecture
    assert family.provenance['build']['measured']['platform'] == 'cuda-robot-pytorch-fp32-t1'
    assert not pretended, 'nothing was timed here'
    stranger = make_random_backbone(tmp_path / 'stranger', LABELS, seed=2)
    document['backbone']['name'] = 'else'
    file.write_text(yaml.safe_dump(document))
    assert build(stranger, photos, tmp_path / 'theirs', *kept, '--measured', str(file)) == 2
    assert 'is for the backbone else, not for tiny' in capsys.readouterr().err
    del document['architectures']
    file.write_text(yaml.safe_dump(document))
    assert build(backbone, photos, tmp_path / 'theirs', *kept, '--measured', str(file)) == 2
    assert 'lacks the architectures' in capsys.readouterr().err


def test_levels_for_a_robot_are_chosen_by_its_table(
    backbone: Path, photos: Path, tmp_path: Path, pretended: list[int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        pretend_device(patch)
        measure_operator_table(open_backbone(backbone), tmp_path / 'lut.json')
    assert build(backbone, photos, tmp_path / 'mine', *PLAIN, '--by-table') == 2
    assert '--by-table requires --lut' in capsys.readouterr().err
    given = ['--lut', str(tmp_path / 'lut.json'), '--by-table']
    assert build(backbone, photos, tmp_path / 'mine', *PLAIN, *given) == 0
    family = Family.load(tmp_path / 'mine')
    assert not family.platforms, 'the robot measures the family at its first start'
    assert family.levels
    assert not pretended, 'nothing was timed here'
