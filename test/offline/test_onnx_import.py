from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import CLASSES, FEATURES, classifier

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.offline.networks import onnx_file
from dynamic_ofa_ros.offline.networks.onnx_import import (
    ImportedNetwork,
    check_resolution,
    read_classifier,
)

FLOAT, FLOAT16, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
TOLERANCE = 1e-5
HALF_TOLERANCE = 2e-2


def answer(model: bytes, image: np.ndarray) -> np.ndarray:
    """Return the outputs of a network on the CPU."""
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def written(folder: Path, model: onnx.ModelProto, name: str = 'a.onnx') -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def read(folder: Path, model: onnx.ModelProto, **options: Any) -> ImportedNetwork:
    """Return the network, and check that it has the form of a family."""
    network = read_classifier(written(folder, model), **options)
    normal = onnx.load_from_string(network.model)
    onnx.checker.check_model(normal, full_check=True)
    (image,), (logits,) = normal.graph.input, normal.graph.output
    side = network.resolution or 'side'
    expected = helper.make_tensor_value_info('input', FLOAT, (1, 3, side, side))
    assert image == expected
    assert logits == helper.make_tensor_value_info('logits', FLOAT, (1, network.classes))
    assert 8 <= normal.ir_version <= 10
    return network


def image(side: int = 8) -> np.ndarray:
    return np.random.default_rng(7).random((1, 3, side, side), np.float32)


def softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(FamilyError) as caught:
        read_classifier(path, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    'shape', [(1, 3, 8, 8), ('n', 3, 8, 8), (None, 3, 8, None), (-1, 3, 8, 8)]
)
def test_a_network_of_a_fixed_size(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    model = classifier(shape)
    network = read(tmp_path, model)
    assert (network.name, network.resolution, network.classes) == ('a.onnx', 8, CLASSES)
    assert network.parameters == FEATURES * 27 + FEATURES * CLASSES + CLASSES
    assert network.macs_at(8) == 8 * 8 * FEATURES * 27 + FEATURES * CLASSES
    assert network.labels == ()
    assert not network.preprocessing
    expected = answer(model.SerializeToString(), image())
    np.testing.assert_allclose(answer(network.model, image()), expected, atol=TOLERANCE)


@pytest.mark.parametrize('sides', [('h', 'w'), (None, None), ('s', 's'), (0, -1)])
def test_a_network_of_a_variable_size(tmp_path: Path, sides: tuple[Any, ...]) -> None:
    network = read(tmp_path, classifier(('n', 3, *sides)))
    assert network.resolution is None
    assert network.macs_at(16) == 16 * 16 * FEATURES * 27 + FEATURES * CLASSES
    for side in (4, 9):
        check_resolution(network, side)
        assert answer(network.model, image(side)).shape == (1, CLASSES)


def test_channels_last_are_transposed(tmp_path: Path) -> None:
    model = classifier(('n', 8, 8, 3))
    network = read(tmp_path, model)
    assert network.resolution == 8
    assert any('NHWC' in note for note in network.notes)
    expected = answer(model.SerializeToString(), image().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(answer(network.model, image()), expected, atol=TOLERANCE)


def test_half_precision_is_cast_at_both_ends(tmp_path: Path) -> None:
    model = classifier(element=FLOAT16)
    network = read(tmp_path, model)
    expected = answer(model.SerializeToString(), image().astype(np.float16))
    np.testing.assert_allclose(answer(network.model, image()), expected, atol=HALF_TOLERANCE)


def test_uint8_inputs_are_rounded_and_define_the_preprocessing(tmp_path: Path) -> None:
    model = classifier((1, 8, 8, 3), element=UINT8)
    network = read(tmp_path, model)
    assert network.preprocessing == {'mean': [0.0] * 3, 'std': [1 / 255] * 3}
    values = np.random.default_rng(3).integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)
    expected = answer(model.SerializeToString(), values.transpose(0, 2, 3, 1))
    inexact = values.astype(np.float32) - np.float32(1e-3)  # as after (x / 255 - mean) / std
    inexact = np.maximum(inexact, 0)
    found = answer(network.model, inexact)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


@pytest.mark.parametrize('element', [FLOAT, FLOAT16])
def test_probabilities_become_logits(tmp_path: Path, element: int) -> None:
    model = classifier(end=('Softmax',), element=element)
    network = read(tmp_path, model)
    assert any('probabilities' in note for note in network.notes)
    kind = np.float32 if element == FLOAT else np.float16
    for scale in (1, 20):  # the second saturates: probabilities of 0
        values = image() * scale
        expected = answer(model.SerializeToString(), values.astype(kind))
        logits = answer(network.model, values)
        assert np.isfinite(logits).all()
        tolerance = TOLERANCE if element == FLOAT else HALF_TOLERANCE
        np.testing.assert_allclose(softmax(logits), expected, atol=tolerance)


def test_a_sigmoid_is_noted(tmp_path: Path) -> None:
    network = read(tmp_path, classifier(end=('Sigmoid',)))
    assert any('sigmoid' in note for note in network.notes)


def test_scores_of_one_pixel_are_flattened(tmp_path: Path) -> None:
    kernel = np.random.default_rng(5).normal(size=(CLASSES, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node('Conv', ['input', 'k'], ['c']),
        helper.make_node('GlobalAveragePool', ['c'], ['logits']),
    ]
    network = read(tmp_path, onnx_models.of_nodes(nodes, {'k': kernel}))
    assert network.classes == CLASSES
    expected = (kernel[:, :, 0, 0] @ image().mean((0, 2, 3)))[None]
    np.testing.assert_allclose(answer(network.model, image()), expected, atol=TOLERANCE)


@pytest.mark.parametrize('end', [(), ('Softmax',)])
@pytest.mark.parametrize('shape', [(1, 3, 8, 8), (1, 8, 8, 3)])
def test_conflicting_names_are_renamed(
    tmp_path: Path, shape: tuple[int, ...], end: tuple[str, ...]
) -> None:
    model = classifier(shape, end=end, names=('logits', 'input'))
    values = image() if shape[1] == 3 else image().transpose(0, 2, 3, 1)
    network = read(tmp_path, model)
    expected = answer(model.SerializeToString(), values)
    if end:
        expected = np.log(expected)
    np.testing.assert_allclose(answer(network.model, image()), expected, atol=1e-4)


def test_weights_listed_as_inputs_are_not_inputs(tmp_path: Path) -> None:
    model = classifier()
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)
    model.ir_version = 3
    assert read(tmp_path, model).classes == CLASSES


def test_a_newer_ir_version_is_lowered(tmp_path: Path) -> None:
    model = classifier()
    model.ir_version = 13
    assert 'IR version 13 lowered to 10' in read(tmp_path, model).notes


def test_descriptions_are_removed(tmp_path: Path) -> None:
    model = classifier(metadata={'trained_in': '/home/me'})
    model.graph.node[0].doc_string = '/home/me/model.py(12): forward'
    model.graph.node[0].metadata_props.add(key='stack', value='/home/me')
    model.graph.initializer[0].doc_string = '/home/me'
    claim = helper.make_tensor_value_info('Relu_1', FLOAT, ('n', FEATURES, 'h', 'w'))
    model.graph.value_info.append(claim)
    assert b'/home/me' not in read(tmp_path, model).model


def test_functions_are_inlined(tmp_path: Path) -> None:
    model = classifier()
    opset = helper.make_opsetid('', 17)
    body = [helper.make_node('Relu', ['a'], ['b'])]
    model.functions.append(helper.make_function('own', 'Act', ['a'], ['b'], body, [opset]))
    model.opset_import.append(helper.make_opsetid('own', 1))
    relu = next(node for node in model.graph.node if node.op_type == 'Relu')
    relu.op_type, relu.domain = 'Act', 'own'
    network = read(tmp_path, model)
    expected = answer(classifier().SerializeToString(), image())
    np.testing.assert_allclose(answer(network.model, image()), expected, atol=TOLERANCE)


@pytest.mark.parametrize('quantised_as', ['QDQ', 'QOperator', 'dynamic'])
def test_quantised_networks_are_read(tmp_path: Path, quantised_as: str) -> None:
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        left = 2

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            return {'input': image()} if self.left >= 0 else None

    model = onnx_models.branching()
    plain, path = written(tmp_path, model), tmp_path / 'q.onnx'
    if quantised_as == 'dynamic':
        weights = quantization.QuantType.QUInt8
        quantization.quantize_dynamic(str(plain), str(path), weight_type=weights)
    else:
        kind = quantization.QuantFormat[quantised_as]
        quantization.quantize_static(str(plain), str(path), Images(), quant_format=kind)
    network = read(tmp_path, onnx.load(path))
    assert network.macs_at(8) == read(tmp_path, model).macs_at(8)
    expected = answer(path.read_bytes(), image())
    found = softmax(answer(network.model, image()))
    np.testing.assert_allclose(found, expected, atol=HALF_TOLERANCE)  # quantised: sum not quite 1
    operators = {node.op_type for node in onnx.load(path).graph.node}
    if quantised_as == 'QOperator':
        assert {f'QLinear{name}' for name in ('Add', 'Mul', 'Concat', 'Sigmoid')} <= operators


# Metadata


def test_labels_and_preprocessing_of_ultralytics_are_read(tmp_path: Path) -> None:
    names = str({0: 'stop', 1: "it's", 2: 'c', 3: 'd'})
    metadata = {'author': 'Ultralytics', 'task': 'classify', 'names': names}
    metadata['license'] = 'AGPL-3.0'
    network = read(tmp_path, classifier(end=('Softmax',), metadata=metadata))
    assert network.labels == ('stop', "it's", 'c', 'd')
    assert network.preprocessing['mean'] == [0.0] * 3
    assert network.preprocessing['crop_fraction'] == 1.0
    assert 'license stated in the file: AGPL-3.0' in network.notes


def test_an_ultralytics_detector_is_rejected(tmp_path: Path) -> None:
    model = classifier(metadata={'author': 'Ultralytics', 'task': 'detect'})
    assert "'detect'" in refused(written(tmp_path, model))


def test_our_own_metadata_is_read(tmp_path: Path) -> None:
    facts = {'mean': [0.5] * 3, 'std': [0.2] * 3, 'crop_fraction': 0.9, 'interpolation': 'area'}
    facts |= {'resize': 'pad', 'channels': 'bgr'}
    metadata = {
        'dynamic_ofa.labels': json.dumps(['a', 'b', 'c', 'é']),
        'dynamic_ofa.preprocessing': json.dumps(facts),
    }
    network = read(tmp_path, classifier(metadata=metadata))
    assert network.labels == ('a', 'b', 'c', 'é')
    assert network.preprocessing == facts


@pytest.mark.parametrize(
    'text',
    ['{', '[]', '{"colour": 1}', '{"mean": [1, 2]}', '{"std": [0, 0, 0]}', '{"std": ["a", 1, 1]}',
     '{"crop_fraction": 2}', '{"interpolation": "magic"}', '{"resize": 1}', '{"channels": "grb"}',
     '[' * 100_000],
)  # fmt: skip
def test_invalid_preprocessing_metadata_is_rejected(tmp_path: Path, text: str) -> None:
    model = classifier(metadata={'dynamic_ofa.preprocessing': text})
    assert 'dynamic_ofa.preprocessing' in refused(written(tmp_path, model))


@pytest.mark.parametrize(
    'names',
    ["{0: 'a'}", '{', '__import__("os")', '[1', '(' * 5000, "{1: 'a', 2: 'b', 3: 'c', 4: 'd'}",
     "{0: 'a\\nb', 1: 'b', 2: 'c', 3: 'd'}", '7', "{0: '', 1: 'b', 2: 'c', 3: 'd'}"],
)  # fmt: skip
def test_invalid_labels_are_ignored_with_a_note(tmp_path: Path, names: str) -> None:
    network = read(tmp_path, classifier(metadata={'names': names}))
    assert network.labels == ()
    assert any('class' in note for note in network.notes)


# Weights in another file


def beside(folder: Path, location: str = 'a.onnx.data') -> Path:
    """Write a model with external weights."""
    folder.mkdir(exist_ok=True)
    path = folder / 'a.onnx'
    onnx.save_model(
        classifier(), path, save_as_external_data=True, location='a.onnx.data', size_threshold=0
    )
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == 'location':
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_external_weights_are_loaded(tmp_path: Path) -> None:
    path = beside(tmp_path)
    network = read_classifier(path)
    assert any('a.onnx.data' in note for note in network.notes)
    expected = answer(classifier().SerializeToString(), image())
    np.testing.assert_allclose(answer(network.model, image()), expected, atol=TOLERANCE)


def test_linked_external_weights_are_loaded(tmp_path: Path) -> None:
    blobs = beside(tmp_path / 'blobs').parent
    snapshot = tmp_path / 'snapshot'
    snapshot.mkdir()
    for name in ('a.onnx', 'a.onnx.data'):
        (snapshot / name).symlink_to(blobs / name)
    assert read_classifier(snapshot / 'a.onnx').classes == CLASSES


@pytest.mark.parametrize('location', ['../secret', '/etc/passwd', 'sub/weights', '', '.', '..'])
def test_weights_outside_the_folder_are_rejected(tmp_path: Path, location: str) -> None:
    (tmp_path / 'secret').write_bytes(bytes(4096))
    text = refused(beside(tmp_path / 'model', location))
    assert repr(location) in text
    assert 'outside its folder' in text or 'cannot be read' in text


def test_a_link_out_of_the_folder_is_rejected(tmp_path: Path) -> None:
    path = beside(tmp_path / 'model')
    data = path.with_name('a.onnx.data')
    shutil.move(data, tmp_path / 'secret')
    data.symlink_to(tmp_path / 'secret')
    assert 'outside its folder' in refused(path)


def test_missing_or_truncated_weights_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = beside(tmp_path)
    data = path.with_name('a.onnx.data')
    with monkeypatch.context() as patched:
        patched.setattr(onnx_file, 'MAX_FILE_BYTES', path.stat().st_size)
        assert 'more than' in refused(path)
    os.truncate(data, 8)
    assert 'truncated' in refused(path)
    data.unlink()
    assert 'external_data=False' in refused(path)
    data.mkdir()
    assert 'cannot be read' in refused(path)


# Networks that are not classifiers


def other_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info('Relu_1', FLOAT, (1, 5, 8, 8)))


