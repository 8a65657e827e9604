"""`dynamic-ofa demo`: camera, classifier and a competitor on this machine, seen live."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'demo',
        help='show the whole system live, for 40 seconds',
        description='Start a camera that renders road signs, a classifier and a competing '
        'process; show live how the classifier keeps a latency limit; end with a summary, plots '
        'and a CSV.',
    )
    parser.add_argument(
        '--output', metavar='FOLDER',
        help='new or empty folder for results and logs (default: demo_output/<date and time>)',
    )  # fmt: skip
    parser.add_argument(
        '--seconds', type=float, default=40.0,
        help='how long the scenario takes, 5 to 3600 (default: %(default)g)',
    )  # fmt: skip
    parser.add_argument(
        '--family', default='signs', help='name or directory (default: %(default)s)'
    )
    parser.add_argument(
        '--source', metavar='FOLDER', default='',
        help='photographs for the camera, in class folders named after the labels (or WordNet '
        'ids), or in any folder: then nothing counts as right (default: rendered signs)',
    )  # fmt: skip
    parser.add_argument(
        '--rate-hz', type=float, default=30.0,
        help='images per second, 1 to 240 (default: %(default)g)',
    )  # fmt: skip
    parser.add_argument(
        '--two', action='store_true',
        help='two classifiers on one CPU instead: they choose their levels together',
    )  # fmt: skip
    parser.add_argument('--no-plots', action='store_true', help='write no plots')
    parser.add_argument(
        '--prepare-timeout-s', type=float, default=300.0,
        help='how long to wait for all parts; the first start on a machine takes longest '
        '(default: %(default)g)',
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when it went to its end, 1 when a part died, 128 + n after signal n."""
    import sys

    from rich.console import Console

    from dynamic_ofa_ros.demo.output import prepare_output
    from dynamic_ofa_ros.demo.report import summary_table
    from dynamic_ofa_ros.demo.running import DemoOptions
    from dynamic_ofa_ros.demo.scenario import ScenarioError, default_scenario
    from dynamic_ofa_ros.demo.session import run_demo
    from dynamic_ofa_ros.family import Family

    # Everything that can be wrong with the arguments is found before anything starts.
    default_scenario(args.seconds)
    if not 1.0 <= args.rate_hz <= 240.0:
        raise ScenarioError(f'--rate-hz is {args.rate_hz:g}; it takes 1 to 240 images per second')
    if not args.prepare_timeout_s > 0.0:
        raise ScenarioError(f'--prepare-timeout-s is {args.prepare_timeout_s:g}; it takes seconds')
    family = Family.load(args.family)
    source, truth_labels = _source(args.source, family)
    output = prepare_output(args.output)
    options = DemoOptions(
        family=str(family.directory),
        seconds=args.seconds,
        rate_hz=args.rate_hz,
        has_plots=not args.no_plots,
        prepare_timeout_s=args.prepare_timeout_s,
        source=source,
        truth_labels=truth_labels,
    )
    console = Console()
    if args.two:
        from dynamic_ofa_ros.demo.two import run_two

        result = run_two(options, output, console)
    else:
        result = run_demo(options, output, console)
    if result.summary is not None:
        console.print(summary_table(result.summary, console.width))
    if result.files:
        print(f'Written to {output}: {", ".join(path.name for path in result.files)}')
    if result.message:
        print(f'dynamic-ofa: {result.message}', file=sys.stderr)
    return result.exit_status


def _source(folder: str, family: Family) -> tuple[str, dict[str, str]]:
    """Return the folder's full path and the family's label of each class folder in it.

    Raises an error where the camera would show nothing that the family knows.
    """
    from dynamic_ofa_ros.demo.scenario import ScenarioError
    from dynamic_ofa_ros.nodes.camera_sources import FolderSource
    from dynamic_ofa_ros.offline.labelled import outputs_of
    from dynamic_ofa_ros.offline.signs import sign_names

    if not folder:
        if family.labels != sign_names():
            raise ScenarioError(
                f'family {family.name} does not know the signs that the camera renders: give '
                '--source, a folder of photographs'
            )
        return '', {}
    names = FolderSource(folder).labels
    outputs = outputs_of(names, family.labels)
    strangers = [name for name in names if name not in outputs]
    if strangers:
        raise ScenarioError(
            f'{folder}: the class folder {strangers[0]} is no label of family {family.name}; '
            'rename it, or put the photographs into one folder without classes'
        )
    labels = {name: family.labels[output] for name, output in outputs.items()}
    return str(Path(folder).expanduser().resolve()), labels
