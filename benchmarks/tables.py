"""The numbers of README.md and docs/, written from the result files into their marked blocks.

    python -m benchmarks.tables            # renew every block whose numbers changed
    python -m benchmarks.tables --check    # change nothing; exit status 1 if one is out of date

A block begins with `<!-- generated: NAME -->` and ends with `<!-- generated: end -->`; NAME is one
of BLOCKS. `test/test_documents.py` fails where a block differs from its result file.
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
from dynamic_ofa_ros.runtime import experience, series
from dynamic_ofa_ros.runtime.policies import predictive
from dynamic_ofa_ros.space.spaces import search_space

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
SIGNS = ROOT / 'resource' / 'families' / 'signs'
BLOCK = re.compile(r'(<!-- generated: (\w+) -->\n)(.*?)(<!-- generated: end -->)', re.DOTALL)
MARKER = '<!-- generated: '


class BlockError(ValueError):
    """A block that does not exist, or that does not end."""


def main() -> int:
    """Renew the blocks, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='change nothing; 1 if out of date')
    is_check = parser.parse_args().check
    stale = [path for path in documents() if renew(path, write=not is_check)]
    for path in stale:
        print(f'{path.relative_to(ROOT)}: {"out of date" if is_check else "renewed"}')
    return 1 if is_check and stale else 0


def documents() -> list[Path]:
    """Return README.md and every page of docs/."""
    return [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def renew(path: Path, *, write: bool) -> bool:
    """Return whether the blocks of a document were out of date; write them anew if asked to."""
    text = path.read_text(encoding='utf-8')
    new = renewed(text)
    if write and new != text:
        path.write_text(new, encoding='utf-8')
    return new != text


def renewed(text: str) -> str:
    """Return a document with the blocks as the results have them; raise BlockError."""
    if 2 * len(BLOCK.findall(text)) != text.count(MARKER):
        raise BlockError(f'a block does not end: each needs {MARKER}NAME --> and {MARKER}end -->')
    return BLOCK.sub(_renewed_block, text)


def _renewed_block(match: re.Match[str]) -> str:
    name = match[2]
    if name not in BLOCKS:
        raise BlockError(f'there is no block {name!r}; known are {", ".join(BLOCKS)}')
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
    """Return where and when numbers were measured, a line in italics."""
    machine, day = document['machine'], document['measured_at'][:10]
    processor = f'{machine["cpu"]}, {machine["cores"]} cores'
    return f'*`benchmarks/results/{name}.json`: {processor}, {day}.*'


def percent(share: float, digits: int = 1) -> str:
    """Return a fraction as a number of per cent."""
    return f'{100.0 * share:.{digits}f}'


def demo() -> str:
    """Return the demo's sentence, as a sentence."""
    document = results('demo')
    cpus = document['conditions']['cpus']
    sentence = document['result'][-1]
    return (
        f'*`make demo` on {cpus} CPUs, the same load (grey) three times. '
        f'{sentence[0].upper()}{sentence[1:]}.*'
    )


def demo_sentence() -> str:
    """Return the demo's sentence as the terminal shows it."""
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
        'level', 'network', 'input, px', 'top-1, %', 'known how', 'on the photographs, %',
        'mean top score', 'median, ms',
    )  # fmt: skip
    photographs = f'{document["results"]["photographs"]:,} photographs, onnxruntime, one thread.'
    return f'{table(headers, rows)}\n\n{source(document, "imagenet")[:-2]}; {photographs}*'


def node_losses() -> str:
    """Return how many images get lost with and without the Fast DDS profile."""
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
    """Return what every stage of the node takes."""
    stages = {
        'executor (arrival to callback)': 'executor',
        'queue (callback to worker)': 'queue',
        'decode and preprocess': 'decode, preprocess',
        'postprocess': 'postprocess',
        'publish and the rest of the node': 'publish',
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
        f'{start_s["warm"]:.1f} s after that.'
    )


def _stream(stream: dict[str, Any]) -> str:
    return f'{stream["width"]}x{stream["height"]}, {stream["rate_hz"]:g} Hz'


