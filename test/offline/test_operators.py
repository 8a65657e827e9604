from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from families import randomise
from torch import nn

from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.offline.latency import operators
from dynamic_ofa_ros.offline.latency.operator_layout import OperatorLayout
from dynamic_ofa_ros.offline.latency.operators import (
    MIN_ROUNDS,
    SETTLE_ROUNDS,
    Framed,
    Operator,
    OperatorEngine,
    collect_operators,
    summarise,
    time_in_turns,
    time_operators,
)
from dynamic_ofa_ros.space.spaces import search_space
from dynamic_ofa_ros.supernet.network import build_supernet, extract_subnet


def supernet_of(kind: str) -> nn.Module:
    supernet = build_supernet(BackboneSpec('test', kind, 0.35, 4)).eval()
    randomise(supernet, torch.Generator().manual_seed(1))
    return supernet


@pytest.mark.parametrize('kind', ['ofa_mobilenetv3', 'ofa_proxyless', 'efficientnet_lite'])
def test_operators_in_sequence_equal_the_network(kind: str) -> None:
    """The sequence of timed operators computes the same as the network.

    There are two blocks per stage, because later ones have equal times but other weights.
    """
    supernet = supernet_of(kind)
    space = replace(search_space(kind, (32, 48)), kernel_sizes=(3, 7), expand_ratios=(3, 6))
    layout = OperatorLayout(space)
    found = {operator.name: operator for operator in collect_operators(supernet, layout)}
    sampled = space.sample(np.random.default_rng(3), resolution=48)
    architecture = replace(sampled, d=space.smallest().d)
    image = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = extract_subnet(supernet, architecture)(image)
        value = image
        for name in layout.names_in(architecture):
            if name == 'classifier':
                value = value.flatten(1)
            assert found[name].input_shapes[1] == tuple(value.shape)
            value = found[name].module(value)
    torch.testing.assert_close(value, expected)
    assert expected.abs().max() > 0.0
    assert [name for name, operator in found.items() if operator.is_first] == ['stem']


def test_operators_of_resnet_match_its_modules() -> None:
    space = search_space('ofa_resnet50', (32,))
    supernet = build_supernet(BackboneSpec('test', 'ofa_resnet50', 1.0, 4)).eval()
    architecture = space.sample(np.random.default_rng(5))
    names = OperatorLayout(space).names_in(architecture)
    modules = operators._modules(extract_subnet(supernet, architecture))
    assert len(names) == len(modules)
    for name, module in zip(names, modules, strict=True):
        assert ('.b' in name) == (type(module).__name__ == 'ResNetBottleneckBlock')


CONVOLUTION = Operator(
    'conv', nn.Conv2d(4, 6, 3, padding=1), ((1, 4, 8, 8), (1, 4, 12, 12)), False
)
LINEAR = Operator('linear', nn.Linear(4, 3), ((1, 4), (1, 4)), False)
FIRST = Operator('first', nn.Conv2d(3, 4, 3, stride=2), ((1, 3, 32, 32), (1, 3, 48, 48)), True)


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino', 'pytorch'])
@pytest.mark.parametrize('operator', [CONVOLUTION, LINEAR, FIRST], ids=lambda o: o.name)
def test_engines_run_the_framed_operator(
    engine: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, 'randn', lambda *shape: image)
    framed = Framed(operator).eval()
    ready = OperatorEngine(engine, 'cpu', 1, nn.Conv2d(3, 4, 1), 8)
    with torch.inference_mode():
        if operator is LINEAR:
            image = image[:, :, :1, :1].contiguous()
        expected = framed(image).numpy()
    result = ready.prepare(framed, image.shape[2])()
    np.testing.assert_allclose(np.asarray(result).reshape(expected.shape), expected, atol=1e-5)


def test_activations_are_exported_as_single_operators() -> None:
    supernet = supernet_of('ofa_mobilenetv3')
    layout = OperatorLayout(replace(search_space('ofa_mobilenetv3', (32,)), kernel_sizes=(3,)))
    kinds = set()
    for operator in collect_operators(supernet, layout)[-6:]:
        framed = Framed(operator).eval()
        side = (*operator.input_shapes[0][2:], 1)[0]
        network = onnx.load_from_string(operators._export(framed, torch.zeros(1, 3, side, side)))
        kinds |= {node.op_type for node in network.graph.node}
    assert {'HardSwish', 'HardSigmoid'} <= kinds
    assert 'Div' not in kinds


def test_the_frame_alone_lacks_the_operator() -> None:
    frame = Framed(CONVOLUTION, is_frame_alone=True)
    assert frame(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 1, 1)
    assert Framed(CONVOLUTION)(torch.zeros(1, 3, 8, 8)).shape == (1, 6, 1, 1)
    assert frame.key != Framed(LINEAR, is_frame_alone=True).key


def test_an_engine_that_cannot_run_operators_is_rejected() -> None:
    with pytest.raises(
        EngineError,
        match=r"engine 'x' cannot time single operators; use onnx",
    ):
        OperatorEngine('x', 'cpu', 1, nn.Identity(), 8)


class SteadyEngine:
    """Prepares calls with known times: 0.5 ms for the frame, and 2 ms more for an operator."""

    def prepare(self, framed: Framed, side: int):
        return lambda: 0.5 if isinstance(framed.operator, nn.Identity) else 0.5 + 2.0 * side / 8


def test_the_time_of_the_frame_is_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, '_time_ms', lambda call: call())
    places = [(CONVOLUTION, 0), (LINEAR, 1), (CONVOLUTION, 1)]
    timings = time_operators(places, SteadyEngine(), np.random.default_rng(1))
    assert [t.median_ms for t in timings] == pytest.approx([2.0, 0.25, 3.0])
    assert [t.mean_ms for t in timings] == pytest.approx([2.0, 0.25, 3.0])
    assert {t.count for t in timings} == {MIN_ROUNDS}


def test_slow_first_rounds_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {'a': 0, 'b': 0}
    order: list[str] = []

    def time_ms(name: str) -> float:
        runs[name] += 1
        order.append(name)
        return 1.0 + max(0.0, 3 * SETTLE_ROUNDS - runs[name])

    monkeypatch.setattr(operators, '_time_ms', time_ms)
    samples = time_in_turns(['a', 'b'], np.random.default_rng(1))
    assert samples.tolist() == [[1.0, 1.0]] * MIN_ROUNDS
    assert runs['a'] == runs['b']
    assert {tuple(order[i : i + 2]) for i in range(0, len(order), 2)} == {('a', 'b'), ('b', 'a')}


def test_noisy_times_are_measured_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(2)
    monkeypatch.setattr(operators, '_time_ms', lambda call: noise.uniform(1.0, 2.0))
    assert len(time_in_turns(['a'], np.random.default_rng(1))) > 2 * MIN_ROUNDS


def test_a_disturbed_run_does_not_move_the_median() -> None:
    timing = summarise(np.array([1.0, 1.1, 0.9, 1.0, 50.0]))
    assert timing.median_ms == 1.0
    assert timing.mean_ms > 10.0
    assert timing.sd_ms > 20.0
    assert timing.count == 5


def test_an_operator_faster_than_the_noise_takes_no_time() -> None:
    assert summarise(np.array([-0.2, -0.1, 0.1])).median_ms == 0.0
