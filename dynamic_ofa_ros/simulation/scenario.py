"""Scenarios: YAML files that describe a simulation. See docs/simulation.md.

A scenario has either a trace and one model, optionally with further devices for it, or a processor
that models and jobs share. The schema is in config/scenario_schema.yaml.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import ConstraintError, FamilyError, SimulationError
from dynamic_ofa_ros.family.document import parse_yaml
from dynamic_ofa_ros.files import share_directory
from dynamic_ofa_ros.runtime.policies import DEFAULT_POLICY, PolicyError, PolicySettings
from dynamic_ofa_ros.simulation.camera import DEFAULT_CAMERA_PERIOD_MS, DEFAULT_SWITCH_MS, Timing
from dynamic_ofa_ros.simulation.contenders import with_options
from dynamic_ofa_ros.simulation.platform import (
    DEFAULT_LEVELS,
    SimulatedPlatform,
    joined,
    load_platform,
)
from dynamic_ofa_ros.simulation.processor import Job, Processor, training_job
from dynamic_ofa_ros.simulation.record import Record
from dynamic_ofa_ros.simulation.run import play, run
from dynamic_ofa_ros.simulation.runner import SimulatedModel
from dynamic_ofa_ros.simulation.several import CollectiveModel, play_together
from dynamic_ofa_ros.simulation.steps import ALWAYS_ONE, Steps
from dynamic_ofa_ros.simulation.traces import Trace, make_trace, read_trace

CONSTRAINTS = {
    'scope': 'latency_scope',
    'min_accuracy': 'min_accuracy',
    'quantile': 'quantile',
    'priority': 'priority',
}
POLICY_OPTIONS = ('fixed_level', 'window', 'hold_s', 'max_switches_per_minute')

Entry = dict[str, Any]
"""A mapping in the file, valid by the schema."""


@dataclass(frozen=True)
class Scenario:
    """A simulation of one model on `trace`, or else of models and jobs on `processor`.

    others: with a trace, further devices for the model, each with its own slowdown.
    phases: (begin in s, name), ascending; labels for the plot.
    """

    path: Path
    title: str
    duration_ms: float
    seed: int
    models: tuple[SimulatedModel, ...]
    trace: Trace | None
    processor: Processor
    jobs: tuple[Job, ...]
    phases: tuple[tuple[float, str], ...] = ()
    others: tuple[tuple[SimulatedPlatform, Trace], ...] = ()

    def with_policy(self, policy: str | PolicySettings) -> Scenario:
        """Return the same scenario with another policy for every model."""
        models = tuple(replace(model, policy=policy) for model in self.models)
        return replace(self, models=models)

    def play(self, seed: int | None = None) -> tuple[Record, ...]:
        """Simulate the scenario; return one record per model, in their order."""
        seed = self.seed if seed is None else seed
        if self.trace is None:
            return play(
                self.models, self.processor, self.jobs, duration_ms=self.duration_ms, seed=seed
            )
        (model,) = self.models
        record = run(
            self.trace,
            model.platform,
            model.policy,
            model.constraints,
            seed=seed,
            timing=model.timing,
            others=self.others,
        )
        return (replace(record, name=model.name),)

    def play_together(self) -> tuple[Record, ...]:
        """Simulate it with managers that choose their levels together, as `play` does."""
        return play_together(
            [CollectiveModel(model) for model in self.models],
            self.processor,
            self.jobs,
            duration_ms=self.duration_ms,
            seed=self.seed,
        )

    def busy_spans(self) -> list[tuple[float, float]]:
        """Return the times with contention, (begin, end) in s."""
        spans = [(job.begin_ms, job.end_ms) for job in self.jobs]
        spans += _spans(self.processor.frequency, lambda value: value < 1.0)
        if self.trace is not None:
            spans += _spans(self.trace.slowdown, lambda value: value > 1.05)
            spans += [(self.trace.stalls_ms[0][0], end) for _, end in self.trace.stalls_ms[-1:]]
        if len(self.models) > 1:
            spans += [
                (model.begin_ms, model.end_ms) for model in self.models if model.begin_ms > 0.0
            ]
        return _joined([(begin / 1e3, min(end, self.duration_ms) / 1e3) for begin, end in spans])


def scenario_names() -> tuple[str, ...]:
    """Return the names of the shipped scenarios."""
    return tuple(sorted(path.stem for path in _folder().glob('*.yaml')))


def load_scenario(path_or_name: str | Path) -> Scenario:
    """Read a scenario, given as a path or as the name of a shipped one; raise SimulationError."""
    path = _resolve(path_or_name)
    try:
        return _read(path, parse_yaml(path, path.read_bytes()))
    except SimulationError as error:
        text = str(error)
        raise SimulationError(text if str(path) in text else f'{path}: {text}') from None
    except (ConstraintError, PolicyError) as error:
        raise SimulationError(f'{path}: {error}') from None
    except FamilyError as error:
        raise SimulationError(str(error)) from None
    except OSError as error:
        raise SimulationError(f'{path} cannot be read: {error.strerror or error}') from None


def _folder() -> Path:
    return share_directory() / 'config' / 'scenarios'


def _resolve(path_or_name: str | Path) -> Path:
    path = Path(path_or_name).expanduser()
    shipped = _folder() / f'{path_or_name}.yaml'
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    raise SimulationError(
        f'there is no scenario {path_or_name}: it is neither a file nor a shipped scenario '
        f'({", ".join(scenario_names()) or "none"})'
    )


@lru_cache(maxsize=1)
def _validator() -> Any:
    """Return the validator of the schema, which rejects NaN and infinity, as YAML has both."""
    from jsonschema import Draft7Validator, validators

    def is_number(_: Any, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return abs(value) <= sys.float_info.max

    types = Draft7Validator.TYPE_CHECKER.redefine('number', is_number)
    path = share_directory() / 'config' / 'scenario_schema.yaml'
    extended = validators.extend(Draft7Validator, type_checker=types)
    return extended(parse_yaml(path, path.read_bytes()))


def _check(document: Any) -> None:
    """Raise SimulationError if the document does not match the schema."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(document))
    if error is None:
        return
    where = ''.join(f'[{key}]' if isinstance(key, int) else f'.{key}' for key in error.path)
    message = error.message
    if len(message) > 200:
        message = f'{message[:100]}...{message[-100:]}'
    if error.validator == 'additionalProperties':
        message += f'; known keys are {", ".join(error.schema["properties"])}'
    elif 'description' in error.schema:
        message += f'; expected {error.schema["description"]}'
    raise SimulationError(f'{where.lstrip(".") or "the file"}: {message}')


