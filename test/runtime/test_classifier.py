from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import wait_until
from runtime_fakes import FakeEngine, make_profile

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import EngineError, FamilyError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime.classifier import (
    Classifier,
    ClassifierWorker,
    Frame,
    Switch,
    WorkerSettings,
    top_scores,
)
from dynamic_ofa_ros.runtime.engine import create_engine
from dynamic_ofa_ros.runtime.image import RawImage, RgbImage, preprocess
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings

DEADLINE_S = 10.0
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
IMAGE = RgbImage(PIXELS)
WRONG_STEP = RawImage(bytes(100), 10, 10, 'rgb8', 1)
UNKNOWN_ENCODING = RawImage(bytes(300), 10, 10, 'h264', 30)


# Postprocessing


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20),
    st.integers(-1, 30),
)
def test_scores_are_the_largest_probabilities_in_order(logits, count):
    found = top_scores(np.array(logits, dtype=np.float32), count)
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[: max(count, 0)]
    assert [index for index, _ in found] == order
    total = sum(math.exp(logit - max(logits)) for logit in logits)
    assert [score for _, score in found] == pytest.approx(
        [math.exp(logits[i] - max(logits)) / total for i in order]
    )


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_infinite_and_nan_logits_raise_an_error(bad):
    with pytest.raises(EngineError, match='NaN or infinite'):
        top_scores(np.array([0.0, bad], dtype=np.float32), 1)


# Classifier


def test_a_real_engine_classifies(random_family, warm_cache):
    engine = create_engine(random_family, device='cpu', engine='onnxruntime', cache_dir=warm_cache)
    classifier = Classifier(random_family, engine)
    for level in (1, 2, 3):
        result = classifier.classify(PIXELS, level, top_k=3)
        resolution = random_family.level(level).resolution
        logits = engine.infer(level, preprocess(PIXELS, resolution, random_family.preprocessing))
        assert (result.level, result.resolution) == (level, resolution)
        assert [s.class_id for s in result.scores] == list(np.argsort(-logits)[:3])
        assert result.top1 == result.scores[0]
        assert result.top1.label == random_family.labels[result.top1.class_id]
        stages_ms = result.preprocess_ms + result.inference_ms + result.postprocess_ms
        assert result.inference_ms > 0.0
        assert stages_ms == pytest.approx(result.processing_ms)
    assert classifier.classify(PIXELS).level == 3
    engine.close()


def test_top_k_and_threshold(random_family):
    classifier = Classifier(random_family, FakeEngine(3, 16))
    best = classifier.classify(PIXELS, top_k=16)
    assert [s.class_id for s in best.scores] == list(range(15, -1, -1))
    assert sum(s.score for s in best.scores) == pytest.approx(1.0)
    assert len(classifier.classify(PIXELS, top_k=16, score_threshold=0.1).scores) == 2
    nothing = classifier.classify(PIXELS, score_threshold=1.0)
    assert nothing.scores == ()
    assert nothing.top1 is None


def test_an_engine_of_another_family_is_rejected(random_family):
    with pytest.raises(EngineError, match='2 levels, but the family random has 3'):
        Classifier(random_family, FakeEngine(2, 16))


def test_a_level_outside_the_family_is_rejected(random_family):
    with pytest.raises(FamilyError, match='levels 1 to 3, not 4'):
        Classifier(random_family, FakeEngine(3, 16)).classify(PIXELS, 4)


# ClassifierWorker