def other_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info('mask', FLOAT, ('n', 8)))


def text_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info('input_ids', TensorProto.INT64, ('batch', 'length'))
    )


def with_input(*shape: int | str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info('x', FLOAT, shape))

    return change


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 6


def new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def lacking_operator(model: onnx.ModelProto) -> None:
    node = helper.make_node('MyPool', ['x'], ['z'], domain='mine')
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid('mine', 1))


def wrong_weights(model: onnx.ModelProto) -> None:
    weights = numpy_helper.from_array(np.ones((7, CLASSES), np.float32), 'linear')
    model.graph.initializer[1].CopyFrom(weights)


def not_a_number(model: onnx.ModelProto) -> None:
    values = np.full(CLASSES, np.nan, np.float32)
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(values, 'bias'))


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        (other_outputs, r'2 outputs \(y float \(.*\); Relu_1 float \(1, 5, 8, 8\)\)'),
        (other_inputs, r'2 inputs \(x float \(1, 3, 8, 8\); mask float \(n, 8\)\)'),
        (text_input, r'input_ids int64 \(batch, length\), is not an image'),
        (with_input(3, 8, 8), r'no batch dimension'),
        (with_input(1, 3), 'not an image'),
        (with_input(4, 3, 8, 8), r'has batch size 4'),
        (with_input(1, 3, 8, 9), r'is 9x8: the input must be square'),
        (with_input(1, 1, 8, 8), r'1 channel \(grey\)'),
        (with_input(1, 4, 8, 8), r'which dimension .* nchw or nhwc'),
        (with_input('n', 'c', 'h', 'w'), r'which dimension .* nchw or nhwc'),
        (with_input(1, 3, 8, 3), r'which dimension .* nchw or nhwc'),
        (old_opset, r'opset 6'),
        (new_opset, r'opset 999'),
        (lacking_operator, r'mine.MyPool'),
        (wrong_weights, r'cannot run at 8 px'),
        (not_a_number, r'not finite'),
    ],
)
def test_networks_that_are_not_image_classifiers_are_rejected(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], found: str
) -> None:
    model = classifier()
    change(model)
    with pytest.raises(FamilyError, match=found):
        read_classifier(written(tmp_path, model))


