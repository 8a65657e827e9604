from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamic_ofa_ros.runtime.decisions import Measurement
from dynamic_ofa_ros.runtime.experience import HALF_LIFE, WINDOW, Experience, Forecast

LATENCIES_MS = (10.0, 20.0, 40.0)
NOISE = 0.02
FRAME_NS = 33_000_000
SECOND_NS = 1_000_000_000


class Device:
    """Frames of a device, one every 33 ms."""

    def __init__(self, seed: int = 0) -> None:
        self.experience = Experience(LATENCIES_MS, [NOISE] * len(LATENCIES_MS))
        self.time_ns = 0
        self._random = np.random.default_rng(seed)

    def run(self, slowdown: float, frames: int, level: int = 2, noise: float = NOISE) -> Device:
        for _ in range(frames):
            factor = slowdown * math.exp(noise * self._random.standard_normal())
            self.take(LATENCIES_MS[level - 1] * factor, level=level)
        return self

    def take(
        self,
        inference_ms: float,
        node_ms: float = math.nan,
        end_to_end_ms: float = math.nan,
        *,
        level: int = 2,
        wait_ms: float = 0.0,
    ) -> None:
        self.time_ns += FRAME_NS
        self.experience.observe(
            Measurement(self.time_ns, level, inference_ms, node_ms, end_to_end_ms, wait_ms=wait_ms)
        )

    def forecast(self, **arguments: object) -> Forecast:
        return self.experience.forecast(self.time_ns, **arguments)  # type: ignore[arg-type]


def test_without_frames_the_forecast_is_the_profile() -> None:
    forecast = Device().forecast()
    assert forecast.slowdown == 1.0
    assert forecast.frames_seen == 0
    assert forecast.weights.sum() == pytest.approx(1.0)
    assert forecast.late_shares(10.5).tolist() == pytest.approx([0.0, 1.0, 1.0])
    assert forecast.quantile_ms(3, 0.95) == pytest.approx(40.0, rel=0.05)


def test_one_slow_frame_is_an_outlier_and_two_are_a_step() -> None:
    device = Device().run(1.0, 60)
    device.take(100.0)
    assert device.forecast().slowdown == pytest.approx(1.0, rel=0.05)
    device = Device().run(1.0, 60).run(3.0, 2)
    assert device.forecast().slowdown == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize('slowdown', [1.3, 2.0, 5.0])
def test_a_step_and_its_end_are_detected_within_a_few_frames(slowdown: float) -> None:
    device = Device().run(1.0, 60).run(slowdown, 3)
    assert device.forecast().slowdown == pytest.approx(slowdown, rel=0.1)
    device.run(slowdown, 60).run(1.0, 9)
    assert device.forecast().slowdown == pytest.approx(1.0, rel=0.1)


def test_after_several_steps_a_slow_frame_is_taken_as_a_step_at_once() -> None:
    device = Device()
    for _ in range(6):
        device.run(1.0, 30).run(3.0, 30)
    device.run(1.0, 30).run(3.0, 1)
    assert device.forecast().slowdown == pytest.approx(3.0, rel=0.1)


def test_the_share_of_late_frames_equals_the_measured_one() -> None:
    device, random = Device(), np.random.default_rng(1)
    for _ in range(WINDOW):
        device.run(2.0 if random.random() < 0.3 else 1.0, 1)
    shares = device.forecast().late_shares(30.0)
    assert 0.1 < shares[1] < 0.5  # level 2 takes 20 or 40 ms
    assert shares[0] == 0.0  # 10 or 20 ms
    assert shares[2] == pytest.approx(1.0)


def test_newer_frames_have_more_weight() -> None:
    forecast = Device().run(1.0, WINDOW + 20, noise=0.0).forecast()
    assert len(forecast.weights) == WINDOW
    assert (np.diff(forecast.weights) > 0.0).all()
    early = Device().run(1.0, 20, noise=0.0).forecast().weights
    assert early[-1] / early[-1 - int(HALF_LIFE)] == pytest.approx(2.0)


def test_frames_of_any_level_give_the_slowdown_of_all() -> None:
    for level in (1, 2, 3):
        forecast = Device().run(1.0, 20).run(1.5, 40, level=level).forecast()
        assert forecast.inference_ms(3) == pytest.approx(60.0, rel=0.05)


def test_own_frames_outweigh_the_estimate_from_other_levels() -> None:
    """A stall of 10 ms at every level is a slowdown of 3 at level 1 and of 1.25 at level 3."""
    device = Device().run(1.0, 40)
    for level in [1] * 40 + [3] * 40 + [1] * 40:
        device.take(LATENCIES_MS[level - 1] + 20.0, level=level)
    forecast = device.forecast()
    assert forecast.slowdown == pytest.approx(3.0, rel=0.1)
    assert forecast.own_frames(3) > 8.0
    assert forecast.late_shares(70.0)[2] < 0.5  # the estimate is 120 ms (share 1.0)
    assert forecast.own_frames(2) == 0.0
    assert forecast.late_shares(50.0)[1] > 0.9  # no own frames; the estimate is 60 ms
    assert forecast.optimistic_late_share(2, 50.0) == 0.0  # 40 ms if stalls do not scale


