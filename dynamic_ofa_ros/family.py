"""The family: the look-up table of levels, its files, and how they are read and verified.

A family is a directory and the only thing that crosses from the offline half to the robot:
`family.yaml`, `backbone.safetensors`, `batch_norm.safetensors`, `labels.txt` and
`platforms/<platform>.yaml`. Nothing in it can execute code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.architecture import SubnetArchitecture
from dynamic_ofa_ros.errors import ArchitectureError, FamilyError
from dynamic_ofa_ros.family_document import (
    VERSION,
    Reader,
    dump_yaml,
    parse_yaml,
    read_bytes,
)
from dynamic_ofa_ros.files import share_directory, write_text_atomically
from dynamic_ofa_ros.spaces import SPACES, search_space

FORMAT = 'dynamic_ofa_family'
PROFILE_FORMAT = 'dynamic_ofa_profile'
DEFAULT_FAMILY = 'signs'

BACKBONE_FILE = 'backbone.safetensors'
BATCH_NORM_FILE = 'batch_norm.safetensors'
LABELS_FILE = 'labels.txt'
FAMILY_FILE = 'family.yaml'
PLATFORMS_FOLDER = 'platforms'

INTERPOLATIONS = ('area', 'bilinear')


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the network's input.

    The shorter side is resized to round(resolution / crop_fraction), the centre is cropped to
    resolution x resolution, values are scaled to [0, 1], then `(x - mean) / std` per channel.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    crop_fraction: float = 0.875
    interpolation: str = 'bilinear'


@dataclass(frozen=True)
class BackboneSpec:
    """Which supernet the levels share their weights with; `kind` is one of `spaces.SPACES`."""

    name: str
    kind: str
    width_mult: float
    classes: int


@dataclass(frozen=True)
class Level:
    """A sub-network chosen for the family; `index` 1 is the fastest and least accurate."""

    index: int
    name: str
    architecture: SubnetArchitecture
    accuracy: float
    macs: int
    parameters: int

    @property
    def resolution(self) -> int:
        """Return the input height and width in pixels."""
        return self.architecture.r


@dataclass(frozen=True)
class LevelLatency:
    """Uncontended latency of one level on one platform, batch 1."""

    median_ms: float
    mean_ms: float
    sd_ms: float
    p95_ms: float
    p99_ms: float
    runs: int


@dataclass(frozen=True)
class LatencyProfile:
    """Latency of every level on a platform: device, engine, precision and threads."""

    platform: str
    levels: tuple[LevelLatency, ...]
    measured_at: str
    conditions: Mapping[str, str] = field(default_factory=dict)

    def latency_ms(self, index: int) -> float:
        """Return the median latency of level `index` (from 1)."""
        return self.levels[index - 1].median_ms


@dataclass(frozen=True)
class Family:
    """A verified family directory; `checksum` (hex SHA-256 of family.yaml) identifies it."""

    directory: Path
    name: str
    backbone: BackboneSpec
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    levels: tuple[Level, ...]
    platforms: Mapping[str, LatencyProfile]
    checksum: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights_path(self) -> Path:
        """Return the file of the one set of weights that all levels share."""
        return self.directory / BACKBONE_FILE

    @property
    def batch_norm_path(self) -> Path:
        """Return the file of every level's batch-norm statistics."""
        return self.directory / BATCH_NORM_FILE

    def level(self, index: int) -> Level:
        """Return level `index`, counted from 1; raise FamilyError outside the family."""
        if not 1 <= index <= len(self.levels):
            raise FamilyError(
                f'family {self.name} has levels 1 to {len(self.levels)}, not {index}'
            )
        return self.levels[index - 1]

    @classmethod
    def load(cls, path_or_name: str | Path) -> Family:
        """Read and verify a family; raise FamilyError: which file, what was found, expected."""
        directory = resolve_family(path_or_name)
        path = directory / FAMILY_FILE
        text = read_bytes(path)
        reader = Reader(path, parse_yaml(path, text))
        reader.check_format(FORMAT)
        for name, expected in reader.mapping('files').items():
            _verify_checksum(directory, str(name), str(expected))
        for name in (BACKBONE_FILE, BATCH_NORM_FILE, LABELS_FILE):
            if name not in reader.mapping('files'):
                raise FamilyError(f'{path}: files lists no checksum for {name}')
        labels = tuple(read_bytes(directory / LABELS_FILE).decode('utf-8').splitlines())
        backbone = _read_backbone(reader)
        if len(labels) != backbone.classes:
            raise FamilyError(
                f'{directory / LABELS_FILE} has {len(labels)} labels; '
                f'the backbone has {backbone.classes} classes'
            )
        levels = _read_levels(reader, backbone.kind)
        return cls(
            directory=directory,
            name=reader.text('name'),
            backbone=backbone,
            labels=labels,
            preprocessing=_read_preprocessing(reader),
            levels=levels,
            platforms=_read_platforms(directory / PLATFORMS_FOLDER, len(levels)),
            checksum=hashlib.sha256(text).hexdigest(),
            provenance=reader.optional_mapping('provenance'),
        )


