from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnx_models
import pytest
from onnx import TensorProto, helper, numpy_helper

from dynamic_ofa_ros.errors import FamilyError, MissingPackageError
from dynamic_ofa_ros.family import onnx_safety
from dynamic_ofa_ros.family.onnx_safety import check_network

MAX_CHECK_S = 0.3
EXTERNAL = TensorProto.EXTERNAL
INT64 = np.int64


def rejection(model: onnx.ModelProto | bytes, **options: int) -> str:
    """Return the error message that rejects a network."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(FamilyError) as caught:
        check_network(data, 'a.onnx', **options)
    assert str(caught.value).startswith('a.onnx')
    return str(caught.value)


def stored_externally(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return the tensor with its contents moved to another file."""
    tensor.ClearField('raw_data')
    tensor.data_location = EXTERNAL
    tensor.external_data.add(key='location', value='../../etc/passwd')
    return tensor


def branch() -> onnx.NodeProto:
    body = helper.make_graph(
        [helper.make_node('Constant', [], ['c'], value_float=1.0)],
        'branch',
        [],
        [helper.make_tensor_value_info('c', TensorProto.FLOAT, ())],
    )
    return helper.make_node('If', ['yes'], ['logits'], then_branch=body, else_branch=body)


@pytest.mark.parametrize('side', ['side', 8])
def test_a_plain_classifier_is_allowed(side: str | int) -> None:
    model = onnx_models.classifier((1, 3, side, side), end=('Softmax',))
    check_network(model.SerializeToString(), 'a.onnx')


def test_truncated_empty_and_other_files_are_rejected() -> None:
    data = onnx_models.classifier().SerializeToString()
    for damaged in (data[:-1], data[: len(data) // 2], b'\xff' * 100, b'<html>'):
        assert 'truncated' in rejection(damaged)
    assert 'names that are not UTF-8 text' in rejection(
        data.replace(b'GlobalAverage', b'Global\xff\xfferage')
    )
    assert 'empty' in rejection(b'')
    assert 'empty' in rejection(onnx.ModelProto(ir_version=8))


def test_a_huge_file_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_safety, 'MAX_FILE_BYTES', 2**10)
    assert '0 MiB' in rejection(b'\0' * 2**11)


def test_unknown_contents_are_rejected() -> None:
    data = onnx_models.classifier().SerializeToString()
    unknown_field = b'\xa2\x1f\x05hello'  # field 500
    assert 'does not know' in rejection(data + unknown_field)


@pytest.mark.parametrize('place', ['initializer', 'constant', 'list', 'branch', 'location only'])
def test_tensors_stored_in_other_files_are_rejected(place: str) -> None:
    model = onnx_models.classifier()
    tensor = stored_externally(numpy_helper.from_array(np.ones(3, np.float32), 'weights'))
    if place == 'initializer':
        model.graph.initializer.append(tensor)
    elif place == 'constant':
        model.graph.node.append(helper.make_node('Constant', [], ['c'], value=tensor))
    elif place == 'list':
        model.graph.node.append(helper.make_node('Constant', [], ['c'], anything=[tensor]))
    elif place == 'branch':
        model.graph.node.append(branch())
        model.graph.node[-1].attribute[0].g.initializer.append(tensor)
    else:
        tensor.ClearField('data_location')
        tensor.raw_data = np.ones(3, np.float32).tobytes()
        model.graph.initializer.append(tensor)
    assert 'refers to another file' in rejection(model)


def with_function(model: onnx.ModelProto) -> None:
    node = helper.make_node('Relu', ['a'], ['b'])
    opset = helper.make_opsetid('', 17)
    model.functions.append(helper.make_function('own', 'F', ['a'], ['b'], [node], [opset]))


def with_training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def with_sparse_weights(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), 'v')
    indices = numpy_helper.from_array(np.zeros(1, INT64), 'i')
    sparse = helper.make_sparse_tensor(values, indices, [2**40])
    model.graph.sparse_initializer.append(sparse)


def with_sparse_constant(model: onnx.ModelProto) -> None:
    with_sparse_weights(model)
    sparse = model.graph.sparse_initializer[0]
    model.graph.ClearField('sparse_initializer')
    model.graph.node.append(helper.make_node('Constant', [], ['c'], sparse_value=sparse))


def with_text(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor('t', TensorProto.STRING, (1,), [b'text']))


def with_branch(model: onnx.ModelProto) -> None:
    model.graph.node.append(branch())


def with_foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node('PyOp', ['x'], ['z'], domain='ai.onnx.contrib'))


def with_compiled_part(model: onnx.ModelProto) -> None:
    node = helper.make_node(
        'EPContext', ['x'], ['z'], domain='com.microsoft', ep_cache_context='../engine.bin'
    )
    model.graph.node.append(node)


def with_segment(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].segment.begin = 1


def with_negative_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -5


def with_missing_contents(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def with_two_results_of_the_same_name(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node('Relu', ['x'], ['y']))


def with_an_input_computed_later(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = 'y'


def with_an_operator_without_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[:]


def with_a_future_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def with_a_sequence(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node('SequenceConstruct', ['x'], ['z']))


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        (with_function, 'functions'),
        (with_training, 'training'),
        (with_sparse_weights, 'sparse'),
        (with_sparse_constant, 'sparse'),
        (with_text, 'type string'),
        (with_branch, 'If'),
        (with_foreign_operator, 'ai.onnx.contrib.PyOp'),
        (with_compiled_part, 'com.microsoft.EPContext'),
        (with_segment, 'segments'),
        (with_negative_size, '-5'),
        (with_missing_contents, 'the file is damaged'),
        (with_two_results_of_the_same_name, 'cannot run'),
        (with_an_input_computed_later, 'cannot run'),
        (with_an_operator_without_inputs, 'cannot run'),
        (with_a_future_opset, 'opset 999'),
        (with_a_sequence, 'SequenceConstruct'),
    ],
)
def test_contents_that_are_not_allowed_are_named(
    change: Callable[[onnx.ModelProto], None], found: str
) -> None:
    model = onnx_models.classifier()
    change(model)
    assert found in rejection(model)


