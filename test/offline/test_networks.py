"""Families of separate ONNX networks: built, measured, loaded, run, and rejected."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from offline.fake_device import replace_latencies
from onnx_networks import COLOURS, colour_folders, colour_network

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import EngineError, FamilyError
from dynamic_ofa_ros.family import Family, Preprocessing, sha256_of
from dynamic_ofa_ros.offline.networks import networks
from dynamic_ofa_ros.offline.networks.quantization import CALIBRATION_IMAGES
from dynamic_ofa_ros.runtime.classifier import Classifier
from dynamic_ofa_ros.runtime.engine import create_engine


@pytest.fixture(autouse=True)
def latency_by_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_latencies(monkeypatch, int8_ratio=0.5)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Return a small network that does not recognise blue, and a large one that does."""
    small = colour_network(tmp_path / 'small.onnx', 32, known=2)
    large = colour_network(tmp_path / 'large.onnx', 48, depth=2)
    return [str(small), str(large)]


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(colour_folders(tmp_path / 'data'))


def from_onnx(*arguments: str) -> int:
    return main(['family', 'from-onnx', *arguments])


def test_int8_networks_become_levels_if_they_are_better(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = str(colour_folders(tmp_path / 'data', images=100)), tmp_path / 'family'
    options = ('--data', data, '--values', 'unit', '--output', str(output))
    status = from_onnx(*files, *options, '--precisions', 'fp32,int8')

    assert status == 0, capsys.readouterr().err
    family = Family.load(output)
    assert [level.name for level in family.levels] == ['small_r32_int8', 'large_r48_int8']
    assert {level.network.precision for level in family.levels} == {'int8'}
    # Images for the ranges are not used for the accuracy.
    assert f'{300 - CALIBRATION_IMAGES} images of 3 classes' in family.provenance['accuracy']
    # Engines may round int8 differently, and are still checked.
    for name in ('onnxruntime', 'openvino'):
        engine = create_engine(family, device='cpu', engine=name, cache_dir=tmp_path / 'cache')
        best = Classifier(family, engine).classify(np.full((48, 48, 3), (0, 0, 255), np.uint8), 2)
        assert best.top1 is not None
        assert family.labels[best.top1.class_id] == 'navy'
        engine.close()
    # A file that is quantised already is recognised.
    again = [str(output / 'networks' / level.network.file) for level in family.levels]
    assert from_onnx(*again, *options[:-1], str(tmp_path / 'again')) == 0
    assert Family.load(tmp_path / 'again').levels[0].network.precision == 'int8'


def test_int8_networks_that_are_not_faster_are_omitted(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_latencies(monkeypatch, int8_ratio=1.0)
    data, output = str(colour_folders(tmp_path / 'data', images=100)), tmp_path / 'family'
    given = (*files, '--data', data, '--values', 'unit', '--output', str(output))
    assert from_onnx(*given, '--precisions', 'int8,fp32') == 0
    family = Family.load(output)
    assert [level.name for level in family.levels] == ['small_r32', 'large_r48']
    assert len(family.provenance['left_out']) == 2


def test_missing_images_for_int8_are_explained(
    files: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ('--output', str(tmp_path / 'family'))
    given = (*files, '--data', data, '--values', 'unit', *output)
    assert from_onnx(*given, '--precisions', 'int8') == 2
    assert '--data has 12' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        from_onnx(*given, '--precisions', 'int4')
    assert "--precisions is 'int4'; give one or both of fp32, int8" in capsys.readouterr().err
    assert not list(tmp_path.glob('family*'))


def test_networks_become_a_family_that_classifies(
    files: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'family'
    status = from_onnx(*files, '--data', data, '--values', 'unit', '--output', str(output))

    assert status == 0, capsys.readouterr().err
    family = Family.load(output)
    assert [level.name for level in family.levels] == ['small_r32', 'large_r48']
    assert [level.resolution for level in family.levels] == [32, 48]
    assert [level.accuracy for level in family.levels] == pytest.approx([2 / 3, 1.0], abs=1e-4)
    assert {level.accuracy_source for level in family.levels} == {'measured'}
    assert set(family.labels) == set(COLOURS)
    assert len(family.platforms) == 1
    assert '12 images of 3 classes' in str(family.provenance['accuracy'])
    assert not list(tmp_path.glob('.*')), 'the work folder is removed'
    engine = create_engine(family, device='cpu', cache_dir=tmp_path / 'cache')
    picture = np.full((60, 80, 3), (10, 10, 240), np.uint8)
    best = Classifier(family, engine).classify(picture, 2).top1
    assert best is not None
    assert best.label == 'navy'
    assert 'family: ' in capsys.readouterr().out


def test_labels_are_in_the_order_of_the_outputs(
    files: list[str], data: str, tmp_path: Path
) -> None:
    labels = tmp_path / 'labels.txt'
    labels.write_text('Crimson\nemerald\nnavy\n\n', encoding='utf-8')
    output = str(tmp_path / 'family')

    status = from_onnx(
        *files, '--data', data, '--labels', str(labels), '--values', 'unit', '--output', output
    )

    assert status == 0
    assert Family.load(output).labels == ('Crimson', 'emerald', 'navy')
    assert Family.load(output).levels[-1].accuracy == 1.0


def test_labels_in_another_order_are_suspected(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = colour_network(tmp_path / 'net.onnx', 32)
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(reversed(COLOURS)), encoding='utf-8')
    options = ['--data', data, '--values', 'unit', '--output', str(tmp_path / 'family')]
    options += ['--labels', str(labels)]

    assert from_onnx(str(network), *options) == 0
    assert 'has only 33.3% top-1' in capsys.readouterr().err


def test_a_variable_input_size_gives_several_levels(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = colour_network(tmp_path / 'net.onnx', depth=1)
    stated = tmp_path / 'list.yaml'
    accuracy = {32: 0.6, 48: 0.7, 64: 0.65}
    entry = {'file': 'net.onnx', 'resolutions': [32, 48, 64], 'accuracy': accuracy}
    stated.write_text(yaml.safe_dump({'networks': [entry]}), encoding='utf-8')
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(COLOURS), encoding='utf-8')
    output = tmp_path / 'family'
    options = ['--labels', str(labels), '--values', 'unit', '--output', str(output)]

    assert from_onnx(str(stated), *options, '--json') == 0

    document = json.loads(capsys.readouterr().out)
    assert [level['accuracy_source'] for level in document['levels']] == ['stated', 'stated']
    assert document['left_out'] == [
        'net_r64 is omitted: it takes 0.43 ms for a top-1 of 65.0%, net_r48 0.29 ms for 70.0%'
    ]
    family = Family.load(output)
    assert [level.resolution for level in family.levels] == [32, 48]
    assert [path.name for path in (output / 'networks').iterdir()] == ['net.onnx']
    assert network.is_file()


def test_preprocessing_may_differ_by_network(tmp_path: Path, data: str) -> None:
    colour_network(tmp_path / 'a.onnx', 32, known=2)
    colour_network(tmp_path / 'b.onnx', 48, depth=1)
    listed = tmp_path / 'list.yaml'
    listed.write_text(
        'networks:\n'
        '- {file: a.onnx, mean: [127, 127, 127], std: [128, 128, 128], pixel_max: 255}\n'
        '- {file: b.onnx, resize: stretch, interpolation: bilinear}\n',
        encoding='utf-8',
    )
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(COLOURS), encoding='utf-8')
    output = tmp_path / 'family'
    options = ['--labels', str(labels), '--data', data, '--output', str(output)]

    assert from_onnx(str(listed), '--values', 'unit', *options) == 0

    family = Family.load(output)
    first, second = (family.preprocessing_of(index) for index in (1, 2))
    assert first.mean == pytest.approx([127 / 255] * 3)
    assert first.std == pytest.approx([128 / 255] * 3)
    assert second == Preprocessing((0, 0, 0), (1, 1, 1), 0.875, 'bilinear', 'stretch')


def test_a_wrong_channel_order_reduces_the_accuracy(tmp_path: Path, data: str) -> None:
    network = str(colour_network(tmp_path / 'net.onnx', 32))
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(COLOURS), encoding='utf-8')
    options = ['--labels', str(labels), '--data', data, '--values', 'unit', '--channels', 'bgr']

    assert from_onnx(network, *options, '--output', str(tmp_path / 'family')) == 0
    assert Family.load(tmp_path / 'family').levels[0].accuracy == pytest.approx(1 / 3, abs=1e-4)


def test_a_killed_measurement_is_resumed(
    files: list[str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, 'CHUNK', 5)
    classified = networks._classify
    starts: list[int] = []

    def killed_later(classifier: Classifier, images: object, start: int) -> dict[str, object]:
        starts.append(start)
        if starts == [0, 5]:
            raise KeyboardInterrupt
        return classified(classifier, images, start)  # type: ignore[arg-type]

    monkeypatch.setattr(networks, '_classify', killed_later)
    output = tmp_path / 'family'
    options = ['--data', data, '--values', 'unit', '--output', str(output)]

    assert from_onnx(*files, *options) == 130
    assert not output.exists()
    assert from_onnx(*files, *options) == 0
    assert starts == [0, 5, 5, 10]
    assert Family.load(output).levels[-1].accuracy == 1.0


def test_two_processes_do_not_disturb_each_other(
    files: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'family'
    options = ['--data', data, '--values', 'unit', '--output', str(output)]
    with networks._working(output):
        assert from_onnx(*files, *options) == 2
    assert 'another process builds' in capsys.readouterr().err
    assert from_onnx(*files, *options) == 0
    assert from_onnx(*files, *options) == 2
    assert 'exists already; choose another folder' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ([], 'is unknown: give --values'),
        (['--values', 'unit'], 'the accuracy of small_r32 is unknown'),
        (['--values', 'half'], 'values is .half.; give one of imagenet, unit'),
        (['--values', 'unit', '--mean', '0', '--std', '1'], 'give one or the other'),
        (['--mean', '0'], 'give --mean and --std together'),
        (['--values', 'unit', '--accuracy', '0.5'], 'has 1 values for 2 networks'),
        (['--values', 'unit', '--resolutions', '64'], 'is fixed at 32 px: omit --resolutions'),
        (['--values', 'unit', '--data', 'nowhere'], 'nowhere is not a directory'),
        (['--values', 'unit', '--accuracy', '.5,.6', '--engine', 'pytorch'], 'use engine onnx'),
    ],
)
def test_missing_settings_are_requested(
    files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(COLOURS), encoding='utf-8')
    output = tmp_path / 'family'

    status = from_onnx(*files, '--labels', str(labels), '--output', str(output), *arguments)

    error = capsys.readouterr().err
    assert status == 2
    assert re.search(sentence, error), error
    assert not output.exists()


def test_missing_labels_and_a_wrong_number_of_labels_are_rejected(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / 'family')
    options = ['--values', 'unit', '--accuracy', '.5,.6', '--output', output]

    assert from_onnx(*files, *options) == 2
    assert 'do not name their 3 classes; give --labels' in capsys.readouterr().err
    labels = tmp_path / 'labels.txt'
    labels.write_text('one\ntwo\n', encoding='utf-8')
    assert from_onnx(*files, *options, '--labels', str(labels)) == 2
    assert 'has 3 outputs, but there are 2 labels' in capsys.readouterr().err
    labels.write_bytes(b'\xff\xfe1')
    assert from_onnx(*files, *options, '--labels', str(labels)) == 2
    assert 'not UTF-8' in capsys.readouterr().err


def test_invalid_resolutions_and_repeated_files_are_rejected(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = str(colour_network(tmp_path / 'net.onnx'))
    options = ['--data', data, '--values', 'unit', '--output', str(tmp_path / 'family')]

    assert from_onnx(network, *options) == 2
    assert 'is variable: give --resolutions' in capsys.readouterr().err
    assert from_onnx(network, network, *options, '--resolutions', '32') == 2
    assert 'would have the same name net' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('networks: []', 'a non-empty list'),
        ('networks: [{file: small.onnx, colour: red}]', 'colour is unknown; the keys are file'),
        ('networks: [{file: small.onnx, resolutions: [x]}]', 'expected a positive integer'),
        ('networks: [{file: small.onnx, accuracy: {a: 1}}]', "given for 'a'"),
        ('networks: [{file: small.onnx, resize: squash}]', "resize is 'squash'"),
        ('networks: [{file: none.onnx}]', 'none.onnx'),
        ('- a', 'must be a mapping'),
    ],
)
def test_an_invalid_list_is_explained(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    listed = tmp_path / 'list.yaml'
    listed.write_text(text, encoding='utf-8')

    status = from_onnx(str(listed), '--values', 'unit', '--output', str(tmp_path / 'family'))

    assert status == 2
    assert sentence in capsys.readouterr().err


def test_folders_of_other_classes_are_rejected(
    files: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(Path(data) / 'navy', Path(data) / 'pink')
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(COLOURS), encoding='utf-8')
    options = ['--labels', str(labels), '--values', 'unit', '--output', str(tmp_path / 'family')]

    assert from_onnx(*files, '--data', data, *options) == 2
    assert 'folders that are not labels: pink' in capsys.readouterr().err


def test_folders_can_be_named_by_the_number_of_the_output(
    files: list[str], data: str, tmp_path: Path
) -> None:
    for number, name in enumerate(COLOURS):
        shutil.move(Path(data) / name, Path(data) / str(number))
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(COLOURS), encoding='utf-8')
    options = ['--labels', str(labels), '--values', 'unit', '--output', str(tmp_path / 'family')]

    assert from_onnx(*files, '--data', data, *options) == 0
    assert Family.load(tmp_path / 'family').levels[-1].accuracy == 1.0


def test_damaged_images_are_skipped_and_named(
    files: list[str], data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (Path(data) / 'navy' / '0.png').write_bytes(b'no image')
    output = tmp_path / 'family'

    with caplog.at_level(logging.WARNING):
        assert from_onnx(*files, '--data', data, '--values', 'unit', '--output', str(output)) == 0

    assert '1 of 12 images are damaged' in caplog.text
    assert '11 images' in str(Family.load(output).provenance['accuracy'])


# Possible contents of a family of unknown origin.


@pytest.fixture
def family(files: list[str], tmp_path: Path) -> Path:
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(COLOURS), encoding='utf-8')
    output = tmp_path / 'family'
    options = ['--values', 'unit', '--accuracy', '0.5,0.6', '--labels', str(labels)]
    assert from_onnx(*files, *options, '--output', str(output)) == 0
    return output


def change_yaml(family: Path, change: Callable[[dict], object]) -> None:
    path = family / 'family.yaml'
    document = yaml.safe_load(path.read_text(encoding='utf-8'))
    change(document)
    path.write_text(yaml.safe_dump(document), encoding='utf-8')


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda d: d['levels'][0]['network'].update(file='../x.onnx'), 'expected the name of an'),
        (lambda d: d['levels'][0]['network'].update(file='/etc/x.onnx'), 'the name of an .onnx'),
        (lambda d: d['levels'][0]['network'].update(file='x.so'), 'the name of an .onnx file'),
        (lambda d: d['levels'][0]['network'].update(resolution=10**6), 'at most 2048 px'),
        (lambda d: d['levels'][0]['network'].update(file='new.onnx'), 'no checksum for networks/'),
        (lambda d: d['levels'][0].pop('network'), r'levels\[0\].network is missing'),
        (lambda d: d['levels'][0].update(accuracy_source='guessed'), 'expected one of measured'),
        (lambda d: d['files'].update({'networks/../../x': 'a'}), 'outside the family'),
        (lambda d: d['files'].update({'networks/..': 'a'}), 'outside the family'),
        (lambda d: d['networks'].update(classes=4), 'has 3 labels; family has 4 classes'),
        (lambda d: d['preprocessing'].update(resize='squash'), 'expected one of crop, stretch'),
        (lambda d: d['preprocessing'].update(mean=[0, 0, float('inf')]), 'three numbers'),
        (lambda d: d.update(levels=d['levels'] * 40), 'at most 64 are allowed'),
    ],
)
def test_a_malicious_family_is_rejected(
    family: Path, change: Callable[[dict], object], sentence: str
) -> None:
    change_yaml(family, change)
    with pytest.raises(FamilyError, match=sentence):
        Family.load(family)


