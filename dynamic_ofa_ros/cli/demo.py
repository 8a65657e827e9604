"""`dynamic-ofa demo`: the same load with the highest level, the lowest level and switching."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.cli.numbers import number
from dynamic_ofa_ros.errors import DynamicOfaError

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family

DEFAULT_PARENT = 'demo_output'


class DemoError(DynamicOfaError, ValueError):
    """An invalid argument of the demo."""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'demo',
        help='compare fixed levels with switching, in a minute',
        description='Start a camera that renders road signs and a classifier, and apply the same '
        'load three times: with the highest level, the lowest level, and switching. Prints the '
        'result in one sentence and writes a picture, a summary and a CSV file of all images.',
    )
    parser.add_argument(
        '--output', metavar='FOLDER',
        help='new or empty folder for results and logs (default: demo_output/<date and time>)',
    )  # fmt: skip
    parser.add_argument(
        '--seconds', type=number(15, 3600), default=60.0,
        help='duration after everything has started, 15 to 3600 (default: %(default)g)',
    )  # fmt: skip
    parser.add_argument(
        '--family', default='signs', help='name or directory (default: %(default)s)'
    )
    parser.add_argument(
        '--source', metavar='FOLDER', default='',
        help='photographs for the camera, in class folders named after labels or WordNet ids '
        '(default: rendered signs)',
    )  # fmt: skip
    parser.add_argument(
        '--rate-hz', type=number(1, 240), default=20.0,
        help='images per second, 1 to 240 (default: %(default)g)',
    )  # fmt: skip
    parser.add_argument(
        '--two', action='store_true',
        help='run two classifiers on one CPU, which choose their levels together',
    )  # fmt: skip
    parser.add_argument(
        '--no-monitor', action='store_true',
        help="do not serve the web page; it is never served without the extra 'monitor' or on a "
        'single CPU',
    )  # fmt: skip
    parser.add_argument('--no-plots', action='store_true', help='do not draw the picture')
    parser.add_argument(
        '--prepare-timeout-s', type=number(0.1, 86400), default=300.0,
        help='how long to wait for each node to start; the first start on a machine takes longest '
        '(default: %(default)g)',
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; return 0 if it finished, 1 if a process died, 128 + n after signal n."""
    import sys
    from importlib.util import find_spec

    from rich.console import Console

    from dynamic_ofa_ros import requirements
    from dynamic_ofa_ros.family import Family

    # Invalid input is reported before any process starts.
    family = Family.load(args.family)
    labels = camera_labels(args.source, family)
    plots = () if args.no_plots else ('matplotlib',)
    requirements.check(
        *requirements.NODE, 'psutil', 'scipy', *plots, reason='the demo runs ROS 2 nodes'
    )
    from dynamic_ofa_ros.demo.session import Comparison, DemoOptions, Session
    from dynamic_ofa_ros.demo.two import TwoModels
    from dynamic_ofa_ros.demo.view import results_table

    options = DemoOptions(
        family=str(family.directory),
        seconds=args.seconds,
        rate_hz=args.rate_hz,
        has_plots=not args.no_plots,
        has_monitor=not args.no_monitor and find_spec('tornado') is not None,
        prepare_timeout_s=args.prepare_timeout_s,
        labels=labels,
        source=str(Path(args.source).expanduser().resolve()) if args.source else '',
    )
    console = Console()
    output = prepare_output(args.output)
    kind: type[Session] = TwoModels if args.two else Comparison
    result = kind(options, output, console).run()
    if result.runs:
        console.print(results_table(result.runs))
    if result.files:
        print(f'\nWritten to {output}: {", ".join(path.name for path in result.files)}')
    if result.words:
        print('\n' + '\n'.join(result.words))
    if result.message:
        print(f'dynamic-ofa: {result.message}', file=sys.stderr)
    return result.exit_status


def camera_labels(folder: str, family: Family) -> tuple[str, ...]:
    """Return the family's label of each class that the camera shows, indexed by class id.

    Raises DemoError if the family lacks one of the classes.
    """
    from dynamic_ofa_ros.nodes.camera_sources import FolderSource
    from dynamic_ofa_ros.offline.data.labelled import outputs_of
    from dynamic_ofa_ros.offline.data.signs import sign_names

    if not folder:
        if family.labels != sign_names():
            raise DemoError(
                f'family {family.name} was not trained on the signs that the camera renders; give '
                '--source, a folder of photographs'
            )
        return sign_names()
    names = FolderSource(folder).labels
    if not names:
        raise DemoError(
            f'{folder} has no class folders, so the correct answers are unknown; put the '
            'photographs into folders named after the labels'
        )
    outputs = outputs_of(names, family.labels)
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise DemoError(
            f'{folder}: the class folder {unknown[0]} is not a label of family {family.name}; '
            'rename or remove it'
        )
    return tuple(family.labels[outputs[name]] for name in names)


def prepare_output(chosen: str | None) -> Path:
    """Create the output folder: `chosen`, or ./demo_output/<date-time>.

    Raises DemoError if it cannot be written or is not empty, so that results are never mixed.
    """
    folder = Path(chosen or DEFAULT_PARENT).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not chosen:
            folder = Path(tempfile.mkdtemp(prefix=time.strftime('%Y-%m-%d_%H-%M-%S_'), dir=folder))
        # Permission bits do not show read-only file systems and quotas, so write a file.
        with tempfile.TemporaryFile(dir=folder):
            occupied = next(folder.iterdir(), None)
    except OSError as error:
        raise DemoError(
            f'{folder} cannot be written: {error.strerror or error}; '
            'give another folder with --output'
        ) from None
    if occupied is not None:
        raise DemoError(
            f'{folder} is not empty (it contains {occupied.name}); '
            'give a new or an empty folder with --output'
        )
    return folder.resolve()