def test_the_layout_can_be_given(tmp_path: Path) -> None:
    free = classifier()
    with_input('n', 'c', 'h', 'w')(free)
    assert read(tmp_path, free, layout='nchw').resolution is None
    assert '8 channels as nhwc' in refused(written(tmp_path, classifier()), layout='nhwc')


@pytest.mark.parametrize(
    ('operators', 'found'),
    [
        ([('Conv', ['k'])], r'maps'),
        ([('Conv', ['k']), ('Reshape', ['boxes'])], r'\(1, 4, 64\), contains boxes'),
        ([('Conv', ['k']), ('Reshape', ['rows'])], r'\(64, 4\)'),
        ([('ReduceMax', []), ('Reshape', ['rank_1'])], 'no batch dimension'),
        ([('ReduceMax', [])], 'single score'),
        ([('Flatten', []), ('ArgMax', [])], 'no scores'),
    ],
)
def test_outputs_that_are_not_scores_are_rejected(
    tmp_path: Path, operators: list[tuple[str, list[str]]], found: str
) -> None:
    stored = {
        'k': np.ones((CLASSES, 3, 1, 1), np.float32),
        'boxes': np.array([1, 4, 64]),
        'rows': np.array([64, 4]),
        'rank_1': np.array([1]),
    }
    nodes, current = [], 'input'
    for index, (operator, more) in enumerate(operators):
        result = 'logits' if index == len(operators) - 1 else f'r{index}'
        attributes = {'axis': 1} if operator == 'ArgMax' else {}
        nodes.append(helper.make_node(operator, [current, *more], [result], **attributes))
        current = result
    model = onnx_models.of_nodes(nodes, stored)
    if operators[-1][0] == 'ArgMax':
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(FamilyError, match=found):
        read_classifier(written(tmp_path, model))


