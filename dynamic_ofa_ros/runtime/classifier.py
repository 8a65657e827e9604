"""Classifier: a frame in, a Result with stage timings out; and the worker thread around it.

One frame's way: `submit` puts it into the mailbox (newest only), the worker decodes and
preprocesses it, infers, postprocesses, hands the result to `on_result` and only then lets the
manager look at the timings. A switch happens between frames.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamic_ofa_ros.errors import EngineError, ImageError
from dynamic_ofa_ros.runtime.decisions import Decision, ManagerState, Measurement
from dynamic_ofa_ros.runtime.image import FloatArray, ImageArray, ImageSource, RgbImage, preprocess
from dynamic_ofa_ros.runtime.mailbox import Frame, Mailbox
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.telemetry import CauseCounter, FrameTelemetry, RollingStatistics

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.engine import Engine
    from dynamic_ofa_ros.runtime.host import HostMonitor

__all__ = [
    'ClassScore',
    'Classifier',
    'ClassifierWorker',
    'Frame',
    'Mailbox',
    'Result',
    'Switch',
    'WorkerSettings',
]

NAN = math.nan
MAX_INPUT_AGE_MS = 10_000.0
"""An older image has a clock of its own, or comes from a bag: its stamp starts no latency."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassScore:
    """One class of the answer; `score` is the softmax probability."""

    class_id: int
    label: str
    score: float


@dataclass(frozen=True)
class Result:
    """The answer to one frame: classes in descending order of score, and what each stage took.

    `processing_ms` is preprocess + inference + postprocess and what lies between.
    """

    level: int
    platform: str
    resolution: int
    scores: tuple[ClassScore, ...]
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    processing_ms: float

    @property
    def top1(self) -> ClassScore | None:
        """The best class; None when no class passed the threshold."""
        return self.scores[0] if self.scores else None


class Classifier:
    """Runs frames through the levels of an engine, or of one of several; one thread at a time.

    Each of several engines runs the whole family on a platform of its own; the first is the one
    that serves where none is named.
    """

    def __init__(self, family: Family, *engines: Engine) -> None:
        for engine in engines:
            if engine.level_count != len(family.levels):
                raise EngineError(
                    f'the engine {engine.platform} has {engine.level_count} levels, '
                    f'the family {family.name} {len(family.levels)}'
                )
        self.family = family
        self.engine = engines[0]
        self._engines = {engine.platform: engine for engine in engines}

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that there is an engine for."""
        return tuple(self._engines)

    def is_ready(self, level: int, platform: str) -> bool:
        """Tell whether a level is in memory on a platform."""
        residents = self._engines[platform].residents
        return residents is None or residents.is_ready(level)

    def resident(self, platform: str) -> tuple[int, float]:
        """Return how many levels are in memory on a platform, and what they took in MB."""
        engine = self._engines[platform]
        if engine.residents is None:
            return engine.level_count, math.nan
        return len(engine.residents.levels), engine.residents.resident_mb

    def approach(self, level: int, platform: str, in_use: int) -> None:
        """Say which level is wanted on a platform: it and its neighbours are loaded."""
        residents = self._engines[platform].residents
        if residents is not None:
            residents.approach(level, in_use)

    def classify(
        self,
        image: ImageArray | ImageSource,
        level: int | None = None,
        *,
        platform: str = '',
        top_k: int = 5,
        score_threshold: float = 0.0,
    ) -> Result:
        """Classify one image at a level (from 1; None is the highest), on a platform if named.

        `image` is (H, W, 3) uint8 RGB, or a source that decodes to it (counted as preprocessing).
        Raises ImageError when it cannot be decoded, EngineError when inference fails.
        """
        index = len(self.family.levels) if level is None else level
        resolution = self.family.level(index).resolution
        preprocessing = self.family.preprocessing_of(index)
        engine = self._engines[platform] if platform else self.engine
        source = RgbImage(image) if isinstance(image, np.ndarray) else image
        start_ns = time.perf_counter_ns()
        buffer = engine.buffer(index)
        tensor = preprocess(source.pixels(), resolution, preprocessing, buffer)
        preprocessed_ns = time.perf_counter_ns()
        logits = engine.infer(index, tensor)
        inferred_ns = time.perf_counter_ns()
        scores = self._postprocess(logits, top_k, score_threshold)
        end_ns = time.perf_counter_ns()
        return Result(
            level=index,
            platform=engine.platform,
            resolution=resolution,
            scores=scores,
            preprocess_ms=(preprocessed_ns - start_ns) / 1e6,
            inference_ms=(inferred_ns - preprocessed_ns) / 1e6,
            postprocess_ms=(end_ns - inferred_ns) / 1e6,
            processing_ms=(end_ns - start_ns) / 1e6,
        )

    def _postprocess(
        self, logits: FloatArray, top_k: int, score_threshold: float
    ) -> tuple[ClassScore, ...]:
        probabilities = softmax(logits)
        labels = self.family.labels
        return tuple(
            ClassScore(int(index), labels[index], float(probabilities[index]))
            for index in top_indices(probabilities, top_k)
            if probabilities[index] >= score_threshold
        )


def softmax(logits: FloatArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the probabilities (classes,) float64; raise EngineError unless logits are finite."""
    if not np.isfinite(logits).all():
        raise EngineError('inference returned logits that are not finite numbers')
    values = logits.astype(np.float64)
    exponentials = np.exp(values - values.max())
    return np.asarray(exponentials / exponentials.sum())


