"""The `dynamic-ofa` command: parses arguments, runs a verb, turns errors into sentences."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from dynamic_ofa_ros import __version__, requirements
from dynamic_ofa_ros.errors import DynamicOfaError

# One module a verb, in the order in which `--help` lists them.
VERBS = (
    'demo', 'train', 'fetch', 'profile', 'predictor', 'search', 'build', 'family',
    'calibrate', 'measure', 'levels', 'export', 'simulate', 'figures', 'compare', 'ros',
)  # fmt: skip

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0, 2 with a sentence on bad input, 130 after a Ctrl-C, whenever it comes.
    """
    try:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # `scripts/dynamic-ofa` lets it be
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return _main(argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    _obey_interrupts()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no text; stderr takes it
        sys.stdout.reconfigure(errors='backslashreplace')
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.INFO, format='%(levelname)s: %(message)s'
    )
    if args.verb is None:
        parser.print_help()
        return EXIT_BAD_INPUT
    try:
        status: int = args.run(args)
    except DynamicOfaError as error:
        if args.debug:
            raise
        print(f'dynamic-ofa: {error}', file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # The reader (head, less) went away: that is not an error, and Python must not report it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ImportError as error:
        sentence = requirements.explained(error)
        if args.debug or sentence is None:
            raise
        print(f'dynamic-ofa: {sentence}', file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        if args.debug:
            raise
        print(f'dynamic-ofa: {_describe(error)}', file=sys.stderr)
        return EXIT_BAD_INPUT
    return status


def _obey_interrupts() -> None:
    """End by SIGINT also where a shell started this in the background, with SIGINT ignored."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _describe(error: OSError) -> str:
    name = error.filename2 or error.filename  # of a copy, its target
    where = f'{name}: ' if name else ''
    return f'{where}{error.strerror or error}'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='dynamic-ofa',
        description='Build, run and steer families of Once-for-all sub-networks.',
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
