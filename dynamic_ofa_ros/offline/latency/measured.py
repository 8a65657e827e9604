"""Latencies that were measured on another machine, in a file for a build.

`dynamic-ofa measure FAMILY --output FILE` writes it on the robot, and `dynamic-ofa build
--measured FILE` reads it on the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dynamic_ofa_ros.errors import ArchitectureError, FamilyError, LatencyTableError
from dynamic_ofa_ros.family import BackboneSpec, Family, LatencyProfile, read_profile
from dynamic_ofa_ros.family.document import Reader, dump_yaml, parse_yaml, read_bytes
from dynamic_ofa_ros.files import write_text_atomically
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture

KEY = 'architectures'


@dataclass(frozen=True)
class MeasuredNetworks:
    """Sub-networks of a backbone, and their latencies on a platform."""

    path: Path
    backbone: Mapping[str, object]
    architectures: tuple[SubnetArchitecture, ...]
    latencies: LatencyProfile

    def check_fits(self, backbone: BackboneSpec, space: SearchSpace) -> None:
        """Raise LatencyTableError unless the sub-networks belong to this backbone and space."""
        if self.backbone != asdict(backbone):
            raise LatencyTableError(
                f'{self.path} is for the backbone {self.backbone.get("name")}, not for '
                f'{backbone.name}: give the backbone of the measured candidates'
            )
        for architecture in self.architectures:
            try:
                space.validate(architecture)
            except ArchitectureError as error:
                raise LatencyTableError(
                    f'{self.path}: {error}; give the --resolutions of the candidates'
                ) from None

    def of(self, architectures: Sequence[SubnetArchitecture]) -> LatencyProfile:
        """Return the latencies of these sub-networks; raise LatencyTableError if any is absent."""
        known = dict(zip(self.architectures, self.latencies.levels, strict=True))
        missing = [a for a in architectures if a not in known]
        if missing:
            raise LatencyTableError(
                f'{self.path} lacks {len(missing)} of {len(architectures)} sub-networks: measure '
                'these on the robot too'
            )
        levels = tuple(known[a] for a in architectures)
        return replace(self.latencies, levels=levels, accuracies=())


def write_measured(family: Family, profile_file: Path, path: Path) -> None:
    """Write the profile of a family with its architectures, so that it is complete by itself."""
    document = parse_yaml(profile_file, read_bytes(profile_file))
    document['backbone'] = asdict(family.backbone)
    document[KEY] = [level.architecture.to_mapping() for level in family.levels]
    write_text_atomically(path, dump_yaml(document))


def read_measured(file: str | Path) -> MeasuredNetworks:
    """Read a file of `write_measured`; raise LatencyTableError if it is damaged."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise LatencyTableError(
            f'{path} is not a file; give one written by dynamic-ofa measure FAMILY --output FILE'
        )
    try:
        profile = read_profile(path)
        reader = Reader(path, parse_yaml(path, read_bytes(path)))
        if not reader.has(KEY):
            raise LatencyTableError(
                f'{path} lacks the architectures: write it with dynamic-ofa measure FAMILY '
                '--output FILE'
            )
        architectures = tuple(map(SubnetArchitecture.from_mapping, reader.sequence(KEY)))
        backbone = reader.mapping('backbone')
    except FamilyError as error:
        raise LatencyTableError(str(error)) from None
    except ArchitectureError as error:
        raise LatencyTableError(f'{path}: {error}') from None
    if len(architectures) != len(profile.levels):
        raise LatencyTableError(
            f'{path} has {len(architectures)} architectures and {len(profile.levels)} latencies'
        )
    if len(set(architectures)) < len(architectures):
        raise LatencyTableError(f'{path} contains a sub-network more than once; measure it again')
    return MeasuredNetworks(path, backbone, architectures, profile)
