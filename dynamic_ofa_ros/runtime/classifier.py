"""Classifier, which classifies a frame and measures each stage, and its worker thread.

`submit` puts a frame into the mailbox, which keeps the newest one. The worker decodes,
preprocesses and classifies it and passes the result to `on_result`; then the manager processes the
timings. The level is switched between two frames.
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
from typing import TYPE_CHECKING, Any, NamedTuple

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
"""Stamps of older images are ignored: such an image has another clock, or comes from a bag."""

_log = logging.getLogger(__name__)


class ClassScore(NamedTuple):
    """One class of a result; `score` is the softmax probability."""

    class_id: int
    label: str
    score: float


class Result(NamedTuple):
    """The result for one frame: classes in descending order of score, and the stage timings.

    `processing_ms` is the time from the start of preprocessing to the end of postprocessing.
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
        """The class with the highest score; None if no score reached the threshold."""
        return self.scores[0] if self.scores else None


class Classifier:
    """Classifies frames with the levels of one or several engines; not thread-safe.

    Each engine runs all levels of the family on one platform. The first engine is the default.
    """

    def __init__(self, family: Family, *engines: Engine) -> None:
        for engine in engines:
            if engine.level_count != len(family.levels):
                raise EngineError(
                    f'the engine {engine.platform} has {engine.level_count} levels, '
                    f'but the family {family.name} has {len(family.levels)}'
                )
        self.family = family
        self.engine = engines[0]
        self._engines = {engine.platform: engine for engine in engines}

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of all engines."""
        return tuple(self._engines)

    def is_ready(self, level: int, platform: str) -> bool:
        """Return whether a level is in memory on a platform."""
        residents = self._engines[platform].residents
        return residents is None or residents.is_ready(level)

    def resident(self, platform: str) -> tuple[int, float]:
        """Return the number of levels in memory on a platform, and their memory in MB.

        The memory is NaN if the engine does not measure it.
        """
        engine = self._engines[platform]
        if engine.residents is None:
            return engine.level_count, math.nan
        return len(engine.residents.levels), engine.residents.resident_mb

    def approach(self, level: int, platform: str, in_use: int) -> None:
        """Load a level and its neighbours on a platform in the background.

        in_use: the level that runs now, which stays in memory.
        """
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
        """Classify one image.

        image: (H, W, 3) uint8 RGB, or a source that is decoded to it as part of preprocessing.
        level: 1-based; None is the highest. platform: by default, that of the first engine. Raise
        ImageError if the image cannot be decoded, and EngineError if inference fails.
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
        labels = self.family.labels
        scores = [
            ClassScore(index, labels[index], score)
            for index, score in top_scores(logits, top_k)
            if score >= score_threshold
        ]
        return tuple(scores)


def top_scores(logits: FloatArray, count: int) -> list[tuple[int, float]]:
    """Return index and probability (softmax) of the `count` most probable classes, ties by index.

    logits: (classes,). Raise EngineError if a logit is not finite. This function calls NumPy as
    little as possible: after inference the caches are cold, and each call takes over ten
    microseconds.
    """
    values = logits.astype(np.float64)
    order = (-values).argsort(kind='stable').tolist()
    highest, lowest = values.item(order[0]), values.item(order[-1])  # the last one may be NaN
    if not math.isfinite(highest - lowest):
        raise EngineError('inference returned logits that are NaN or infinite')
    weights = np.exp(values - highest)
    total = float(np.add.reduce(weights))
    return [(index, weights.item(index) / total) for index in order[: max(count, 0)]]


@dataclass(frozen=True)
class WorkerSettings:
    """Settings that can be changed while the worker runs; they are replaced as a whole.

    max_frame_age_ms: a frame that is older when the worker takes it is dropped; 0: no limit.
    """

    top_k: int = 5
    score_threshold: float = 0.0
    max_frame_age_ms: float = 0.0


@dataclass(frozen=True)
class Switch:
    """A switch: the decision, the last frame before it, and the time to change the level.

    header: that of the last frame classified before the switch; None if there is none.
    """

    decision: Decision
    header: Any
    switch_ms: float


@dataclass(frozen=True)
class _Work:
    """The frame being classified, and the time after which its engine is considered hung."""

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
"""An engine is considered hung after this time, and this multiple of the expected latency."""

ABANDONED_JOIN_S = 0.2
"""Time that `stop` waits for a thread whose engine hung; the thread may never end."""

ARRIVALS = 16
"""Number of arrivals from which the period of the images (the median) is computed."""


def _ignore(*arguments: object) -> None:
    """Do nothing; the default for optional callbacks."""


def always(sequence: int) -> bool:
    """Request the telemetry of every frame."""
    return True