def _quantiles(stage: dict[str, float]) -> str:
    return ' / '.join(f'{stage[key]:.3g}' for key in ('median_ms', 'p95_ms', 'p99_ms'))


def calibration() -> str:
    """Return what batch-norm statistics of so many images are worth."""
    document = results('calibration')
    by_level: dict[int, dict[tuple[int, bool], str]] = {}
    resolutions = {}
    for row in document['rows']:
        spread = f' ({percent(row["spread"], 2)})' if len(row['top1']) > 1 else ''
        cells = by_level.setdefault(row['level'], {})
        cells[row['images'], row['augment']] = percent(row['mean'], 2) + spread
        resolutions[row['level']] = row['resolution']
    keys = list(next(iter(by_level.values())))
    rows = [
        (
            f'{images:,}' if images else "0: the supernet's own",
            ('yes' if is_augmented else 'no') if images else '',
            *(cells[images, is_augmented] for cells in by_level.values()),
        )
        for images, is_augmented in keys
    ]
    levels = [f'level {level} ({resolutions[level]} px)' for level in by_level]
    return table(('images', 'augmented', *levels), rows)


def latency_models() -> str:
    """Return how well latency models predict networks that they were not fitted on."""
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
    """Return what each search gains over the published one."""
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
        'table', 'search', 'evaluations', 's', 'gain at the limits, least to most',
        'seeds as good at all limits', 'hypervolume, near / far',
    )  # fmt: skip
    return f'{table(headers, rows)}\n\n{source(document, "search")}'


def constants() -> str:
    """Return the constants of the policy `predictive` that decide what a user sees."""
    rows = [
        ('frames remembered', series.WINDOW),
        ('a run of frames is a change below a chance of', f'{series.CHANCE:g}'),
        ('the guess for a level weighs as many of its own frames as', experience.GUESS_WEIGHT),
        ("a level's own frames count half after", f'{experience.OWN_HALF_LIFE_S:g} s'),
        ('contended from a slowdown of', experience.CONTENDED_ABOVE),
        ('left at so many times the allowed share of late frames', predictive.STAY),
        ('margin on the way up, sd of the profile', predictive.MARGIN_SD),
        ('shortest and longest hold', f'{_times("SHORTEST_HOLD")} and {_times("LONGEST_HOLD")}'),
        ('hold before the first trial', _times('FIRST_TRIAL_HOLDS')),
        ('longer after every failed trial', f'{predictive.TRIAL_GROWTH:g} times'),
        ('longest hold before a trial', f'{predictive.LONGEST_TRIAL_S:g} s'),
        ('shares of late frames that count as equal', f'{predictive.LATE_TOLERANCE:.0%} apart'),
    ]
    return table(('what', 'value'), rows)


def _times(name: str) -> str:
    return f'{getattr(predictive, name):g} x `hold_s`'


def ablations() -> str:
    """Return what the policy `predictive` reaches without one mechanism at a time."""
    document = results('ablations')
    variants = document['results']['variants']
    rows = [(name, *(f'{value:.4g}' for value in row.values())) for name, row in variants.items()]
    headers = ('', *next(iter(variants.values())))
    best = document['results']['best_fixed_on_time_percent']
    note = f'Best fixed level in hindsight on the recording: {best:.1f} % on time.'
    return f'{table(headers, rows)}\n\n{note} {source(document, "ablations")}'


def coordination() -> str:
    """Return what classifiers on one device reach together, and each for itself."""
    document = results('coordination')
    groups = dict.fromkeys(document['results'], ('collective',))
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
        f'Against the targets (96 % met, 0.3 points lost, nobody restless): '
        f'**{"met" if is_met else "missed"}**, with {met:.1f} % met, {loss:.2f} points lost and '
        f'{found["restless %"]:.1f} % restless.'
    )
    headers = ('scenarios', 'who', *COORDINATION)
    return f'{table(headers, rows)}\n\n{verdict} {source(document, "coordination")}'


COORDINATION = {
    'feasible': 'feasible',
    'met %': 'met %',
    'a model > 10 % late, %': 'late > 10 %',
    'loss, points': 'loss mean',
    'settled, s (median)': 'settled p50 s',
    'restless %': 'restless %',
}
"""The columns that the pages show, and what they are in the result file."""

