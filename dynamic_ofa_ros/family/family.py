"""The family: the look-up table of levels, its files, and how they are read and verified.

A family is a directory that is built offline and copied to the robot. It holds `family.yaml`,
`labels.txt`, `platforms/<platform>.yaml` and the weights. The levels are either sub-networks of
one supernet (`backbone.safetensors` and `batch_norm.safetensors`) or separate networks for the
same task (`networks/<name>.onnx`). No file of a family can execute code.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.errors import ArchitectureError, FamilyError
from dynamic_ofa_ros.family.document import (
    VERSION,
    Reader,
    dump_yaml,
    parse_yaml,
    read_bytes,
)
from dynamic_ofa_ros.files import data_directory, share_directory, write_text_atomically
from dynamic_ofa_ros.space.architecture import SubnetArchitecture
from dynamic_ofa_ros.space.spaces import SPACES, search_space

FORMAT = 'dynamic_ofa_family'
PROFILE_FORMAT = 'dynamic_ofa_profile'
DEFAULT_FAMILY = 'signs'
IMAGENET_FAMILY = 'imagenet'

BACKBONE_FILE = 'backbone.safetensors'
BATCH_NORM_FILE = 'batch_norm.safetensors'
REFERENCE_FILE = 'reference.safetensors'
LABELS_FILE = 'labels.txt'
FAMILY_FILE = 'family.yaml'
PLATFORMS_FOLDER = 'platforms'
NETWORKS_FOLDER = 'networks'

NETWORK_INPUT, NETWORK_OUTPUT, FREE_SIDE = 'input', 'logits', 'side'
"""Names in ONNX networks: of the input, the output, and a height and width of variable size."""

INTERPOLATIONS = ('area', 'bilinear')
RESIZES = ('crop', 'stretch', 'pad')
CHANNELS = ('rgb', 'bgr')
NETWORK_PRECISIONS = ('fp32', 'int8')
ACCURACY_SOURCES = ('measured', 'published', 'stated', 'estimated')
"""Where an accuracy comes from: measured on held-out images, published by the network's authors,
stated by the user, or estimated from the other accuracies."""

# Limits: a damaged or malicious family must not exhaust the robot's memory.
MAX_LEVELS = 64
MAX_RESOLUTION = 2048
MAX_LABELS = 100_000
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Preprocessing:
    """How an image is converted to the network's input.

    resize: 'crop' resizes the shorter side to round(resolution / crop_fraction) and crops
    resolution x resolution pixels from the centre; 'stretch' resizes the whole image to
    resolution x resolution; 'pad' resizes the longer side to the resolution and pads with black.
    mean, std: values are scaled to [0, 1] and normalised as `(x - mean) / std`, in the channel
    order `channels` ('rgb' or 'bgr').
    interpolation: used to shrink an image; if it is 'area', images are enlarged bilinearly.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    crop_fraction: float = 0.875
    interpolation: str = 'bilinear'
    resize: str = 'crop'
    channels: str = 'rgb'


@dataclass(frozen=True)
class BackboneSpec:
    """The supernet that holds the weights of all levels; `kind` is a key of `spaces.SPACES`."""

    name: str
    kind: str
    width_mult: float
    classes: int


@dataclass(frozen=True)
class NetworksSpec:
    """Separate networks for one task, instead of a supernet; `name` describes them."""

    name: str
    classes: int


@dataclass(frozen=True)
class OnnxNetwork:
    """An ONNX file in `networks/`, run at one input size.

    Its input is NETWORK_INPUT, float32 (1, 3, side, side), its output NETWORK_OUTPUT, float32
    (1, classes). If the side is variable in the file (FREE_SIDE), several levels can use the file.
    precision: `int8` if the file contains quantised operators.
    """

    file: str
    resolution: int
    precision: str = 'fp32'


