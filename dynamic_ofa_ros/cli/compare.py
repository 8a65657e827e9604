"""`dynamic-ofa compare`: compare two recordings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamic_ofa_ros.recordings.reading import Recording

DESCRIPTION = """\
Compare two recordings of a classifier: late images, correct answers (if the ground truth is
known), switches, latency by stage, unanswered images.

  dynamic-ofa compare drive_1 drive_2 --output compared.png    bags (MCAP, SQLite) with ~/telemetry
  dynamic-ofa compare bag:/front/classifier bag:/rear/classifier    two classifiers of one bag
  dynamic-ofa compare 'frames.csv:lowest level' frames.csv:switching    runs of the demo
  dynamic-ofa compare a.csv b.csv                              files of `simulate --frames`

A bag must contain the topic ~/telemetry. The family is read from ~/levels, and the correct answers
from ground_truth and ground_truth/label_info. Reading bags requires the extra `bag`.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'compare',
        help='compare two recordings: bags, or frames of the demo or of a simulation',
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('a', metavar='A', help='a recording, or RECORDING:NAME for one of several')
    parser.add_argument('b', metavar='B', help='the other one')
    parser.add_argument('--json', action='store_true', help='print the measures as JSON')
    parser.add_argument(
        '--output', metavar='FILE', type=Path, help='draw both side by side: .png, .pdf or .svg'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print and draw the comparison; raise RecordingError if a recording cannot be read."""
    from dynamic_ofa_ros.plotting.style import check_picture_name
    from dynamic_ofa_ros.recordings.comparison import differences, summary
    from dynamic_ofa_ros.recordings.reading import read

    if args.output is not None:
        check_picture_name('--output', args.output)
    recordings = {
        letter: read(source, f'{letter}: {Path(source).name}')
        for letter, source in (('A', args.a), ('B', args.b))
    }
    found = {letter: summary(recording) for letter, recording in recordings.items()}
    notes = differences(*recordings.values())
    if args.output is not None:
        _draw(recordings, notes, args.output)
    if args.json:
        print(json.dumps({**found, 'differences': notes}, indent=1))
        return 0
    _print_table(found)
    for note in notes:
        print(f'Note: {note}.')
    if args.output is not None:
        print(f'drawn: {args.output}')
    return 0


def _draw(recordings: Mapping[str, Recording], notes: list[str], path: Path) -> None:
    from dynamic_ofa_ros.plotting.style import save_figure
    from dynamic_ofa_ros.recordings.picture import plot_runs

    caption = (
        'A dot is the latency of an image in the scope of its limit. Shares are of all images, '
        'with a 95 % confidence interval in brackets.'
    )
    runs = [recording.run for recording in recordings.values()]
    if any(run.loads for run in runs):
        caption += ' Grey: other programs used the processor.'
    save_figure(plot_runs(runs, ' '.join([caption, *(f'Note: {note}.' for note in notes)])), path)


def _print_table(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a row per measure, a column per recording; leave out rows without values."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column('')
    for letter, measures in found.items():
        table.add_column(f'{letter}: {measures["recording"]}', justify='right', overflow='fold')
    stages = list(dict.fromkeys(s for measures in found.values() for s in measures['latency_ms']))
    causes = list(dict.fromkeys(c for measures in found.values() for c in measures['drops']))
    rows: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ('policy', lambda m: ', '.join(m['policies'])),
        ('family', lambda m: m['family'] or ''),
        ('limit, ms', lambda m: ', '.join(f'{limit:g}' for limit in m['limits_ms'])),
        ('scope of the limit', lambda m: m['scope'] or ''),
        ('seconds', lambda m: f'{m["seconds"]:.1f}'),
        ('images', lambda m: str(m['images'])),
        ('answered', lambda m: str(m['answered'])),
        *((_words(cause), _count(cause)) for cause in causes),
        ('late %', lambda m: _percent(m['late'])),
        ('late under load %', lambda m: _percent(m['late_under_load'])),
        ('on time %', lambda m: _percent(m['on_time'])),
        ('right %', lambda m: _percent(m['right'])),
        ('right and on time %', lambda m: _percent(m['right_on_time'])),
        ('top-1 of the levels %', lambda m: _percent(m['level_accuracy'])),
        ('the same, 0 if late, %', lambda m: _percent(m['level_accuracy_on_time'])),
        ('switches', lambda m: str(m['switches'])),
        ('switches per minute', lambda m: _number(m['switches_per_minute'])),
        ('reaction', lambda m: _delay(m['reaction'])),
        ('recovery', lambda m: _delay(m['recovery'])),
        *((f'{_words(stage)}, p50/p95/p99', _latency(stage)) for stage in stages),
    ]
    for label, text_of in rows:
        texts = [text_of(measures) for measures in found.values()]
        if any(texts):
            table.add_row(label, *(text or '-' for text in texts))
    Console(markup=False).print(table)  # names may contain brackets


def _words(name: str) -> str:
    """Return a field's name as words: `node_ms` is `node ms`."""
    return name.replace('_', ' ')


def _count(cause: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda m: str(m['drops'].get(cause, ''))


def _latency(stage: str) -> Callable[[Mapping[str, Any]], str]:
    def text(measures: Mapping[str, Any]) -> str:
        values = list(measures['latency_ms'].get(stage, {}).values())
        if not values or values[0] is None:
            return ''
        return ' / '.join(f'{value:.2f}' for value in values)

    return text


def _percent(share: float | None) -> str:
    return '' if share is None else f'{100 * share:.1f}'


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.1f}'


def _delay(delay: Mapping[str, Any] | None) -> str:
    if delay is None:
        return ''
    text = f'{delay["frames"]} images, {delay["ms"]:.0f} ms'
    return text if delay['is_over'] else f'{text}, not finished'
