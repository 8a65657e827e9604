"""Level files: lists of architectures, for instance published ones, to build a family from.

A level file is a YAML file with the backbone of the architectures and the levels, from the fastest
to the slowest, with accuracy and latency if their source states them. See config/levels/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynamic_ofa_ros.errors import (
    ArchitectureError,
    BackboneError,
    FamilyError,
    LevelFileError,
)
from dynamic_ofa_ros.family import BackboneSpec
from dynamic_ofa_ros.family.document import Reader, parse_yaml
from dynamic_ofa_ros.files import share_directory
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.spaces import search_space

FORMAT = 'dynamic_ofa_levels'
VERSION = 1


@dataclass(frozen=True)
class ListedLevel:
    """An architecture, with top-1 (a fraction) and latency if the source states them."""

    architecture: SubnetArchitecture
    accuracy: float | None
    latency_ms: float | None


@dataclass(frozen=True)
class LevelFile:
    """Architectures of one backbone, and their source."""

    path: Path
    name: str
    source: str
    platform: str
    backbone: BackboneSpec
    levels: tuple[ListedLevel, ...]

    @property
    def architectures(self) -> tuple[SubnetArchitecture, ...]:
        """Return the architectures, from the fastest to the slowest."""
        return tuple(level.architecture for level in self.levels)

    def check_fits(self, backbone: BackboneSpec, space: SearchSpace) -> None:
        """Raise LevelFileError unless every level is a sub-network of `backbone` in `space`.

        The number of classes may differ: a supernet trained on other data has the same
        architectures.
        """
        if (self.backbone.kind, self.backbone.width_mult) != (backbone.kind, backbone.width_mult):
            raise LevelFileError(
                f'{self.path} lists levels of {self.backbone.name} ({self.backbone.kind}, width '
                f'{self.backbone.width_mult:g}); {backbone.name} is {backbone.kind}, width '
                f'{backbone.width_mult:g}: give the backbone that the levels were chosen for'
            )
        for index, level in enumerate(self.levels, start=1):
            try:
                space.validate(level.architecture)
            except ArchitectureError as error:
                raise LevelFileError(
                    f'{self.path}: level {index} is not a sub-network of {backbone.name}: {error}'
                ) from None


def read_levels(path: str | Path) -> LevelFile:
    """Read a level file, given as a path or the name of a shipped file; raise LevelFileError."""
    path = resolve_level_file(path)
    try:
        reader = Reader(path, parse_yaml(path, path.read_bytes()))
        _check_format(reader)
        section = reader.section('backbone')
        backbone = BackboneSpec(
            name=section.text('name'),
            kind=section.text('kind'),
            width_mult=section.number('width_mult', above=0.0),
            classes=section.integer('classes'),
        )
        levels = tuple(
            _read_level(Reader(path, item, f'levels[{position}].'), position + 1, backbone)
            for position, item in enumerate(reader.sequence('levels'))
        )
        found = LevelFile(
            path=path,
            name=reader.text('name'),
            source=' '.join(reader.text('source').split()),
            platform=reader.text('platform'),
            backbone=backbone,
            levels=levels,
        )
    except LevelFileError:
        raise
    except (FamilyError, BackboneError) as error:
        raise LevelFileError(str(error)) from None
    except OSError as error:
        raise LevelFileError(f'{path} cannot be read: {error.strerror or error}') from None
    _check_distinct(found)
    return found


def resolve_level_file(path_or_name: str | Path) -> Path:
    """Return the path of a level file, given as a path or as the name of one in config/levels/."""
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    folder = share_directory() / 'config' / 'levels'
    shipped = folder / f'{path_or_name}.yaml'
    if shipped.is_file():
        return shipped
    names = ', '.join(sorted(entry.stem for entry in folder.glob('*.yaml'))) or 'none'
    if path.is_dir():
        raise LevelFileError(
            f'{path} is a folder; give a YAML file, or the name of a shipped one: {names}'
        )
    raise LevelFileError(f'there is no level file {path_or_name}; shipped ones are {names}')


def _check_format(reader: Reader) -> None:
    found, version = reader.text('format'), reader.integer('version')
    if (found, version) != (FORMAT, VERSION):
        raise LevelFileError(
            f'{reader.path}: format is {found!r}, version {version}; this release reads '
            f'{FORMAT!r}, version {VERSION}'
        )


def _read_level(reader: Reader, index: int, backbone: BackboneSpec) -> ListedLevel:
    where = f'{reader.path}: level {index}'
    try:
        architecture = SubnetArchitecture.from_mapping(reader.mapping('architecture'))
        # Any resolution is accepted here; `check_fits` checks it against the backbone's.
        space = search_space(backbone.kind, (architecture.r,))
        space.validate(architecture)
    except ArchitectureError as error:
        raise LevelFileError(f'{where}: {error}') from None
    accuracy = _optional(reader, 'accuracy')
    if accuracy is not None and accuracy > 1.0:
        raise LevelFileError(
            f'{where}: accuracy is {accuracy:g}; accuracies are fractions in (0, 1]'
        )
    cost = space.count_cost(architecture, backbone.width_mult, backbone.classes)
    for key, counted in (('macs', cost.macs), ('parameters', cost.parameters)):
        stated = _optional(reader, key)
        if stated is not None and stated != counted:
            raise LevelFileError(
                f'{where}: {key} is {stated:.0f}, but the architecture has {counted} in '
                f'{backbone.name}; correct one of them'
            )
    return ListedLevel(architecture, accuracy, _optional(reader, 'latency_ms'))


def _optional(reader: Reader, key: str) -> float | None:
    return reader.number(key, above=0.0) if reader.has(key) else None


def _check_distinct(found: LevelFile) -> None:
    """Raise LevelFileError if two levels are equal, or if latencies are not ascending."""
    first_at: dict[SubnetArchitecture, int] = {}
    previous_ms = 0.0
    for index, level in enumerate(found.levels, start=1):
        first = first_at.setdefault(level.architecture, index)
        if first != index:
            raise LevelFileError(f'{found.path}: levels {first} and {index} are equal')
        if level.latency_ms is not None:
            if level.latency_ms <= previous_ms:
                raise LevelFileError(
                    f'{found.path}: level {index} takes {level.latency_ms:g} ms, an earlier level '
                    f'{previous_ms:g} ms; list the levels from the fastest to the slowest'
                )
            previous_ms = level.latency_ms