def test_an_operator_that_onnxruntime_lacks_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node('Cast', ['input'], ['wide'], to=TensorProto.DOUBLE),
        helper.make_node('Conv', ['wide', 'k'], ['scores']),
        helper.make_node('GlobalMaxPool', ['scores'], ['logits']),
    ]
    model = onnx_models.of_nodes(nodes, {'k': np.ones((4, 3, 1, 1))})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    text = refused(written(tmp_path, model))
    assert f'onnxruntime {onnxruntime.__version__}' in text
    assert 'implementation for Conv' in text


def test_an_opset_that_onnxruntime_does_not_know_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (  # by ONNX Runtime 1.31.1, of opset 28
        '[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/core/graph/model_load_utils.h:46 void '
        'onnxruntime::ValidateOpsetForDomain(const std::string&, int) ONNX Runtime only '
        '*guarantees* support for models stamped with official released onnx opset versions. '
        'Opset 28 is under development and support for this is limited. Current official support '
        'for domain ai.onnx is till opset 26.'
    )

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(onnxruntime, 'InferenceSession', fail)
    text = refused(written(tmp_path, classifier()))
    assert f'onnxruntime {onnxruntime.__version__} says: its newest opset is 26' in text


# Sizes


def test_a_size_at_which_the_network_cannot_run_is_named(tmp_path: Path) -> None:
    network = read(tmp_path, classifier(('n', 3, 'h', 'w'), pool=False), side=8)
    check_resolution(network, 8)
    with pytest.raises(FamilyError, match=r'a.onnx cannot run at 9 px.*leave 9 out'):
        check_resolution(network, 9)


