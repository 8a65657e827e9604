"""The result of the three runs as a sentence and a JSON document."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.files import write_text_atomically
from dynamic_ofa_ros.recordings.measures import Measures, Run, interval, measure, percent

FORMAT, VERSION = 'dynamic_ofa_demo', 2

HIGHEST, LOWEST, SWITCHING = 'highest level', 'lowest level', 'switching'


def sentence(measures: Mapping[str, Measures]) -> str:
    """Return the result in one sentence, in which `right` means right and on time."""
    highest, lowest, switching = (measures[title] for title in (HIGHEST, LOWEST, SWITCHING))
    return (
        f'highest level: {percent(highest.late)} late; '
        f'lowest: {percent(lowest.right_on_time)} right; '
        f'switching: {percent(switching.late)} late, {percent(switching.right_on_time)} right'
    )


def note_without_gain(measures: Mapping[str, Measures], busy_before: float) -> str:
    """Return a note with a possible reason if switching was not better; otherwise ''.

    busy_before: share of the processors that other programs used before the demo.
    """
    best = max((HIGHEST, LOWEST), key=lambda title: measures[title].right_on_time)
    if measures[SWITCHING].right_on_time > measures[best].right_on_time:
        return ''
    return (
        f'Switching was not better: {percent(measures[SWITCHING].right_on_time)} right and on '
        f'time; the {best}: {percent(measures[best].right_on_time)}. The machine may be busy '
        f'(other programs used {busy_before:.0%} of it before the demo).'
    )


def write_summary(document: Mapping[str, Any], runs: Sequence[Run], path: Path) -> None:
    """Write a document of the demo and the measures of its runs as JSON; NaN becomes null."""
    described = []
    for run in runs:
        measures = measure(run)
        described.append(
            {
                'title': run.title,
                'seconds': run.seconds,
                'loads_s': run.loads,
                **asdict(measures),
                'late_interval': interval(measures.late, measures.images),
                'right_on_time_interval': interval(measures.right_on_time, measures.images),
                'switches_explained': [asdict(switch) for switch in run.switches],
            }
        )
    whole = {'format': FORMAT, 'version': VERSION, **document, 'runs': described}
    text = json.dumps(_without_nan(whole), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(path, text + '\n')


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