def top_indices(values: np.ndarray[Any, Any], count: int) -> list[int]:
    """Return the indices of the `count` largest values, largest first, ties by index."""
    count = min(count, values.size)
    if count < 1:
        return []
    candidates = np.flatnonzero(values >= np.partition(values, -count)[-count])
    order = np.argsort(-values[candidates], kind='stable')
    return [int(index) for index in candidates[order][:count]]


@dataclass(frozen=True)
class WorkerSettings:
    """What a user can change while the worker runs; swapped as one snapshot.

    max_frame_age_ms: a frame older than this when its turn comes is dropped; 0 keeps all.
    """

    top_k: int = 5
    score_threshold: float = 0.0
    max_frame_age_ms: float = 0.0


@dataclass(frozen=True)
class Switch:
    """A switch as it happened: why, at which frame, and what changing the level itself cost.

    `header` is that of the last frame classified at the old level, None where there is none.
    """

    decision: Decision
    header: Any
    switch_ms: float


@dataclass(frozen=True)
class _Work:
    """A frame in work: since when, where, and when its engine is taken to hang."""

    frame: Frame
    level: int
    platform: str
    hangs_at_ns: float


OnResult = Callable[[Frame, Result], None]
OnTelemetry = Callable[[Frame, FrameTelemetry], None]
WantsTelemetry = Callable[[int], bool]
OnError = Callable[[Frame, Exception, str], None]
OnSwitch = Callable[[Switch], None]


HANGING_MS, HANGING_FACTOR = 5000.0, 50.0
"""Inference that takes longer than this, and than so many times what was expected, hangs."""

ABANDONED_JOIN_S = 0.2
"""How long the end waits for a thread whose engine hung: it may never answer."""

ARRIVALS = 16
"""Arrivals that the time between two images is taken from (the median)."""


def _ignore(*arguments: object) -> None:
    """Stand in for a callback that the caller did not give."""


def always(sequence: int) -> bool:
    """Want the telemetry of every frame."""
    return True