def test_own_frames_are_not_used_for_an_uncontended_device() -> None:
    device = Device().run(1.0, 40).run(3.0, 40).run(1.0, 40)
    assert device.forecast().own is None
    assert device.forecast().late_shares(25.0)[1] == 0.0


def test_estimates_of_contention_decay() -> None:
    device = Device().run(1.0, 20).run(3.0, 40)
    now_ns, experience = device.time_ns, device.experience
    assert experience.forecast(now_ns + SECOND_NS).slowdown == pytest.approx(3.0, rel=0.1)
    assert 1.0 < experience.forecast(now_ns + 5 * SECOND_NS).slowdown < 2.5
    assert experience.forecast(now_ns + 60 * SECOND_NS).slowdown == pytest.approx(1.0, abs=0.01)
    experience.observe(Measurement(now_ns + 60 * SECOND_NS, 2, 20.0))
    assert experience.forecast(now_ns + 60 * SECOND_NS).slowdown == pytest.approx(1.0, abs=0.05)


def test_the_delay_outside_inference_is_kept_per_frame() -> None:
    device = Device()
    for frame in range(60):
        outside_ms = 30.0 if frame % 5 == 0 else 2.0
        device.take(20.0, 20.0 + outside_ms, 20.0 + outside_ms + 5.0)
    inference, node = device.forecast(), device.forecast(scope='node')
    assert inference.late_shares(25.0)[1] == 0.0
    assert 0.1 < node.late_shares(25.0)[1] < 0.35
    assert device.forecast(scope='end_to_end').late_shares(25.0)[1] == pytest.approx(1.0)
    assert node.outside_quantile_ms(0.5) == pytest.approx(2.0)
    assert node.outside_late_share(25.0) == pytest.approx(node.late_shares(25.0)[1])


def test_a_level_slower_than_the_camera_makes_images_wait() -> None:
    device = Device().run(1.0, 60)
    forecast = device.forecast(scope='node', period_ms=33.0)
    assert forecast.quantile_ms(2, 0.95) == pytest.approx(20.0, rel=0.1)
    waiting = forecast.latencies_ms[2] - device.forecast(scope='node').latencies_ms[2]
    assert waiting.mean() == pytest.approx(33.0 / 2, rel=0.2)
    assert waiting.min() >= 0.0
    assert waiting.max() <= 33.0


def test_the_wait_for_a_slow_level_is_not_predicted_for_a_fast_one() -> None:
    device = Device()
    for frame in range(60):
        wait_ms = 33.0 * (0.618 * frame % 1.0)
        device.take(40.0, 40.0 + wait_ms + 1.0, wait_ms=wait_ms, level=3)
    forecast = device.forecast(scope='node', period_ms=33.0)
    assert forecast.quantile_ms(1, 0.95) == pytest.approx(11.0, rel=0.1)
    assert forecast.quantile_ms(3, 0.95) == pytest.approx(41.0 + 0.95 * 33.0, rel=0.1)


@pytest.mark.parametrize('noise', [math.nan, math.inf, -1.0, 0.0, 1e9])
def test_a_profile_with_an_invalid_noise_can_be_used(noise: float) -> None:
    experience = Experience(LATENCIES_MS, [noise] * 3)
    for frame in range(50):
        experience.observe(Measurement(frame * FRAME_NS, 2, 30.0))
    assert experience.forecast(50 * FRAME_NS).slowdown == pytest.approx(1.5, rel=0.02)


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True),
            st.floats(allow_nan=True, allow_infinity=True),
            st.integers(1, 3),
        ),
        max_size=60,
    )
)
def test_the_forecast_is_finite_for_any_frames(frames: list[tuple[float, float, int]]) -> None:
    device = Device()
    for inference_ms, node_ms, level in frames:
        device.take(inference_ms, node_ms, level=level)
    forecast = device.forecast(scope='node', period_ms=33.0)
    assert math.isfinite(forecast.slowdown)
    assert np.isfinite(forecast.late_shares(20.0)).all()
    assert forecast.weights.sum() == pytest.approx(1.0)


@given(st.lists(st.floats(0.1, 50.0), max_size=40), st.floats(0.2, 20.0))
def test_it_recovers_from_any_history(history: list[float], slowdown: float) -> None:
    device = Device()
    for factor in history:
        device.take(20.0 * factor)
    device.run(slowdown, 60, noise=0.01)
    assert device.forecast().slowdown == pytest.approx(slowdown, rel=0.05)
