"""Convert ONNX files and the user's settings to candidates for the levels of a family."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import (
    ACCURACY_SOURCES,
    CHANNELS,
    INTERPOLATIONS,
    MAX_RESOLUTION,
    RESIZES,
    Preprocessing,
)
from dynamic_ofa_ros.family.document import Reader, parse_yaml, read_bytes
from dynamic_ofa_ros.family.onnx_safety import DEFAULT_SIDE_PX
from dynamic_ofa_ros.offline.networks.networks import Candidate, KnownAccuracy
from dynamic_ofa_ros.offline.networks.onnx_adapting import LAYOUTS
from dynamic_ofa_ros.offline.networks.onnx_import import ImportedNetwork, read_classifier
from dynamic_ofa_ros.runtime.build_cache import filesystem_safe

logger = logging.getLogger(__name__)

Triple = tuple[float, float, float]

RANGES: Mapping[str, tuple[Triple, Triple]] = {
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'unit': ((0.0,) * 3, (1.0,) * 3),
    'signed': ((0.5,) * 3, (0.5,) * 3),
    'raw': ((0.0,) * 3, (1 / 255,) * 3),
}
"""Mean and standard deviation of the usual ranges of input values.

'imagenet': normalised by ImageNet's mean and deviation (torchvision, timm); 'unit': 0 to 1;
'signed': -1 to 1; 'raw': 0 to 255.
"""

USUAL_INTERPOLATION = 'area'
"""The most similar to the resizing in most trainings: Pillow's filters average on shrinking."""

SMALLEST_RESOLUTION = 16


@dataclass(frozen=True)
class NetworkSettings:
    """The user's settings for a network; None if not given.

    values: one of RANGES, instead of mean and std. mean, std: of pixels from 0 to `pixel_max`.
    accuracy: top-1, for all resolutions or by resolution; resolutions: for a variable input size.
    """

    values: str | None = None
    mean: Triple | None = None
    std: Triple | None = None
    pixel_max: float | None = None
    channels: str | None = None
    layout: str | None = None
    resize: str | None = None
    crop_fraction: float | None = None
    interpolation: str | None = None
    resolutions: tuple[int, ...] | None = None
    accuracy: float | Mapping[int, float] | None = None
    accuracy_source: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (
            ('values', tuple(RANGES)),
            ('channels', CHANNELS),
            ('layout', LAYOUTS),
            ('resize', RESIZES),
            ('interpolation', INTERPOLATIONS),
            ('accuracy_source', ACCURACY_SOURCES),
        ):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise FamilyError(f'{name} is {value!r}; give one of {", ".join(choices)}')
        for resolution in self.resolutions or ():
            if not SMALLEST_RESOLUTION <= resolution <= MAX_RESOLUTION:
                raise FamilyError(
                    f'the resolution {resolution} px is not valid: give {SMALLEST_RESOLUTION} to '
                    f'{MAX_RESOLUTION}'
                )
        if self.crop_fraction is not None and not 0.0 < self.crop_fraction <= 1.0:
            raise FamilyError(f'crop_fraction is {self.crop_fraction:g}; it must be in (0, 1]')
        if self.std is not None and not min(self.std) > 0.0:
            raise FamilyError(f'std is {self.std}; every value must be above 0')
        stated = self.accuracy
        for value in stated.values() if isinstance(stated, Mapping) else [stated]:
            if value is not None and not 0.0 < value <= 1.0:
                raise FamilyError(f'the accuracy is {value:g}; it must be a fraction in (0, 1]')

    def over(self, other: NetworkSettings) -> NetworkSettings:
        """Return these settings; those that are not given are taken from `other`."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.values or self.mean or self.std:  # alternatives for the same setting
            other = replace(other, values=None, mean=None, std=None, pixel_max=None)
        return replace(other, **{k: v for k, v in said.items() if v is not None})


@dataclass(frozen=True)
class NetworkFile:
    """An ONNX file with its settings."""

    path: Path
    settings: NetworkSettings


def read_list(path: Path) -> list[NetworkFile]:
    """Read a YAML list of networks; files are relative to it. Raise FamilyError if it is invalid.

    `networks:` contains a mapping per network, with `file` and fields of NetworkSettings.
    """
    reader = Reader(path, parse_yaml(path, read_bytes(path)))
    files = []
    for position, item in enumerate(reader.sequence('networks')):
        entry = Reader(path, item, f'networks[{position}].')
        file = path.parent / entry.text('file')
        known = ['file', *(f.name for f in fields(NetworkSettings))]
        unknown = sorted(str(key) for key in set(item) - set(known))
        if unknown:
            raise FamilyError(
                f'{path}: {entry.prefix}{unknown[0]} is unknown; the keys are {", ".join(known)}'
            )
        try:
            files.append(NetworkFile(file, _settings(entry)))
        except FamilyError as error:
            where = str(error)
            raise FamilyError(where if str(path) in where else f'{path}: {where}') from None
    return files


def _settings(entry: Reader) -> NetworkSettings:
    values: dict[str, Any] = {}
    for name in ('values', 'channels', 'layout', 'resize', 'interpolation', 'accuracy_source'):
        if entry.has(name):
            values[name] = entry.text(name)
    for name in ('mean', 'std'):
        if entry.has(name):
            values[name] = entry.triple(name)
    for name in ('pixel_max', 'crop_fraction'):
        if entry.has(name):
            values[name] = entry.number(name, above=0.0)
    if entry.has('resolutions'):
        items = {str(i): size for i, size in enumerate(entry.sequence('resolutions'))}
        sizes = Reader(entry.path, items, f'{entry.prefix}resolutions.')
        values['resolutions'] = tuple(sorted({sizes.integer(key) for key in items}))
    if entry.has('accuracy'):
        stated = entry.value('accuracy')
        if isinstance(stated, dict):
            section = Reader(entry.path, stated, f'{entry.prefix}accuracy.')
            values['accuracy'] = {_size(key): section.number(key) for key in stated}
        else:
            values['accuracy'] = entry.number('accuracy')
    return NetworkSettings(**values)


def _size(key: Any) -> int:
    if isinstance(key, bool) or not isinstance(key, int):
        raise FamilyError(f'accuracy is given for {key!r}; give it by resolution in pixels')
    return key


def open_candidates(files: Sequence[NetworkFile]) -> list[Candidate]:
    """Read the files; return a candidate for every network and resolution, smallest first.

    Raise FamilyError if a file is not a classifier, or if a setting is missing.
    """
    names: dict[str, Path] = {}
    candidates = []
    for file in files:
        name = filesystem_safe(file.path.stem)
        if name in names:
            raise FamilyError(
                f'{names[name]} and {file.path} would have the same name {name}; rename one'
            )
        names[name] = file.path
        sizes = file.settings.resolutions
        network = read_classifier(
            file.path,
            layout=file.settings.layout,
            side=min(sizes) if sizes else DEFAULT_SIDE_PX,
        )
        preprocessing = _preprocessing(network, file.settings)
        logger.info('%s', _description(network, preprocessing))
        for resolution in _resolutions(network, sizes):
            candidates.append(
                Candidate(
                    name=f'{name}_r{resolution}',
                    network=network,
                    file=f'{name}.onnx',
                    resolution=resolution,
                    preprocessing=preprocessing,
                    accuracy=_accuracy(file.settings, network.name, resolution),
                )
            )
    return candidates


def _description(network: ImportedNetwork, preprocessing: Preprocessing) -> str:
    """Describe how a file was interpreted, for the user to check."""
    size = 'of any size' if network.resolution is None else f'{network.resolution} px'
    values = (f'{v:g}' for v in (*preprocessing.mean, *preprocessing.std))
    resize = preprocessing.resize
    if resize == 'crop':
        resize = f'crop {preprocessing.crop_fraction:g}'
    said = (
        f'{network.name}: {network.classes} classes, input {size} {preprocessing.channels}, '
        'mean {} {} {}, std {} {} {}, '.format(*values)
        + f'{resize}, {preprocessing.interpolation}'
    )
    return '; '.join((said, *network.notes))


def common_labels(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the labels in the files; empty if there are none."""
    found = {c.network.labels: c.network.name for c in candidates if c.network.labels}
    if len(found) > 1:
        one, other, *_ = found.values()
        raise FamilyError(f'{one} and {other} have different class names: give --labels')
    return next(iter(found), ())


