"""The measures of recordings, and differences that make a comparison doubtful."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dynamic_ofa_ros import adaptation
from dynamic_ofa_ros.adaptation import Delay
from dynamic_ofa_ros.recordings.measures import measure
from dynamic_ofa_ros.recordings.reading import Recording

QUANTILES = {'p50': 0.5, 'p95': 0.95, 'p99': 0.99}
SIMILAR_LENGTH = 0.9
"""Lengths differ if the shorter recording is shorter than this share of the longer one."""


def summary(recording: Recording) -> dict[str, Any]:
    """Return the measures of a recording; shares and accuracies are fractions, None if unknown.

    late, on time, reaction and recovery are defined in `adaptation`; reaction and recovery require
    a load whose begin and end are recorded.
    """
    run = recording.run
    found = measure(run)
    by_level = [frame.by_level for frame in run.frames]
    minutes = run.seconds / 60.0
    return {
        'recording': recording.source,
        'kind': recording.kind,
        'family': recording.family or None,
        'platforms': list(recording.platforms),
        'policies': list(recording.policies),
        'limits_ms': list(recording.limits_ms),
        'scope': recording.scope or None,
        'seconds': run.seconds,
        'images': found.images,
        'answered': found.answered,
        'drops': dict(recording.drops),
        'late': _known(found.late),
        'late_under_load': _known(found.late_loaded),
        'on_time': _known(1.0 - found.late),
        'right': _known(found.right),
        'right_on_time': _known(found.right_on_time),
        'level_accuracy': adaptation.mean_accuracy(by_level),
        'level_accuracy_on_time': adaptation.on_time_accuracy(by_level),
        'switches': found.switches,
        'switches_per_minute': found.switches / minutes if minutes else None,
        'reaction': _delay(found.reaction),
        'recovery': _delay(found.recovery),
        'latency_ms': {
            stage: {name: _quantile(values, share) for name, share in QUANTILES.items()}
            for stage, values in recording.stages.items()
        },
    }


def differences(a: Recording, b: Recording) -> list[str]:
    """Return a sentence for each difference that makes a comparison doubtful."""
    found = []
    aspects: tuple[tuple[str, Callable[[Recording], str]], ...] = (
        ('kinds of recordings', lambda r: r.kind),
        ('limits', _limits_text),
        ('scopes of the limit', lambda r: r.scope),
        ('families', lambda r: r.family),
        ('platforms', lambda r: ', '.join(r.platforms)),
        ('numbers of levels', lambda r: str(r.run.level_count) if r.kind == 'bag' else ''),
    )
    for what, text_of in aspects:
        texts = text_of(a), text_of(b)
        if texts[0] != texts[1] and all(texts):
            found.append(f'different {what}: A {texts[0]}, B {texts[1]}')
    seconds = a.run.seconds, b.run.seconds
    if min(seconds) < SIMILAR_LENGTH * max(seconds):
        found.append(
            f'different lengths: A {seconds[0]:.1f} s, B {seconds[1]:.1f} s; compare shares, not '
            'counts'
        )
    if a.has_truth != b.has_truth:
        found.append(f'the ground truth is known in {"A" if a.has_truth else "B"} only')
    for name, recording in (('A', a), ('B', b)):
        answered = sum(frame.is_answered for frame in recording.run.frames)
        if answered < recording.answers:
            found.append(
                f'{name} has telemetry of {answered} of {recording.answers} answers, so its '
                'shares of unanswered images are too large'
            )
    return found


def _limits_text(recording: Recording) -> str:
    limits_ms = recording.limits_ms
    if not limits_ms:
        return 'none'
    ends = dict.fromkeys((limits_ms[0], limits_ms[-1]))
    return ' to '.join(f'{limit_ms:g}' for limit_ms in ends) + ' ms'


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _delay(delay: Delay | None) -> dict[str, Any] | None:
    if delay is None:
        return None
    return {'frames': delay.frames, 'ms': delay.ms, 'is_over': delay.is_over}


def _quantile(values: Sequence[float], share: float) -> float | None:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(np.quantile(known, share)) if known.size else None
