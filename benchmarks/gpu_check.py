"""Run all measurements on an NVIDIA GPU, without ROS: `make gpu-check`, under 8 minutes.

    python -m benchmarks.gpu_check [--seconds 8] [--budget-s 450] [--quick]

Builds and verifies all available engines, and measures levels, switches, memory, and all policies
beside a training job and a second classifier on the GPU. There are two families: the demo family,
and the six published GPU levels of OFA-MobileNetV3 w1.2 with random weights. `--quick` tests the
code with a fake GPU. Results are written after each part, so they are not lost if the run is
interrupted.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adapting import Limit, Load, Timeline, choose_limit, draw, figures
from benchmarks.common import (
    RESULTS,
    checksum,
    in_turns,
    median,
    print_table,
    summary,
    write_results,
)
from benchmarks.gpu_contention import (
    HIGH_RATE_HZ,
    Run,
    Segments,
    drive,
    rate_for,
    write_frames,
)
from benchmarks.gpu_sites import Contenders, FakeSite, GpuSite, Site
from dynamic_ofa_ros.errors import DynamicOfaError, EngineError
from dynamic_ofa_ros.family import Family, LatencyProfile
from dynamic_ofa_ros.runtime.engine import Engine, probe_input, profile_engine
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import PolicySettings

IMAGES = RESULTS.parent.parent / 'docs' / 'images'
SETTLED_FRAMES = 5
SWITCH_PAUSE_S = 0.005
PUBLISHED_REPEATS = 1

LOADS = ('training', 'classifier')
FREE = 0.5
"""Time without load before and after the load, as a share of --seconds."""

CALIBRATION = 0.1
"""Length of one trial of a level under load, as a share of --seconds."""

ROUNDS = 2
"""Number of trials of each level, at different times, because clocks and other processes
change."""

PROFILE = 0.2
"""Time for the profile of a platform, as a share of --seconds."""

FREE_TRIAL = 3.0
"""Length of the highest level's trial without load, as a multiple of one under load."""

LAST_STEP_S = 0.1
"""Time after the end of the load for its last step."""

SETTLING = 0.2
"""Share of the first frames of a trial that are not counted."""

BOTH = 'predictive, GPU and CPU'
COLUMNS = (
    'late', 'late_under_load', 'on_time_top1', 'mean_top1', 'mean_level_under_load',
    'switches_per_minute', 'reaction_ms', 'recovery_ms', 'p95_ms', 'dropped',
)  # fmt: skip


class Budget:
    """The time budget of this command."""

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds
        self._start_s = time.monotonic()

    @property
    def used_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start_s

    def allows(self, seconds: float) -> bool:
        """Return whether the given time is left."""
        return time.monotonic() + seconds <= self._end_s


@dataclass
class Report:
    """The results so far; written after each part."""

    options: argparse.Namespace
    budget: Budget
    load: OthersLoad = field(default_factory=OthersLoad)
    results: dict[str, Any] = field(default_factory=dict)
    input_checksum: str = ''

    def write(self) -> None:
        """Write the results so far."""
        self.results['took_s'] = round(self.budget.used_s, 1)
        write_results(
            'gpu_check',
            self.results,
            configuration={
                'seconds': self.options.seconds,
                'runs': self.options.runs,
                'repeats': self.options.repeats,
                'batch': 1,
                'threads': 1,
                'precision': 'fp32, TF32 off for all but the training job',
                'is_fake': self.options.quick,
            },
            input_checksum=self.input_checksum,
            load=self.load,
            folder=self.options.output,
        )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print tables, draw plots and write the results; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=8.0, help='length of the load')
    parser.add_argument('--runs', type=int, default=50, help='timed runs per level and engine')
    parser.add_argument('--repeats', type=int, default=3, help='switches of each ordered pair')
    parser.add_argument('--budget-s', type=float, default=450.0, help='time budget of all runs')
    parser.add_argument('--quick', action='store_true', help='test with a fake GPU')
    parser.add_argument('--output', type=Path, help='folder of the JSON file')
    parser.add_argument('--frames', type=Path, help='file for every frame, gzipped CSV')
    parser.add_argument('--plots', type=Path, help='folder of the plots')
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        # Results of a fake GPU must not replace real ones.
        kept = Path(tempfile.mkdtemp()) if options.quick else None
        options.output = options.output or kept or RESULTS
        options.plots = options.plots or kept or IMAGES
        report = Report(options, Budget(options.budget_s))
        try:
            check(FakeSite() if options.quick else GpuSite(Path(folder)), report)
        except DynamicOfaError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