def test_too_many_operators_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_safety, 'MAX_NODES', 3)
    assert '5 operators; at most 3' in rejection(onnx_models.classifier())


node = helper.make_node
HUGE = np.array([2**20, 2**20], INT64)
BOMBS = {
    'ConstantOfShape': ([node('ConstantOfShape', ['s'], ['logits'])], {'s': HUGE}),
    'Expand': (
        [node('Expand', ['w', 's'], ['logits'])],
        {'w': np.ones((1, 1), np.float32), 's': HUGE},
    ),
    'Tile': (
        [node('Tile', ['w', 's'], ['logits'])],
        {'w': np.ones((1, 1), np.float32), 's': HUGE},
    ),
    'Pad': (
        [node('Pad', ['w', 's'], ['logits'])],
        {'w': np.ones(1, np.float32), 's': np.array([0, 2**40], INT64)},
    ),
    'Range': (
        [node('Range', ['a', 'b', 'c'], ['logits'])],
        {name: np.array(v, np.float32) for name, v in (('a', 0), ('b', 2**40), ('c', 1))},
    ),
    'Resize': (
        [node('Resize', ['input', '', 's'], ['logits'])],
        {'s': np.array([1, 1, 1e5, 1e5], np.float32)},
    ),
    'outer product': (
        [node('Add', ['v', 'h'], ['logits'])],
        {'v': np.ones((2**15, 1), np.float32), 'h': np.ones((1, 2**15), np.float32)},
    ),
    'doubled': (
        [node('Concat', [f'{i}'] * 2, [f'{i + 1}'], axis=0) for i in range(40)]
        + [node('Identity', ['40'], ['logits'])],
        {'0': np.ones(1, np.float32)},
    ),
    'size from arithmetic': (
        [
            node('Div', ['s', 'd'], ['floats']),
            node('Cast', ['floats'], ['sizes'], to=TensorProto.INT64),
            node('ConstantOfShape', ['sizes'], ['logits']),
        ],
        {'s': HUGE.astype(np.float32), 'd': np.array([0.5, 0.5], np.float32)},
    ),
    'size from the image': (
        [
            node('ReduceSum', ['input'], ['sum'], keepdims=0),
            node('Cast', ['sum'], ['number'], to=TensorProto.INT64),
            node('Reshape', ['number', 'one'], ['sizes']),
            node('ConstantOfShape', ['sizes'], ['logits']),
        ],
        {'one': np.array([1], INT64)},
    ),
    'size from an operator that is not evaluated': (
        [
            node('Exp', ['s'], ['floats']),
            node('Cast', ['floats'], ['sizes'], to=TensorProto.INT64),
            node('ConstantOfShape', ['sizes'], ['logits']),
        ],
        {'s': np.array([30.0], np.float32)},
    ),
    'many': (
        [node('Expand', ['w', 's'], [f'w{i}'], name=f'{i}') for i in range(10)]
        + [node('Identity', ['w0'], ['logits'])],
        {'w': np.ones(1, np.float32), 's': np.array([2**28], INT64)},
    ),
    'work': (
        [node('Conv', ['input', 'k'], ['logits'], pads=[500] * 4)],
        {'k': np.ones((999, 3, 30, 30), np.float32)},
    ),
}


@pytest.mark.parametrize('bomb', BOMBS)
def test_small_files_that_need_much_memory_or_time_are_rejected(bomb: str) -> None:
    nodes, stored = BOMBS[bomb]
    found = rejection(onnx_models.of_nodes(nodes, stored))
    assert 'at most' in found or 'does not depend on the input size alone' in found


def test_shapes_stated_in_the_file_are_ignored() -> None:
    nodes, stored = BOMBS['size from an operator that is not evaluated']
    model = onnx_models.of_nodes(nodes, stored)
    claim = helper.make_tensor_value_info('logits', TensorProto.FLOAT, (1, 4))
    model.graph.output[0].CopyFrom(claim)
    model.graph.value_info.append(helper.make_tensor_value_info('sizes', TensorProto.INT64, (1,)))
    rejection(model)


def test_memory_is_computed_for_the_given_input_size() -> None:
    model = onnx_models.classifier((1, 3, 'side', 'side'))
    data = model.SerializeToString()
    check_network(data, 'a.onnx', side=224)
    assert '20000 px' in rejection(data, side=20_000)


def test_a_missing_onnx_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'onnx', None)
    with pytest.raises(MissingPackageError, match=r'a.onnx .*pip install onnx'):
        check_network(b'', 'a.onnx')


def test_an_onnx_that_is_too_old_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, '__version__', '1.16.2')
    with pytest.raises(MissingPackageError, match=r'onnx 1\.16\.2 .*1\.17 or later'):
        check_network(b'', 'a.onnx')


@pytest.mark.parametrize('side', ['side', 64])
def test_the_check_is_fast(side: str | int) -> None:
    model = onnx_models.deep(side, layers=200, weights=25_000)
    data = model.SerializeToString()
    assert len(data) > 19 * 2**20
    check_network(data, 'a.onnx', side=64)
    took = []
    for _ in range(3):
        start = time.process_time()
        check_network(data, 'a.onnx', side=64)
        took.append(time.process_time() - start)
    assert min(took) < MAX_CHECK_S
