"""Functions of all benchmarks: machine and versions, alternating measurements, tables, results.

A result file contains the machine, the versions, a checksum of the input and the configuration, so
that results can be compared.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dynamic_ofa_ros.runtime.host import OthersLoad, cpu_name

RESULTS = Path(__file__).resolve().parent / 'results'
PACKAGES = (
    'numpy',
    'torch',
    'onnxruntime',
    'onnxruntime-gpu',
    'openvino',
    'ofa',
    'opencv-python-headless',
    'ros-jazzy-rclpy',
    'ros-rmw-fastrtps-cpp',
)


def reference_directory() -> Path:
    """Return the folder of reference data.

    This is $DYNAMIC_OFA_REFERENCE, or else shared/reference beside the checkout.
    """
    chosen = os.environ.get('DYNAMIC_OFA_REFERENCE')
    checkout = Path(__file__).resolve().parent.parent
    return Path(chosen) if chosen else checkout.parent / 'shared' / 'reference'


def machine() -> dict[str, Any]:
    """Return processor, memory, operating system and current load."""
    import psutil

    return {
        'cpu': cpu_name(),
        'cores': os.cpu_count(),
        'memory_gb': round(psutil.virtual_memory().total / 2**30, 1),
        'architecture': platform.machine(),
        'system': platform.system(),
        'load_average_1_min': round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the relevant installed packages."""
    found = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def summary(samples_ms: Sequence[float]) -> dict[str, float]:
    """Return median, mean, sd, p95, p99 and the number of samples, in ms."""
    samples = np.asarray(samples_ms, dtype=np.float64)
    median, p95, p99 = np.quantile(samples, (0.5, 0.95, 0.99))
    return {
        'median_ms': round(float(median), 4),
        'mean_ms': round(float(samples.mean()), 4),
        'sd_ms': round(float(samples.std()), 4),
        'p95_ms': round(float(p95), 4),
        'p99_ms': round(float(p99), 4),
        'runs': int(samples.size),
    }


def in_turns(
    contenders: Mapping[str, Callable[[], object]], runs: int, block: int = 5
) -> dict[str, list[float]]:
    """Return `runs` latencies in ms of each contender.

    They are measured in short blocks, so that drift affects all equally, and in random order,
    because a contender is faster after one that uses the same library or weights. The first call
    of a block is not counted, because the caches contain the data of another contender.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = random.Random(0)
    while any(len(taken) < runs for taken in samples.values()):
        for name, call in order.sample(list(contenders.items()), len(contenders)):
            call()
            for _ in range(block):
                start_ns = time.perf_counter_ns()
                call()
                samples[name].append((time.perf_counter_ns() - start_ns) / 1e6)
    return {name: taken[:runs] for name, taken in samples.items()}


def checksum(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    """Return the hex SHA-256 of the bytes of some arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with aligned columns and three decimals for floats."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [
        max(len(headers[i]), *(len(row[i]) for row in cells)) if cells else len(headers[i])
        for i in range(len(headers))
    ]
    print(f'\n{title}')
    print('  '.join(header.rjust(width) for header, width in zip(headers, widths, strict=True)))
    for row in cells:
        print('  '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def write_results(
    name: str,
    results: Mapping[str, Any],
    *,
    configuration: Mapping[str, Any],
    input_checksum: str,
    load: OthersLoad | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Write `<folder>/<name>.json` with results, machine, versions and configuration.

    load: if given, the CPU use of other processes since its creation is recorded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}.json'
    document = {
        'benchmark': name,
        'measured_at': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'machine': machine(),
        'load_of_others': round(load.fraction(), 3) if load else None,
        'versions': versions(),
        'configuration': dict(configuration),
        'input_sha256': input_checksum,
        'results': dict(results),
    }
    path.write_text(json.dumps(document, indent=1) + '\n', encoding='utf-8')
    print(f'\nwritten: {path}')
    return path


def median(values: Sequence[float]) -> float:
    """Return the median of some values."""
    return float(statistics.median(values))


def _text(value: object) -> str:
    return f'{value:.3f}' if isinstance(value, float) else str(value)
