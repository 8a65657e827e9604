"""Build all parts of a classifier: family, engines, profiles, manager and worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import cv2

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import EngineError
from dynamic_ofa_ros.family import Family, LatencyProfile
from dynamic_ofa_ros.runtime.classifier import (
    Classifier,
    ClassifierWorker,
    OnError,
    OnResult,
    OnSwitch,
    OnTelemetry,
    WantsTelemetry,
    WorkerSettings,
    always,
)
from dynamic_ofa_ros.runtime.engine import Engine, create_engines, load_or_measure_profile
from dynamic_ofa_ros.runtime.host import HostMonitor, device_identity
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings, platform_note


@dataclass(frozen=True)
class Request:
    """Options for building a classifier; the fields are parameters of the node."""

    family: str
    device: str = 'auto'
    engine: str = 'auto'
    threads: int = 1
    precision: str = 'fp32'
    max_resident_mb: float = 0.0
    nice: int = 0


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of the worker (see ClassifierWorker), which calls them on its thread."""

    on_result: OnResult
    on_telemetry: OnTelemetry
    on_error: OnError
    on_switch: OnSwitch
    wants_telemetry: WantsTelemetry = always


@dataclass(frozen=True)
class Assembly:
    """All parts of a classifier. `device` is the first engine's: 'cpu', 'cuda' or 'cuda:N'."""

    family: Family
    engines: tuple[Engine, ...]
    profiles: tuple[LatencyProfile, ...]
    device: str
    manager: RuntimeManager
    host: HostMonitor
    worker: ClassifierWorker = field(repr=False)

    @cached_property
    def devices(self) -> dict[str, str]:
        """Return the identity of the processor or GPU of each platform."""
        return {engine.platform: device_identity(engine.device) for engine in self.engines}

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages about options of engines and policy that could not be met."""
        policy_note = platform_note(self.manager.table, self.manager.policy_settings)
        engine_notes = (note for engine in self.engines for note in engine.notes)
        residents = [engine.residents for engine in self.engines if engine.residents is not None]
        level_notes = (note for of_engine in residents for note in of_engine.notes)
        return (*engine_notes, *level_notes, *([policy_note] if policy_note else []))

    def start(self) -> None:
        """Start the threads of the host monitor and the worker."""
        self.host.start()
        self.worker.start()

    def close(self) -> None:
        """Finish the current frame, end the threads and free the engines."""
        has_stopped = self.worker.stop()
        self.host.stop()
        if has_stopped:
            for engine in self.engines:
                engine.close()


def assemble(
    request: Request,
    callbacks: Callbacks,
    *,
    constraints: Constraints,
    policy: PolicySettings,
    settings: WorkerSettings,
    progress: Callable[[str], None],
) -> Assembly:
    """Build all parts and warm up the engines.

    progress: called with a message before each slow step. Raise DynamicOfaError if a part cannot
    be built; parts that were built before are freed.
    """
    # Preprocessing also has to use this number of threads: with more, it would have to wait for
    # threads whose processors are busy with other programs.
    cv2.setNumThreads(request.threads)
    progress(f'loading family {request.family}')
    family = Family.load(request.family)
    engines = create_engines(
        family,
        device=request.device,
        engine=request.engine,
        precision=request.precision,
        threads=request.threads,
        max_resident_mb=request.max_resident_mb,
        progress=progress,
    )
    family = _in_precision(family, engines, request.precision)
    try:
        profiles = _profiles_of(engines, family, progress)
        classifier = Classifier(family, *engines)
        manager = RuntimeManager(
            family.levels,
            profiles,
            constraints=constraints,
            policy=policy,
            is_ready=classifier.is_ready,
        )
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    classifier.approach(*manager.wanted, manager.active_level)
    host = HostMonitor(engines[0].device)
    worker = ClassifierWorker(
        classifier,
        manager,
        on_result=callbacks.on_result,
        on_telemetry=callbacks.on_telemetry,
        wants_telemetry=callbacks.wants_telemetry,
        on_error=callbacks.on_error,
        on_switch=callbacks.on_switch,
        settings=settings,
        nice=request.nice,
        host=host,
    )
    return Assembly(family, tuple(engines), profiles, engines[0].device, manager, host, worker)


def _in_precision(family: Family, engines: list[Engine], precision: str) -> Family:
    """Return the family with the accuracies of a precision; if there are none, add a note."""
    measured = family.in_precision(engines[0].name, precision)
    if measured is None:
        note = (
            f'accuracies are those of fp32, because none were measured in {precision}: run '
            f'dynamic-ofa measure --precision {precision} --data FOLDER'
        )
        engines[0].notes = (*engines[0].notes, note)
    return measured or family


def _profiles_of(
    engines: list[Engine], family: Family, progress: Callable[[str], None]
) -> tuple[LatencyProfile, ...]:
    """Return a profile for each engine.

    An engine that fails is removed from `engines`; if it is the only one, raise EngineError.
    """
    profiles, notes = [], []
    for engine in tuple(engines):
        progress(f'loading or measuring the latency of each level on {engine.platform}')
        try:
            profiles.append(load_or_measure_profile(engine, family))
        except EngineError as error:
            if len(engines) == 1:
                raise
            engines.remove(engine)
            engine.close()
            notes.append(f'{engine.platform} is not used: {error}')
    engines[0].notes = (*engines[0].notes, *notes)
    return tuple(profiles)
