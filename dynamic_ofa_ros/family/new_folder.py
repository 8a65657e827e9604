"""A check of the folder that a command will create."""

from __future__ import annotations

import os
from pathlib import Path

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family.family import FAMILY_FILE
from dynamic_ofa_ros.files import printable


def check_new_folder(folder: Path) -> None:
    """Raise FamilyError if `folder` exists, or would be part of a family."""
    if os.path.lexists(folder):
        raise FamilyError(
            f'{printable(folder)} exists already; choose another folder, or remove it first'
        )
    check_outside_families(folder)


def check_outside_families(folder: Path) -> None:
    """Raise FamilyError if `folder` is in the folder of a family."""
    for parent in folder.resolve().parents:
        if (parent / FAMILY_FILE).is_file():
            raise FamilyError(
                f'{printable(folder)} would be part of the family {printable(parent)}; choose a '
                'folder elsewhere'
            )
