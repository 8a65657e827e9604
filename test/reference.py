"""Reference data for tests that compare with published numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def reference_file(name: str) -> Path:
    """Return the path of a reference file; skip the test if it is missing."""
    default = Path(__file__).resolve().parents[2] / 'shared' / 'reference'
    path = Path(os.environ.get('DYNAMIC_OFA_REFERENCE', default)) / name
    if not path.is_file():
        pytest.skip(f'reference data is absent: {name} (set DYNAMIC_OFA_REFERENCE to its folder)')
    return path
