"""A dataset of random pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from families import CLASSES

from dynamic_ofa_ros.errors import DatasetError

LABELS = tuple(f'class {i}' for i in range(CLASSES))


@dataclass(frozen=True)
class Noise:
    """Random pictures, each class a shade of its own; `broken` ones cannot be read."""

    count: int
    seed: int = 1
    classes: tuple[str, ...] = LABELS
    broken: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        return index % len(self.classes)

    def image(self, index: int) -> np.ndarray:
        if index in self.broken:
            raise DatasetError(f'{index}.jpg is not a JPEG or PNG image, or it is damaged')
        rng = np.random.default_rng([self.seed, index])
        return (rng.integers(0, 160, (40, 48, 3)) + 6 * self.label(index)).astype(np.uint8)
