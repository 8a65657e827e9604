"""`dynamic-ofa simulate`: run the runtime manager on a simulated device."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.numbers import LARGEST, number, seed, whole_number
from dynamic_ofa_ros.constraints import MAX_QUANTILE, MIN_QUANTILE

if TYPE_CHECKING:
    from dynamic_ofa_ros.simulation.metrics import Metrics
    from dynamic_ofa_ros.simulation.record import Record
    from dynamic_ofa_ros.simulation.scenario import Scenario
    from dynamic_ofa_ros.simulation.traces import Trace

DESCRIPTION = """\
Run the node's runtime manager in simulated time and report late frames and accuracy. Either

  dynamic-ofa simulate training_job                        a scenario: shipped, or your YAML file
  dynamic-ofa simulate --trace slow.csv --limit-ms 60      a trace: slowdown over time
  dynamic-ofa simulate --kind burst --limit-ms 60          a generated trace

A trace is a CSV file with the columns time_ms,slowdown and optionally overhead_ms. A slowdown of 1
is the speed of the device without other load; overhead is delay outside inference, before the
answer. Each row holds until the next row; the last row holds as long as the one before it. The
default levels are those published for the Jetson Xavier NX. The same seed gives the same result.
"""

EPILOG = """\
Shipped scenarios: fixed_network, frequency, gpu_and_cpu, limits, step, training_job, two_models.
Policies: those of the node and, for comparison, alert and alert_tuned (Kalman filters as in the
ALERT paper, with its constants and with tuned ones) and oracle (knows the next frame; for traces).
The oracle in the result sees the same frames and knows the latency of every level in advance.
"""

# Those of the simulation and the policies, whose modules are imported only by a run.
LONGEST_S = 86_400.0
LONGEST_HOLD_S = 3_600.0
LONGEST_WINDOW = 10_000
MOST_LEVELS = 1_000

OUTPUT_DEFAULT = 'simulation.png'


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'simulate',
        help='try a policy on a simulated device, with a scenario or a trace',
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('scenario', nargs='?', help='name or YAML file of a scenario')
    parser.add_argument(
        '--trace', metavar='FILE', type=Path, help='CSV file: time_ms,slowdown[,overhead_ms]'
    )
    parser.add_argument(
        '--kind',
        metavar='KIND',
        help='a generated trace: none, step, ramp, burst, periodic, random_walk, bimodal, '
        'second_model, frequency, stalls',
    )
    parser.add_argument('--policy', help='default: that of the node, or of the scenario')
    parser.add_argument('--seed', type=seed, help="random seed; default: 1, or the scenario's")
    output = parser.add_argument_group('results')
    output.add_argument('--json', action='store_true', help='print JSON instead of a table')
    output.add_argument('--frames', metavar='FILE', type=Path, help='write a CSV row per frame')
    output.add_argument(
        '--output',
        metavar='FILE',
        type=Path,
        help=f'picture (.png, .pdf, .svg); default: {OUTPUT_DEFAULT} for a scenario, none for a '
        'trace',
    )
    trace = parser.add_argument_group('with a trace')
    trace.add_argument(
        '--limit-ms', type=number(0, LARGEST, above=True), help='latency limit; default: none'
    )
    trace.add_argument(
        '--scope',
        metavar='SCOPE',
        help='scope of the limit: inference (default), node (from the arrival of an image to its '
        'label), end_to_end (from its stamp to its label)',
    )
    trace.add_argument(
        '--min-accuracy',
        type=number(0, 1, above=True),
        help='accuracy floor, a fraction in (0, 1]',
    )
    trace.add_argument(
        '--quantile',
        type=number(MIN_QUANTILE, MAX_QUANTILE),
        help='share of frames that must meet the limit; default: 0.95',
    )
    trace.add_argument(
        '--priority', help='constraint to keep if not both can hold: latency (default) or accuracy'
    )
    trace.add_argument(
        '--family', metavar='NAME', help='a family, or a level file in config/levels'
    )
    trace.add_argument('--platform', help='platform of the family to simulate')
    trace.add_argument(
        '--noise',
        type=number(0, 1),
        help="standard deviation of latency over its mean; default: the profile's",
    )
    trace.add_argument(
        '--rate-hz', type=number(0, LARGEST, above=True), help='images per second; default: 30'
    )
    trace.add_argument(
        '--period-ms',
        type=number(0, LARGEST),
        help='time between images, instead of --rate-hz; 0: an image whenever the node is free',
    )
    trace.add_argument(
        '--transport-ms',
        type=number(0, LARGEST),
        help='time from the stamp of an image to its arrival; default: 0',
    )
    trace.add_argument(
        '--switch-ms', type=number(0, LARGEST), help='extra time of the first frame after a switch'
    )
    trace.add_argument(
        '--duration-s',
        type=number(0, LONGEST_S, above=True),
        help='default: that of the trace; 60 for a generated trace',
    )
    policy = parser.add_argument_group("options of the node's policies, with a trace")
    policy.add_argument('--fixed-level', type=whole_number(0, MOST_LEVELS))
    policy.add_argument(
        '--window', type=whole_number(1, LONGEST_WINDOW), help='frames that reactive averages over'
    )
    policy.add_argument(
        '--hold-s', type=number(0, LONGEST_HOLD_S), help='how long a higher level must be safe'
    )
    policy.add_argument(
        '--max-switches-per-minute', type=number(0, LARGEST), help='limit of switches up'
    )
    parser.set_defaults(run=run)


TRACE_OPTIONS = (
    'limit_ms', 'scope', 'min_accuracy', 'quantile', 'priority', 'family', 'platform', 'noise',
    'rate_hz', 'period_ms', 'transport_ms', 'switch_ms', 'duration_s', 'fixed_level', 'window',
    'hold_s', 'max_switches_per_minute',
)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Simulate and print the result; raise SimulationError for invalid input."""
    from dynamic_ofa_ros.errors import SimulationError
    from dynamic_ofa_ros.plotting.style import check_picture_name

    chosen = [name for name in ('scenario', 'trace', 'kind') if getattr(args, name) is not None]
    if len(chosen) != 1:
        raise SimulationError(
            'give one of: a scenario, --trace FILE, --kind KIND '
            f'({"none" if not chosen else " and ".join(chosen)} given); see --help'
        )
    if args.output is not None:
        check_picture_name('--output', args.output)
    if chosen == ['scenario']:
        return _run_scenario(args)
    return _run_trace(args)


