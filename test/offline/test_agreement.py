from __future__ import annotations

import math

import numpy as np
import pytest

from dynamic_ofa_ros.offline.accuracy.agreement import Agreement, kendall_tau


def test_errors_match_their_definition() -> None:
    agreement = Agreement.of([0.5, 0.7, 0.9], [0.4, 0.7, 0.7])
    assert agreement.mae == pytest.approx(0.1)
    assert agreement.rmse == pytest.approx(math.sqrt((0.01 + 0.04) / 3))
    assert agreement.bias == pytest.approx(0.1)
    # One of three pairs is tied in the second list: 2 / sqrt(3 * 2).
    assert agreement.kendall_tau == pytest.approx(2 / math.sqrt(6))


def test_tau_depends_only_on_the_order() -> None:
    values = np.array([3.0, 1.0, 2.0, 5.0])
    assert kendall_tau(values, np.exp(values)) == pytest.approx(1.0)
    assert kendall_tau(values, -values) == pytest.approx(-1.0)
    assert math.isnan(kendall_tau(values, np.ones(4)))