class ClassifierWorker:
    """The thread that owns the engine: it takes the newest frame, classifies, reports, adapts.

    All callbacks run on this thread. Per frame, in this order:
    `on_result(frame, result)` as soon as the answer exists; the manager looks at the timings;
    `on_telemetry(frame, telemetry)` if `wants_telemetry(sequence)` (the number of the frame, from
    1): making it costs; `on_switch(switch)` when the level changed (also before a frame, when
    constraints did, and after one whose inference failed). `on_error(frame, error, cause)` for a
    frame without an answer: cause encoding, size, step, buffer (rejected), inference, or internal:
    then the worker has stopped and `failure` says why.
    """

    def __init__(
        self,
        classifier: Classifier,
        manager: RuntimeManager,
        *,
        on_result: OnResult,
        on_telemetry: OnTelemetry = _ignore,
        wants_telemetry: WantsTelemetry = always,
        on_error: OnError = _ignore,
        on_switch: OnSwitch = _ignore,
        settings: WorkerSettings | None = None,
        nice: int = 0,
        host: HostMonitor | None = None,
        statistics_window: int = 100,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.classifier = classifier
        self.manager = manager
        self.mailbox = Mailbox()
        self.rejected = CauseCounter()
        self.dropped_old = CauseCounter()
        self.failure: Exception | None = None
        self._on_result = on_result
        self._on_telemetry = on_telemetry
        self._wants_telemetry = wants_telemetry
        self._on_error = on_error
        self._on_switch = on_switch
        self._settings = settings or WorkerSettings()
        self._nice = nice
        self._host = host
        self._clock_ns = clock_ns
        self._statistics = RollingStatistics(statistics_window)
        self._failed = 0
        self._lost = 0
        self._overwritten = 0
        self._dropped_age_ms = NAN
        self._is_enabled = True
        self._processed = 0
        self._last_header: Any = None
        self._last_switch_ms = NAN
        self._pending_switch: Switch | None = None
        self._arrivals_ns: deque[int] = deque(maxlen=ARRIVALS)
        self._free_since_ns = 0
        self._work: _Work | None = None
        self._work_lock = threading.Lock()
        self._abandoned: list[threading.Thread] = []
        self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name='classifier', daemon=True)

    # What other threads may call.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Let the frame in work finish, end the thread, and tell whether it ended in time."""
        self.mailbox.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        for thread in self._abandoned:
            thread.join(ABANDONED_JOIN_S)
        return not any(thread.is_alive() for thread in (self._thread, *self._abandoned))

    def leave_hanging_engine(self) -> bool:
        """Go on without an engine that does not answer; call it now and then.

        The frame in work is given up, the platform is left, and a new thread takes over. Returns
        whether that happened: it cannot where no other platform is left to run on.
        """
        with self._work_lock:
            work, now_ns = self._work, self._clock_ns()
            if work is None or now_ns < work.hangs_at_ns or len(self.classifier.platforms) < 2:
                return False
            self._work = None
            self._abandoned.append(self._thread)
            self._thread = self._new_thread()
        error = EngineError(
            f'{work.platform} has not answered at level {work.level} for '
            f'{(now_ns - work.frame.received_ns) / 1e9:.0f} s and is left'
        )
        self._failed += 1
        self._on_error(work.frame, error, 'inference')
        decision = self.manager.observe_failure(
            now_ns, work.level, work.platform, is_whole_platform=True
        )
        self._switch(decision, now_ns)
        self._thread.start()
        return True

    @property
    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def submit(self, frame: Frame) -> None:
        """Hand over a frame; it replaces one that still waits. Nothing happens while disabled."""
        if self._is_enabled:
            self._arrivals_ns.append(frame.received_ns)
            self.mailbox.put(frame)

    @property
    def is_enabled(self) -> bool:
        """Whether frames are taken."""
        return self._is_enabled

    def set_enabled(self, is_enabled: bool) -> None:
        """Take frames from now on, or ignore them (neither processed nor counted as dropped)."""
        self._is_enabled = is_enabled
        if not is_enabled:
            self.mailbox.clear()
            self._arrivals_ns.clear()

    @property
    def settings(self) -> WorkerSettings:
        """The settings that the next frame obeys."""
        return self._settings

    def set_settings(self, settings: WorkerSettings) -> None:
        """Take new settings; the next frame obeys them."""
        self._settings = settings

    @property
    def processed_frames(self) -> int:
        """Frames that got an answer."""
        return self._processed

    @property
    def dropped_frames(self) -> int:
        """Frames replaced by a newer one, or older than `max_frame_age_ms`."""
        return self._overwritten + self.mailbox.replaced + self.dropped_old.total

    @property
    def dropped_age_ms(self) -> float:
        """Age of the last frame dropped because of it; NaN when there was none."""
        return self._dropped_age_ms

    @property
    def rejected_frames(self) -> int:
        """Frames that could not be decoded; `rejected.snapshot()` has them by cause."""
        return self.rejected.total

    @property
    def failed_frames(self) -> int:
        """Frames whose inference failed."""
        return self._failed

    @property
    def lost_frames(self) -> int:
        """Frames that were lost before they could be submitted."""
        return self._lost

    def set_missing(self, lost: int, overwritten: int) -> None:
        """Tell how many frames never came to `submit`: lost, or replaced by a newer one."""
        self._lost, self._overwritten = lost, overwritten

    # The worker thread.

    def _run(self) -> None:
        frame: Frame | None = None
        if self._nice:
            _take_niceness(self._nice)
        try:
            while True:
                frame = self.mailbox.get()
                if frame is None:
                    return
                self._process(frame)
                if threading.current_thread() in self._abandoned:
                    return
                self._free_since_ns = self._clock_ns()
        except Exception as error:  # the thread's last words: a callback or this code is broken
            if threading.current_thread() in self._abandoned:
                return
            _log.exception('the classifier worker stopped')
            self.failure = error
            self.mailbox.close()
            if frame is not None:
                self._on_error(frame, error, 'internal')

    def _process(self, frame: Frame) -> None:
        settings = self._settings
        start_ns = self._clock_ns()
        queue_wait_ms = (start_ns - frame.received_ns) / 1e6
        if self._is_too_old(frame, start_ns, settings.max_frame_age_ms):
            self.dropped_old.add('age')
            return
        self._switch(self.manager.decide(start_ns), start_ns)
        level, platform = self.manager.active_level, self.manager.active_platform
        expected_ms = self.manager.uncontended_ms(level, platform)
        hanging_ms = max(HANGING_MS, HANGING_FACTOR * expected_ms)
        work = self._work = _Work(frame, level, platform, start_ns + 1e6 * hanging_ms)
        result, error = None, None
        try:
            result = self.classifier.classify(
                frame.image,
                level,
                platform=platform,
                top_k=settings.top_k,
                score_threshold=settings.score_threshold,
            )
        except (ImageError, EngineError) as caught:
            error = caught
        with self._work_lock:
            if self._work is not work:
                return  # the engine hung, and another thread has taken over
            self._work = None
        if isinstance(error, ImageError):
            self.rejected.add(error.cause)
            self._on_error(frame, error, error.cause)
            return
        if error is not None or result is None:
            self._failed += 1
            self._on_error(frame, error or EngineError('no result'), 'inference')
            failed_ns = self._clock_ns()
            self._switch(self.manager.observe_failure(failed_ns, level, platform), failed_ns)
            return
        self._on_result(frame, result)
        end_ns = self._clock_ns()
        self._processed += 1
        self._last_header = frame.header
        self._close_switch(result)
        node_ms = frame.age_ms(end_ns)
        end_to_end_ms = self._end_to_end_ms(frame, node_ms)
        measurement = Measurement(
            time_ns=end_ns,
            level=level,
            inference_ms=result.inference_ms,
            node_ms=node_ms,
            end_to_end_ms=node_ms if math.isnan(end_to_end_ms) else end_to_end_ms,
            platform=result.platform,
            wait_ms=max(0.0, (self._free_since_ns - frame.received_ns) / 1e6),
            period_ms=self._period_ms(),
        )
        decision = self.manager.observe(measurement)
        observed_ns = self._clock_ns()
        scope = self.manager.constraints.latency_scope
        self._statistics.add(getattr(measurement, f'{scope}_ms'), end_ns)
        if self._wants_telemetry(self._processed):
            waits_ms = (queue_wait_ms, node_ms, end_to_end_ms)
            telemetry = self._telemetry(frame, result, self.manager.state, waits_ms)
            self._on_telemetry(frame, telemetry)
        self._switch(decision, end_ns, observed_ns)
        self.classifier.approach(*self.manager.wanted, self.manager.active_level)

    def _period_ms(self) -> float:
        """Return the time between two images that arrive; NaN while it is unknown."""
        arrivals_ns = list(self._arrivals_ns)
        if len(arrivals_ns) < 4:
            return NAN
        gaps_ns = sorted(later - earlier for earlier, later in pairwise(arrivals_ns))
        return gaps_ns[len(gaps_ns) // 2] / 1e6

    @staticmethod
    def _end_to_end_ms(frame: Frame, node_ms: float) -> float:
        """Return the time from the image's stamp to now; NaN when the stamp cannot be right."""
        if not 0.0 <= frame.input_age_ms <= MAX_INPUT_AGE_MS:  # also when it is not a number
            return NAN
        return frame.input_age_ms + node_ms

    def _is_too_old(self, frame: Frame, start_ns: int, max_frame_age_ms: float) -> bool:
        if max_frame_age_ms <= 0.0:
            return False
        known_ms = 0.0 if math.isnan(frame.input_age_ms) else frame.input_age_ms
        age_ms = frame.age_ms(start_ns) + known_ms
        if age_ms <= max_frame_age_ms:
            return False
        self._dropped_age_ms = age_ms
        return True

    def _switch(self, decision: Decision | None, start_ns: int, end_ns: int | None = None) -> None:
        """Report a switch. Every level is resident: deciding was all there is to it."""
        if decision is None:
            return
        switch_ms = ((self._clock_ns() if end_ns is None else end_ns) - start_ns) / 1e6
        self._pending_switch = Switch(decision, self._last_header, switch_ms)
        self._on_switch(self._pending_switch)

    def _close_switch(self, result: Result) -> None:
        """Settle what the last switch cost, with the first frame after it.

        The cost is the time to decide and change the level plus what this frame's inference took
        longer than expected (the level's profiled median times the slowdown at the decision), if
        it did: it carries one frame's noise.
        """
        switch, self._pending_switch = self._pending_switch, None
        if switch is None:
            return
        decision = switch.decision
        if (decision.to_level, decision.to_platform) == (result.level, result.platform):
            extra_ms = max(0.0, result.inference_ms - decision.expected_inference_ms)
            self._last_switch_ms = switch.switch_ms + extra_ms

    def _telemetry(
        self,
        frame: Frame,
        result: Result,
        state: ManagerState,
        waits_ms: tuple[float, float, float],
    ) -> FrameTelemetry:
        queue_wait_ms, node_ms, end_to_end_ms = waits_ms
        p50_ms, p95_ms = self._statistics.percentiles(0.5, 0.95)
        device = self._host.latest if self._host else None
        top1 = result.top1
        level = self.classifier.family.level(result.level)
        return FrameTelemetry(
            sequence=self._processed,
            input_age_ms=frame.input_age_ms,
            executor_wait_ms=frame.executor_wait_ms,
            queue_wait_ms=queue_wait_ms,
            preprocess_ms=result.preprocess_ms,
            inference_ms=result.inference_ms,
            postprocess_ms=result.postprocess_ms,
            processing_ms=result.processing_ms,
            node_ms=node_ms,
            end_to_end_ms=end_to_end_ms,
            latency_p50_ms=p50_ms,
            latency_p95_ms=p95_ms,
            throughput_hz=self._statistics.rate_hz(),
            lost_frames=self._lost,
            dropped_frames=self.dropped_frames,
            rejected_frames=self.rejected_frames,
            failed_frames=self._failed,
            violations=state.violations,
            max_latency_ms=state.constraints.max_latency_ms,
            min_accuracy=state.constraints.min_accuracy,
            level=result.level,
            level_count=len(self.classifier.family.levels),
            level_accuracy=level.accuracy,
            level_latency_ms=self.manager.uncontended_ms(result.level, result.platform),
            predicted_latency_ms=state.predicted_latency_ms,
            slowdown=state.slowdown,
            contended=state.is_contended,
            feasible=state.is_feasible,
            switch_count=state.switch_count,
            last_switch_ms=self._last_switch_ms,
            device_load=device.load if device else NAN,
            device_temperature_celsius=device.temperature_celsius if device else NAN,
            device_power_w=device.power_w if device else NAN,
            top1_class_id=top1.class_id if top1 else -1,
            top1_score=top1.score if top1 else NAN,
            top1_label=top1.label if top1 else '',
            policy=state.policy,
            platform=result.platform,
        )


def _take_niceness(nice: int) -> None:
    """Give the calling thread, and no other, this niceness; a warning says what refuses it."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)  # of a thread, on Linux
    except OSError as error:
        _log.warning(
            'the classifying thread cannot have niceness %d: %s; allow it with LimitNICE= of '
            'systemd or nice in /etc/security/limits.conf',
            nice,
            error,
        )
