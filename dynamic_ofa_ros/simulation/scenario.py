"""Scenarios: YAML files that say what happens on a simulated device. See docs/simulation.md.

A scenario has either a trace and one model, which may have other devices to choose from, or a
processor that models and jobs share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.errors import ConstraintError, FamilyError, SimulationError
from dynamic_ofa_ros.family_document import Reader, parse_yaml
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
from dynamic_ofa_ros.simulation.run import SimulatedModel, play, run
from dynamic_ofa_ros.simulation.steps import Steps
from dynamic_ofa_ros.simulation.traces import Trace, make_trace, read_trace

FORMAT = 'dynamic_ofa_scenario'

_TOP_KEYS = frozenset(
    (
        'format', 'version', 'title', 'duration_s', 'seed', 'phases', 'trace', 'processor', 'jobs',
        'models', 'other_devices',
    )
)  # fmt: skip
_MODEL_KEYS = frozenset(
    (
        'name', 'levels', 'platform', 'noise', 'policy', 'limit_ms', 'limits_ms', 'min_accuracy',
        'quantile', 'priority', 'camera_period_ms', 'switch_ms', 'begin_s', 'end_s',
        'fixed_level', 'window', 'hold_s', 'max_switches_per_minute',
    )
)  # fmt: skip
_JOB_KEYS = frozenset(('name', 'kind', 'demand', 'begin_s', 'end_s', 'period_ms', 'busy_ms'))
_TRACE_KEYS = frozenset(('kind', 'seed', 'file', 'steps'))
_DEVICE_KEYS = _TRACE_KEYS | {'name', 'latency_factor', 'latencies_ms'}
_PROCESSOR_KEYS = frozenset(('sharing', 'slice_ms', 'frequency'))


class _StrictReader(Reader):
    """A reader of a mapping that refuses keys it does not know: a typing error is no default."""

    def __init__(
        self, path: Path, document: Any, allowed: frozenset[str], prefix: str = ''
    ) -> None:
        super().__init__(path, document, prefix)
        unknown = sorted(f'{prefix}{key}' for key in document if key not in allowed)
        if unknown:
            raise SimulationError(
                f'{", ".join(unknown)} means nothing here; known are {", ".join(sorted(allowed))}'
            )

    def strict_section(self, key: str, allowed: frozenset[str]) -> _StrictReader:
        """Return a reader of the mapping at `key`."""
        return _StrictReader(self.path, self.mapping(key), allowed, f'{key}.')


@dataclass(frozen=True)
class Scenario:
    """What happens: either `trace` is given, with one model, or processor and jobs count.

    others: with a trace, devices that the model may go to, each with its own slowdown.
    phases: (begin in s, name), ascending; they only name parts of the picture.
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
        """Simulate it; a record per model, in their order."""
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

    def busy_spans(self) -> list[tuple[float, float]]:
        """Return (begin, end) in s of the times when something else slows the device down."""
        spans = [(job.begin_ms, job.end_ms) for job in self.jobs]
        spans += _spans(self.processor.frequency, lambda value: value < 1.0)
        if self.trace is not None:
            spans += _spans(self.trace.slowdown, lambda value: value > 1.05)
        if len(self.models) > 1:
            spans += [
                (model.begin_ms, model.end_ms) for model in self.models if model.begin_ms > 0.0
            ]
        return _joined([(begin / 1e3, min(end, self.duration_ms) / 1e3) for begin, end in spans])


def scenario_names() -> tuple[str, ...]:
    """Return the names of the scenarios that the package ships."""
    return tuple(sorted(path.stem for path in _folder().glob('*.yaml')))


def load_scenario(path_or_name: str | Path) -> Scenario:
    """Read a scenario, given by path or by the name of a shipped one; raise SimulationError."""
    path = _resolve(path_or_name)
    try:
        return _read(_StrictReader(path, parse_yaml(path, path.read_bytes()), _TOP_KEYS))
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
        f'there is no scenario {path_or_name}: no such file, and the shipped ones are '
        f'{", ".join(scenario_names()) or "none"}'
    )


