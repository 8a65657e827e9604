from __future__ import annotations

import math

import pytest

from dynamic_ofa_ros.constraints import Constraints, feasible_levels
from dynamic_ofa_ros.errors import ConstraintError
from dynamic_ofa_ros.family import LatencyProfile, Level, LevelLatency
from dynamic_ofa_ros.space.architecture import SearchSpace

LEVELS = tuple(
    Level(i, f'l{i}', SearchSpace().smallest(), accuracy, 1, 1)
    for i, accuracy in enumerate((0.7, 0.8, 0.9), start=1)
)
PROFILE = LatencyProfile(
    'test', tuple(LevelLatency(ms, ms, 0.1, ms, ms, 10) for ms in (10.0, 20.0, 30.0)), 'now'
)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'max_latency_ms': -1.0}, 'max_latency_ms is -1 ms'),
        ({'max_latency_ms': 0.0}, 'max_latency_ms is 0 ms'),
        ({'max_latency_ms': math.inf}, 'max_latency_ms is inf ms'),
        ({'max_latency_ms': 20000.0}, r'must lie in \(0, 10000\] ms'),
        ({'min_accuracy': 1.5}, r'min_accuracy is 1.5; it must lie in \(0, 1\]'),
        ({'quantile': 0.2}, 'quantile is 0.2'),
        ({'quantile': math.nan}, 'quantile is nan'),
        ({'latency_scope': 'gpu'}, "'gpu'; it must be one of: inference, node, end_to_end"),
        ({'priority': 'both'}, "priority is 'both'"),
    ],
)
def test_invalid_constraints_are_rejected(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        Constraints(**kwargs)


def test_feasible_levels_meet_both_constraints() -> None:
    def indices(slowdown: float = 1.0, overhead: float = 0.0, **kwargs: float) -> list[int]:
        found = feasible_levels(Constraints(**kwargs), LEVELS, PROFILE, slowdown, overhead)
        return [level.index for level in found]

    assert indices() == [1, 2, 3]
    assert indices(max_latency_ms=20.0) == [1, 2]
    assert indices(max_latency_ms=20.0, slowdown=1.5) == [1]
    assert indices(max_latency_ms=20.0, overhead=5.0) == [1]
    assert indices(max_latency_ms=20.0, min_accuracy=0.85) == []
    assert indices(min_accuracy=0.8) == [2, 3]