def check(site: Site, report: Report) -> None:
    """Run all parts."""
    options, results = report.options, report.results
    results['gpu'] = site.machine()
    print(results['gpu'], flush=True)
    results['memory'] = site.memory()
    print(results['memory'], flush=True)
    families = site.families()
    report.input_checksum = checksum(
        probe_input(level.resolution) for family in families for level in family.levels
    )
    results['families'] = {}
    for family in families:
        contenders = site.contenders(family)
        if site.gpu_engine not in contenders.engines:
            raise EngineError(contenders.missing[site.gpu_engine])
        results['families'][family.name] = measure_family(site, family, contenders, options)
        report.write()
        if family is families[-1]:
            draw_levels(results['families'], options.plots / 'gpu_levels.png')
            beside_loads(site, family, contenders, report)
        contenders.close()
    report.write()
    print(f'took {report.budget.used_s:.0f} s')


def measure_family(
    site: Site, family: Family, contenders: Contenders, options: argparse.Namespace
) -> dict[str, Any]:
    """Verify all engines and measure levels and switches of one family."""
    for name, reason in contenders.missing.items():
        print(f'{name}: {reason}')
    engine = contenders.engines[site.gpu_engine]
    result: dict[str, Any] = {
        'family_sha256': family.checksum,
        'platforms': {name: one.platform for name, one in contenders.engines.items()},
        'notes': {name: list(one.notes) for name, one in contenders.engines.items()},
        'missing': contenders.missing,
        'largest_difference': differences(site, family, contenders),
        'levels': measure_levels(family, contenders, options.runs),
    }
    result['switching'] = measure_switches(family, engine, site.published_switch(family), options)
    return result


def differences(site: Site, family: Family, contenders: Contenders) -> dict[str, float]:
    """Return each contender's maximum difference from the reference, relative to its range."""
    reference = site.reference(family)
    calls = {name: engine.infer for name, engine in contenders.engines.items()}
    return {
        name: max(
            float(
                np.max(np.abs(infer(level.index, probe_input(level.resolution)) - expected))
                / np.ptp(expected)
            )
            for level in family.levels
            for expected in [reference[level.index]]
        )
        for name, infer in calls.items()
    }


def measure_levels(family: Family, contenders: Contenders, runs: int) -> list[dict[str, Any]]:
    """Measure all levels with all contenders alternately."""
    calls: dict[str, Any] = {
        **contenders.baselines,
        **{name: engine.infer for name, engine in contenders.engines.items()},
    }
    rows: list[list[object]] = []
    levels = []
    for level in family.levels:
        probe = probe_input(level.resolution)
        measured = in_turns(
            {name: functools.partial(call, level.index, probe) for name, call in calls.items()},
            runs,
        )
        entry: dict[str, Any] = {
            'level': level.index,
            'resolution': level.resolution,
            'macs': level.macs,
            'accuracy': level.accuracy,
        }
        for name, samples in measured.items():
            entry[name] = summary(samples)
            rows.append([level.index, name, entry[name]['median_ms'], entry[name]['p95_ms']])
        levels.append(entry)
    print_table(f'{family.name}, batch 1', ['level', 'by', 'median ms', 'p95 ms'], rows)
    return levels


