"""The part that runs on the robot; it does not depend on ROS.

A camera loop without ROS (`frames` yields (H, W, 3) uint8 RGB arrays):

    from dynamic_ofa_ros.runtime import (
        Classifier, Constraints, Family, Measurement, RuntimeManager,
        create_engine, load_or_measure_profile,
    )

    family = Family.load('signs')
    engine = create_engine(family)
    manager = RuntimeManager(
        family.levels,
        load_or_measure_profile(engine, family),
        constraints=Constraints(max_latency_ms=5.0),
    )
    classifier = Classifier(family, engine)
    for rgb in frames:
        result = classifier.classify(rgb, manager.active_level)
        print(result.top1)
        manager.observe(Measurement(time.perf_counter_ns(), result.level, result.inference_ms))

`ClassifierWorker` does the same on a separate thread and always uses the newest frame.
Names are resolved at first use, so importing this package does not import an engine.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    'Constraints': 'dynamic_ofa_ros.constraints',
    'Family': 'dynamic_ofa_ros.family',
    'ClassScore': 'dynamic_ofa_ros.runtime.classifier',
    'Classifier': 'dynamic_ofa_ros.runtime.classifier',
    'ClassifierWorker': 'dynamic_ofa_ros.runtime.classifier',
    'Frame': 'dynamic_ofa_ros.runtime.classifier',
    'Mailbox': 'dynamic_ofa_ros.runtime.classifier',
    'Result': 'dynamic_ofa_ros.runtime.classifier',
    'Switch': 'dynamic_ofa_ros.runtime.classifier',
    'WorkerSettings': 'dynamic_ofa_ros.runtime.classifier',
    'Engine': 'dynamic_ofa_ros.runtime.engine',
    'create_engine': 'dynamic_ofa_ros.runtime.engine',
    'load_or_measure_profile': 'dynamic_ofa_ros.runtime.engine',
    'profile_engine': 'dynamic_ofa_ros.runtime.engine',
    'HostMonitor': 'dynamic_ofa_ros.runtime.host',
    'RawImage': 'dynamic_ofa_ros.runtime.image',
    'RgbImage': 'dynamic_ofa_ros.runtime.image',
    'decode_image': 'dynamic_ofa_ros.runtime.image',
    'preprocess': 'dynamic_ofa_ros.runtime.image',
    'Decision': 'dynamic_ofa_ros.runtime.decisions',
    'ManagerState': 'dynamic_ofa_ros.runtime.decisions',
    'Measurement': 'dynamic_ofa_ros.runtime.decisions',
    'RuntimeManager': 'dynamic_ofa_ros.runtime.manager',
    'PolicySettings': 'dynamic_ofa_ros.runtime.policies',
    'policy_names': 'dynamic_ofa_ros.runtime.policies',
    'FrameTelemetry': 'dynamic_ofa_ros.runtime.telemetry',
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(module), name)
