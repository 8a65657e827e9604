from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.offline.latency.operator_layout import ABSENT, OperatorLayout
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.space.spaces import SPACES, SearchSpace, search_space

every_kind = pytest.mark.parametrize('kind', SPACES)


def layout_of(kind: str) -> OperatorLayout:
    return OperatorLayout(search_space(kind, (64, 96)))


@every_kind
def test_the_covering_networks_contain_every_operator(kind: str) -> None:
    layout = layout_of(kind)
    found = {name for a in layout.covering() for name in layout.names_in(a)}
    assert found == set(layout.names)
    for architecture in layout.covering():
        layout.space.validate(architecture)


@every_kind
def test_a_network_has_one_operator_per_active_position(kind: str) -> None:
    layout = layout_of(kind)
    genomes = GenomeEncoding(layout.space).sample(np.random.default_rng(1), 50)
    blocks = GenomeEncoding(layout.space).active(genomes).sum(1)
    present = (layout.rows(genomes) != ABSENT).sum(1)
    fixed = {len(layout.slots) - layout.space.blocks}
    if kind == 'ofa_resnet50':
        fixed.add(max(fixed) - 1)  # the stem's middle layer is not in every network
    assert set(present - blocks) == fixed


def test_names_of_a_mobilenet_follow_its_choices() -> None:
    space = search_space('ofa_mobilenetv3', (64,))
    architecture = SubnetArchitecture(
        ks=(3, 5, 7, 7) + (3,) * 16, e=(6, 4, 3, 3) + (3,) * 16, d=(3, 2, 2, 2, 2), r=64
    )
    names = OperatorLayout(space).names_in(architecture)
    assert names[:5] == ['stem', 'block0', 's0.b0.k3.e6', 's0.b1.k5.e4', 's0.b1.k7.e3']
    assert names[5] == 's1.b0.k3.e3'
    assert names[-4:] == ['final_expand', 'avgpool', 'feature_mix', 'classifier']


def test_names_of_a_resnet_follow_its_widths() -> None:
    space = search_space('ofa_resnet50', (128,))
    architecture = replace(space.smallest(), w=(0, 1, 2, 2, 0, 1))
    names = OperatorLayout(space).names_in(architecture)
    assert names[:4] == ['stem0.w0', 'stem2.w0.w1', 'maxpool.w1', 's0.b0.w1.w2.e0.2']
    assert 's2.b0.w2.w0.e0.2' in names
    assert names[-1] == 'classifier.w1'


def test_the_error_for_an_unknown_kind_names_the_alternative() -> None:
    class Slimmable(SearchSpace):
        kind = 'slimmable'

    with pytest.raises(LatencyTableError, match=r"kind 'slimmable'.*--whole-networks"):
        OperatorLayout(Slimmable())
