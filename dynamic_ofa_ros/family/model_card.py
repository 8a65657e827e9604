"""The model card of a family: a description for people, made from the family's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.family.family import Family
from dynamic_ofa_ros.files import write_text_atomically

MODEL_CARD_FILE = 'model_card.md'
MOST_NAMED = 30

UNKNOWN_LICENCE = (
    'Not recorded. It depends on the licences of the training images and of the weights that '
    'training started from.'
)


def write_model_card(directory: Path, licence: str = '') -> None:
    """Write the model card of the family in `directory`.

    licence: the licence of the weights; empty if it is not known.
    """
    card = '\n'.join(_lines(Family.load(directory), licence or UNKNOWN_LICENCE))
    write_text_atomically(directory / MODEL_CARD_FILE, card + '\n')


def _lines(family: Family, licence: str) -> Iterator[str]:
    what = 'sub-networks of one supernet' if family.is_supernet else 'separate networks'
    yield from (
        f'# {family.name}',
        '',
        f'An image classifier with {len(family.levels)} levels, which are {what} '
        f'({family.source.name}). The first level is the fastest and the last one the most '
        'accurate. The ROS 2 package dynamic_ofa_ros switches between them on a robot.',
        '',
        '## Classes',
        '',
        f'{len(family.labels)}: {_named(family.labels)}',
        '',
        '## Data',
        '',
        *_data(family.provenance),
        '',
        '## Levels',
        '',
        *_table(family),
        '',
        '## Limits',
        '',
        '- The classifier always answers with one of its classes, even if an image shows none of '
        'them.',
        '- The accuracies hold for images similar to those they were measured on. Measure on '
        'images of your camera with `dynamic-ofa measure --data`, or adapt the family with '
        '`dynamic-ofa calibrate`.',
        '- The latencies hold for the platforms named above with no other program running.',
        '',
        '## Licence of the weights',
        '',
        licence,
    )


def _named(labels: tuple[str, ...]) -> str:
    rest = len(labels) - MOST_NAMED
    return ', '.join(labels[:MOST_NAMED]) + (f', and {rest} more' if rest > 0 else '')


def _data(provenance: Mapping[str, Any]) -> Iterator[str]:
    training, build = provenance.get('training'), provenance.get('build')
    while isinstance(training, Mapping) and training:
        facts = [f'{training[key]} {key}' for key in ('images', 'epochs') if key in training]
        data = training.get('data', 'unnamed data')
        yield f'- trained on {data}: {", ".join(facts) or "amount not recorded"}'
        training = training.get('fine_tuned_from')
        if training:
            yield '- before that:'
    if isinstance(build, Mapping) and 'calibration_images' in build:
        yield f'- batch norms calibrated on {build["calibration_images"]} training images'
    yield f'- accuracy: {provenance.get("accuracy", "its source is not recorded")}'


def _table(family: Family) -> Iterator[str]:
    platforms = list(family.platforms.values())
    heads = ['level', 'input, px', 'top-1, %', 'MACs, M', 'parameters']
    heads += [f'latency {number}, ms' for number in range(1, len(platforms) + 1)]
    yield f'| {" | ".join(heads)} |'
    yield '|---' * len(heads) + '|'
    for level in family.levels:
        how = '' if level.accuracy_source == 'measured' else f' ({level.accuracy_source})'
        cells = [
            str(level.index),
            str(level.resolution),
            f'{level.accuracy * 100:.1f}{how}',
            f'{level.macs / 1e6:.1f}',
            f'{level.parameters:,}',
            *(f'{profile.latency_ms(level.index):.2f}' for profile in platforms),
        ]
        yield f'| {" | ".join(cells)} |'
    yield ''
    if not platforms:
        yield 'Latency was not measured. A robot measures it when it starts for the first time.'
    for number, profile in enumerate(platforms, start=1):
        yield (
            f'- latency {number}: median of single images on {profile.platform}, measured '
            f'{profile.measured_at}'
        )