def test_a_size_other_than_the_fixed_one_is_rejected(tmp_path: Path) -> None:
    network = read(tmp_path, classifier())
    check_resolution(network, 8)
    with pytest.raises(FamilyError, match='fixed input size 8 px'):
        check_resolution(network, 16)


# Files of other kinds


@pytest.mark.parametrize(
    ('start', 'what'),
    [
        (b'PK\x03\x04', 'zip'),
        (b'\x80\x02}q\x00', 'pickle'),
        (b'\x1c\0\0\0TFL3', 'TensorFlow Lite'),
        (b'\x89HDF\r\n', 'HDF5'),
        (b'<!DOCTYPE html>', 'web page'),
        (b'<?xml version="1.0"?>', 'OpenVINO'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        (b'\x40\0\0\0\0\0\0\0{"a":', 'safetensors'),
        (b'', 'truncated, empty'),
        (b'\xff\xff\xff\xff', 'truncated, empty'),
    ],
)
def test_other_file_formats_are_recognised(tmp_path: Path, start: bytes, what: str) -> None:
    path = tmp_path / 'a.onnx'
    path.write_bytes(start + b'\xff' * 64 if start else b'')
    assert what in refused(path)


def test_unreadable_files_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'cannot be read' in refused(tmp_path / 'none.onnx')
    assert 'cannot be read' in refused(tmp_path)
    path = written(tmp_path, classifier())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 'truncated' in refused(path)
    monkeypatch.setattr(onnx_file, 'MAX_FILE_BYTES', 10)
    assert 'at most' in refused(path)


# PyTorch's exporters


@pytest.mark.parametrize('dynamo', [False, True])
@pytest.mark.parametrize('free', [False, True])
def test_networks_exported_by_pytorch_are_read(tmp_path: Path, dynamo: bool, free: bool) -> None:
    torch = pytest.importorskip('torch')
    if dynamo:
        pytest.importorskip('onnxscript')
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.BatchNorm2d(8),
        torch.nn.Hardswish(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    ).eval()
    options: dict[str, Any] = {'dynamo': dynamo, 'input_names': ['x'], 'output_names': ['y']}
    sides = {0: 'batch', 2: 'height', 3: 'width'}
    if free and dynamo:
        options['dynamic_shapes'] = (dict.fromkeys(sides, torch.export.Dim.AUTO),)
    elif free:
        options['dynamic_axes'] = {'x': sides, 'y': {0: 'batch'}}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        example = torch.rand(2 if free else 1, 3, 32, 40 if free else 32)
        torch.onnx.export(network, (example,), tmp_path / 'a.onnx', **options)
    imported = read_classifier(tmp_path / 'a.onnx')
    assert imported.resolution == (None if free else 32)
    values = image(48 if free else 32)
    with torch.no_grad():
        expected = network(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(answer(imported.model, values), expected, atol=TOLERANCE)
    if free:
        check_resolution(imported, 96)