def _run_scenario(args: argparse.Namespace) -> int:
    from dynamic_ofa_ros.errors import SimulationError
    from dynamic_ofa_ros.simulation.figures import columns_of
    from dynamic_ofa_ros.simulation.metrics import measure
    from dynamic_ofa_ros.simulation.scenario import load_scenario

    given = [_option(name) for name in TRACE_OPTIONS if getattr(args, name) is not None]
    if given:
        raise SimulationError(
            f'{", ".join(given)} requires a trace; the file of a scenario contains these settings'
        )
    scenario = load_scenario(args.scenario)
    if args.policy is not None:
        scenario = scenario.with_policy(args.policy)
    records = scenario.play(args.seed)
    _write_frames(args.frames, records)
    metrics = {record.name: measure(record) for record in records}
    title = f'{scenario.title} (policy {records[0].policy})'
    output = args.output or Path(OUTPUT_DEFAULT)
    _draw([columns_of(scenario, records, title)], _caption(scenario, records), output)
    if args.json:
        models = {name: found.summary() for name, found in metrics.items()}
        print(json.dumps({'scenario': scenario.title, 'models': models}, indent=1))
        return 0
    _print_table(title, metrics)
    print(f'drawn: {output}')
    return 0


def _run_trace(args: argparse.Namespace) -> int:
    from dynamic_ofa_ros.runtime.policies import DEFAULT_POLICY
    from dynamic_ofa_ros.simulation.contenders import with_options
    from dynamic_ofa_ros.simulation.drawing import Column
    from dynamic_ofa_ros.simulation.metrics import measure
    from dynamic_ofa_ros.simulation.platform import DEFAULT_LEVELS, load_platform
    from dynamic_ofa_ros.simulation.run import run as simulate
    from dynamic_ofa_ros.simulation.run import run_fixed_levels

    names = ('fixed_level', 'window', 'hold_s', 'max_switches_per_minute')
    policy = with_options(
        args.policy or DEFAULT_POLICY, {name: getattr(args, name) for name in names}
    )
    seed = 1 if args.seed is None else args.seed
    trace = _trace(args, seed)
    platform = load_platform(args.family or DEFAULT_LEVELS, args.platform, args.noise)
    constraints, timing = _constraints(args), _timing(args)
    record = simulate(trace, platform, policy, constraints, seed=seed, timing=timing)
    fixed = (
        ()
        if args.json
        else run_fixed_levels(trace, platform, constraints, seed=seed, timing=timing)
    )
    metrics = measure(record, fixed)
    _write_frames(args.frames, [record])
    if args.output:
        title = f'Trace {trace.name} (policy {record.policy})'
        caption = f'{platform.name}: {platform.source}. Simulated, seed {seed}.'
        _draw([Column(title, (record,))], caption, args.output)
    if args.json:
        print(json.dumps(metrics.summary(), indent=1))
        return 0
    _print_table(f'{platform.name} on trace {trace.name}', {record.policy: metrics})
    return 0


