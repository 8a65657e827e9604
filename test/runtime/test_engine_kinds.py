"""Families of every kind of backbone run on the engines that every machine has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import make_random_family

from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime.engine import create_engine, probe_input
from dynamic_ofa_ros.runtime.engines.pytorch import reference_logits
from dynamic_ofa_ros.space.spaces import search_space

LOGIT_TOLERANCE = 1e-3  # a fraction of the logits' range
CLEARLY_DIFFERENT = 0.2
LEVELS = 3

# MobileNetV3 is tested in test_engine.py.
WIDTHS = {'ofa_proxyless': 0.35, 'efficientnet_lite': 0.35, 'ofa_resnet50': 0.2}


@pytest.fixture(scope='module', params=list(WIDTHS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    directory = tmp_path_factory.mktemp(request.param) / 'family'
    make_random_family(
        directory, levels=LEVELS, kind=request.param, width_mult=WIDTHS[request.param]
    )
    return Family.load(directory)


def test_levels_are_in_the_space_of_their_kind(family: Family) -> None:
    for level in family.levels:
        space = search_space(family.backbone.kind, (level.resolution,))
        space.validate(level.architecture)
        cost = space.count_cost(
            level.architecture, family.backbone.width_mult, family.backbone.classes
        )
        assert (level.macs, level.parameters) == (cost.macs, cost.parameters)
    assert family.levels[-1].architecture.values('e') != family.levels[0].architecture.values('e')


@pytest.mark.parametrize('engine_name', ['onnxruntime', 'openvino', 'pytorch'])
def test_engines_agree_with_the_plain_networks(
    family: Family, engine_name: str, tmp_path: Path
) -> None:
    engine = create_engine(family, device='cpu', engine=engine_name, cache_dir=tmp_path)
    answers = {}
    try:
        for index, expected in reference_logits(family, probe_input).items():
            found = engine.infer(index, probe_input(family.level(index).resolution))
            tolerance = LOGIT_TOLERANCE * float(np.ptp(expected))
            np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
            assert np.ptp(expected) > CLEARLY_DIFFERENT
            answers[index] = found
    finally:
        engine.close()
    assert len(answers) == LEVELS
    assert np.abs(answers[1] - answers[LEVELS]).max() > CLEARLY_DIFFERENT