def _read(reader: _StrictReader) -> Scenario:
    reader.check_format(FORMAT)
    duration_ms = reader.number('duration_s', above=0.0) * 1e3
    models = tuple(_read_model(entry) for entry in _entries(reader, 'models', _MODEL_KEYS))
    if len({model.name for model in models}) != len(models):
        raise SimulationError('two models have the same name; each needs its own')
    trace = _read_trace(reader, duration_ms) if reader.has('trace') else None
    if trace is not None and (reader.has('processor') or reader.has('jobs') or len(models) > 1):
        raise SimulationError(
            'a trace says how slow the device is whatever runs on it, so it goes with one model '
            'and neither processor nor jobs; leave out the trace or these'
        )
    if reader.has('other_devices') and trace is None:
        raise SimulationError(
            'other_devices goes with a trace, which says how slow the first device is; add one'
        )
    return Scenario(
        path=reader.path,
        title=reader.text('title'),
        duration_ms=duration_ms,
        seed=reader.integer('seed') if reader.has('seed') else 1,
        models=models,
        trace=trace,
        processor=_read_processor(reader) if reader.has('processor') else Processor(),
        jobs=tuple(_read_job(entry) for entry in _entries(reader, 'jobs', _JOB_KEYS))
        if reader.has('jobs')
        else (),
        phases=tuple(_pairs(reader, 'phases', str)) if reader.has('phases') else (),
        others=_read_devices(reader, models[0].platform, duration_ms)
        if reader.has('other_devices')
        else (),
    )


def _read_model(reader: Reader) -> SimulatedModel:
    platform = load_platform(
        _text_or(reader, 'levels', DEFAULT_LEVELS),
        _text_or(reader, 'platform', '') or None,
        _number_or(reader, 'noise', None),
    )
    options = {
        name: _number_or(reader, name, None)
        for name in ('fixed_level', 'window', 'hold_s', 'max_switches_per_minute')
    }
    for name in ('fixed_level', 'window'):
        if options[name] is not None:
            options[name] = reader.integer(name)
    begin_s, end_s = _number_or(reader, 'begin_s', 0.0), _number_or(reader, 'end_s', math.inf)
    return SimulatedModel(
        name=reader.text('name'),
        platform=platform,
        policy=with_options(_text_or(reader, 'policy', DEFAULT_POLICY), options),
        constraints=_read_constraints(reader),
        timing=Timing(
            camera_period_ms=_number_or(reader, 'camera_period_ms', DEFAULT_CAMERA_PERIOD_MS),
            switch_ms=_number_or(reader, 'switch_ms', DEFAULT_SWITCH_MS),
        ),
        begin_ms=begin_s * 1e3,
        end_ms=end_s * 1e3,
    )


def _read_constraints(reader: Reader) -> list[tuple[float, Constraints]]:
    if reader.has('limit_ms') == reader.has('limits_ms'):
        raise SimulationError(
            f'model {reader.text("name")} needs either limit_ms, a number, or limits_ms, a list '
            'of [time in s, limit in ms]'
        )
    limits = (
        _pairs(reader, 'limits_ms', float)
        if reader.has('limits_ms')
        else [(0.0, reader.number('limit_ms'))]
    )
    common: dict[str, Any] = {}
    for name in ('min_accuracy', 'quantile'):
        if reader.has(name):
            common[name] = reader.number(name)
    if reader.has('priority'):
        common['priority'] = reader.text('priority')
    return [
        (time_s * 1e3, Constraints(max_latency_ms=limit_ms, **common))
        for time_s, limit_ms in limits
    ]


def _read_devices(
    reader: _StrictReader, first: SimulatedPlatform, duration_ms: float
) -> tuple[tuple[SimulatedPlatform, Trace], ...]:
    entries = _entries(reader, 'other_devices', _DEVICE_KEYS)
    devices = tuple(_read_device(entry, first, duration_ms) for entry in entries)
    joined([first, *(platform for platform, _ in devices)])  # refuses two of the same name
    return devices


def _read_device(
    reader: Reader, first: SimulatedPlatform, duration_ms: float
) -> tuple[SimulatedPlatform, Trace]:
    """Read a device that has the model's levels too; it is alone there unless a trace is given."""
    if reader.has('latency_factor') == reader.has('latencies_ms'):
        raise SimulationError(
            f'device {reader.text("name")} needs either latency_factor, how many times slower '
            'than the first device it is, or latencies_ms, one for each level'
        )
    if reader.has('latencies_ms'):
        latencies_ms, source = reader.sequence('latencies_ms'), 'given in the scenario'
        if len(latencies_ms) != len(first.levels) or not all(map(_is_number, latencies_ms)):
            raise SimulationError(
                f'latencies_ms of device {reader.text("name")} is {latencies_ms}; it must hold '
                f'{len(first.levels)} numbers, one for each level'
            )
    else:
        factor = reader.number('latency_factor', above=0.0)
        latencies_ms = [factor * latency_ms for latency_ms in first.latencies_ms]
        source = f'assumed, {factor:g} times as long'
    platform = first.with_latencies(latencies_ms, source, reader.text('name'))
    is_alone = not any(reader.has(key) for key in ('kind', 'file', 'steps'))
    alone = Trace('alone', Steps((0.0,), (1.0,)), duration_ms, is_contended=False)
    return platform, alone if is_alone else _read_steps(reader, duration_ms)


