"""The cost of a switch, including the first frame after it.

    python -m benchmarks.switching [--family NAME] [--engine auto] [--repeats 20] [--pause-ms 10]

All ordered pairs of levels are measured in random order. The cost of a switch is the time for the
manager's decision and the change of the level plus the latency of the first frame at the new
level, minus the median latency of the following frames. There is a pause before each frame, as
with a camera. The deviation of frames without a switch from the median is also measured; it is the
noise of the machine.

The published method is measured for comparison: the sub-network is extracted from the supernet
again, its batch-norm statistics are copied, and the first frame runs in PyTorch.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import checksum, median, print_table, summary, write_results
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.runtime.engine import (
    create_engine,
    load_or_measure_profile,
    probe_input,
)
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.image import FloatArray
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings

SETTLED_FRAMES = 5


class _Times(NamedTuple):
    """Times in ms: switches by pair, change of the level only, no switch, the published method."""

    costs: dict[tuple[int, int], list[float]]
    change: list[float]
    no_switch: list[float]
    published: list[float] | None


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default=default_family(), help='name or path of a family')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=20, help='switches of each ordered pair')
    parser.add_argument('--pause-ms', type=float, default=10.0, help='idle time before a frame')
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    family = Family.load(options.family)
    engine = create_engine(
        family, device=options.device, engine=options.engine, threads=options.threads
    )
    profile = load_or_measure_profile(engine, family)
    manager = RuntimeManager(family.levels, profile, policy=PolicySettings('fixed', fixed_level=1))
    inputs = {level.index: probe_input(level.resolution) for level in family.levels}

    def frame_ms() -> float:
        time.sleep(options.pause_ms / 1e3)
        start_ns = time.perf_counter_ns()
        engine.infer(manager.active_level, inputs[manager.active_level])
        return (time.perf_counter_ns() - start_ns) / 1e6

    load = OthersLoad()
    indices = [level.index for level in family.levels]
    pairs = [(a, b) for a in indices for b in indices if a != b] * options.repeats
    random.Random(0).shuffle(pairs)
    change_ms: list[float] = []
    no_switch_ms: list[float] = []
    cost_ms: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    for before, after in pairs:
        manager.set_policy(PolicySettings('fixed', fixed_level=before))
        manager.decide(time.perf_counter_ns())
        for _ in range(SETTLED_FRAMES):
            frame_ms()
        manager.set_policy(PolicySettings('fixed', fixed_level=after))
        start_ns = time.perf_counter_ns()
        manager.decide(start_ns)
        changed_ms = (time.perf_counter_ns() - start_ns) / 1e6
        first_ms = frame_ms()
        settled_ms = median([frame_ms() for _ in range(SETTLED_FRAMES)])
        no_switch_ms.append(frame_ms() - settled_ms)
        change_ms.append(changed_ms)
        cost_ms[before, after].append(changed_ms + first_ms - settled_ms)
    engine.close()
    published_ms = _published_method_ms(family, inputs, options.repeats)
    times_ms = _Times(cost_ms, change_ms, no_switch_ms, published_ms)
    _report(family, engine.platform, times_ms, options, load, inputs)


def _published_method_ms(
    family: Family, inputs: dict[int, FloatArray], repeats: int
) -> list[float] | None:
    """Return the cost of switches that extract a new network; None without a supernet."""
    if not family.is_supernet:
        return None
    import torch

    from dynamic_ofa_ros.supernet.network import load_level, load_supernet

    torch.set_num_threads(1)
    supernet = load_supernet(family)
    taken_ms = []
    for _ in range(repeats):
        for level in family.levels:
            image = torch.from_numpy(inputs[level.index])
            start_ns = time.perf_counter_ns()
            network = load_level(family, level.index, supernet)
            with torch.inference_mode():
                network(image)
                first_ms = (time.perf_counter_ns() - start_ns) / 1e6
                start_ns = time.perf_counter_ns()
                network(image)
            taken_ms.append(first_ms - (time.perf_counter_ns() - start_ns) / 1e6)
    return taken_ms


def _report(
    family: Family,
    platform: str,
    times_ms: _Times,
    options: argparse.Namespace,
    load: OthersLoad,
    inputs: dict[int, Any],
) -> None:
    """Print and write the cost of the switches."""
    rows: list[list[object]] = []
    pairs = []
    for (before, after), samples in sorted(times_ms.costs.items()):
        numbers = summary(samples)
        rows.append([f'{before} -> {after}', numbers['median_ms'], numbers['p95_ms']])
        pairs.append({'from': before, 'to': after, **numbers})
    everything = summary([value for samples in times_ms.costs.values() for value in samples])
    rows.append(['all', everything['median_ms'], everything['p95_ms']])
    print_table(
        f'{family.name} on {platform}: cost of a switch, first frame included',
        ['levels', 'median ms', 'p95 ms'],
        rows,
    )
    published = summary(times_ms.published) if times_ms.published else None
    if published:
        print(
            f'the published method: {published["median_ms"]:.1f} ms, '
            f'99 % {published["p99_ms"]:.1f}'
        )
    change = summary(times_ms.change)
    print(f'of this the decision and the change of the level: {change["median_ms"]:.4f} ms')
    write_results(
        'switching',
        {
            'family': family.name,
            'family_sha256': family.checksum,
            'platform': platform,
            'all': everything,
            'change_only': change,
            'pairs': pairs,
            'no_switch': summary(times_ms.no_switch),
            'published_method': published,
        },
        configuration={
            'repeats': options.repeats,
            'settled_frames': SETTLED_FRAMES,
            'pause_ms': options.pause_ms,
            'threads': options.threads,
            'batch': 1,
        },
        input_checksum=checksum(inputs.values()),
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


if __name__ == '__main__':
    main()