class Harness:
    """A worker on a fake engine; records all callbacks in order."""

    def __init__(self, family: Family, engine: FakeEngine, **arguments: Any) -> None:
        self.engine = engine
        self.events: list[tuple[str, Any]] = []
        self._changed = threading.Condition()
        others: list[FakeEngine] = arguments.pop('others', [])
        self.manager = RuntimeManager(
            family.levels, arguments.pop('profile', make_profile((10.0, 20.0, 30.0)))
        )
        self.worker = ClassifierWorker(
            Classifier(family, engine, *others),
            self.manager,
            on_result=arguments.pop('on_result', lambda f, r: self._note('result', (f, r))),
            on_telemetry=lambda frame, telemetry: self._note('telemetry', telemetry),
            on_error=lambda frame, error, cause: self._note('error', (frame, error, cause)),
            on_switch=lambda switch: self._note('switch', switch),
            **arguments,
        )

    def __enter__(self) -> Harness:
        self.worker.start()
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.worker.stop(DEADLINE_S)
        assert not self.worker.is_running

    def _note(self, kind: str, value: Any) -> None:
        with self._changed:
            self.events.append((kind, value))
            self._changed.notify_all()

    def of(self, kind: str) -> list[Any]:
        return [value for name, value in self.events if name == kind]

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), self.events

    def process(self, image: Any = IMAGE, header: Any = None, **frame: Any) -> None:
        """Submit one frame and wait for its result or error."""
        before = len(self.of('telemetry')) + len(self.of('error'))
        self.worker.submit(Frame(image, header, **frame))
        self.wait(lambda: len(self.of('telemetry')) + len(self.of('error')) > before)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(3, 16)


def test_a_result_has_the_header_of_its_frame(random_family, engine):
    header = object()
    with Harness(random_family, engine) as harness:
        harness.process(header=header, input_age_ms=7.0)
    frame, result = harness.of('result')[0]
    assert frame.header is header
    assert result.top1.class_id == 15
    telemetry = harness.of('telemetry')[0]
    assert telemetry.sequence == 1
    assert telemetry.input_age_ms == 7.0
    assert telemetry.level == telemetry.level_count == 3
    assert telemetry.level_latency_ms == 30.0
    assert telemetry.top1_label == 'class 15'
    assert telemetry.end_to_end_ms >= telemetry.processing_ms >= telemetry.inference_ms
    assert telemetry.queue_wait_ms >= 0.0
    assert math.isnan(telemetry.max_latency_ms)
    assert math.isnan(telemetry.device_load)
    assert math.isnan(telemetry.last_switch_ms)
    assert telemetry.feasible


def test_the_result_is_reported_before_the_manager_runs(random_family, engine):
    observed_before: list[int] = []
    harness = Harness(
        random_family,
        engine,
        on_result=lambda f, r: observed_before.append(len(harness.of('telemetry'))),
    )
    original = harness.manager.observe
    order: list[str] = []

    def observe(measurement: Any) -> Any:
        order.append(f'observe after {len(observed_before)} results')
        return original(measurement)

    harness.manager.observe = observe  # type: ignore[method-assign]
    with harness:
        harness.process()
        harness.process()
    assert order == ['observe after 1 results', 'observe after 2 results']


def test_replaced_frames_are_counted(random_family, engine):
    entered, go = threading.Event(), threading.Event()

    def hold(frame: Frame, result: Any) -> None:
        entered.set()
        assert go.wait(DEADLINE_S)

    with Harness(random_family, engine, on_result=hold) as harness:
        harness.worker.submit(Frame(IMAGE, header='first'))
        assert entered.wait(DEADLINE_S)
        for index in range(5):
            harness.worker.submit(Frame(IMAGE, header=index))
        go.set()
        harness.wait(lambda: len(harness.of('telemetry')) == 2)
    assert harness.worker.dropped_frames == 4
    assert harness.of('telemetry')[1].dropped_frames == 4
    assert harness.worker.processed_frames == 2


def test_frames_that_cannot_be_decoded_are_counted_by_cause(random_family, engine):
    with Harness(random_family, engine) as harness:
        for image in (WRONG_STEP, UNKNOWN_ENCODING, WRONG_STEP):
            harness.process(image)
        harness.process()
    assert [cause for _, _, cause in harness.of('error')] == ['step', 'encoding', 'step']
    assert harness.worker.rejected.snapshot() == {'step': 2, 'encoding': 1}
    assert harness.of('telemetry')[0].rejected_frames == 3
    assert harness.engine.levels_run == [3]


@pytest.mark.parametrize('error', [EngineError('out of memory'), EngineError('device lost')])
def test_the_worker_survives_an_engine_that_raises(random_family, error):
    with Harness(random_family, FakeEngine(3, 16, errors=[error])) as harness:
        harness.process(header='bad')
        harness.process(header='good')
        assert harness.worker.is_running
    frame, caught, cause = harness.of('error')[0]
    assert (frame.header, caught, cause) == ('bad', error, 'inference')
    assert harness.worker.failed_frames == 1
    assert harness.of('result')[0][0].header == 'good'
    assert harness.worker.failure is None