GROUPS = {
    'time_slicing': 'time slicing',
    'none': 'nothing changes',
    'comes': 'a model comes',
    'dies': 'a model dies',
    'limit': 'a limit changes',
    'importance': 'an importance changes',
}
"""What the pages call groups of scenarios."""


def _reached(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f'{found[key]:.4g}' for key in COORDINATION.values())


def coordination_ablations() -> str:
    """Return what classifiers on one device reach without one part of the mechanism at a time."""
    document = results('coordination_ablations')
    rows = [
        ('all parts' if name == 'collective' else name, *_reached(found))
        for name, found in document['results']['all'].items()
    ]
    return f'{table(("", *COORDINATION), rows)}\n\n{source(document, "coordination_ablations")}'


def targets() -> str:
    """Return how the policy `predictive` meets its targets on simulated traces."""
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
    headers = ('target', 'wanted', 'found', '95 % interval', '')
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
    """Return what a level takes with each engine, and as the supernet runs it by itself."""
    cpu, gpu = results('engines'), results('gpu_check')
    name = 'ofa_mbv3_d234_e346_k357_w1.2 (random weights)'
    on_gpu = {level['level']: level for level in gpu['results']['families'][name]['levels']}
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
        for level in cpu['results'][name]['levels']
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
    """Return what the engine for the CPU was to reach, and what it did."""
    document = results('engines')
    signs = document['results']['signs']
    published = document['results']['ofa_mbv3_d234_e346_k357_w1.2 (random weights)']
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
    headers = ('mean ratio of the levels', 'wanted', 'found', '')
    return f'{table(headers, rows)}\n\n{source(document, "engines")}'


def _mean_ratio(family: dict[str, Any], engine: str, baseline: str) -> float:
    ratios = [
        level[engine]['median_ms'] / level[baseline]['median_ms'] for level in family['levels']
    ]
    return sum(ratios) / len(ratios)


def switching() -> str:
    """Return what a switch costs."""
    cpu, gpu = results('switching'), results('gpu_check')
    of_signs = gpu['results']['families']['signs']['switching']
    anew = 'as published: the level is taken out anew'
    rows = [
        ('CPU', 'an index changes', _quantiles(cpu['results']['all'])),
        ('CPU', 'no switch: how far any frame is off', _quantiles(cpu['results']['no_switch'])),
        ('CPU', anew, _quantiles(cpu['results']['published_way'])),
        ('GPU', 'an index changes', _quantiles(of_signs['resident'])),
        ('GPU', anew, _quantiles(of_signs['published_way'])),
        ('Jetson, published', 'Dynamic-OFA / AutoSlim / MutualNet', '73 / 33 / 17 on average'),
    ]
    headers = ('', 'way', 'extra time of the first frame: median / 95 % / 99 %, ms')
    return f'{table(headers, rows)}\n\n{source(cpu, "switching")}'


def precision() -> str:
    """Return what each precision takes, and how often it is right."""
    document = results('precision')
    rows = []
    for family, levels in document['results'].items():
        for name in levels[0]:
            if name in ('level', 'resolution'):
                continue
            ratio = sum(level[name]['ratio'] for level in levels) / len(levels)
            right = [
                level[name]['top1_percent'] for level in levels if 'top1_percent' in level[name]
            ]
            top1 = f'{sum(right) / len(right):.1f}' if right else ''
            rows.append((family, name, f'{ratio:.2f}', top1))
    headers = ('family', 'engine and precision', 'latency / onnxruntime fp32', 'top-1, %')
    return f'{table(headers, rows)}\n\nMeans of all levels. {source(document, "precision")}'


def scheduling() -> str:
    """Return what niceness and other ways are worth beside busy processes."""
    document = results('scheduling')
    columns = list(document['results'].values())
    rows = [
        (way, *(' / '.join(f'{of[way][f"p{q}_ms"]:.1f}' for q in (50, 95, 99)) for of in columns))
        for way in columns[0]
    ]
    headers = ('', *(f'{load}: median / 95 % / 99 %, ms' for load in document['results']))
    return f'{table(headers, rows)}\n\n{source(document, "scheduling")}'