@dataclass(frozen=True)
class Level:
    """A network chosen for the family; `index` 1 is the fastest and least accurate.

    accuracy: top-1, a fraction. accuracy_source: one of ACCURACY_SOURCES.
    own_preprocessing: set if it differs from the family's preprocessing.
    """

    index: int
    name: str
    network: SubnetArchitecture | OnnxNetwork
    accuracy: float
    macs: int
    parameters: int
    accuracy_source: str = 'measured'
    own_preprocessing: Preprocessing | None = None

    @property
    def resolution(self) -> int:
        """Return the input height and width in pixels."""
        if isinstance(self.network, OnnxNetwork):
            return self.network.resolution
        return self.network.r

    @property
    def architecture(self) -> SubnetArchitecture:
        """Return the sub-network's architecture; raise FamilyError for a separate network."""
        if isinstance(self.network, OnnxNetwork):
            raise FamilyError(
                f'level {self.name} is a separate network, not a sub-network of a supernet'
            )
        return self.network


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
    """Latency of every level on a platform: device, engine, precision and threads.

    accuracies: top-1 of every level in the platform's precision; if empty, the family's own
    accuracies (fp32) apply.
    """

    platform: str
    levels: tuple[LevelLatency, ...]
    measured_at: str
    conditions: Mapping[str, str] = field(default_factory=dict)
    accuracies: tuple[float, ...] = ()

    def latency_ms(self, index: int) -> float:
        """Return the median latency of level `index` (1-based)."""
        return self.levels[index - 1].median_ms

    @property
    def load_of_others(self) -> float:
        """Return the fraction of the device that other programs used; NaN if it is unknown."""
        try:
            return float(self.conditions.get('load_of_others', 'nan'))
        except ValueError:
            return math.nan


@dataclass(frozen=True)
class Family:
    """A verified family directory; `checksum` (hex SHA-256 of family.yaml) identifies it."""

    directory: Path
    name: str
    source: BackboneSpec | NetworksSpec
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    levels: tuple[Level, ...]
    platforms: Mapping[str, LatencyProfile]
    checksum: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def backbone(self) -> BackboneSpec:
        """Return the supernet of the levels; raise FamilyError if the family has none."""
        if isinstance(self.source, NetworksSpec):
            raise FamilyError(
                f'family {self.name} has no supernet, which this requires: its levels are '
                'separate networks'
            )
        return self.source

    @property
    def is_supernet(self) -> bool:
        """Return whether the levels are sub-networks of one supernet."""
        return isinstance(self.source, BackboneSpec)

    @property
    def weights_path(self) -> Path:
        """Return the file of the supernet's weights, which all levels share."""
        return self.directory / BACKBONE_FILE

    @property
    def reference_path(self) -> Path:
        """Return the file of reference outputs for verifying engines; it may be missing."""
        return self.directory / REFERENCE_FILE

    @property
    def batch_norm_path(self) -> Path:
        """Return the file of the batch-norm statistics of all levels."""
        return self.directory / BATCH_NORM_FILE

    def level(self, index: int) -> Level:
        """Return level `index` (1-based); raise FamilyError if there is no such level."""
        if not 1 <= index <= len(self.levels):
            raise FamilyError(
                f'family {self.name} has levels 1 to {len(self.levels)}, not {index}'
            )
        return self.levels[index - 1]

    def in_precision(self, engine: str, precision: str) -> Family | None:
        """Return the family with the accuracies measured for an engine and a precision.

        Return the family unchanged for fp32, and None if no platform of the family has accuracies
        for this engine and precision.
        """
        if precision == 'fp32':
            return self
        for profile in self.platforms.values():
            how = (profile.conditions.get('engine'), profile.conditions.get('precision'))
            if profile.accuracies and how == (engine, precision):
                levels = [
                    replace(level, accuracy=accuracy, accuracy_source='measured')
                    for level, accuracy in zip(self.levels, profile.accuracies, strict=True)
                ]
                return replace(self, levels=tuple(levels))
        return None

    def preprocessing_of(self, index: int) -> Preprocessing:
        """Return the preprocessing of level `index` (1-based)."""
        return self.level(index).own_preprocessing or self.preprocessing

    def network_path(self, network: OnnxNetwork) -> Path:
        """Return the file of a separate network."""
        return self.directory / NETWORKS_FOLDER / network.file

    @classmethod
    def load(cls, path_or_name: str | Path) -> Family:
        """Read and verify a family; raise FamilyError if a file is missing or invalid."""
        directory = resolve_family(path_or_name)
        path = directory / FAMILY_FILE
        text = read_bytes(path)
        reader = Reader(path, parse_yaml(path, text))
        reader.check_format(FORMAT)
        source = _read_source(reader)
        levels = _read_levels(reader, source)
        listed = reader.mapping('files')
        for name in _files_of(levels):
            if name not in listed:
                raise FamilyError(f'{path}: files lists no checksum for {name}')
        for name, expected in listed.items():
            _verify_checksum(directory, str(name), str(expected))
        labels = _read_labels(directory / LABELS_FILE)
        if len(labels) != source.classes:
            raise FamilyError(
                f'{directory / LABELS_FILE} has {len(labels)} labels; '
                f'{source.name} has {source.classes} classes'
            )
        return cls(
            directory=directory,
            name=reader.text('name'),
            source=source,
            labels=labels,
            preprocessing=_read_preprocessing(reader.section('preprocessing')),
            levels=levels,
            platforms=_read_platforms(directory / PLATFORMS_FOLDER, len(levels)),
            checksum=hashlib.sha256(text).hexdigest(),
            provenance=reader.optional_mapping('provenance'),
        )


