"""The ONNX files of the levels, which several engines use.

Sub-networks of a supernet are written to the build cache. Separate networks are used from the
family's directory after a safety check.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynamic_ofa_ros import requirements
from dynamic_ofa_ros.family.onnx_safety import check_network
from dynamic_ofa_ros.space.architecture import SubnetArchitecture

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic_ofa_ros.family import Family, Level
    from dynamic_ofa_ros.runtime.build_cache import BuildCache

EXPORT_VERSION = 'onnx-2'
"""To be changed with `_export`, so that older files are built again."""

CHECK_VERSION = 'check-1'
"""To be changed with `onnx_safety.check_network`, so that networks are checked again."""

FILES_VERSION = f'{EXPORT_VERSION} {CHECK_VERSION}'
"""Version for anything that is built from the files."""


def level_files(
    family: Family, cache: BuildCache, progress: Callable[[str], None] | None
) -> list[Path]:
    """Return the ONNX file of every level."""
    if family.is_supernet:

        def export(folder: Path) -> None:
            _export(family, folder, progress)

        folder = cache.folder('onnx', EXPORT_VERSION, export)
        return [folder / _file_name(level.index) for level in family.levels]

    def check(folder: Path) -> None:
        _check_networks(family, folder, progress)

    # The name of the cache folder contains the family's checksum, so the files are the same.
    cache.folder('checked', CHECK_VERSION, check)
    return [network_path(family, level) for level in family.levels]


def network_path(family: Family, level: Level) -> Path:
    """Return the file of a level that is a separate network."""
    assert not isinstance(level.network, SubnetArchitecture)
    return family.network_path(level.network)


def _check_networks(family: Family, folder: Path, progress: Callable[[str], None] | None) -> None:
    """Check that all networks are safe (raise FamilyError if not), and write a list of them."""
    largest_px: dict[Path, int] = {}
    for level in family.levels:
        path = network_path(family, level)
        largest_px[path] = max(level.resolution, largest_px.get(path, 0))
    for path, side in largest_px.items():
        if progress:
            progress(f'ONNX: checking {path.name}')
        check_network(path.read_bytes(), str(path), side=side)
    names = ''.join(f'{path.name}\n' for path in largest_px)
    (folder / 'networks.txt').write_text(names, encoding='utf-8')


def _file_name(index: int) -> str:
    return f'level_{index:02d}.onnx'


def _export(family: Family, folder: Path, progress: Callable[[str], None] | None) -> None:
    """Write every level as an ONNX file to `folder`."""
    reason = f'the engines of family {family.name} are not built yet'
    requirements.check('onnx', 'safetensors', reason=reason)
    from dynamic_ofa_ros.supernet.onnx_levels import LevelWriter

    if progress:
        progress(f'ONNX: writing {len(family.levels)} levels')
    writer = LevelWriter(family)
    for level in family.levels:
        network = writer.network(level).SerializeToString()
        (folder / _file_name(level.index)).write_bytes(network)
