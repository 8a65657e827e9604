"""Time from the start of a process until it can classify, for the first and later starts.

    python -m benchmarks.start [--family NAME] [--repeats 5] [--skip-published]

Each start is a new process and includes Python, imports, engines and the check of the profile, but
not ROS. The build cache is empty for the first start and filled for later ones. Python may store
its bytecode, as an installation does. The published method is also measured: PyTorch, the
supernet, and one static sub-network extracted from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import median, print_table, write_results
from benchmarks.published import published_family
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.runtime.host import OthersLoad

OURS = """
import sys
from dynamic_ofa_ros.constraints import Constraints
from dynamic_ofa_ros.runtime.assembly import Callbacks, Request, assemble
from dynamic_ofa_ros.runtime.classifier import WorkerSettings
from dynamic_ofa_ros.runtime.policies import PolicySettings
steps = []
parts = assemble(
    Request(sys.argv[1], device='cpu', engine=sys.argv[2]), Callbacks(*[lambda *_: None] * 4),
    constraints=Constraints(), policy=PolicySettings(), settings=WorkerSettings(),
    progress=steps.append,
)
print(len(steps), parts.engines[0].platform, 'torch' in sys.modules, flush=True)
"""
PUBLISHED = """
import sys
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.supernet.network import load_level
from dynamic_ofa_ros.runtime.engine import probe_input
import torch
family = Family.load(sys.argv[1])
network = load_level(family, 1)
with torch.inference_mode():
    network(torch.from_numpy(probe_input(family.levels[0].resolution)))
print(1, 'PyTorch', True, flush=True)
"""


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default=default_family(), help='name or path of a family')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--skip-published', action='store_true', help='measure the family only')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        families = [Family.load(options.family)]
        if not options.skip_published:
            families.append(published_family(Path(folder) / 'published'))
        for family in families:
            results[family.name] = _measure(family, options, Path(folder))
    print_table(
        'seconds until ready (medians), and number of reported steps',
        ['family', 'start', 'seconds', 'steps', 'platform', 'imports torch'],
        [
            [name, kind, numbers['median_s'], *numbers['output']]
            for name, kinds in results.items()
            for kind, numbers in kinds.items()
        ],
    )
    write_results(
        'start',
        results,
        configuration={'repeats': options.repeats, 'engine': options.engine},
        input_checksum='',
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def _measure(family: Family, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    times: dict[str, list[float]] = {'first': [], 'warm': [], 'published method': []}
    output: dict[str, list[str]] = {}
    environment = {**os.environ}
    environment.pop('PYTHONDONTWRITEBYTECODE', None)
    for repeat in range(options.repeats):
        cache = folder / f'cache-{family.name.split()[0]}-{repeat}'
        for kind, code in (('first', OURS), ('warm', OURS), ('published method', PUBLISHED)):
            begin_s = time.perf_counter()
            with subprocess.Popen(
                [sys.executable, '-c', code, str(family.directory), options.engine],
                env={**environment, 'DYNAMIC_OFA_CACHE': str(cache)},
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdout
                line = process.stdout.readline()
                times[kind].append(round(time.perf_counter() - begin_s, 3))
            if process.returncode:
                raise SystemExit(f'{kind} start of {family.name}: exit {process.returncode}')
            output[kind] = line.split()
            print(family.name, kind, json.dumps(times[kind]), flush=True)
    return {
        kind: {'median_s': round(median(seconds), 3), 'all_s': seconds, 'output': output[kind]}
        for kind, seconds in times.items()
    }


if __name__ == '__main__':
    main()