def default_family() -> str:
    """Return the name of the family shipped with the package."""
    return DEFAULT_FAMILY


def families_directory() -> Path:
    """Return the folder of the families shipped with the package."""
    return share_directory() / 'resource' / 'families'


def own_families_directory() -> Path:
    """Return the folder of the user's own families, which can be loaded by name."""
    return data_directory() / 'families'


def resolve_family(path_or_name: str | Path) -> Path:
    """Return the directory of a family, given as a path or as the name of a known family.

    Families are known by name if they are shipped, or are in the user's own folder. A directory
    that is not a family, such as a data set, does not hide a known family of the same name.
    """
    text = str(path_or_name).strip()
    if not text:
        raise FamilyError('no family is given; give a directory or the name of a family')
    path = Path(text).expanduser()
    places = (families_directory(), own_families_directory())
    known = [place / text for place in places] if '/' not in text else []
    for directory in (path, *known):
        if os.path.isfile(directory / FAMILY_FILE):  # false for invalid names
            return directory.resolve()
    if path.is_dir():  # `Family.load` reports the missing file
        return path.resolve()
    if path.is_file():
        raise FamilyError(f'{path} is a file; a family is a directory that holds {FAMILY_FILE}')
    if text == IMAGENET_FAMILY:
        raise FamilyError(
            f'the family {text} has not been built yet: run `make imagenet`, or install the extra '
            'imagenet and run `dynamic-ofa family imagenet`'
        )
    names = sorted(
        {entry.parent.name for place in places for entry in place.glob(f'*/{FAMILY_FILE}')}
    )
    raise FamilyError(
        f'there is no family at {text}: it is neither a directory nor one of the known families '
        f'({", ".join(names) or "none"})'
    )


