"""Datasets with faults; workers of test_evaluation_pool import them."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ('a', 'b', 'c')


@dataclass(frozen=True)
class Noise:
    """Random images; before each one is read, `before` happens: see `FAULTS`."""

    count: int
    seed: int = 0
    fault: str = ''
    marker: str = ''

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        return index % len(CLASSES)

    def image(self, index: int) -> Any:
        if self.fault:
            FAULTS[self.fault](Path(self.marker))
        rng = np.random.default_rng([self.seed, index])
        return rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)


def exit_once(marker: Path) -> None:
    """End the process like a crash, the first time only."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os._exit(3)


def exit_always(marker: Path) -> None:
    os._exit(3)


def refuse(marker: Path) -> None:
    raise ZeroDivisionError('no such thing')


def hang(marker: Path) -> None:
    (marker / str(os.getpid())).touch()
    time.sleep(600)


FAULTS = {'exit once': exit_once, 'exit always': exit_always, 'refuse': refuse, 'hang': hang}


if __name__ == '__main__':
    from dynamic_ofa_ros.offline.accuracy.evaluation_pool import EvaluationPool
    from dynamic_ofa_ros.supernet.trained import open_backbone

    opened = open_backbone(sys.argv[1])
    data = Noise(4, fault='hang', marker=sys.argv[2])
    with EvaluationPool(opened, data, data, workers=2) as pool:
        list(pool.evaluate_many([opened.space.smallest(), opened.space.largest()]))