def measure_switches(
    family: Family,
    engine: Engine,
    published: Callable[[int, Any], Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Measure the extra time of the first frame after a switch, for all ordered pairs."""
    profile = profile_engine(engine, family, max_seconds=PROFILE * options.seconds)
    manager = RuntimeManager(family.levels, profile, policy=PolicySettings('fixed', fixed_level=1))
    probes = {level.index: probe_input(level.resolution) for level in family.levels}

    def frame_ms() -> float:
        time.sleep(SWITCH_PAUSE_S)
        start_ns = time.perf_counter_ns()
        engine.infer(manager.active_level, probes[manager.active_level])
        return (time.perf_counter_ns() - start_ns) / 1e6

    def change_to(level: int) -> float:
        manager.set_policy(PolicySettings('fixed', fixed_level=level))
        start_ns = time.perf_counter_ns()
        manager.decide(start_ns)
        return (time.perf_counter_ns() - start_ns) / 1e6

    pairs = [(a, b) for a in probes for b in probes if a != b] * options.repeats
    random.Random(0).shuffle(pairs)
    cost_ms: list[float] = []
    shares: list[float] = []
    for before, after in pairs:
        change_to(before)
        for _ in range(2):
            frame_ms()
        first_ms = change_to(after) + frame_ms()
        settled_ms = median([frame_ms() for _ in range(SETTLED_FRAMES)])
        cost_ms.append(first_ms - settled_ms)
        shares.append((first_ms - settled_ms) / settled_ms)
    published_ms: list[float] = []
    for _, after in pairs[: PUBLISHED_REPEATS * len(probes) ** 2]:
        start_ns = time.perf_counter_ns()
        published(after, probes[after])
        total_ms = (time.perf_counter_ns() - start_ns) / 1e6
        published_ms.append(total_ms - profile.latency_ms(after))
    ours, theirs = summary(cost_ms), summary(published_ms)
    print_table(
        f'{family.name}: a switch, first frame included',
        ['method', 'p50 ms', 'p99 ms'],
        [
            ['resident levels', ours['median_ms'], ours['p99_ms']],
            ['new static network and batch norms', theirs['median_ms'], theirs['p99_ms']],
        ],
    )
    return {
        'platform': engine.platform,
        'resident': ours,
        'share_of_frame_p99': round(float(np.quantile(shares, 0.99)), 4),
        'published_method': theirs,
    }


def beside_loads(site: Site, family: Family, contenders: Contenders, report: Report) -> None:
    """Run all policies with every load, and with both platforms if there is time."""
    options = report.options
    gpu, cpu = (contenders.engines.get(name) for name in (site.gpu_engine, site.cpu_engine))
    assert gpu is not None
    engines = [gpu, *([cpu] if cpu else [])]
    profiles = [
        profile_engine(engine, family, max_seconds=PROFILE * options.seconds) for engine in engines
    ]
    contention: dict[str, Any] = {}
    report.results['contention'] = contention
    runs: dict[str, dict[str, Run]] = {}
    limits: dict[str, Limit] = {}

    accuracies = [level.accuracy for level in family.levels]

    def timeline_of(load_name: str, policy_name: str) -> Timeline:
        limit_ms, segments = limits[load_name].limit_ms, parts_of(options.seconds)
        return runs[load_name][policy_name].timeline(limit_ms, accuracies, segments)

    def run(load_name: str, policy_name: str, policy: PolicySettings, *, on: int) -> None:
        entry, segments = contention[load_name], parts_of(options.seconds)
        if not report.budget.allows(segments.total_s + 5.0):
            entry['skipped'].append(policy_name)
            print(f'{load_name}: {policy_name} skipped because no time is left')
            return
        limit = limits[load_name]
        runs[load_name][policy_name] = drive(
            family, engines[:on], profiles[:on], loads[load_name], segments, policy,
            rate_hz=rate_for(limit.limit_ms), limit_ms=limit.limit_ms,
        )  # fmt: skip
        found = figures([timeline_of(load_name, policy_name)])
        entry['policies'][policy_name] = found
        print(f'{load_name}, {policy_name}: {found}', flush=True)

    with site.loads(family) as loads:
        for name in LOADS:
            runs[name] = {}
            limits[name], contention[name] = calibrate(
                family, engines[0], profiles[0], loads[name], options
            )
            print(f'{name}: limit {limits[name].limit_ms:.2f} ms: {limits[name].sentence}')
            for policy_name, policy in policies(len(family.levels), limits[name]).items():
                run(name, policy_name, policy, on=1)
            report.write()
        if cpu is not None:
            for name in LOADS:
                run(name, BOTH, PolicySettings('predictive'), on=2)
    if options.frames:
        write_frames(runs, options.frames)
    for name in LOADS:
        limit_ms = limits[name].limit_ms
        print_table(
            f'{family.name} beside {name}, limit {limit_ms:.2f} ms, {rate_for(limit_ms):.0f} Hz',
            ['policy', *COLUMNS],
            [
                [policy, *('-' if found[c] is None else found[c] for c in COLUMNS)]
                for policy, found in contention[name]['policies'].items()
            ],
        )
        if runs[name]:
            caption = (
                f'Measured on {report.results["gpu"]["gpu"]}: {family.name} beside {name}. Grey: '
                f'load on. Latency from arrival to result, {rate_for(limit_ms):.0f} Hz.'
            )
            path = options.plots / f'gpu_contention_{name}.png'
            panels = {policy: timeline_of(name, policy) for policy in runs[name]}
            draw(panels, limit_ms, len(family.levels), path, caption)


def policies(level_count: int, limit: Limit) -> dict[str, PolicySettings]:
    """Return the policies by name, the most informative first, because the time is limited."""
    return {
        f'fixed highest (level {level_count})': PolicySettings('fixed'),
        'predictive': PolicySettings('predictive'),
        'reactive': PolicySettings('reactive'),
        'fixed lowest (level 1)': PolicySettings('fixed', fixed_level=1),
        f'fixed middle (level {limit.middle})': PolicySettings('fixed', fixed_level=limit.middle),
    }


def parts_of(seconds: float) -> Segments:
    """Return the parts of a run."""
    return Segments(FREE * seconds, seconds, FREE * seconds)


def calibrate(
    family: Family,
    engine: Engine,
    profile: LatencyProfile,
    load: Load,
    options: argparse.Namespace,
) -> tuple[Limit, dict[str, Any]]:
    """Measure all levels under load and the highest without; choose the limit of all runs."""
    seconds = CALIBRATION * options.seconds

    def trial_ms(level: int, segments: Segments) -> list[float]:
        frames = drive(
            family, [engine], [profile], load, segments,
            PolicySettings('fixed', fixed_level=level), rate_hz=HIGH_RATE_HZ,
        ).frames  # fmt: skip
        return [frame.latency_ms for frame in frames[int(SETTLING * len(frames)) :]]

    contended_ms: dict[int, list[float]] = {level.index: [] for level in family.levels}
    free_ms: list[float] = []
    for _ in range(ROUNDS):
        for index, samples in contended_ms.items():
            samples += trial_ms(index, Segments(0.0, seconds, 0.0))
        time.sleep(LAST_STEP_S)
        free_ms += trial_ms(len(family.levels), Segments(FREE_TRIAL * seconds, 0.0, 0.0))
    limit = choose_limit(contended_ms, free_ms)
    return limit, {
        'limit_ms': round(limit.limit_ms, 3),
        'rate_hz': rate_for(limit.limit_ms),
        'why': limit.sentence,
        'is_separable': limit.is_separable,
        'highest_alone': summary(free_ms),
        'levels_beside_load': {
            str(level): summary(samples) for level, samples in contended_ms.items()
        },
        'policies': {},
        'skipped': [],
    }


def draw_levels(families: dict[str, Any], path: Path) -> None:
    """Plot median and p95 of all levels, one panel per family and one line per contender."""
    from dynamic_ofa_ros.plotting.style import (
        TEXT_SIZE,
        draw_caption,
        draw_legend,
        new_figure,
        style_axes,
    )

    figure = new_figure(4.0)
    panels = figure.subplots(1, len(families), squeeze=False)[0]
    for axes, (name, result) in zip(panels, families.items(), strict=True):
        style_axes(axes)
        levels = result['levels']
        places = [entry['level'] for entry in levels]
        for contender in (key for key in levels[0] if isinstance(levels[0][key], dict)):
            medians = [entry[contender]['median_ms'] for entry in levels]
            above = [
                entry[contender]['p95_ms'] - entry[contender]['median_ms'] for entry in levels
            ]
            axes.errorbar(
                places, medians, yerr=[[0.0] * len(above), above], fmt='o-', markersize=3,
                linewidth=1.0, capsize=2, label=contender,
            )  # fmt: skip
        axes.set_yscale('log')
        axes.set_xlabel('level')
        axes.set_title(name, loc='left', fontsize=TEXT_SIZE + 1)
    panels[0].set_ylabel('latency, ms')
    draw_legend(figure, panels[0])
    draw_caption(figure, 'Batch 1; median, bars to p95. Copies to and from the GPU are included.')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f'written: {path}')


if __name__ == '__main__':
    sys.exit(main())
