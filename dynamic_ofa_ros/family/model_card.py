"""The model card of a family: what it is, for people, from what its files say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.family.family import Family
from dynamic_ofa_ros.files import write_text_atomically

MODEL_CARD_FILE = 'model_card.md'
MOST_NAMED = 30

UNKNOWN_LICENCE = (
    'not known here: it follows from the images, and from the weights that training began with'
)


def write_model_card(directory: Path, licence: str = '') -> None:
    """Write the model card of the family in `directory`; licence: of its weights, if known."""
    card = '\n'.join(_lines(Family.load(directory), licence or UNKNOWN_LICENCE))
    write_text_atomically(directory / MODEL_CARD_FILE, card + '\n')


def _lines(family: Family, licence: str) -> Iterator[str]:
    what = 'sub-networks of one supernet' if family.is_supernet else 'separate networks'
    yield from (
        f'# {family.name}',
        '',
        f'An image classifier with {len(family.levels)} levels, {what} ({family.source.name}): '
        'the first is the fastest, the last the most accurate. A family of dynamic_ofa_ros, which '
        'switches between them on a robot.',
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
        '- It answers with one of its classes for every image, also for one that shows none.',
        '- The accuracies hold for images like those they were measured on. Measure on images of '
        'your camera: `dynamic-ofa measure --data`, or adapt with `dynamic-ofa calibrate`.',
        '- The latencies hold for the platforms named above, with nothing else running.',
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
        yield f'- trained on {training.get("data", "data not named")}: {", ".join(facts) or "?"}'
        training = training.get('fine_tuned_from')
        if training:
            yield '- before that:'
    if isinstance(build, Mapping) and 'calibration_images' in build:
        yield f'- batch norms calibrated on {build["calibration_images"]} training images'
    yield f'- accuracy: {provenance.get("accuracy", "how it is known is not recorded")}'


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
        yield 'Latency was not measured: a robot does that at its first start.'
    for number, profile in enumerate(platforms, start=1):
        yield (
            f'- latency {number}: median of single images on {profile.platform}, measured '
            f'{profile.measured_at}'
        )
