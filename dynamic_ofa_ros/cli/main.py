"""The `dynamic-ofa` command: parses arguments, runs a verb, prints errors as sentences."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from dynamic_ofa_ros import __version__, requirements
from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.files import problem_of

# One module per verb, in the order of `--help`.
VERBS = (
    'demo', 'train', 'fetch', 'profile', 'predictor', 'search', 'build', 'family',
    'calibrate', 'measure', 'levels', 'export', 'simulate', 'figures', 'compare', 'ros',
)  # fmt: skip

# These continue where they were interrupted.
RESUMABLE = ('train', 'fetch', 'profile', 'predictor', 'build', 'family')

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Prints an error in one line, without the usage, in which it would be hard to find."""

    def error(self, message: str) -> NoReturn:
        sentence = re.sub('^argument (.+?): is ', r'\1 is ', message)
        self.exit(EXIT_BAD_INPUT, f'{self.prog}: {sentence} (see {self.prog} --help)\n')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    The status is 0, 2 after bad input (with a sentence on stderr), or 130 after Ctrl-C.
    """
    try:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # set by `scripts/dynamic-ofa`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return _main(argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    _check_not_empty(parser, args.verb, sys.argv[1:] if argv is None else argv)
    _handle_sigint()
    # Damaged images are reported by our own sentences; OpenCV reads this when it is imported.
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may not be encodable
        sys.stdout.reconfigure(errors='backslashreplace')
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.INFO, format='%(levelname)s: %(message)s'
    )
    # torch logs statistics at the exit if its import was interrupted.
    logging.getLogger('torch').setLevel(logging.WARNING)
    if args.verb is None:
        parser.print_help()
        return EXIT_BAD_INPUT
    try:
        status: int = args.run(args)
    except KeyboardInterrupt:
        if args.verb != 'ros':  # there, Ctrl-C is the usual end
            hint = '; run the same command again to resume' if args.verb in RESUMABLE else ''
            print(f'dynamic-ofa: interrupted{hint}', file=sys.stderr)
        return EXIT_INTERRUPTED
    except DynamicOfaError as error:
        if args.debug:
            raise
        print(f'dynamic-ofa: {error}', file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # The reader (head, less) closed the pipe. The flush at exit would report an error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ImportError as error:
        sentence = requirements.explained(error)
        if args.debug or sentence is None:
            raise
        print(f'dynamic-ofa: {sentence}', file=sys.stderr)
        return EXIT_BAD_INPUT
    except (OSError, RuntimeError) as error:
        sentence = problem_of(error)
        if args.debug or not sentence:
            raise
        print(f'dynamic-ofa: {sentence}', file=sys.stderr)
        return EXIT_BAD_INPUT
    return status


def _check_not_empty(
    parser: argparse.ArgumentParser, verb: str | None, arguments: Sequence[str]
) -> None:
    """Exit with a usage error if an argument is empty; those of `ros` may be."""
    if verb == 'ros':
        return
    for before, argument in zip(('', *arguments), arguments, strict=False):
        option, is_assigned, value = argument.partition('=')
        if not argument.strip() or (option.startswith('--') and is_assigned and not value.strip()):
            name = option if is_assigned else before
            what = f'argument {name}:' if name.startswith('-') else 'an argument'
            parser.error(f'{what} is empty; is a variable of the shell not set?')


def _handle_sigint() -> None:
    """Let SIGINT end the program even if a shell started it in the background, ignoring SIGINT."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog='dynamic-ofa',
        description='Build, measure and run families of Once-for-all sub-networks.',
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    parser.add_argument('--debug', action='store_true', help='show tracebacks and debug messages')
    subparsers = parser.add_subparsers(dest='verb', metavar='VERB')
    for verb in VERBS:
        importlib.import_module(f'dynamic_ofa_ros.cli.{verb.replace("-", "_")}').add_parser(
            subparsers
        )
    return parser


if __name__ == '__main__':
    sys.exit(main())
