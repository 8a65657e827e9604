"""The benchmark of several models on one device: every part can be left out, and is put back."""

from __future__ import annotations

import pytest

from benchmarks.coordination import ABLATIONS, judge
from dynamic_ofa_ros.runtime.coordination import proposer, sharing

SEED = 5004


@pytest.fixture(scope='module')
def outcomes():
    return judge(SEED, ('collective', *ABLATIONS, 'predictive'))


def test_every_part_can_be_left_out(outcomes):
    assert all(0.0 <= found.worst_late_share <= 1.0 for found in outcomes.values())
    assert outcomes['demands not learnt'] != outcomes['collective']


def test_what_was_left_out_is_there_again_afterwards(outcomes):
    assert proposer.LIGHTER < 1.0
    assert len(sharing.POWERS) > 1
    assert judge(SEED, ('collective',))['collective'] == outcomes['collective']
