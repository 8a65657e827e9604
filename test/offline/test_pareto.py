from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_ofa_ros.offline.search.pareto import choose_levels, front, hypervolume

POINTS = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=40).map(
    lambda points: ([float(p[0]) for p in points], [p[1] / 50 for p in points])
)


@settings(deadline=None)
@given(POINTS)
def test_the_front_contains_all_points_that_are_not_dominated(
    points: tuple[list[float], list[float]],
) -> None:
    latency, accuracy = points
    kept = front(latency, accuracy)
    assert [latency[i] for i in kept] == sorted(latency[i] for i in kept)
    values = {(latency[i], accuracy[i]) for i in kept}
    for a, b in zip(latency, accuracy, strict=True):
        is_dominated = any(
            (x <= a and y >= b) and (x < a or y > b)
            for x, y in zip(latency, accuracy, strict=True)
        )
        assert ((a, b) in values) == (not is_dominated)


def test_hypervolume_of_a_staircase() -> None:
    assert hypervolume([1.0, 2.0], [0.5, 1.0], (3.0, 0.0)) == 2.0 * 0.5 + 1.0 * 0.5
    assert hypervolume([4.0], [1.0], (3.0, 0.0)) == 0.0


@settings(deadline=None)
@given(POINTS, st.integers(2, 8))
def test_levels_are_on_the_front_and_keep_its_ends(
    points: tuple[list[float], list[float]], count: int
) -> None:
    latency, accuracy = points
    on_front = front(latency, accuracy)
    chosen = choose_levels(latency, accuracy, count)
    assert set(chosen) <= set(on_front)
    assert len(chosen) <= max(count, 2)
    assert chosen[0] == on_front[0]
    assert chosen[-1] == on_front[-1]


def test_levels_spread_along_the_front() -> None:
    latency = np.geomspace(1.0, 4.0, 100).tolist()
    accuracy = np.linspace(0.8, 0.95, 100).tolist()
    chosen = choose_levels(latency, accuracy, 6)
    steps = np.diff([accuracy[i] for i in chosen])
    assert len(chosen) == 6
    assert steps.max() < 1.5 * steps.min()


def test_levels_with_too_small_steps_are_omitted() -> None:
    latency = [1.0, 2.0, 3.0, 4.0]
    accuracy = [0.80, 0.8001, 0.90, 0.9001]
    assert choose_levels(latency, accuracy, 4) == [0, 3]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0.0005, 0.02), min_size=30, max_size=60),
    st.lists(st.floats(0.01, 0.2), min_size=60, max_size=60),
)
def test_steps_are_within_their_bounds_if_the_front_allows_it(
    gains: list[float], growth: list[float]
) -> None:
    accuracy = (0.5 + np.cumsum(gains)).tolist()
    latency = np.exp(np.cumsum(growth[: len(gains)])).tolist()
    chosen = choose_levels(latency, accuracy)
    steps = np.diff([accuracy[i] for i in chosen])
    # With points at most 0.02 apart, steps of 0.01 to 0.03 always exist, but for the last.
    assert (steps <= 0.03 + 1e-9).all()
    assert len(steps) == 1 or (np.sort(steps)[1:] >= 0.01 - 1e-9).all()


def test_more_levels_are_chosen_if_the_steps_allow_it() -> None:
    latency = np.geomspace(1.0, 4.0, 61).tolist()
    accuracy = np.linspace(0.8, 0.92, 61).tolist()
    assert len(choose_levels(latency, accuracy)) >= 10
    assert len(choose_levels(latency, accuracy, 6)) == 6