class ClassifierWorker:
    """Classifies the newest frames on its own thread and switches levels as the manager decides.

    All callbacks run on this thread, except those of `leave_hanging_engine`. For each frame:
    1. `on_result(frame, result)` is called as soon as the result is known.
    2. The manager processes the timings.
    3. `on_telemetry(frame, telemetry)` is called if `wants_telemetry(sequence)` returns True;
       sequence is the number of the frame, from 1.
    4. `on_switch(switch)` is called if the level changed. It is also called before a frame if new
       constraints change the level, and after a frame whose inference failed.
    `on_error(frame, error, cause)` is called for a frame without a result. The cause is encoding,
    size, step or buffer (rejected frames), inference, or internal; after an internal error, the
    worker has stopped, and `failure` is the error.
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

    # Methods for other threads.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Finish the current frame and end the thread; return whether it ended in time."""
        self.mailbox.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        for thread in self._abandoned:
            thread.join(ABANDONED_JOIN_S)
        return not any(thread.is_alive() for thread in (self._thread, *self._abandoned))

    def leave_hanging_engine(self) -> bool:
        """Stop using an engine that hangs; call this method periodically.

        The current frame is reported as failed, the manager switches to another platform, and a
        new thread takes over. Return whether this was done: False if no engine hangs, or if there
        is no other platform.
        """
        with self._work_lock:
            work, now_ns = self._work, self._clock_ns()
            if work is None or now_ns < work.hangs_at_ns or len(self.classifier.platforms) < 2:
                return False
            self._work = None
            self._abandoned.append(self._thread)
            self._thread = self._new_thread()
        error = EngineError(
            f'{work.platform} has not finished level {work.level} for '
            f'{(now_ns - work.frame.received_ns) / 1e9:.0f} s and is no longer used'
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
        """Whether the thread is running."""
        return self._thread.is_alive()

    def submit(self, frame: Frame) -> None:
        """Submit a frame, which replaces a waiting one; ignored while disabled."""
        if self._is_enabled:
            self._arrivals_ns.append(frame.received_ns)
            self.mailbox.put(frame)

    @property
    def is_enabled(self) -> bool:
        """Whether submitted frames are processed."""
        return self._is_enabled

    def set_enabled(self, is_enabled: bool) -> None:
        """Process submitted frames, or ignore them; ignored frames do not count as dropped."""
        self._is_enabled = is_enabled
        if not is_enabled:
            self.mailbox.clear()
            self._arrivals_ns.clear()

    @property
    def settings(self) -> WorkerSettings:
        """The settings for the next frame."""
        return self._settings

    def set_settings(self, settings: WorkerSettings) -> None:
        """Set the settings for the next frame."""
        self._settings = settings

    @property
    def processed_frames(self) -> int:
        """Number of frames with a result."""
        return self._processed

    @property
    def dropped_frames(self) -> int:
        """Number of frames that were replaced by newer ones or older than `max_frame_age_ms`."""
        return self._overwritten + self.mailbox.replaced + self.dropped_old.total

    @property
    def dropped_age_ms(self) -> float:
        """Age of the last frame that was dropped for its age; NaN if there is none."""
        return self._dropped_age_ms

    @property
    def rejected_frames(self) -> int:
        """Number of frames that could not be decoded; `rejected.snapshot()` counts by cause."""
        return self.rejected.total

    @property
    def failed_frames(self) -> int:
        """Number of frames whose inference failed."""
        return self._failed

    @property
    def lost_frames(self) -> int:
        """Number of frames that were lost before `submit`."""
        return self._lost

    def set_missing(self, lost: int, overwritten: int) -> None:
        """Set how many frames were never submitted: lost frames, and frames replaced before."""
        self._lost, self._overwritten = lost, overwritten

    # The worker thread.

    def _run(self) -> None:
        frame: Frame | None = None
        if self._nice:
            _set_niceness(self._nice)
        try:
            while True:
                frame = self.mailbox.get()
                if frame is None:
                    return
                self._process(frame)
                if threading.current_thread() in self._abandoned:
                    return
                self._free_since_ns = self._clock_ns()
        except Exception as error:  # a bug in a callback or in this class
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
                return  # the engine hung and another thread has taken over
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
        """Return the median time between the arrivals of two images; NaN if unknown."""
        arrivals_ns = list(self._arrivals_ns)
        if len(arrivals_ns) < 4:
            return NAN
        gaps_ns = sorted(later - earlier for earlier, later in pairwise(arrivals_ns))
        return gaps_ns[len(gaps_ns) // 2] / 1e6

    @staticmethod
    def _end_to_end_ms(frame: Frame, node_ms: float) -> float:
        """Return the time from the image's stamp to now; NaN if the stamp is implausible."""
        if not 0.0 <= frame.input_age_ms <= MAX_INPUT_AGE_MS:  # also true for NaN
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
        """Report a switch; it takes no other action, because the level is already in memory."""
        if decision is None:
            return
        switch_ms = ((self._clock_ns() if end_ns is None else end_ns) - start_ns) / 1e6
        self._pending_switch = Switch(decision, self._last_header, switch_ms)
        self._on_switch(self._pending_switch)

    def _close_switch(self, result: Result) -> None:
        """Compute the cost of the last switch from the first frame after it.

        The cost is the time to decide and to change the level, plus the extra inference time of
        this frame over the expected time (the median of the level's profile times the slowdown at
        the decision). So it includes the noise of one frame.
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


def _set_niceness(nice: int) -> None:
    """Set the niceness of the calling thread only; log a warning if this is not permitted."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)  # per thread on Linux
    except OSError as error:
        _log.warning(
            'cannot set the niceness of the classifier thread to %d: %s; allow it with LimitNICE= '
            'of systemd or nice in /etc/security/limits.conf',
            nice,
            error,
        )