def test_a_failing_callback_stops_the_worker_and_is_reported(random_family, engine, caplog):
    def broken(frame: Frame, result: Any) -> None:
        raise KeyError('a bug')

    with Harness(random_family, engine, on_result=broken) as harness:
        harness.process()
    assert isinstance(harness.worker.failure, KeyError)
    assert harness.of('error')[0][2] == 'internal'
    assert 'the classifier worker stopped' in caplog.text


def test_constraints_switch_before_the_next_frame(random_family, engine):
    with Harness(random_family, engine) as harness:
        harness.process(header='before')
        harness.manager.set_constraints(Constraints(12.0))
        harness.process(header='after')
    assert engine.levels_run == [3, 1]
    kinds = [kind for kind, _ in harness.events]
    assert kinds == ['result', 'telemetry', 'switch', 'result', 'telemetry']
    switch: Switch = harness.of('switch')[0]
    assert (switch.decision.from_level, switch.decision.to_level) == (3, 1)
    assert switch.header == 'before'
    assert 0.0 <= switch.switch_ms < 1000.0
    telemetry = harness.of('telemetry')[1]
    assert telemetry.switch_count == 1
    assert telemetry.level == 1
    # The fake engine is faster than the profile (10 ms), so the frame adds no cost.
    assert telemetry.last_switch_ms == pytest.approx(switch.switch_ms)


def test_contention_switches_between_frames(random_family, engine):
    slow = RgbImage(PIXELS)
    with Harness(random_family, engine) as harness:
        harness.manager.set_constraints(Constraints(1e-6))
        harness.manager.set_policy(PolicySettings('reactive', window=1))
        harness.process(slow)
        assert harness.manager.active_level == 1
    assert harness.of('switch')[0].decision.to_level == 1
    assert harness.of('telemetry')[0].violations == 1
    assert not harness.of('telemetry')[0].feasible


def test_a_contended_device_is_left_for_the_other(random_family):
    gpu = FakeEngine(3, 16, platform='cuda-fake')
    cpu = FakeEngine(3, 16, platform='cpu-fake')
    profiles = [
        make_profile((20.0, 40.0, 60.0), 'cuda-fake'),
        make_profile((80.0, 160.0, 240.0), 'cpu-fake'),
    ]
    with Harness(random_family, gpu, others=[cpu], profile=profiles) as harness:
        harness.manager.set_constraints(Constraints(120.0))
        harness.process()
        assert harness.manager.active_platform == 'cuda-fake'
        assert gpu.levels_run == [3]
        gpu.delay_s = 0.4  # contention: even the fastest level on the GPU takes longer than 120 ms
        for _ in range(8):
            if not cpu.levels_run:
                harness.process()
        assert harness.manager.active_platform == 'cpu-fake'
    assert cpu.levels_run == [1]
    switch = harness.of('switch')[-1].decision
    assert (switch.from_platform, switch.to_platform) == ('cuda-fake', 'cpu-fake')
    assert 'on cpu' in switch.reason
    assert harness.of('result')[-1][1].platform == 'cpu-fake'
    assert harness.of('telemetry')[-1].level_latency_ms == 80.0


def test_old_frames_are_dropped(random_family, engine):
    settings = WorkerSettings(max_frame_age_ms=50.0)
    with Harness(random_family, engine, settings=settings) as harness:
        now_ns = time.perf_counter_ns()
        harness.worker.submit(Frame(IMAGE, 'old by its stamp', input_age_ms=60.0))
        wait_until(lambda: harness.worker.dropped_frames == 1, 'the dropped frame')
        harness.worker.submit(Frame(IMAGE, 'waited', received_ns=now_ns - 60_000_000))
        wait_until(lambda: harness.worker.dropped_frames == 2, 'the dropped frame')
        harness.worker.set_settings(WorkerSettings(max_frame_age_ms=0.0))
        harness.process(header='fresh', input_age_ms=1e6)
    assert [frame.header for frame, _ in harness.of('result')] == ['fresh']
    assert harness.of('telemetry')[0].dropped_frames == 2