def write_family(
    directory: Path,
    *,
    name: str,
    source: BackboneSpec | NetworksSpec,
    preprocessing: Preprocessing,
    levels: Sequence[Level],
    labels: Sequence[str],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write labels.txt and then family.yaml into `directory`, which must hold the weights.

    family.yaml contains the checksums of all other files, so it is written last.
    """
    for label in labels:
        if not label.strip() or len(label.splitlines()) != 1:
            raise FamilyError(f'the label {label!r} is not one line of text')
    write_text_atomically(directory / LABELS_FILE, ''.join(f'{label}\n' for label in labels))
    document = {
        'format': FORMAT,
        'version': VERSION,
        'name': name,
        ('backbone' if isinstance(source, BackboneSpec) else 'networks'): asdict(source),
        'preprocessing': _preprocessing_document(preprocessing),
        'levels': [_level_document(level) for level in levels],
        'provenance': dict(provenance or {}),
        'files': {
            file: sha256_of(directory / file)
            for file in (*_files_of(levels), REFERENCE_FILE)
            if file != REFERENCE_FILE or (directory / file).is_file()
        },
    }
    write_text_atomically(directory / FAMILY_FILE, dump_yaml(document))


def _preprocessing_document(preprocessing: Preprocessing) -> dict[str, Any]:
    values = asdict(preprocessing)
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }


def _level_document(level: Level) -> dict[str, Any]:
    document: dict[str, Any] = {
        'index': level.index,
        'name': level.name,
        'accuracy': round(level.accuracy, 5),
        'accuracy_source': level.accuracy_source,
        'macs': level.macs,
        'parameters': level.parameters,
    }
    if isinstance(level.network, OnnxNetwork):
        document['network'] = asdict(level.network)
        if level.network.precision == NETWORK_PRECISIONS[0]:
            del document['network']['precision']
    else:
        document['architecture'] = level.network.to_mapping()
    if level.own_preprocessing is not None:
        document['preprocessing'] = _preprocessing_document(level.own_preprocessing)
    return document


def _files_of(levels: Sequence[Level]) -> list[str]:
    """Return the files that family.yaml must list, relative to the family's directory."""
    networks = [level.network for level in levels if isinstance(level.network, OnnxNetwork)]
    weights = [f'{NETWORKS_FOLDER}/{network.file}' for network in networks]
    return [*dict.fromkeys(weights or [BACKBONE_FILE, BATCH_NORM_FILE]), LABELS_FILE]


def write_profile(profile: LatencyProfile, path: Path) -> None:
    """Write a latency profile atomically as YAML."""
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
        **({'accuracies': list(profile.accuracies)} if profile.accuracies else {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, dump_yaml(document))


def read_profile(path: Path) -> LatencyProfile:
    """Read a latency profile; raise FamilyError if it is missing or damaged."""
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
    accuracies = _read_accuracies(reader, len(levels))
    return LatencyProfile(
        platform=reader.text('platform'),
        levels=tuple(levels),
        measured_at=reader.text('measured_at'),
        conditions={str(k): str(v) for k, v in reader.optional_mapping('conditions').items()},
        accuracies=accuracies,
    )


def _read_accuracies(reader: Reader, level_count: int) -> tuple[float, ...]:
    if not reader.has('accuracies'):
        return ()
    found = reader.sequence('accuracies')
    if len(found) != level_count or not all(
        isinstance(accuracy, (int, float)) and 0.0 <= accuracy <= 1.0 for accuracy in found
    ):
        raise FamilyError(
            f'{reader.path}: accuracies is {found!r}; expected {level_count} fractions in [0, 1]'
        )
    return tuple(float(accuracy) for accuracy in found)


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def _read_source(reader: Reader) -> BackboneSpec | NetworksSpec:
    if reader.has('networks'):
        section = reader.section('networks')
        return NetworksSpec(section.text('name'), section.integer('classes'))
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


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        labels = tuple(read_bytes(path).decode('utf-8').splitlines())
    except UnicodeDecodeError as error:
        raise FamilyError(f'{path} is not UTF-8 text: {error}') from None
    if len(labels) > MAX_LABELS:
        raise FamilyError(f'{path} has {len(labels)} labels; at most {MAX_LABELS} are allowed')
    return labels


def _read_preprocessing(section: Reader) -> Preprocessing:
    std = section.triple('std')
    crop_fraction = section.number('crop_fraction', above=0.0)
    if crop_fraction > 1.0 or min(std) <= 0.0:
        raise FamilyError(
            f'{section.path}: preprocessing needs a crop_fraction in (0, 1] and a positive std; '
            f'found {crop_fraction:g} and {std}'
        )
    return Preprocessing(
        section.triple('mean'),
        std,
        crop_fraction,
        section.choice('interpolation', INTERPOLATIONS),
        section.choice('resize', RESIZES) if section.has('resize') else 'crop',
        section.choice('channels', CHANNELS) if section.has('channels') else 'rgb',
    )


def _read_levels(reader: Reader, source: BackboneSpec | NetworksSpec) -> tuple[Level, ...]:
    items = reader.sequence('levels')
    if len(items) > MAX_LEVELS:
        raise FamilyError(
            f'{reader.path} has {len(items)} levels; at most {MAX_LEVELS} are allowed'
        )
    levels = []
    for position, item in enumerate(items, start=1):
        entry = Reader(reader.path, item, f'levels[{position - 1}].')
        if entry.integer('index') != position:
            raise FamilyError(
                f'{reader.path}: levels[{position - 1}].index is {entry.integer("index")}, '
                f'expected {position}; levels are numbered from 1 (the fastest) without gaps'
            )
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
                network=_read_network(entry, source),
                accuracy=accuracy,
                macs=entry.integer('macs'),
                parameters=entry.integer('parameters'),
                accuracy_source=entry.choice('accuracy_source', ACCURACY_SOURCES)
                if entry.has('accuracy_source')
                else 'measured',
                own_preprocessing=_read_preprocessing(entry.section('preprocessing'))
                if entry.has('preprocessing')
                else None,
            )
        )
    return tuple(levels)