def memory() -> str:
    """Return what memory the levels take."""
    document = results('memory')
    rows = []
    for family, of in document['results'].items():
        for engine in ('onnxruntime', 'openvino'):
            found = of[engine]
            rows.append(
                (
                    family,
                    f'`{engine}`',
                    f'{found["all_mb"]:.0f}',
                    f'{found["alone_mb"]:.0f}',
                    f'{found["ratio"]:.1f}',
                    f'{found["budget_mb"]:.0f}',
                )
            )
        rows.append((family, 'supernet in PyTorch', f'{of["supernet_mb"]:.0f}', '', '', ''))
    headers = (
        'family', 'engine', 'all levels, MB', 'the largest alone', 'ratio',
        '`max_resident_mb` of half',
    )  # fmt: skip
    return f'{table(headers, rows)}\n\n{source(document, "memory")}'


def start() -> str:
    """Return how long a start takes."""
    document = results('start')
    kinds = {
        'first': 'first start: engines are built',
        'warm': 'every other',
        'published way': 'PyTorch, the supernet and one level of it',
    }
    rows = [
        (family, what, f'{of[kind]["median_s"]:.1f}')
        for family, of in document['results'].items()
        for kind, what in kinds.items()
    ]
    return f'{table(("family", "start", "seconds"), rows)}\n\n{source(document, "start")}'


def preprocessing() -> str:
    """Return how long decoding and preprocessing take, and that accuracy stays."""
    document = results('preprocessing')
    rows = [
        (
            row['image'],
            f'`{row["encoding"]}`',
            row['resolution'],
            f'{row["literal"]["median_ms"]:.2f}',
            f'{row["now"]["median_ms"]:.2f}',
            f'{row["ratio"]:.2f}',
        )
        for row in document['results']['times']
        if row['resolution'] in (96, 160, 256) and row['image'] != '1280x720'
    ]
    of = document['results']['accuracy']
    sentences = [
        f'{name}: {found["now_less_exact_points"]:+.2f} points +- {found["interval_points"]:.2f} '
        f'on {found["images"]:,} images'
        for name, found in of.items()
    ]
    headers = ('image', 'encoding', 'px', 'step by step, ms', 'now, ms', 'ratio')
    return (
        f'{table(headers, rows)}\n\nAccuracy with it, less that with exact means: '
        f'{"; ".join(sentences)}.\n\n{source(document, "preprocessing")}'
    )


def backbones() -> str:
    """Return what the published backbones cost at their smallest and their largest."""
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
    from dynamic_ofa_ros.nodes.parameters import markdown_table  # imports ROS 2

    return markdown_table()


def monitor_parameters() -> str:
    """Return the parameters of monitor_node."""
    from dynamic_ofa_ros.nodes.parameters import MONITOR, markdown_table  # imports ROS 2

    return markdown_table(MONITOR)


def monitor() -> str:
    """Return what monitor_node costs."""
    document = results('monitor')
    rows = [
        (row['classifiers'], row['pages'], f'{row["cpu_percent"]:.1f}', f'{row["kb_per_s"]:.0f}')
        for row in document['results']['cases']
    ]
    memory = document['results']['memory']
    first, last = memory[0], memory[-1]
    headers = ('classifiers', 'open pages', '% of a core', 'KB per second and page')
    return (
        f'{table(headers, rows)}\n\n'
        f'Memory with two pages: {first["mb"]:.0f} MB at first, {last["mb"]:.0f} MB after '
        f'{last["s"] / 60.0:.0f} minutes. {source(document, "monitor")}'
    )


BLOCKS: dict[str, Callable[[], str]] = {
    make.__name__: make
    for make in (
        demo, demo_sentence, signs, imagenet, node_losses, node_stages, calibration,
        latency_models, search, constants, ablations, coordination, coordination_ablations,
        targets, traces, engines, engine_targets, switching, start, memory, precision, scheduling,
        preprocessing,
        backbones, parameters, monitor_parameters, monitor,
    )
}  # fmt: skip


if __name__ == '__main__':
    sys.exit(main())
