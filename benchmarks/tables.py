"""Write the numbers in README.md and docs/ from the result files into marked blocks.

    python -m benchmarks.tables            # update all outdated blocks
    python -m benchmarks.tables --check    # change nothing; exit status 1 if a block is outdated

A block begins with `<!-- generated: NAME -->` and ends with `<!-- generated: end -->`; NAME is one
of BLOCKS. `test/test_documents.py` fails if a block differs from its result file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.space.spaces import search_space

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
SIGNS = ROOT / 'resource' / 'families' / 'signs'
BLOCK = re.compile(r'(<!-- generated: (\w+) -->\n)(.*?)(<!-- generated: end -->)', re.DOTALL)
MARKER = '<!-- generated: '

PUBLISHED_W12 = 'ofa_mbv3_d234_e346_k357_w1.2 (random weights)'
"""The family of the levels published for the Jetson Xavier NX; docs/performance.md calls it w1.2.
"""


class BlockError(ValueError):
    """A block is unknown or has no end marker."""


def main() -> int:
    """Update or check the blocks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='change nothing; 1 if outdated')
    is_check = parser.parse_args().check
    stale = [path for path in documents() if renew(path, write=not is_check)]
    for path in stale:
        print(f'{path.relative_to(ROOT)}: {"outdated" if is_check else "updated"}')
    return 1 if is_check and stale else 0