def _read_network(
    entry: Reader, source: BackboneSpec | NetworksSpec
) -> SubnetArchitecture | OnnxNetwork:
    if isinstance(source, BackboneSpec):
        try:
            architecture = SubnetArchitecture.from_mapping(entry.mapping('architecture'))
            search_space(source.kind, (architecture.r,)).validate(architecture)
        except ArchitectureError as error:
            raise FamilyError(f'{entry.path}: {entry.prefix}architecture: {error}') from None
        return architecture
    section = entry.section('network')
    file, resolution = section.text('file'), section.integer('resolution')
    if Path(file).name != file or not file.endswith('.onnx'):
        raise FamilyError(
            f'{entry.path}: {section.prefix}file is {file!r}; expected the name of an .onnx file '
            f'in {NETWORKS_FOLDER}/'
        )
    if resolution > MAX_RESOLUTION:
        raise FamilyError(
            f'{entry.path}: {section.prefix}resolution is {resolution} px; at most '
            f'{MAX_RESOLUTION} px are allowed'
        )
    is_stated = 'precision' in entry.mapping('network')
    precision = section.choice('precision', NETWORK_PRECISIONS) if is_stated else 'fp32'
    return OnnxNetwork(file, resolution, precision)


def _read_platforms(folder: Path, level_count: int) -> dict[str, LatencyProfile]:
    profiles = {}
    for path in sorted(folder.glob('*.yaml')):
        profile = read_profile(path)
        if len(profile.levels) != level_count:
            raise FamilyError(
                f'{path} has latencies of {len(profile.levels)} levels; the family has '
                f'{level_count}. Delete the file, so that the platform is measured again, '
                'or restore the family that it belongs to.'
            )
        profiles[profile.platform] = profile
    return profiles


def _verify_checksum(directory: Path, name: str, expected: str) -> None:
    path = directory / name
    parts = name.split('/')
    is_network = len(parts) == 2 and parts[0] == NETWORKS_FOLDER
    if parts[-1] in ('', '.', '..') or not (len(parts) == 1 or is_network):
        raise FamilyError(f'{directory / FAMILY_FILE}: files names {name!r}, outside the family')
    if not path.is_file():
        raise FamilyError(f'{path} is missing; copy or build the family again')
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise FamilyError(
            f'{path} has {size >> 20} MiB; at most {MAX_FILE_BYTES >> 20} MiB are allowed'
        )
    found = sha256_of(path)
    if found != expected:
        raise FamilyError(
            f'{path} is damaged or was replaced: its SHA-256 is {found[:16]}..., but family.yaml '
            f'lists {expected[:16]}...; copy or build the family again'
        )