def _read(path: Path, document: Any) -> Scenario:
    _check(document)
    duration_ms = 1e3 * document['duration_s']
    models = tuple(_model(entry) for entry in document['models'])
    if len({model.name for model in models}) != len(models):
        raise SimulationError('two models have the same name; each needs its own')
    for model in models:
        if model.begin_ms >= duration_ms:
            raise SimulationError(
                f'model {model.name} begins at {model.begin_ms / 1e3:g} s, after the end; '
                f'duration_s is {duration_ms / 1e3:g}'
            )
    trace = None
    if 'trace' in document:
        if 'processor' in document or 'jobs' in document or len(models) > 1:
            raise SimulationError(
                'a trace defines the slowdown of the device, so it requires exactly one model and '
                'allows neither processor nor jobs; remove the trace or these'
            )
        if {'begin_s', 'end_s'} & document['models'][0].keys():
            raise SimulationError(
                'on a trace, the model runs all the time; remove begin_s and end_s'
            )
        trace = _trace(path, 'trace', document['trace'], duration_ms)
    elif 'other_devices' in document:
        raise SimulationError(
            'other_devices requires a trace, which defines the slowdown of the first device'
        )
    return Scenario(
        path=path,
        title=document['title'],
        duration_ms=duration_ms,
        seed=document.get('seed', 1),
        models=models,
        trace=trace,
        processor=_processor(document.get('processor', {})),
        jobs=tuple(_job(entry) for entry in document.get('jobs', ())),
        phases=tuple(map(tuple, _ascending('phases', document.get('phases', ())))),
        others=_devices(path, document.get('other_devices', ()), models[0].platform, duration_ms),
    )


def _model(entry: Entry) -> SimulatedModel:
    limits_ms = _one_of(entry, f'model {entry["name"]}', 'limit_ms', 'limits_ms')
    if 'limit_ms' in entry:
        limits_ms = [[0.0, limits_ms]]
    given = {name: entry[key] for key, name in CONSTRAINTS.items() if key in entry}
    begin_s, end_s = entry.get('begin_s', 0.0), entry.get('end_s', math.inf)
    platform = load_platform(
        entry.get('levels', DEFAULT_LEVELS), entry.get('platform'), entry.get('noise')
    )
    if 'latencies_ms' in entry:
        _check_count(entry['latencies_ms'], platform, f'model {entry["name"]}')
        platform = platform.with_latencies(entry['latencies_ms'], 'given in the scenario')
    return SimulatedModel(
        name=entry['name'],
        platform=platform,
        policy=with_options(
            entry.get('policy', DEFAULT_POLICY), {name: entry.get(name) for name in POLICY_OPTIONS}
        ),
        constraints=[
            (1e3 * time_s, Constraints(float(limit_ms), **given))
            for time_s, limit_ms in _ascending('limits_ms', limits_ms)
        ],
        timing=Timing(
            camera_period_ms=entry.get('camera_period_ms', DEFAULT_CAMERA_PERIOD_MS),
            switch_ms=entry.get('switch_ms', DEFAULT_SWITCH_MS),
            transport_ms=entry.get('transport_ms', 0.0),
        ),
        begin_ms=1e3 * begin_s,
        end_ms=1e3 * end_s,
    )