def documents() -> list[Path]:
    """Return README.md and all pages of docs/."""
    return [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


def renew(path: Path, *, write: bool) -> bool:
    """Return whether blocks of a document were outdated; update them if `write` is set."""
    text = path.read_text(encoding='utf-8')
    new = renewed(text)
    if write and new != text:
        path.write_text(new, encoding='utf-8')
    return new != text


def renewed(text: str) -> str:
    """Return a document with updated blocks; raise BlockError."""
    if 2 * len(BLOCK.findall(text)) != text.count(MARKER):
        raise BlockError(f'a block has no end: {MARKER}NAME --> requires {MARKER}end -->')
    return BLOCK.sub(_renewed_block, text)


def _renewed_block(match: re.Match[str]) -> str:
    name = match[2]
    if name not in BLOCKS:
        raise BlockError(f'unknown block {name!r}; known blocks are {", ".join(BLOCKS)}')
    return f'{match[1]}{BLOCKS[name]()}\n{match[4]}'


def results(name: str) -> dict[str, Any]:
    """Return the contents of a result file."""
    document: dict[str, Any] = json.loads((RESULTS / f'{name}.json').read_text(encoding='utf-8'))
    return document


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [f'| {" | ".join(str(cell) for cell in line)} |' for line in (headers, *rows)]
    return '\n'.join((lines[0], f'|{"---|" * len(headers)}', *lines[1:]))


def source(document: dict[str, Any], name: str) -> str:
    """Return where and when numbers were measured, as a line in italics."""
    machine, day = document['machine'], document['measured_at'][:10]
    processor = f'{machine["cpu"]}, {machine["cores"]} cores'
    return f'*`benchmarks/results/{name}.json`: {processor}, {day}.*'


def percent(share: float, digits: int = 1) -> str:
    """Return a fraction in per cent."""
    return f'{100.0 * share:.{digits}f}'


def demo() -> str:
    """Return the result of the demo with its conditions."""
    document = results('demo')
    cpus = document['conditions']['cpus']
    sentence = document['result'][-1]
    return (
        f'*`make demo` on {cpus} CPUs, the same load (grey) three times. '
        f'{sentence[0].upper()}{sentence[1:]}.*'
    )


def demo_sentence() -> str:
    """Return the result of the demo as shown in the terminal."""
    return f'    {results("demo")["result"][-1]}'


def signs() -> str:
    """Return the levels of the shipped family."""
    family = Family.load(SIGNS)
    profile = next(iter(family.platforms.values()))
    rows = [
        (
            level.index,
            level.resolution,
            percent(level.accuracy),
            f'{level.macs / 1e6:.1f}',
            f'{profile.latency_ms(level.index):.2f}',
        )
        for level in family.levels
    ]
    headers = ('level', 'input, px', 'top-1, %', 'MACs, M', 'median, ms')
    return f'{table(headers, rows)}\n\n*Latency on `{profile.platform}`.*'


def imagenet() -> str:
    """Return the levels of the ImageNet family."""
    document = results('imagenet')
    rows = [
        (
            level['level'],
            f'Lite{level["name"][len("efficientnet-lite")]}',
            level['resolution'],
            percent(level['top1']),
            level['top1_is'],
            percent(level['measured_top1']),
            f'{level["mean_top_score"]:.2f}',
            f'{level["median_ms"]:.1f}',
        )
        for level in document['results']['levels']
    ]
    headers = (
        'level', 'network', 'input, px', 'top-1, %', 'source', 'on the photographs, %',
        'mean top score', 'median, ms',
    )  # fmt: skip
    photographs = f'{document["results"]["photographs"]:,} photographs, onnxruntime, one thread.'
    return f'{table(headers, rows)}\n\n{source(document, "imagenet")[:-2]}; {photographs}*'


def node_losses() -> str:
    """Return the numbers of lost images with and without the Fast DDS profile."""
    document = results('node')
    found: dict[str, list[str]] = {}
    for stream in document['results']['streams']:
        if not stream['is_disturbed']:
            gone = stream['sent'] - stream['labels']
            transport_ms = stream['stages']['transport (stamp to arrival)']['median_ms']
            cell = f'{gone} of {stream["sent"]}; {transport_ms:.3g}'
            found.setdefault(_stream(stream), []).append(cell)
    headers = ('', 'best effort', 'best effort, profile', 'reliable', 'reliable, profile')
    rows = [(name, *cells) for name, cells in found.items()]
    return f'{table(headers, rows)}\n\n{source(document, "node")}'


def node_stages() -> str:
    """Return the time of the longest stages of the node."""
    stages = {
        'executor (arrival to callback)': 'executor',
        'queue (callback to worker)': 'queue',
        'decode and preprocess': 'decode, preprocess',
        'end to end - inference': 'end to end minus inference',
    }
    document = results('node')
    rows = [
        (
            _stream(stream) + (', disturbed' if stream['is_disturbed'] else ''),
            *(_quantiles(stream['stages'][stage]) for stage in stages),
        )
        for stream in document['results']['streams']
        if stream['has_profile'] and stream['reliability'] == 'reliable'
    ]
    start_s = document['results']['start_to_first_label_s']
    return (
        f'{table(("", *stages.values()), rows)}\n\n'
        f'From start to first label: {start_s["cold"]:.1f} s with an empty cache, '
        f'{start_s["warm"]:.1f} s with a filled one.'
    )


def _stream(stream: dict[str, Any]) -> str:
    return f'{stream["width"]}x{stream["height"]}, {stream["rate_hz"]:g} Hz'


def _quantiles(stage: dict[str, float]) -> str:
    return ' / '.join(f'{stage[key]:.3g}' for key in ('median_ms', 'p95_ms', 'p99_ms'))


def calibration() -> str:
    """Return the accuracy with batch-norm statistics of different numbers of images."""
    document = results('calibration')
    by_level: dict[int, dict[tuple[int, bool], str]] = {}
    resolutions = {}
    for row in document['results']['rows']:
        spread = f' ({percent(row["spread"], 2)})' if len(row['top1']) > 1 else ''
        cells = by_level.setdefault(row['level'], {})
        cells[row['images'], row['augment']] = percent(row['mean'], 2) + spread
        resolutions[row['level']] = row['resolution']
    keys = list(next(iter(by_level.values())))
    rows = [
        (
            f'{images:,}' if images else '0 (statistics of the supernet)',
            ('yes' if is_augmented else 'no') if images else '',
            *(cells[images, is_augmented] for cells in by_level.values()),
        )
        for images, is_augmented in keys
    ]
    levels = [f'level {level} ({resolutions[level]} px)' for level in by_level]
    text = table(('images', 'augmented', *levels), rows)
    return f'{text}\n\n{source(document, "calibration")}'


def fine_tuning() -> str:
    """Return top-1 after fine-tuning a supernet, training it from scratch, or one network."""
    document = results('fine_tuning')
    names = {
        'fine_tuned': '**supernet, from `imagenet`**',
        'scratch': 'supernet, from random weights',
        'single': 'largest network alone, from `imagenet`',
    }
    sets = document['results']['sets']
    rows = [
        (
            f'{int(images):,}',
            found['epochs'],
            names[name],
            percent(run['top1_largest']),
            percent(run['top1_smallest']) if name != 'single' else '',
            f'{run["minutes"]:.0f}',
        )
        for images, found in sorted(sets.items(), key=lambda item: int(item[0]))
        for name, run in found['runs'].items()
    ]
    any_set = next(iter(sets.values()))
    threads = any_set['threads']
    largest, smallest = (any_set['ends'][end] for end in ('largest', 'smallest'))
    headers = (
        'images', 'epochs', 'training', 'largest, %', 'smallest, %',
        f'minutes on {threads} CPU thread{"s" * (threads > 1)}',
    )  # fmt: skip
    ratio = largest['median_ms'] / smallest['median_ms']
    return (
        f'{table(headers, rows)}\n\n'
        f'The smallest sub-network ({smallest["resolution"]} px) is {ratio:.1f} times as fast as '
        f'the largest ({largest["resolution"]} px). {source(document, "fine_tuning")}'
    )


def latency_models() -> str:
    """Return the errors of latency models on held-out networks."""
    document = results('latency_models')
    found = document['results']
    correction = found['correction']
    factor = f'{correction["offset_ms"]:.2f} ms + {correction["factor"]:.2f} x sum'
    names = {
        'operators, plain sum': 'plain sum of operators',
        'operators, corrected': f'**sum, corrected** ({factor})',
    }
    rows = [
        (
            names.get(name, f'predictor from {name}'),
            percent(model['mean_error']),
            percent(model['largest_error']),
            percent(model['within_10_percent'], 0),
            f'{model["kendall_tau"]:.3f}',
            f'{model["seconds"]:.0f}' if 'seconds' in model else '',
        )
        for name, model in found['models'].items()
    ]
    headers = (
        'model', 'mean error, %', 'largest, %', 'within 10 %', "Kendall's tau", 'time to build, s',
    )  # fmt: skip
    return f'{table(headers, rows)}\n\n{source(document, "latency_models")}'


def search() -> str:
    """Return the gain of each search over the published results."""
    document = results('search')
    names = {'nsga2': '**default**', 'algorithm 1': 'Algorithm 1', 'random': 'random'}
    rows = []
    for target in ('gpu', 'cpu'):
        for key, found in document['results'][target].items():
            name = key.rpartition(' ')[0]
            if name not in names:
                continue
            gains = found['gain_median']
            front = found['hypervolume_ratio']['front']
            is_long = found['evaluations'] == document['configuration']['front_evaluations']
            seeds = document['configuration']['front_seeds' if is_long else 'seeds']
            rows.append(
                (
                    target.upper(),
                    names[name],
                    f'{found["evaluations"]:,.0f}',
                    f'{found["seconds"]:.2g}',
                    f'{100 * min(gains):+.2f} to {100 * max(gains):+.2f}',
                    f'{found["seeds_at_least_as_good_everywhere"]} of {seeds}',
                    f'{front["near"]:.2f} / {front["far"]:.2f}',
                )
            )
    headers = (
        'table', 'search', 'evaluations', 's', 'gain at the limits (range)',
        'seeds without a loss at any limit', 'hypervolume, near / far',
    )  # fmt: skip
    return f'{table(headers, rows)}\n\n{source(document, "search")}'


def coordination() -> str:
    """Return the results of coordinated and independent classifiers on one device."""
    document = results('coordination')
    groups = dict.fromkeys(SHOWN_GROUPS, ('collective',))
    groups['all'] = tuple(document['results']['all'])
    rows = [
        (GROUPS.get(group, group), f'`{name}`', *_reached(document['results'][group][name]))
        for group, names in groups.items()
        for name in names
    ]
    found = document['results']['all']['collective']
    met, loss = found['met %'], found['loss mean']
    is_met = met >= 96.0 and loss <= 0.3 and not found['restless %']
    verdict = (
        f'The targets (96 % met, a loss of 0.3 points, 0 % restless) are '
        f'**{"met" if is_met else "missed"}**: {met:.1f} % met, a loss of {loss:.2f} points and '
        f'{found["restless %"]:.1f} % restless.'
    )
    headers = ('scenarios', 'contender', *COORDINATION)
    return f'{table(headers, rows)}\n\n{verdict} {source(document, "coordination")}'


COORDINATION = {
    'feasible': 'feasible',
    'met %': 'met %',
    'a model > 10 % late, %': 'late > 10 %',
    'loss, points': 'loss mean',
    'settled, s (median)': 'settled p50 s',
    'restless %': 'restless %',
}
"""The columns of the tables, by their key in the result file."""

SHOWN_GROUPS = ('all', '2 models', '3 models', 'proportional', 'time_slicing')
GROUPS = {'time_slicing': 'time slicing'}
"""Names of the groups of scenarios in the tables."""


def _reached(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f'{found[key]:.4g}' for key in COORDINATION.values())


def contention() -> str:
    """Return what each way of choosing levels reaches beside real loads, one row a load."""
    document = results('contention')
    families = document['results']['families']
    rows = []
    aims = []
    better_than = {'highest': 0, 'alert': 0}
    switches: dict[str, list[float]] = {'alert': [], 'predictive': []}
    for family, entry in families.items():
        for load in entry['loads'].values():
            aim, policies = load['aim'], load['policies']
            aims.append(aim)
            highest = max(
                (name for name in policies if name.startswith('fixed ')),
                key=lambda name: int(name.split()[1]),
            )
            names = (highest, load['best_fixed'], 'reactive', 'alert', 'predictive')
            reached = policies['predictive']['on_time_top1']
            better_than['highest'] += reached > policies[highest]['on_time_top1']
            better_than['alert'] += reached > policies['alert']['on_time_top1']
            for name, per_minute in switches.items():
                per_minute.append(policies[name]['switches_per_minute'])
            low, high = aim['gain_interval']
            rows.append(
                (
                    family,
                    load['words'],
                    f'{load["limit_ms"]:.0f}',
                    *(
                        f'{percent(policies[name]["late"])} '
                        f'({percent(policies[name]["on_time_top1"])})'
                        for name in names
                    ),
                    f'{100 * aim["gain"]:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})',
                )
            )
    kept = sum(bool(aim['is_late_met']) for aim in aims)
    gained = sum(aim['is_gain_met'] for aim in aims)
    alert, own = (f'{min(found):.0f} to {max(found):.0f}' for found in switches.values())
    verdict = (
        f'With `predictive`, at most 5 % of the images are late for {kept} of {len(aims)} loads. '
        f'Its on-time top-1 is higher than that of the highest level for {better_than["highest"]} '
        f'loads and than that of ALERT for {better_than["alert"]}, and at least that of the best '
        f'fixed level for {gained}. It switches {own} times a minute, ALERT {alert} times.'
    )
    busy = ', '.join(
        f'{name} {100 * entry["cpu_used_by_others"]:.0f} %' for name, entry in families.items()
    )
    headers = (
        'family', 'load', 'limit, ms', 'highest level', 'best fixed level', '`reactive`', 'ALERT',
        '`predictive`', '`predictive` less best fixed, points',
    )  # fmt: skip
    note = f'Load of other programs: {busy}.'
    return f'{table(headers, rows)}\n\n{verdict} {note} {source(document, "contention")}'


def targets() -> str:
    """Return the targets of the policy `predictive` on simulated traces, and the results."""
    document = results('policies')
    rows = [
        (
            target['name'].strip(),
            target['target'],
            f'{target["found"]:.3g}',
            '' if target['low'] is None else f'{target["low"]:.3g} to {target["high"]:.3g}',
            target['verdict'].lower(),
        )
        for target in document['results']['targets']
    ]
    headers = ('metric', 'target', 'result', '95 % interval', '')
    return f'{table(headers, rows)}\n\n{source(document, "policies")}'


def traces() -> str:
    """Return late frames and on-time top-1 of the policies on simulated traces."""
    document = results('policies')
    shown = ('fixed highest', 'fixed lowest', 'reactive', 'alert', 'predictive', 'oracle')
    rows = [
        (
            f'`{trace}`',
            *(
                f'{of[name]["late %"]["mean"]:.1f} ({of[name]["on time %"]["mean"]:.1f})'
                for name in shown
            ),
        )
        for trace, of in document['results']['traces'].items()
    ]
    return table(('trace', *shown), rows)


def engines() -> str:
    """Return the latency of a level with each engine, and in the supernet."""
    cpu, gpu = results('engines'), results('gpu_check')
    of_gpu = gpu['results']['families'][PUBLISHED_W12]
    on_gpu = {level['level']: level for level in of_gpu['levels']}
    by = ('ofa dynamic', 'pytorch', 'onnxruntime', 'openvino')
    rows = [
        (
            level['level'],
            *(f'{level[engine]["median_ms"]:.1f}' for engine in by),
            *(
                f'{on_gpu[level["level"]][engine]["median_ms"]:.2f}'
                for engine in ('ofa dynamic', 'pytorch cuda')
            ),
        )
        for level in cpu['results'][PUBLISHED_W12]['levels']
    ]
    headers = (
        'level', 'CPU: supernet', 'CPU: `pytorch`', 'CPU: `onnxruntime`', 'CPU: `openvino`',
        'GPU: supernet', 'GPU: `pytorch`',
    )  # fmt: skip
    gpu_name = gpu['results']['gpu']['gpu']
    return (
        f'{table(headers, rows)}\n\n{source(cpu, "engines")}\n'
        f'{source(gpu, "gpu_check")[:-2]}, {gpu_name}.*'
    )


def engine_targets() -> str:
    """Return the targets of the CPU engines, and the results."""
    document = results('engines')
    signs = document['results']['signs']
    published = document['results'][PUBLISHED_W12]
    wanted = (
        (1.03, signs, 'openvino', 'openvino by itself', 'signs'),
        (0.62, signs, 'openvino', 'onnxruntime, exported by PyTorch', 'signs'),
        (0.62, signs, 'onnxruntime', 'onnxruntime, exported by PyTorch', 'signs'),
        (0.26, published, 'openvino', 'ofa dynamic', 'w1.2'),
    )
    rows = []
    for aim, family, engine, baseline, name in wanted:
        found = _mean_ratio(family, engine, baseline)
        is_met = 'met' if found <= aim else f'missed by {found - aim:.2g}'
        rows.append((f'{engine} / {baseline}, {name}', f'<= {aim:g}', f'{found:.2f}', is_met))
    headers = ('mean ratio of the levels', 'target', 'result', '')
    return f'{table(headers, rows)}\n\n{source(document, "engines")}'


def _mean_ratio(family: dict[str, Any], engine: str, baseline: str) -> float:
    ratios = [
        level[engine]['median_ms'] / level[baseline]['median_ms'] for level in family['levels']
    ]
    return sum(ratios) / len(ratios)


def switching() -> str:
    """Return the cost of a switch."""
    cpu, gpu = results('switching'), results('gpu_check')
    of_signs = gpu['results']['families']['signs']['switching']
    published = 'published method: the level is extracted again'
    rows = [
        ('CPU', 'an index changes', _quantiles(cpu['results']['all'])),
        ('CPU', 'no switch (noise of the machine)', _quantiles(cpu['results']['no_switch'])),
        ('CPU', published, _quantiles(cpu['results']['published_way'])),
        ('GPU', 'an index changes', _quantiles(of_signs['resident'])),
        ('GPU', published, _quantiles(of_signs['published_way'])),
        ('Jetson, published', 'Dynamic-OFA / AutoSlim / MutualNet', '73 / 33 / 17 on average'),
    ]
    headers = ('', 'method', 'extra time of the first frame: median / 95 % / 99 %, ms')
    return f'{table(headers, rows)}\n\n{source(cpu, "switching")}'


def precision() -> str:
    """Return latency and accuracy of each precision."""
    document = results('precision')
    families = document['results']
    first = next(iter(families.values()))[0]
    rows = [
        (name, *(_precision(levels, name) for levels in families.values()))
        for name in first
        if name not in ('level', 'resolution')
    ]
    headers = ('', *(_short(family) for family in families))
    return f'{table(headers, rows)}\n\n{source(document, "precision")}'


def _precision(levels: Sequence[dict[str, Any]], name: str) -> str:
    """Return the mean ratio of the levels, and the mean top-1 if it was measured."""
    ratio = sum(level[name]['ratio'] for level in levels) / len(levels)
    right = [level[name]['top1_percent'] for level in levels if 'top1_percent' in level[name]]
    top1 = f' ({sum(right) / len(right):.1f})' if right else ''
    return f'{ratio:.2f}{top1}'


def _short(family: str) -> str:
    """Return a short name of a family."""
    return 'w1.2' if family == PUBLISHED_W12 else family


def scheduling() -> str:
    """Return the effect of niceness and other variants beside busy processes."""
    document = results('scheduling')
    columns = list(document['results'].values())
    rows = [
        (way, *(' / '.join(f'{of[way][f"p{q}_ms"]:.1f}' for q in (50, 95, 99)) for of in columns))
        for way in columns[0]
    ]
    headers = ('', *(f'{load}: median / 95 % / 99 %, ms' for load in document['results']))
    return f'{table(headers, rows)}\n\n{source(document, "scheduling")}'


def memory() -> str:
    """Return the memory of the levels."""
    document = results('memory')
    rows = []
    for family, of in document['results'].items():
        for engine in ('onnxruntime', 'openvino'):
            found = of[engine]
            rows.append(
                (
                    _short(family),
                    f'`{engine}`',
                    f'{found["all_mb"]:.0f}',
                    f'{found["alone_mb"]:.0f}',
                    f'{found["ratio"]:.1f}',
                    f'{found["budget_mb"]:.0f}',
                )
            )
        alone = f'{of["supernet_mb"]:.0f}'
        rows.append((_short(family), 'supernet in PyTorch', alone, '', '', ''))
    headers = (
        'family', 'engine', 'all levels, MB', 'largest level only, MB', 'ratio',
        'with half as `max_resident_mb`, MB',
    )  # fmt: skip
    return f'{table(headers, rows)}\n\n{source(document, "memory")}'


def start() -> str:
    """Return the time of a start."""
    document = results('start')
    kinds = {
        'first': 'first start',
        'warm': 'later starts',
        'published way': 'PyTorch, the supernet and one level',
    }
    families = document['results']
    rows = [
        (what, *(f'{of[kind]["median_s"]:.1f}' for of in families.values()))
        for kind, what in kinds.items()
    ]
    headers = ('', *(f'{_short(family)}, s' for family in families))
    return f'{table(headers, rows)}\n\n{source(document, "start")}'


def backbones() -> str:
    """Return the cost of the smallest and largest sub-networks of the published backbones."""
    from dynamic_ofa_ros.supernet.network import PUBLISHED  # imports torch

    rows = []
    for name, backbone in PUBLISHED.items():
        space = search_space(backbone.kind)
        costs = [
            space.count_cost(architecture, backbone.width_mult, backbone.classes)
            for architecture in (space.smallest(), space.largest())
        ]
        cells = [f'{c.macs / 1e6:,.0f} M MACs, {c.parameters / 1e6:.1f} M' for c in costs]
        rows.append((f'`{name}`', f'`{backbone.kind}`', f'{backbone.width_mult:g}', *cells))
    return table(('name', 'kind', 'width', 'smallest', 'largest'), rows)


def parameters() -> str:
    """Return the classifier's parameters."""
    return _parameter_table('CLASSIFIER')


def camera_parameters() -> str:
    """Return the camera's parameters."""
    return _parameter_table('CAMERA')


def _parameter_table(name: str) -> str:
    from dynamic_ofa_ros.nodes import parameter_table, parameters  # import ROS 2

    return parameter_table.markdown_table(getattr(parameters, name))


def monitor_parameters() -> str:
    """Return the parameters of monitor_node."""
    return _parameter_table('MONITOR')


def monitor() -> str:
    """Return what monitor_node costs."""
    document = results('monitor')
    rows = [
        (row['classifiers'], row['pages'], f'{row["cpu_percent"]:.1f}', f'{row["kb_per_s"]:.0f}')
        for row in document['results']['cases']
    ]
    headers = ('classifiers', 'open pages', '% of a core', 'KB per second and page')
    return f'{table(headers, rows)}\n\n{source(document, "monitor")}'


def monitor_memory() -> str:
    """Return the memory of monitor_node and of its page over minutes."""
    document = results('monitor_memory')
    samples = document['results']['memory']
    shown = [row for row in samples if row['is_open']]
    before = [row for row in samples if row['s'] < shown[0]['s']][-1]
    early = min(shown, key=lambda row: abs(row['s'] - shown[0]['s'] - 60.0))
    rows = [
        (words, f'{row["node_mb"]:.0f}', *(
            f'{row[name]:.{digits}f}' if row['is_open'] else '-'
            for name, digits in (('heap_mb', 1), ('dom_nodes', 0), ('browser_mb', 0))
        ))
        for words, row in (
            ('before the first page', before),
            (f'page open for {(early["s"] - before["s"]) / 60.0:.0f} min', early),
            (f'page open for {(shown[-1]["s"] - before["s"]) / 60.0:.0f} min', shown[-1]),
            ('page closed again', samples[-1]),
        )
    ]  # fmt: skip
    headers = ('', 'node, MB', "page's JavaScript, MB", "page's elements", 'all of Chromium, MB')
    return f'{table(headers, rows)}\n\n{source(document, "monitor_memory")}'


BLOCKS: dict[str, Callable[[], str]] = {
    make.__name__: make
    for make in (
        demo, demo_sentence, signs, imagenet, node_losses, node_stages, calibration,
        fine_tuning, latency_models, search, contention, coordination, targets, traces, engines,
        engine_targets, switching, start, memory, precision, scheduling, backbones, parameters,
        camera_parameters, monitor_parameters, monitor,
        monitor_memory,
    )
}  # fmt: skip


if __name__ == '__main__':
    sys.exit(main())