def _option(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def _trace(args: argparse.Namespace, seed: int) -> Trace:
    from dataclasses import replace

    from dynamic_ofa_ros.simulation.traces import DEFAULT_DURATION_S, make_trace, read_trace

    if args.kind is not None:
        duration_s = DEFAULT_DURATION_S if args.duration_s is None else args.duration_s
        return make_trace(args.kind, seed, duration_s)
    trace = read_trace(args.trace)
    return trace if args.duration_s is None else replace(trace, duration_ms=args.duration_s * 1e3)


def _constraints(args: argparse.Namespace) -> Any:
    from dynamic_ofa_ros.constraints import Constraints

    given = {
        'max_latency_ms': args.limit_ms,
        'latency_scope': args.scope,
        'min_accuracy': args.min_accuracy,
        'quantile': args.quantile,
        'priority': args.priority,
    }
    return Constraints(**{name: value for name, value in given.items() if value is not None})


def _timing(args: argparse.Namespace) -> Any:
    from dynamic_ofa_ros.errors import SimulationError
    from dynamic_ofa_ros.simulation.camera import Timing

    period_ms = args.period_ms
    if args.rate_hz is not None:
        if period_ms is not None:
            raise SimulationError('--rate-hz and --period-ms set the same value; give one of them')
        period_ms = 1e3 / args.rate_hz
    given = {
        'camera_period_ms': period_ms,
        'switch_ms': args.switch_ms,
        'transport_ms': args.transport_ms,
    }
    return Timing(**{name: value for name, value in given.items() if value is not None})


def _write_frames(path: Path | None, records: Any) -> None:
    """Write the frames of all models into one CSV file."""
    from dynamic_ofa_ros.simulation.record import write_frames

    if path is not None:
        write_frames(records, path)


def _draw(columns: Any, caption: str, path: Path) -> None:
    from dynamic_ofa_ros.plotting.style import save_figure
    from dynamic_ofa_ros.simulation.drawing import draw_columns

    save_figure(draw_columns(columns, caption), path)


def _caption(scenario: Scenario, records: tuple[Record, ...]) -> str:
    platform = records[0].platform
    text = f'Levels of {platform.name}: {platform.source}. '
    if scenario.busy_spans():
        text += 'Grey: other load slows the device down. '
    return f'{text}Simulated, seed {records[0].seed}.'


def _print_table(title: str, metrics: dict[str, Metrics]) -> None:
    """Print a row per measure and a column per run."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column('')
    for name in metrics:
        table.add_column(name, justify='right')
    found = list(metrics.values())
    for label, values in (
        ('frames', [str(m.frames) for m in found]),
        ('late frames %', [_percent(m.violation_ratio) for m in found]),
        ('late at every level %', [_percent(m.oracle_violation_ratio) for m in found]),
        ('on-time top-1 %', [_percent(m.on_time_accuracy) for m in found]),
        ('on-time top-1 of the oracle %', [_percent(m.oracle_on_time_accuracy) for m in found]),
        (
            'on-time top-1 of the best fixed level %',
            [_percent(m.best_fixed_on_time_accuracy) for m in found],
        ),
        ('mean top-1 %', [_percent(m.mean_accuracy) for m in found]),
        ('switches', [str(m.switches) for m in found]),
        ('switches per minute', [f'{m.switches_per_minute:.1f}' for m in found]),
        ('reaction, frames', [_number(m.reaction_frames) for m in found]),
        ('reaction, ms', [_number(m.reaction_ms) for m in found]),
        ('recovery, frames', [_number(m.recovery_frames) for m in found]),
        ('recovery, ms', [_number(m.recovery_ms) for m in found]),
    ):
        table.add_row(label, *values)
    Console(markup=False).print(table)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.2f}'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.1f}'
