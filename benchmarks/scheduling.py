"""Effect of affinity, niceness and garbage collection between frames beside busy processes.

    python -m benchmarks.scheduling [--seconds 10] [--rounds 4] [--load 2]

The worker of the node classifies images at the highest level, in a new process for each
measurement. The variants are measured alternately. The load can run on any processor.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import print_table, write_results
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.runtime.classifier import Classifier, ClassifierWorker
from dynamic_ofa_ros.runtime.engine import create_engine, load_or_measure_profile
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.mailbox import Frame
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings

RATE_HZ = 30.0
WARM_UP = 20
BUSY = [sys.executable, '-c', 'while True: sum(range(100000))']
LAST_CPU = max(os.sched_getaffinity(0))
FULL_EVERY = 500
"""Number of frames between two full garbage collections."""


@dataclass(frozen=True)
class Way:
    """A variant; cpu: the only processor; collects_between: collect garbage between frames."""

    nice: int = 0
    cpu: int | None = None
    collects_between: bool = False


WAYS = {
    'default': Way(),
    'one CPU': Way(cpu=LAST_CPU),
    'niceness -5': Way(nice=-5),
    'niceness -10': Way(nice=-10),
    'garbage collection between frames': Way(collects_between=True),
    'one CPU, niceness -10': Way(nice=-10, cpu=LAST_CPU),
}


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=10.0, help='of each way in a round')
    parser.add_argument('--rounds', type=int, default=4)
    parser.add_argument('--load', type=int, default=2, help='busy processes')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    results = {}
    for busy in (0, options.load):
        samples: dict[str, list[float]] = {name: [] for name in WAYS}
        for turn in range(options.rounds):
            names = list(WAYS)
            for name in itertools.islice(itertools.cycle(names), turn, turn + len(names)):
                samples[name] += _beside(busy, WAYS[name], options.seconds)
        results[f'{busy} busy processes'] = {
            name: {
                **asdict(WAYS[name]),
                'frames': len(taken),
                **{
                    f'p{100 * q:g}_ms': round(float(np.quantile(taken, q)), 3)
                    for q in (0.5, 0.95, 0.99)
                },
            }
            for name, taken in samples.items()
        }
        print_table(
            f'from an image to its label, beside {busy} busy processes',
            ['', 'median ms', '95 %', '99 %'],
            [
                [name, *(row[f'p{q}_ms'] for q in (50, 95, 99))]
                for name, row in results[f'{busy} busy processes'].items()
            ],
        )
    write_results(
        'scheduling',
        results,
        configuration={'rate_hz': RATE_HZ, 'rounds': options.rounds, 'seconds': options.seconds},
        input_checksum='',
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def _beside(busy: int, way: Way, seconds: float) -> list[float]:
    """Return the latencies of frames beside busy processes, in ms."""
    processes = [subprocess.Popen(BUSY) for _ in range(busy)]
    try:
        context = get_context('spawn')
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_classify, args=(way, seconds, sender))
        worker.start()
        sender.close()
        taken: list[float] = receiver.recv()
        worker.join()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return taken


def _classify(way: Way, seconds: float, sender: Any) -> None:
    from dynamic_ofa_ros.runtime.image import RawImage

    family = Family.load('signs')
    engine = create_engine(family, device='cpu')
    taken_ms: list[float] = []

    def note(frame: Frame, _: object) -> None:
        taken_ms.append(frame.age_ms(time.perf_counter_ns()))
        if way.collects_between:
            gc.collect(2 if len(taken_ms) % FULL_EVERY == 0 else 1)

    worker = ClassifierWorker(
        Classifier(family, engine),
        RuntimeManager(
            family.levels, load_or_measure_profile(engine, family), policy=PolicySettings('fixed')
        ),
        on_result=note,
        nice=way.nice,
    )
    if way.cpu is not None:
        os.sched_setaffinity(0, {way.cpu})
    if way.collects_between:
        gc.collect()
        gc.freeze()
        gc.disable()
    pixels = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8).tobytes()
    worker.start()
    due_s = time.perf_counter()
    for _ in range(WARM_UP + round(seconds * RATE_HZ)):
        worker.submit(Frame(RawImage(pixels, 640, 480, 'rgb8', 3 * 640), header=None))
        due_s += 1.0 / RATE_HZ
        time.sleep(max(0.0, due_s - time.perf_counter()))
    worker.stop()
    engine.close()
    sender.send(taken_ms[WARM_UP:])


if __name__ == '__main__':
    main()