def test_settings_apply_to_the_next_frame(random_family, engine):
    with Harness(random_family, engine) as harness:
        harness.worker.set_settings(WorkerSettings(top_k=2))
        harness.process()
        harness.worker.set_settings(WorkerSettings(top_k=2, score_threshold=1.0))
        harness.process()
    assert [len(result.scores) for _, result in harness.of('result')] == [2, 0]
    nothing = harness.of('telemetry')[1]
    assert (nothing.top1_class_id, nothing.top1_label) == (-1, '')
    assert math.isnan(nothing.top1_score)


def test_frames_are_ignored_while_disabled(random_family, engine):
    with Harness(random_family, engine) as harness:
        harness.worker.set_enabled(False)
        harness.worker.submit(Frame(IMAGE, header='ignored'))
        harness.worker.set_enabled(True)
        harness.process(header='taken')
    assert [frame.header for frame, _ in harness.of('result')] == ['taken']
    assert harness.worker.dropped_frames == 0


def test_the_worker_can_be_stopped_at_any_time(random_family, engine):
    never_started = Harness(random_family, engine)
    assert never_started.worker.stop()
    with Harness(random_family, engine) as harness:
        harness.process()
    assert harness.worker.stop()
    harness.worker.submit(Frame(IMAGE))
    assert harness.worker.processed_frames == 1


def test_rolling_statistics_follow_the_scope(random_family, engine):
    with Harness(random_family, engine) as harness:
        harness.manager.set_constraints(Constraints(1000.0, latency_scope='node'))
        for _ in range(3):
            harness.process()
    last = harness.of('telemetry')[-1]
    latencies = [t.node_ms for t in harness.of('telemetry')]
    assert last.latency_p50_ms == pytest.approx(float(np.median(latencies)))
    assert last.throughput_hz > 0.0
    assert last.max_latency_ms == 1000.0


@pytest.mark.parametrize(
    ('input_age_ms', 'is_known'),
    [(7.0, True), (math.nan, False), (-1.0, False), (10_001.0, False)],
)
def test_latencies_are_measured_from_arrival_and_from_the_stamp(
    random_family, engine, input_age_ms, is_known
):
    received_ns = time.perf_counter_ns()
    with Harness(random_family, engine) as harness:
        harness.worker.set_missing(4, 2)
        harness.process(
            received_ns=received_ns,
            input_age_ms=input_age_ms,
            arrived_ns=received_ns - 3_000_000,
        )
    (telemetry,) = harness.of('telemetry')
    assert telemetry.executor_wait_ms == pytest.approx(3.0)
    assert telemetry.node_ms >= 3.0 + telemetry.queue_wait_ms + telemetry.processing_ms
    assert (telemetry.lost_frames, telemetry.dropped_frames) == (4, 2)
    assert telemetry.platform == engine.platform
    if is_known:
        assert telemetry.end_to_end_ms == pytest.approx(telemetry.node_ms + input_age_ms)
    else:  # the stamp is implausible, so the limit applies to the scope node
        assert math.isnan(telemetry.end_to_end_ms)
        assert telemetry.latency_ms('end_to_end') == telemetry.node_ms


def test_the_age_of_a_dropped_frame_is_reported(random_family, engine):
    with Harness(random_family, engine) as harness:
        # Long enough that no frame is too old after waiting on a busy machine.
        harness.worker.set_settings(WorkerSettings(max_frame_age_ms=1e5))
        harness.worker.submit(Frame(IMAGE, input_age_ms=1e6))
        wait_until(lambda: harness.worker.dropped_old.total == 1, 'the dropped frame')
        harness.process(header='young')
    assert harness.worker.dropped_old.total == 1
    assert harness.worker.dropped_age_ms == pytest.approx(1e6, rel=1e-2)


# Engines that fail or hang


