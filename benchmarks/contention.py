"""Compare policies under real loads, with the real node from camera images to labels.

    python -m benchmarks.contention [--family signs|imagenet|PATH] [--photographs FOLDER]
    python -m benchmarks.contention --loads busy-2 --repeats 1     # 5 minutes

Camera, classifier and load are separate processes. The limit is in the scope `node`, from the
arrival of an image to its label; an image without a label is late. The load is on in the second
and third quarter of every segment. All policies have the same limit for a load, which is chosen by
a calibration, and their order differs in every round. One classifier process runs all the time. It
is configured again before each segment, so that the manager has no state of the previous policy.

Finished segments are stored in --work. To continue after the command was killed or its time budget
was used up, run it again. --fresh starts from the beginning, which is required when the code of
the runtime has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adapting import Load, choose_limit
from benchmarks.common import RESULTS, machine, versions
from benchmarks.contention_plan import costs_s, fixed_of, is_lacking, known, turns, within_budget
from benchmarks.contention_plots import draw_frames, draw_overview
from benchmarks.contention_report import update_documentation, write_report
from benchmarks.contention_site import LOADS, Site, Source
from benchmarks.journal import Journal
from benchmarks.policy_node import ALERT
from dynamic_ofa_ros.cli.demo import DemoError, camera_labels
from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.offline.data.signs import sign_names
from dynamic_ofa_ros.runtime.policies import PolicySettings

ROOT = RESULTS.parent.parent
POLICIES = ('table', 'reactive', ALERT, 'predictive')
TRIAL_S = 2.5
"""Length of the trial of a level, with and without load, for choosing the limit."""

SWITCHES = {ALERT: 6000.0}
"""Maximum number of moves up per minute; ALERT has no such limit."""

DEFAULT_SWITCHES = PolicySettings().max_switches_per_minute


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables, draw plots and write the results; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default=default_family(), help='name or path of a family')
    parser.add_argument(
        '--photographs', default='', help='class folders for the camera (default: rendered signs)'
    )
    parser.add_argument(
        '--loads', type=names_of(LOADS), default=tuple(LOADS), help=f'of {", ".join(LOADS)}'
    )
    parser.add_argument(
        '--policies', type=names_of(POLICIES), default=POLICIES, help=f'of {", ".join(POLICIES)}'
    )
    parser.add_argument(
        '--fixed',
        type=fixed_levels,
        default='likely',
        help='fixed levels: all, N,N or likely (lowest, highest, and the two best of the others)',
    )
    parser.add_argument('--seconds', type=float, default=20.0, help='length of a segment')
    parser.add_argument('--trial-seconds', type=float, default=TRIAL_S, help='length of a trial')
    parser.add_argument('--repeats', type=int, default=3, help='segments of each kind')
    parser.add_argument('--budget-minutes', type=float, default=25.0, help='for this call')
    parser.add_argument('--limit-ms', type=float, default=0.0, help='limit (0: calibrated)')
    parser.add_argument('--rate-hz', type=float, default=0.0, help='camera rate (0: automatic)')
    parser.add_argument('--work', type=Path, default=ROOT / 'build' / 'contention')
    parser.add_argument('--fresh', action='store_true', help='discard the contents of --work')
    parser.add_argument('--report', action='store_true', help='write the results only')
    parser.add_argument('--docs', action='store_true', help='update docs/ from the results only')
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of the JSON file')
    parser.add_argument('--plots', type=Path, default=ROOT / 'docs' / 'images')
    options = parser.parse_args(arguments)
    if options.docs:
        update_documentation(options.output)
        return 0
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        family = Family.load(options.family)
        source = source_of(options.photographs, family)
        journal = Journal(
            options.work / f'{family.name}.jsonl',
            settings_of(family, source, options),
            is_fresh=options.fresh,
        )
        if not options.report:
            measure(family, source, journal, options)
    except DynamicOfaError as error:
        print(error, file=sys.stderr)
        return getattr(error, 'status', 2)
    except KeyboardInterrupt:
        print('\nrun the same command again to continue', file=sys.stderr)
        return 130
    entry = write_report(journal, options.output)
    if entry['loads']:
        draw_overview(entry, options.plots / f'contention_{family.name}.png')
        draw_frames(journal, entry, options.plots / f'contention_{family.name}_frames.png')
    return 0


def names_of(known: Sequence[str] | Mapping[str, Any]) -> Any:
    """Return a parser for a list of names separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(','))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f'{name!r} is not one of {", ".join(known)}')
        return names

    return parse


def fixed_levels(text: str) -> str | tuple[int, ...]:
    """Parse --fixed."""
    if text in ('all', 'likely'):
        return text
    try:
        return tuple(sorted({int(word) for word in text.split(',')}))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not all, likely, or a list of levels'
        ) from None


def source_of(photographs: str, family: Family) -> Source:
    """Return the camera's source, and whether the family has its classes."""
    try:
        labels = camera_labels(photographs, family)
    except DemoError:
        if photographs:
            raise
        print(f'{family.name} has other classes than the signs: correctness is not measured')
        return Source(sign_names(), is_truth_known=False)
    folder = str(Path(photographs).expanduser().resolve()) if photographs else ''
    return Source(labels, folder)