def _resolutions(network: ImportedNetwork, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    if network.resolution is None:
        if not asked:
            raise FamilyError(
                f'the input size of {network.name} is variable: give --resolutions, for instance '
                '--resolutions 128,160,224'
            )
        return asked
    if asked and asked != (network.resolution,):
        raise FamilyError(
            f'the input size of {network.name} is fixed at {network.resolution} px: omit '
            '--resolutions, or export it with variable height and width'
        )
    return (network.resolution,)


def _preprocessing(network: ImportedNetwork, settings: NetworkSettings) -> Preprocessing:
    said: dict[str, Any] = {'interpolation': USUAL_INTERPOLATION, **network.preprocessing}
    if settings.values:
        said['mean'], said['std'] = RANGES[settings.values]
    scale = settings.pixel_max or 1.0
    for name in ('mean', 'std'):
        value = getattr(settings, name)
        if value is not None:
            said[name] = tuple(v / scale for v in value)
    for name in ('crop_fraction', 'interpolation', 'resize', 'channels'):
        value = getattr(settings, name)
        if value is not None:
            said[name] = value
    if 'mean' not in said or 'std' not in said:
        raise FamilyError(
            f'the range of the input values of {network.name} is unknown: give --values '
            f'({", ".join(RANGES)}), or --mean and --std of its training'
        )
    said['mean'], said['std'] = tuple(said['mean']), tuple(said['std'])
    return Preprocessing(**said)


def _accuracy(settings: NetworkSettings, name: str, resolution: int) -> KnownAccuracy | None:
    stated = settings.accuracy
    if isinstance(stated, Mapping):
        if resolution not in stated:
            raise FamilyError(
                f'the accuracy of {name} is given for {", ".join(map(str, stated))} px, but not '
                f'for {resolution}'
            )
        stated = stated[resolution]
    return None if stated is None else KnownAccuracy(stated, settings.accuracy_source or 'stated')