class HangingEngine(FakeEngine):
    """Does not return before `let_go` is set."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.let_go = threading.Event()

    def infer(self, index: int, tensor: np.ndarray) -> np.ndarray:
        self.let_go.wait(DEADLINE_S)
        return super().infer(index, tensor)


def two_platforms() -> list[Any]:
    return [make_profile((10.0, 20.0, 30.0), 'cuda-fake'), make_profile((15.0, 25.0, 40.0))]


def test_a_failing_engine_is_replaced_by_a_working_one(random_family, engine):
    broken = FakeEngine(3, 16, [EngineError('sticky CUDA error')] * 300, platform='cuda-fake')
    profile = two_platforms()
    with Harness(random_family, broken, others=[engine], profile=profile) as harness:
        for _ in range(5):
            harness.process()
    assert len(broken.levels_run) == 1
    assert len(harness.of('result')) == 4
    assert harness.worker.failed_frames == 1
    assert 'inference fails at level 3 on cuda' in harness.of('switch')[0].decision.reason


def test_a_hung_engine_is_replaced_and_its_late_result_ignored(random_family, engine):
    hanging, now_ns = HangingEngine(3, 16, platform='cuda-fake'), [0]
    profile = two_platforms()
    harness = Harness(
        random_family,
        hanging,
        others=[engine],
        profile=profile,
        clock_ns=lambda: time.perf_counter_ns() + now_ns[0],
    )
    with harness:
        harness.worker.submit(Frame(IMAGE, 'lost'))
        assert not harness.worker.leave_hanging_engine()

        def is_left():
            now_ns[0] += 6_000_000_000
            return harness.worker.leave_hanging_engine()

        wait_until(is_left, 'the worker to take the frame')
        (_, error, cause) = harness.of('error')[0]
        assert cause == 'inference'
        assert 'cuda-fake has not finished' in str(error)
        harness.process(header='next')
        assert harness.of('result')[0][0].header == 'next'
        hanging.let_go.set()
    assert [frame.header for frame, _ in harness.of('result')] == ['next']


def test_the_only_engine_is_kept_while_it_hangs(random_family):
    hanging, now_ns = HangingEngine(3, 16), [0]
    clock = lambda: time.perf_counter_ns() + now_ns[0]  # noqa: E731
    with Harness(random_family, hanging, clock_ns=clock) as harness:
        harness.worker.submit(Frame(IMAGE))
        now_ns[0] += 60_000_000_000
        assert not harness.worker.leave_hanging_engine()
        hanging.let_go.set()
        harness.wait(lambda: bool(harness.of('telemetry')))


def test_the_manager_gets_the_wait_for_the_previous_frame(random_family, engine):
    measured = []
    engine.delay_s = 0.05
    with Harness(random_family, engine) as harness:
        observe = harness.manager.observe
        harness.manager.observe = lambda m: measured.append(m) or observe(m)  # type: ignore
        for _ in range(12):
            harness.worker.submit(Frame(IMAGE))
            time.sleep(0.01)
        harness.wait(lambda: len(measured) >= 2)
    assert measured[0].wait_ms == 0.0
    assert measured[1].wait_ms > 0.0
    assert measured[-1].node_ms >= measured[-1].wait_ms
    assert 5.0 < measured[-1].period_ms < 50.0


def test_telemetry_is_created_only_on_request(random_family, engine):
    with Harness(random_family, engine, wants_telemetry=lambda sequence: sequence == 2) as harness:
        for _ in range(3):
            harness.worker.submit(Frame(IMAGE))
            before = len(harness.of('result'))
            harness.wait(lambda n=before: len(harness.of('result')) > n or n >= 1)
            time.sleep(0.05)
    assert [telemetry.sequence for telemetry in harness.of('telemetry')] == [2]


def test_niceness_applies_to_the_worker_thread_only(random_family, engine):
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before, found = niceness(), []
    with Harness(
        random_family, engine, nice=before + 3, on_result=lambda *_: found.append(niceness())
    ) as harness:
        harness.process()
    assert (found, niceness()) == ([before + 3], before)


def test_a_niceness_that_is_not_permitted_causes_a_warning(
    random_family, engine, monkeypatch, caplog
):
    def refuse(*_: object) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(os, 'setpriority', refuse)
    with Harness(random_family, engine, nice=-5) as harness:
        harness.process()
    assert len(harness.of('result')) == 1
    assert 'classifier thread to -5: [Errno 13] Permission denied; allow it with' in caplog.text