def test_a_replaced_network_is_detected(family: Path) -> None:
    path = family / 'networks' / 'small.onnx'
    path.write_bytes(path.read_bytes() + b' ')
    with pytest.raises(FamilyError, match='damaged or was replaced'):
        Family.load(family)


def test_networks_are_checked_before_an_engine_opens_them(family: Path, tmp_path: Path) -> None:
    """A family with correct checksums whose network reads another file."""
    path = family / 'networks' / 'large.onnx'
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    weights.ClearField('raw_data')
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key='location', value='../../secret')
    path.write_bytes(model.SerializeToString())
    change_yaml(family, lambda d: d['files'].update({'networks/large.onnx': sha256_of(path)}))

    with pytest.raises(FamilyError, match='refers to another file'):
        create_engine(Family.load(family), device='cpu', cache_dir=tmp_path / 'cache')


def test_the_pytorch_engine_rejects_onnx_networks(family: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match='separate ONNX networks: use engine onnxruntime'):
        create_engine(Family.load(family), engine='pytorch', cache_dir=tmp_path / 'cache')


def test_commands_that_require_a_supernet_explain_it(family: Path) -> None:
    loaded = Family.load(family)
    with pytest.raises(FamilyError, match='has no supernet'):
        _ = loaded.backbone
    with pytest.raises(FamilyError, match='is a separate network'):
        _ = loaded.levels[0].architecture
    for command in (
        ['calibrate', '--family', str(family), '--data', 'signs', '--output', str(family) + '2'],
        ['build', '--backbone', str(family), '--data', 'signs', '--output', str(family) + '2'],
    ):
        assert main(command) == 2


def test_levels_measure_and_simulate_accept_the_family(
    family: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert main(['levels', str(family)]) == 0
    assert '50.00 stated' in capsys.readouterr().out
    assert main(['levels', str(family), '--json']) == 0
    document = json.loads(capsys.readouterr().out)
    assert document['levels'][0]['network'] == {
        'file': 'small.onnx',
        'resolution': 32,
        'precision': 'fp32',
    }
    assert main(['levels', str(family), '--plot', str(tmp_path / 'family.png')]) == 0
    monkeypatch.setattr('dynamic_ofa_ros.runtime.engine.usable_cpus', lambda: 2)
    assert main(['measure', str(family), '--device', 'cpu', '--threads', '2']) == 0
    assert len(Family.load(family).platforms) == 2
