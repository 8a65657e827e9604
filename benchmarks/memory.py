"""Host memory of a family's levels: all levels, the largest level, a budget, the supernet.

    python -m benchmarks.memory [--family NAME] [--skip-published] [--repeats 3]

Each case is measured in a separate process with built engines, as the memory after loading the
levels minus the memory after importing the libraries.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import median, print_table, write_results
from benchmarks.published import published_family
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.runtime.build_cache import BuildCache
from dynamic_ofa_ros.runtime.engine import create_engine, probe_input
from dynamic_ofa_ros.runtime.engines.residents import Residents
from dynamic_ofa_ros.runtime.host import OthersLoad

ENGINES = {'onnxruntime': 'OnnxRuntimeEngine', 'openvino': 'OpenvinoEngine'}
BUDGET = 0.5
"""Value of `max_resident_mb` as a share of the memory of all levels."""


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default=default_family(), help='name or path of a family')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--skip-published', action='store_true', help='measure the family only')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    with tempfile.TemporaryDirectory() as folder:
        families = [Family.load(options.family)]
        if not options.skip_published:
            families.append(published_family(Path(folder) / 'published'))
        results = {
            family.name: _measure(family, Path(folder) / 'cache', options.repeats)
            for family in families
        }
    rows = []
    for name, found in results.items():
        for engine in ENGINES:
            of = found[engine]
            rows.append([name, engine, of['all_mb'], of['alone_mb'], of['ratio'], of['budget_mb']])
        rows.append([name, 'supernet in PyTorch', found['supernet_mb'], '-', '-', '-'])
    print_table(
        'memory in MB (medians)',
        ['family', 'engine', 'all levels', 'the largest alone', 'ratio', f'budget {BUDGET:.0%}'],
        rows,
    )
    write_results(
        'memory',
        results,
        configuration={'repeats': options.repeats, 'threads': 1, 'budget': BUDGET},
        input_checksum='',
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def _measure(family: Family, cache: Path, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for engine in ENGINES:
        create_engine(family, device='cpu', engine=engine, cache_dir=cache).close()
        ask = partial(_grown_mb, family.directory, cache, engine)
        all_mb = median([ask('all') for _ in range(repeats)])
        alone_mb = median([ask('alone') for _ in range(repeats)])
        budget_mb = median([ask('budget', BUDGET * all_mb) for _ in range(repeats)])
        found[engine] = {
            'all_mb': round(all_mb, 1),
            'alone_mb': round(alone_mb, 1),
            'ratio': round(all_mb / alone_mb, 2),
            'budget_mb': round(budget_mb, 1),
        }
    supernet = [_grown_mb(family.directory, cache, 'torch', 'supernet') for _ in range(repeats)]
    return {**found, 'supernet_mb': round(median(supernet), 1)}


def _grown_mb(
    directory: Path, cache: Path, module: str, what: str, budget_mb: float = 0.0
) -> float:
    """Return the memory for the levels in a new process, in MB."""
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    arguments = (directory, cache, module, what, budget_mb, sender)
    process = context.Process(target=_load_and_weigh, args=arguments)
    process.start()
    sender.close()
    grown_mb: float = receiver.recv()
    process.join()
    return grown_mb


def _load_and_weigh(
    directory: Path, cache: Path, module: str, what: str, budget_mb: float, sender: Any
) -> None:
    import psutil

    importlib.import_module(module)
    family, process = Family.load(directory), psutil.Process()
    before = process.memory_info().rss
    if what == 'supernet':
        from dynamic_ofa_ros.supernet.network import load_supernet

        loaded: Any = load_supernet(family)
    else:
        engines = importlib.import_module(f'dynamic_ofa_ros.runtime.engines.{module}')
        kind = _Highest if what == 'alone' else Residents
        with mock.patch.object(engines, 'Residents', kind):
            engine = getattr(engines, ENGINES[module])(
                family, BuildCache(family, cache), max_resident_mb=budget_mb
            )
        run = [family.levels[-1]] if what != 'all' else family.levels
        for level in run:
            engine.infer(level.index, probe_input(level.resolution))
        loaded = engine
    sender.send((process.memory_info().rss - before) / 2**20)
    del loaded


class _Highest(Residents[Any]):
    """Holds only the highest level."""

    def __init__(self, load: Any, count: int, *_: Any, **__: Any) -> None:
        super().__init__(lambda _: load(count), 1)

    def get(self, index: int) -> Any:
        return super().get(1)


if __name__ == '__main__':
    main()