def _read_trace(reader: _StrictReader, duration_ms: float) -> Trace:
    return _read_steps(reader.strict_section('trace', _TRACE_KEYS), duration_ms)


def _read_steps(section: Reader, duration_ms: float) -> Trace:
    if sum(section.has(key) for key in ('kind', 'file', 'steps')) != 1:
        raise SimulationError(
            'trace needs exactly one of kind (a generated one), file (CSV) and steps, a list of '
            '[time in s, slowdown]'
        )
    if section.has('kind'):
        seed = section.integer('seed') if section.has('seed') else 1
        return make_trace(section.text('kind'), seed, duration_ms / 1e3)
    if section.has('file'):
        file = Path(section.text('file')).expanduser()
        return replace(read_trace(section.path.parent / file), duration_ms=duration_ms)
    pairs = _pairs(section, 'steps', float)
    if min(value for _, value in pairs) <= 0.0:
        raise SimulationError('the slowdowns of trace.steps must be positive, 1 = alone')
    return Trace('steps', Steps.of([(t * 1e3, value) for t, value in pairs]), duration_ms)


def _read_processor(reader: _StrictReader) -> Processor:
    section = reader.strict_section('processor', _PROCESSOR_KEYS)
    options: dict[str, Any] = {}
    if section.has('sharing'):
        options['sharing'] = section.text('sharing')
    if section.has('slice_ms'):
        options['slice_ms'] = section.number('slice_ms')
    if section.has('frequency'):
        pairs = _pairs(section, 'frequency', float)
        options['frequency'] = Steps.of([(t * 1e3, value) for t, value in pairs])
    return Processor(**options)


def _read_job(reader: Reader) -> Job:
    kind = reader.text('kind')
    begin_s, end_s = _number_or(reader, 'begin_s', 0.0), _number_or(reader, 'end_s', math.inf)
    name = _text_or(reader, 'name', f'{kind} job')
    demand = reader.number('demand')
    if kind == 'training':
        return replace(training_job(begin_s * 1e3, end_s * 1e3, demand), name=name)
    if kind == 'periodic':
        return Job(
            name,
            demand,
            begin_s * 1e3,
            end_s * 1e3,
            reader.number('period_ms', above=0.0),
            reader.number('busy_ms', above=0.0),
        )
    if kind == 'constant':
        return Job(name, demand, begin_s * 1e3, end_s * 1e3)
    raise SimulationError(
        f'the kind of job {name} is {kind!r}; it must be one of: training, periodic, constant'
    )


def _entries(reader: Reader, key: str, allowed: frozenset[str]) -> list[_StrictReader]:
    return [
        _StrictReader(reader.path, item, allowed, f'{key}[{position}].')
        for position, item in enumerate(reader.sequence(key))
    ]


def _text_or(reader: Reader, key: str, default: str) -> str:
    return reader.text(key) if reader.has(key) else default


def _number_or(reader: Reader, key: str, default: Any) -> Any:
    return reader.number(key) if reader.has(key) else default


def _pairs(reader: Reader, key: str, kind: Any) -> list[tuple[float, Any]]:
    """Return (time in s, value) pairs whose times ascend."""
    pairs: list[tuple[float, Any]] = []
    wanted = 'a name' if kind is str else 'a number'
    for item in reader.sequence(key):
        is_pair = isinstance(item, list) and len(item) == 2 and _is_number(item[0])
        if not is_pair or not (isinstance(item[1], str) if kind is str else _is_number(item[1])):
            raise SimulationError(f'{key} holds {item!r}, not [time in s, {wanted}]')
        if pairs and item[0] <= pairs[-1][0]:
            raise SimulationError(f'{key}: {item[0]:g} s follows {pairs[-1][0]:g} s; they ascend')
        pairs.append((float(item[0]), kind(item[1])))
    return pairs


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