def _devices(
    path: Path, entries: Sequence[Entry], first: SimulatedPlatform, duration_ms: float
) -> tuple[tuple[SimulatedPlatform, Trace], ...]:
    """Return further devices with the model's levels; without a trace, there is no contention."""
    devices = []
    for entry in entries:
        where = f'device {entry["name"]}'
        given = _one_of(entry, where, 'latency_factor', 'latencies_ms')
        if 'latencies_ms' not in entry:
            source = f'assumed, {given:g} times the latency'
            given = [given * latency_ms for latency_ms in first.latencies_ms]
        else:
            _check_count(given, first, where)
            source = 'given in the scenario'
        is_alone = not {'kind', 'file', 'steps'} & entry.keys()
        trace = (
            Trace('alone', ALWAYS_ONE, duration_ms)
            if is_alone
            else _trace(path, where, entry, duration_ms)
        )
        devices.append((first.with_latencies(given, source, entry['name']), trace))
    joined([first, *(platform for platform, _ in devices)])  # raises an error for equal names
    return tuple(devices)


def _check_count(latencies_ms: Sequence[float], platform: SimulatedPlatform, where: str) -> None:
    if len(latencies_ms) != len(platform.levels):
        raise SimulationError(
            f'latencies_ms of {where} is {latencies_ms}; it must have {len(platform.levels)} '
            'numbers, one for each level'
        )


def _trace(path: Path, where: str, entry: Entry, duration_ms: float) -> Trace:
    given = _one_of(entry, where, 'kind', 'file', 'steps')
    if 'kind' in entry:
        return make_trace(given, entry.get('seed', 1), duration_ms / 1e3)
    if 'file' in entry:
        return replace(read_trace(path.parent / Path(given).expanduser()), duration_ms=duration_ms)
    rows = [[*row, 0.0][:3] for row in _ascending('steps', given)]
    times_ms = tuple(1e3 * row[0] for row in rows)
    slowdowns, overheads_ms = (Steps(times_ms, tuple(row[i] for row in rows)) for i in (1, 2))
    return Trace('steps', slowdowns, duration_ms, overhead_ms=overheads_ms)


def _processor(entry: Entry) -> Processor:
    if 'frequency' in entry:
        pairs = _ascending('frequency', entry['frequency'])
        entry = {**entry, 'frequency': Steps.of([(1e3 * time_s, rate) for time_s, rate in pairs])}
    return Processor(**entry)


def _job(entry: Entry) -> Job:
    begin_ms, end_ms = 1e3 * entry.get('begin_s', 0.0), 1e3 * entry.get('end_s', math.inf)
    kind, demand = entry['kind'], entry['demand']
    name = entry.get('name', f'{kind} job')
    if kind == 'training':
        return replace(training_job(begin_ms, end_ms, demand), name=name)
    if kind == 'constant' and {'period_ms', 'busy_ms'} & entry.keys():
        raise SimulationError(
            f'{name} is of kind constant; period_ms and busy_ms require kind periodic'
        )
    return Job(
        name, demand, begin_ms, end_ms, entry.get('period_ms', 0.0), entry.get('busy_ms', 0.0)
    )


def _one_of(entry: Entry, where: str, *names: str) -> Any:
    """Return the value of the only one of `names` that is given; raise SimulationError."""
    given = [name for name in names if name in entry]
    if len(given) != 1:
        raise SimulationError(
            f'{where} requires exactly one of {", ".join(names)}, '
            f'found {" and ".join(given) or "none of them"}'
        )
    return entry[given[0]]


def _ascending(name: str, rows: Sequence[Any]) -> Sequence[Any]:
    """Return the rows; raise SimulationError unless their times (first column, in s) ascend."""
    for before, after in pairwise(rows):
        if after[0] <= before[0]:
            raise SimulationError(
                f'{name}: {after[0]:g} s follows {before[0]:g} s; times must ascend'
            )
    return rows


def _spans(steps: Steps, is_inside: Any) -> list[tuple[float, float]]:
    ends_ms = (*steps.times_ms[1:], math.inf)
    return [
        (begin, end)
        for begin, end, value in zip(steps.times_ms, ends_ms, steps.values, strict=True)
        if is_inside(value)
    ]


def _joined(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        elif begin < end:
            joined.append((begin, end))
    return joined