def settings_of(family: Family, source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that all segments of a journal must have in common."""
    return {
        'family': family.name,
        'family_sha256': family.checksum,
        'runtime_sha256': runtime_checksum(),
        'cpu': machine()['cpu'],
        'images': 'photographs' if source.folder else 'rendered signs',
        'is_truth_known': source.is_truth_known,
        'segment_s': options.seconds,
        'trial_s': options.trial_seconds,
        'limit_ms': options.limit_ms,
        'rate_hz': options.rate_hz,
    }


def runtime_checksum() -> str:
    """Return the hex SHA-256 of the runtime's code; all segments must have the same version."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / 'dynamic_ofa_ros' / 'runtime').rglob('*.py')):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def measure(family: Family, source: Source, journal: Journal, options: argparse.Namespace) -> None:
    """Measure the segments missing in the journal, within the time budget."""
    loads = list(options.loads)
    if 'gpu' in loads and (problem := gpu_problem()):
        print(f'gpu: {problem}')
        if not journal.find('skipped', load='gpu'):
            journal.append('skipped', {'load': 'gpu', 'why': problem})
        loads.remove('gpu')
    rounds = within_budget(costs_s(journal, loads, len(family.levels), options),
                           60.0 * options.budget_minutes)  # fmt: skip
    for name in loads:
        if rounds[name] < options.repeats:
            print(f'{name}: {rounds[name]} of {options.repeats} rounds fit into the time budget; '
                  'run the same command again for the rest')  # fmt: skip
    for device in dict.fromkeys(LOADS[name].device for name in loads):
        of_device = {
            name: rounds[name]
            for name in loads
            if LOADS[name].device == device
            and (rounds[name] and is_lacking(journal, name, rounds[name], options))
        }
        if of_device:
            with Site(str(family.directory), source, device, options.work) as site:
                measure_at(site, device, of_device, journal, options)


def gpu_problem() -> str:
    """Return why a GPU load is not possible; empty if it is."""
    try:
        import torch
    except ImportError:
        return 'PyTorch is not installed, so no training job can run on a GPU'
    return '' if torch.cuda.is_available() else 'PyTorch finds no NVIDIA GPU on this machine'


def measure_at(
    site: Site,
    device: str,
    rounds: Mapping[str, int],
    journal: Journal,
    options: argparse.Namespace,
) -> None:
    """Measure the given number of rounds of each load on one device."""
    if not journal.find('node', device=device):
        rate_hz = options.rate_hz or site.rate_hz
        site.start_camera(rate_hz)
        print(f'{site.platform}: {len(site.levels)} levels, {rate_hz:g} images per second')
        journal.append(
            'node',
            {
                'device': device,
                'platform': site.platform,
                'levels': site.levels,
                'rate_hz': rate_hz,
                'machine': machine(),
                'versions': versions(),
                'free_ms': trials(site, options),
            },
        )
    else:
        site.start_camera(journal.find('node', device=device)[0]['rate_hz'])
    (node,) = journal.find('node', device=device)
    for name, count in rounds.items():
        with site.load(LOADS[name]) as load:
            if not journal.find('limit', load=name):
                load.work(1.0)
                contended_ms = trials(site, options)
                load.work(0.0)
                journal.append('limit', chosen_limit(name, node, contended_ms, options.limit_ms))
            (limit,) = journal.find('limit', load=name)
            print(f'{name}: limit {limit["limit_ms"]:.2f} ms, {limit["why"]}', flush=True)
            policies = [*fixed_of(node, limit, options.fixed), *options.policies]
            for turn, policy in turns(policies, count):
                if not journal.find('segment', load=name, policy=policy, turn=turn):
                    measure_segment(site, load, name, policy, turn, limit, journal)


def trials(site: Site, options: argparse.Namespace) -> dict[str, list[float | None]]:
    """Return the latencies of all levels under the current load; None without a result."""
    return {
        str(level['level']): [
            latency_ms if math.isfinite(latency_ms) else None
            for latency_ms in site.trial_ms(level['level'], options.trial_seconds)
        ]
        for level in site.levels
    }


def measure_segment(
    site: Site,
    load: Load,
    name: str,
    policy: str,
    turn: int,
    limit: Mapping[str, Any],
    journal: Journal,
) -> None:
    """Run one segment and store it."""
    parameters = {'constraints.max_latency_ms': limit['limit_ms'], **parameters_of(policy)}
    seen = site.play(parameters, load, journal.records[0]['segment_s'])
    journal.append('segment', {'load': name, 'policy': policy, 'turn': turn, **seen})
    late = np.mean([row[1] is None or row[1] > limit['limit_ms'] for row in seen['frames']])
    print(f'{name}, {policy}, round {turn + 1}: {100 * late:.1f} % late', flush=True)


def parameters_of(policy: str) -> dict[str, float | str]:
    """Return the classifier's parameters for a policy, such as 'fixed 3'."""
    name, _, level = policy.partition(' ')
    return {
        'manager.policy': name,
        'manager.fixed_level': int(level or 0),
        'manager.max_switches_per_minute': SWITCHES.get(name, DEFAULT_SWITCHES),
    }


def chosen_limit(
    name: str,
    node: Mapping[str, Any],
    contended_ms: Mapping[str, Sequence[float | None]],
    given_ms: float,
) -> dict[str, Any]:
    """Return the limit for a load, and the trials of all levels under load."""
    highest = str(len(node['levels']))
    by_level = {int(level): known(samples) for level, samples in contended_ms.items()}
    limit = choose_limit(by_level, known(node['free_ms'][highest]))
    if given_ms:
        return {
            'load': name,
            'limit_ms': given_ms,
            'why': 'as given',
            'contended_ms': contended_ms,
        }
    if not math.isfinite(limit.limit_ms):
        raise DynamicOfaError(
            f'{name}: no level classifies at least 95 % of the images, with or without load; '
            'give a lower --rate-hz, or a --limit-ms'
        )
    return {
        'load': name,
        'limit_ms': round(limit.limit_ms, 2),
        'why': limit.sentence,
        'contended_ms': contended_ms,
    }


if __name__ == '__main__':
    sys.exit(main())