def default_family() -> str:
    """Return the name of the family that the package ships."""
    return DEFAULT_FAMILY


def families_directory() -> Path:
    """Return the folder of the families shipped with the package."""
    return share_directory() / 'resource' / 'families'


def resolve_family(path_or_name: str | Path) -> Path:
    """Return the directory of a family given as a path or as the name of a shipped one."""
    text = str(path_or_name).strip()
    if not text:
        raise FamilyError('no family was named; give a directory or the name of a shipped family')
    path = Path(text).expanduser()
    if path.is_dir():
        return path.resolve()
    shipped = families_directory() / text
    if '/' not in text and shipped.is_dir():
        return shipped.resolve()
    if path.is_file():
        raise FamilyError(f'{path} is a file; a family is a directory that holds {FAMILY_FILE}')
    names = sorted(entry.name for entry in families_directory().glob('*') if entry.is_dir())
    raise FamilyError(
        f'there is no family at {text}: no such directory, and the shipped families are '
        f'{", ".join(names) or "none"}'
    )


def write_family(
    directory: Path,
    *,
    name: str,
    backbone: BackboneSpec,
    preprocessing: Preprocessing,
    levels: Sequence[Level],
    labels: Sequence[str],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write labels.txt and, last, family.yaml over weights that already lie in `directory`.

    `backbone.safetensors` and `batch_norm.safetensors` must be there; family.yaml, which names
    their checksums, appears only when everything else is complete.
    """
    for label in labels:
        if not label.strip() or '\n' in label:
            raise FamilyError(f'a label must be one line of text, not {label!r}')
    write_text_atomically(directory / LABELS_FILE, ''.join(f'{label}\n' for label in labels))
    document = {
        'format': FORMAT,
        'version': VERSION,
        'name': name,
        'backbone': {
            'name': backbone.name,
            'kind': backbone.kind,
            'width_mult': backbone.width_mult,
            'classes': backbone.classes,
        },
        'preprocessing': {
            'mean': list(preprocessing.mean),
            'std': list(preprocessing.std),
            'crop_fraction': preprocessing.crop_fraction,
            'interpolation': preprocessing.interpolation,
        },
        'levels': [
            {
                'index': level.index,
                'name': level.name,
                'accuracy': round(level.accuracy, 5),
                'macs': level.macs,
                'parameters': level.parameters,
                'architecture': level.architecture.to_mapping(),
            }
            for level in levels
        ],
        'provenance': dict(provenance or {}),
        'files': {
            file: sha256_of(directory / file)
            for file in (BACKBONE_FILE, BATCH_NORM_FILE, LABELS_FILE)
        },
    }
    write_text_atomically(directory / FAMILY_FILE, dump_yaml(document))


def write_profile(profile: LatencyProfile, path: Path) -> None:
    """Write a latency profile as YAML, atomically."""
    document = {
        'format': PROFILE_FORMAT,
        'version': VERSION,
        'platform': profile.platform,
        'measured_at': profile.measured_at,
        'conditions': dict(profile.conditions),
        'levels': [
            {
                'median_ms': round(level.median_ms, 5),
                'mean_ms': round(level.mean_ms, 5),
                'sd_ms': round(level.sd_ms, 5),
                'p95_ms': round(level.p95_ms, 5),
                'p99_ms': round(level.p99_ms, 5),
                'runs': level.runs,
            }
            for level in profile.levels
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, dump_yaml(document))


def read_profile(path: Path) -> LatencyProfile:
    """Read a latency profile; raise FamilyError when it is missing or damaged."""
    reader = Reader(path, parse_yaml(path, read_bytes(path)))
    reader.check_format(PROFILE_FORMAT)
    levels = []
    for position, item in enumerate(reader.sequence('levels')):
        entry = Reader(path, item, f'levels[{position}].')
        levels.append(
            LevelLatency(
                median_ms=entry.number('median_ms', above=0.0),
                mean_ms=entry.number('mean_ms', above=0.0),
                sd_ms=entry.number('sd_ms'),
                p95_ms=entry.number('p95_ms', above=0.0),
                p99_ms=entry.number('p99_ms', above=0.0),
                runs=entry.integer('runs'),
            )
        )
    return LatencyProfile(
        platform=reader.text('platform'),
        levels=tuple(levels),
        measured_at=reader.text('measured_at'),
        conditions={str(k): str(v) for k, v in reader.optional_mapping('conditions').items()},
    )


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def _read_backbone(reader: Reader) -> BackboneSpec:
    section = reader.section('backbone')
    kind = section.text('kind')
    if kind not in SPACES:
        raise FamilyError(
            f'{reader.path}: backbone.kind is {kind!r}; this release knows {", ".join(SPACES)}'
        )
    return BackboneSpec(
        name=section.text('name'),
        kind=kind,
        width_mult=section.number('width_mult', above=0.0),
        classes=section.integer('classes'),
    )


def _read_preprocessing(reader: Reader) -> Preprocessing:
    section = reader.section('preprocessing')
    interpolation = section.text('interpolation')
    crop_fraction = section.number('crop_fraction', above=0.0)
    std = section.triple('std')
    if interpolation not in INTERPOLATIONS or crop_fraction > 1.0 or min(std) <= 0.0:
        raise FamilyError(
            f'{reader.path}: preprocessing needs interpolation in {INTERPOLATIONS}, crop_fraction '
            f'in (0, 1] and a positive std; found {interpolation!r}, {crop_fraction:g}, {std}'
        )
    return Preprocessing(section.triple('mean'), std, crop_fraction, interpolation)


def _read_levels(reader: Reader, kind: str) -> tuple[Level, ...]:
    levels = []
    for position, item in enumerate(reader.sequence('levels'), start=1):
        entry = Reader(reader.path, item, f'levels[{position - 1}].')
        if entry.integer('index') != position:
            raise FamilyError(
                f'{reader.path}: levels[{position - 1}].index is {entry.integer("index")}; levels '
                f'are numbered from 1, the fastest, without gaps: expected {position}'
            )
        try:
            architecture = SubnetArchitecture.from_mapping(entry.mapping('architecture'))
            search_space(kind, (architecture.r,)).validate(architecture)
        except ArchitectureError as error:
            raise FamilyError(
                f'{reader.path}: levels[{position - 1}].architecture: {error}'
            ) from None
        accuracy = entry.number('accuracy', above=0.0)
        if accuracy > 1.0:
            raise FamilyError(
                f'{reader.path}: levels[{position - 1}].accuracy is {accuracy:g}; accuracies are '
                'fractions in (0, 1]'
            )
        levels.append(
            Level(
                index=position,
                name=entry.text('name'),
                architecture=architecture,
                accuracy=accuracy,
                macs=entry.integer('macs'),
                parameters=entry.integer('parameters'),
            )
        )
    return tuple(levels)


def _read_platforms(folder: Path, level_count: int) -> dict[str, LatencyProfile]:
    profiles = {}
    for path in sorted(folder.glob('*.yaml')):
        profile = read_profile(path)
        if len(profile.levels) != level_count:
            raise FamilyError(
                f'{path} has latencies of {len(profile.levels)} levels; the family has '
                f'{level_count}. Delete the file (the platform is measured again) '
                'or restore its family.'
            )
        profiles[profile.platform] = profile
    return profiles


def _verify_checksum(directory: Path, name: str, expected: str) -> None:
    path = directory / name
    if path.name != name:
        raise FamilyError(f'{directory / FAMILY_FILE}: files names {name!r}, outside the family')
    if not path.is_file():
        raise FamilyError(f'{path} is missing; the family is incomplete: copy or build it again')
    found = sha256_of(path)
    if found != expected:
        raise FamilyError(
            f'{path} is damaged or was replaced: its SHA-256 is {found[:16]}..., family.yaml '
            f'expects {expected[:16]}...; copy or build the family again'
        )
