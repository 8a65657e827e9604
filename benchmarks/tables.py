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
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.policies import PREDICTABLE

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
SIGNS = ROOT / 'resource' / 'families' / 'signs'
BLOCK = re.compile(r'(<!-- generated: (\w+) -->\n)(.*?)(<!-- generated: end -->)', re.DOTALL)
MARKER = '<!-- generated: '

USUAL = 'engines'
"""The result file of the machine that docs/performance.md names for all numbers."""

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
    """Return file, date and, if it is not the usual one, machine of numbers, in italics."""
    processor, day = processor_of(document), document['measured_at'][:10]
    where = '' if processor == processor_of(results(USUAL)) else f'{processor}, '
    return f'*`benchmarks/results/{name}.json`: {where}{day}.*'


def processor_of(document: dict[str, Any]) -> str:
    """Return the processor on which a result was measured."""
    return f'{document["machine"]["cpu"]}, {document["machine"]["cores"]} cores'


def machine() -> str:
    """Return on which machine the numbers were measured."""
    found = results(USUAL)
    return (
        'Unless another machine is named, all numbers in this documentation were measured on '
        f'this machine: {processor_of(found)}, {found["machine"]["memory_gb"]:.0f} GB.'
    )


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


def imagenet() -> str:
    """Return the range of the levels of the ImageNet family."""
    document = results('imagenet')
    levels = document['results']['levels']
    lowest, highest = (
        f'{percent(level["top1"])} % top-1 ({level["top1_is"]}) in {level["median_ms"]:.1f} ms '
        f'(Lite{level["name"][len("efficientnet-lite")]}, {level["resolution"]} px)'
        for level in (levels[0], levels[-1])
    )
    return (
        f'{len(levels)} levels, from {lowest} to {highest}, with onnxruntime and one thread. '
        'An estimate is the published top-1 minus the loss on '
        f'{document["results"]["photographs"]:,} photographs. {source(document, "imagenet")}'
    )


def node_losses() -> str:
    """Return the share of images without a label, with and without the Fast DDS profile."""
    document = results('node')
    found: dict[str, list[str]] = {}
    stages = []
    for stream in document['results']['streams']:
        if not stream['is_disturbed']:
            lost = 1.0 - stream['labels'] / stream['sent']
            found.setdefault(_stream(stream), []).append(percent(lost))
            if stream['stages']:  # empty if nearly all images were lost
                stages.append(stream['stages']['end to end - inference'])
    headers = ('', 'best effort', 'best effort, profile', 'reliable', 'reliable, profile')
    rows = [(name, *cells) for name, cells in found.items()]
    median, most = (
        f'{min(of[key] for of in stages):.0f} to {max(of[key] for of in stages):.0f} ms'
        for key in ('median_ms', 'p99_ms')
    )
    return (
        f'{table(headers, rows)}\n\n'
        f'From stamp to label, without inference, an image takes {median} in the median (99 %: '
        f'{most}). {source(document, "node")}'
    )


def _stream(stream: dict[str, Any]) -> str:
    return f'{stream["width"]}x{stream["height"]}, {stream["rate_hz"]:g} Hz'


def calibration() -> str:
    """Return the accuracy with batch-norm statistics of numbers of images, not augmented."""
    document = results('calibration')
    by_level: dict[int, dict[tuple[int, bool], str]] = {}
    resolutions = {}
    for row in document['results']['rows']:
        spread = f' ({percent(row["spread"], 2)})' if len(row['top1']) > 1 else ''
        cells = by_level.setdefault(row['level'], {})
        cells[row['images'], row['augment']] = percent(row['mean'], 2) + spread
        resolutions[row['level']] = row['resolution']
    keys = [key for key in next(iter(by_level.values())) if not key[1]]
    rows = [
        (
            f'{images:,}' if images else '0 (statistics of the supernet)',
            *(cells[images, is_augmented] for cells in by_level.values()),
        )
        for images, is_augmented in keys
    ]
    levels = [f'level {level} ({resolutions[level]} px)' for level in by_level]
    text = table(('images', *levels), rows)
    return f'{text}\n\n{source(document, "calibration")}'


def fine_tuning() -> str:
    """Return top-1 after fine-tuning a supernet, training it from scratch, or one network."""
    document = results('fine_tuning')
    names = {
        'fine_tuned': '**supernet, from `imagenet`**',
        'scratch': 'supernet, from random weights',
        'single': 'largest network alone, from `imagenet`',
    }
    few = min(document['results']['sets'], key=int)
    found = document['results']['sets'][few]
    rows = [
        (
            names[name],
            percent(run['top1_largest']),
            percent(run['top1_smallest']) if name != 'single' else '',
            f'{run["minutes"]:.0f}',
        )
        for name, run in found['runs'].items()
    ]
    largest, smallest = (found['ends'][end] for end in ('largest', 'smallest'))
    headers = ('training', 'largest, %', 'smallest, %', 'minutes')
    ratio = largest['median_ms'] / smallest['median_ms']
    return (
        f'{table(headers, rows)}\n\n'
        f'{int(few):,} images, {found["epochs"]} epochs, CPU threads: {found["threads"]}. The '
        f'smallest sub-network ({smallest["resolution"]} px) is {ratio:.1f} times as fast as '
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
            f'{model["seconds"]:.0f}' if 'seconds' in model else '',
        )
        for name, model in found['models'].items()
        if 'seconds' in model or name in names
    ]
    headers = ('model', 'mean error, %', 'largest error, %', 'time to build, s')
    return f'{table(headers, rows)}\n\n{source(document, "latency_models")}'


def search() -> str:
    """Return the gain of each search over the published results."""
    document = results('search')
    names = {'nsga2': '**default**', 'algorithm 1': 'Algorithm 1'}
    rows = []
    for target in ('gpu', 'cpu'):
        for key, found in document['results'][target].items():
            name = key.rpartition(' ')[0]
            configuration = document['configuration']
            if name not in names or found['evaluations'] > configuration['evaluations']:
                continue
            gains = found['gain_median']
            rows.append(
                (
                    target.upper(),
                    names[name],
                    f'{100 * min(gains):+.2f} to {100 * max(gains):+.2f}',
                    f'{found["seeds_at_least_as_good_everywhere"]} of {configuration["seeds"]}',
                )
            )
    headers = ('table', 'search', 'gain at the limits (range)', 'seeds without any loss')
    return f'{table(headers, rows)}\n\n{source(document, "search")}'


def coordination() -> str:
    """Return the results of coordinated and independent classifiers on one device."""
    document = results('coordination')
    groups = dict.fromkeys(SHOWN_GROUPS, ('collective',))
    groups['all'] = tuple(document['results']['all'])
    rows = [
        (SHOWN_GROUPS[group], f'`{name}`', *_reached(document['results'][group][name]))
        for group, names in groups.items()
        for name in names
    ]
    found = document['results']['all']['collective']
    targets = (
        ('96 % met', found['met, %'] >= 96.0, f'{found["met, %"]:.1f} %'),
        (
            'a loss of at most 0.3 points',
            found['mean loss, points'] <= 0.3,
            f'{found["mean loss, points"]:.2f}',
        ),
        ('none restless', not found['restless, %'], f'{found["restless, %"]:.1f} %'),
    )
    verdict = 'Targets: {}.'.format(
        '; '.join(
            f'{target} ({value}: {"met" if is_met else "**missed**"})'
            for target, is_met, value in targets
        )
    )
    headers = ('scenarios', 'contender', *COORDINATION)
    return f'{table(headers, rows)}\n\n{verdict} {source(document, "coordination")}'


COORDINATION = (
    'feasible', 'met, %', 'a model > 10 % late, %', 'mean loss, points',
    'median time to settle, s', 'restless, %',
)  # fmt: skip
"""The columns of the table, as in the result file."""

SHOWN_GROUPS = {
    'all': 'all',
    '2 models': '2 models',
    '3 models': '3 models',
    'proportional': 'proportional',
    'time_slicing': 'time slicing',
}
"""The groups of scenarios in the table, and their names there."""

AFTER_INFERENCE = ('postprocess', 'publish and the rest of the node')
"""The stages of a frame after inference, by their names in the result file."""


def _reached(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f'{found[key]:.4g}' for key in COORDINATION)


def contention() -> str:
    """Return what policy `predictive` reaches beside real loads, one row a load."""
    document = results('contention')
    families = document['results']['families']
    loads = [(name, load) for name, entry in families.items() for load in entry['loads'].values()]
    cells: dict[str, dict[str, tuple[str, str]]] = {}
    for family, load in loads:
        aim = load['aim']
        low, high = (f'{100 * gain:+.1f}' for gain in aim['gain_interval'])
        gain = f'{100 * aim["gain"]:+.1f} ({low} to {high})'
        cells.setdefault(load['words'], {})[family] = percent(aim['late']), gain
    rows = [
        (words, *(cell for family in families for cell in found.get(family, ('', ''))))
        for words, found in cells.items()
    ]
    kept = sum(bool(load['aim']['is_late_met']) for _, load in loads)
    gained = sum(load['aim']['is_gain_met'] for _, load in loads)
    switches = {
        policy: [load['policies'][policy]['switches_per_minute'] for _, load in loads]
        for policy in ('predictive', 'alert')
    }
    own, alert = (f'{min(found):.0f} to {max(found):.0f}' for found in switches.values())
    verdict = (
        f'Targets: at most 5 % late (met for {kept} of {len(loads)} loads), and a gain of 0 or '
        f'more ({gained}). On-time top-1 is higher than that of the highest level for '
        f'{_better_than(loads, "highest")} loads, and than that of ALERT for '
        f'{_better_than(loads, "alert")}. Switches a minute: {own} (ALERT: {alert}).'
    )
    busy = ', '.join(
        f'{name} {100 * entry["cpu_used_by_others"]:.0f} %' for name, entry in families.items()
    )
    headers = (
        'load',
        *(word for family in families for word in (f'{family}: late, %', 'gain, points')),
    )
    note = f'CPU used by programs outside the measurement: {busy}.'
    return f'{table(headers, rows)}\n\n{verdict} {note} {source(document, "contention")}'


def _better_than(loads: Iterable[tuple[str, dict[str, Any]]], baseline: str) -> int:
    """Return the number of loads with a higher on-time top-1 than a baseline."""
    count = 0
    for _, load in loads:
        policies = load['policies']
        fixed = (name for name in policies if name.startswith('fixed '))
        highest = max(fixed, key=lambda name: int(name.split()[1]))
        other = policies[highest if baseline == 'highest' else baseline]
        count += policies['predictive']['on_time_top1'] > other['on_time_top1']
    return count


def targets() -> str:
    """Return the targets of the policy `predictive` on simulated traces, and the results.

    Targets of one measure on several traces are one row.
    """
    document = results('policies')
    found: dict[tuple[str, str], dict[str, str]] = {}
    for target in document['results']['targets']:
        measure, _, trace = target['name'].strip().partition(' on ')
        text = f'{target["found"]:.3g}'
        found.setdefault((measure, target['target']), {})[trace] = (
            text if target['is_met'] else f'**{text}**'
        )
    rows = [
        (
            measure + (f' on {", ".join(of)}' if all(of) else ''),
            target,
            ', '.join(of.values()),
        )
        for (measure, target), of in found.items()
    ]
    headers = ('metric', 'target', 'result (bold: missed)')
    return f'{table(headers, rows)}\n\n{source(document, "policies")}'


def traces() -> str:
    """Return late frames and on-time top-1 of the policies on simulated contention."""
    document = results('policies')
    rows = [
        (
            f'`{policy}`',
            f'{found["late, %"]["mean"]:.1f}',
            f'{found["on-time top-1, %"]["mean"]:.1f}',
        )
        for policy, found in document['results']['traces']['contended'].items()
    ]
    return table(('policy', 'late, %', 'on-time top-1, %'), rows)


def ablations() -> str:
    """Return what the policy `predictive` achieves without one mechanism at a time."""
    document = results('ablations')
    columns = {
        'burst: regret, points': 'on bursts',
        'periodic: regret, points': 'on periodic load',
        'slow frames: late, %': 'slow frames: late, %',
        'recorded: on-time top-1, %': 'recorded: on-time top-1, %',
        'recorded: switches/min': 'switches/min',
        'with stalls: on-time top-1, %': 'with stalls: on-time top-1, %',
    }
    rows = []
    for name, found in document['results']['variants'].items():
        regret = statistics.mean(found[f'{trace}: regret, points'] for trace in PREDICTABLE)
        rows.append((name, *(f'{value:.2f}' for value in (regret, *map(found.get, columns)))))
    headers = ('policy', 'regret, points', *columns.values())
    return f'{table(headers, rows)}\n\n{source(document, "ablations")}'


def gpu() -> str:
    """Return the latency of levels and the cost of a switch on a GPU."""
    document = results('gpu_check')
    families = document['results']['families']
    levels = families[PUBLISHED_W12]['levels']
    ranges = (
        f'{levels[0][engine]["median_ms"]:.2f} to {levels[-1][engine]["median_ms"]:.2f} ms'
        for engine in ('pytorch cuda', 'supernet')
    )
    switches = (
        f'{families["signs"]["switching"][method]["median_ms"]:.3g} ms'
        for method in ('resident', 'published_method')
    )
    own, supernet = ranges
    switch, published = switches
    return (
        f'On an {document["results"]["gpu"]["gpu"]}, the levels of w1.2 take {own} with engine '
        f'`pytorch` (inside the supernet {supernet}), and a switch {switch} (with the published '
        f'method {published}). `make gpu-check` took {document["results"]["took_s"] / 60.0:.1f} '
        f'minutes (target: 8). {source(document, "gpu_check")}'
    )


def performance_targets() -> str:
    """Return the targets of the node and its engines, and the results."""
    wanted = [*_engine_targets(), *_cost_targets()]
    rows = [
        (what, f'{limit:g}', f'{found:.3g}: {_verdict(found, limit)}')
        for what, limit, found in wanted
    ]
    names = ('engines', 'memory', 'node', 'preprocessing', 'start', 'switching')
    documents = [results(name) for name in names]
    usual = processor_of(results(USUAL))
    machines = [name for name in dict.fromkeys(map(processor_of, documents)) if name != usual]
    days = sorted(document['measured_at'][:10] for document in documents)
    note = (
        f'*`benchmarks/results/`: {"; ".join((*machines, ""))}'
        f'{" to ".join(dict.fromkeys((days[0], days[-1])))}.*'
    )
    return f'{table(("what", "at most", "result"), rows)}\n\n{note}'


def _engine_targets() -> list[tuple[str, float, float]]:
    """Return latency ratios of engines, as (what, limit, found)."""
    found = results('engines')['results']
    wanted = (
        ('signs', 'openvino', 1.03, 'OpenVINO called directly'),
        ('signs', 'openvino', 0.62, "onnxruntime with PyTorch's export"),
        ('signs', 'onnxruntime', 0.62, "onnxruntime with PyTorch's export"),
        (PUBLISHED_W12, 'openvino', 0.26, 'supernet'),
    )
    return [
        (
            f'{_short(family)}: {engine} / {baseline}',
            limit,
            _mean_ratio(found[family], engine, baseline),
        )
        for family, engine, limit, baseline in wanted
    ]


def _cost_targets() -> list[tuple[str, float, float]]:
    """Return costs of switches, memory, starts and images, as (what, limit, found)."""
    switching, memory = results('switching')['results'], results('memory')['results']
    start = results('start')['results']
    quiet_ms = switching['no_switch']['p99_ms']
    (stream,) = (row for row in results('node')['results']['streams'] if 'dropped_by_loop' in row)
    return [
        (
            f'{switching["family"]}: extra ms of the first frame after a switch, 99 % '
            f'(without a switch: {quiet_ms:.3g})',
            1.0,
            switching['all']['p99_ms'],
        ),
        *(
            (
                f'w1.2: memory of all levels / largest level, {engine}',
                2.5,
                memory[PUBLISHED_W12][engine]['ratio'],
            )
            for engine in ('onnxruntime', 'openvino')
        ),
        ('signs: first start, s', 6.0, start['signs']['first']['median_s']),
        ('signs: later start, s', 1.0, start['signs']['warm']['median_s']),
        ('w1.2: later start, s', 2.5, start[PUBLISHED_W12]['warm']['median_s']),
        ('preprocessing 640x480 to 96 px, ms', 0.35, _preprocessing_ms('640x480')),
        ('preprocessing 1920x1080 to 96 px, ms', 1.0, _preprocessing_ms('1920x1080')),
        (
            'signs: postprocess and publish, ms',
            0.25,
            sum(stream['stages'][name]['median_ms'] for name in AFTER_INFERENCE),
        ),
        (
            f'signs: images without a label, of {stream["sent"]:,} ({_stream(stream)}, reliable, '
            f'profile; a loop that only computes as long: {stream["dropped_by_loop"]})',
            0.0,
            stream['sent'] - stream['labels'],
        ),
    ]


def _preprocessing_ms(image: str) -> float:
    (median_ms,) = (
        row['now']['median_ms']
        for row in results('preprocessing')['results']['times']
        if (row['image'], row['encoding'], row['resolution']) == (image, 'rgb8', 96)
    )
    return float(median_ms)


def _verdict(found: float, limit: float) -> str:
    return 'met' if found <= limit else '**missed**'


def _mean_ratio(family: dict[str, Any], engine: str, baseline: str) -> float:
    ratios = [
        level[engine]['median_ms'] / level[baseline]['median_ms'] for level in family['levels']
    ]
    return sum(ratios) / len(ratios)


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
    targets = ', '.join(
        f'{name} <= {limit:g} ({_verdict(_ratio(families[PUBLISHED_W12], name), limit)})'
        for name, limit in (('openvino bf16', 0.55), ('openvino int8', 0.4))
    )
    return (
        f'{table(headers, rows)}\n\nTargets for w1.2: {targets}. {source(document, "precision")}'
    )


def _precision(levels: Sequence[dict[str, Any]], name: str) -> str:
    """Return the mean ratio of the levels, and the mean top-1 if it was measured."""
    right = [level[name]['top1_percent'] for level in levels if 'top1_percent' in level[name]]
    top1 = f' ({sum(right) / len(right):.1f})' if right else ''
    return f'{_ratio(levels, name):.2f}{top1}'


def _ratio(levels: Sequence[dict[str, Any]], name: str) -> float:
    """Return the latency relative to onnxruntime fp32, mean of the levels."""
    return float(sum(level[name]['ratio'] for level in levels) / len(levels))


def _short(family: str) -> str:
    """Return a short name of a family."""
    return 'w1.2' if family == PUBLISHED_W12 else family


def scheduling() -> str:
    """Return the effect of niceness beside busy processes."""
    document = results('scheduling')
    found = document['results']['2 busy processes']
    nice, plain = (
        f'{found[way]["p50_ms"]:.1f} ms (99 %: {found[way]["p99_ms"]:.1f} ms)'
        for way in ('niceness -10', 'default')
    )
    return (
        'Median time from image to label at the highest level, beside two busy processes: '
        f'{nice}; without `nice`: {plain}. {source(document, "scheduling")}'
    )


def parameters() -> str:
    """Return the classifier's parameters."""
    return _parameter_table('CLASSIFIER')


def _parameter_table(name: str) -> str:
    from dynamic_ofa_ros.nodes import parameter_table, parameters  # import ROS 2

    return parameter_table.markdown_tables(getattr(parameters, name))


def monitor_parameters() -> str:
    """Return the parameters of monitor_node."""
    return _parameter_table('MONITOR')


def monitor() -> str:
    """Return what monitor_node costs."""
    document = results('monitor')
    cases = document['results']['cases']
    idle = max(row['cpu_percent'] for row in cases if not row['pages'])
    texts = [
        f'{row["cpu_percent"]:.1f} % and {row["kb_per_s"]:.0f} KB/s for {row["classifiers"]}'
        for row in cases
        if row['pages'] == 1
    ]
    return (
        f'While no page is visible, the node sends nothing and uses at most {idle:.1f} % of a '
        f'core. A page costs {", ".join(texts)} classifiers, of which its window shows at most '
        f'{document["configuration"]["shown"]}. {source(document, "monitor")}'
    )


def monitor_memory() -> str:
    """Return the memory of monitor_node and of its page over minutes."""
    document = results('monitor_memory')
    samples = document['results']['memory']
    shown = [row for row in samples if row['is_open']]
    before = [row for row in samples if row['s'] < shown[0]['s']][-1]
    early = min(shown, key=lambda row: abs(row['s'] - shown[0]['s'] - 60.0))
    late = shown[-1]
    early_min, late_min = ((row['s'] - before['s']) / 60.0 for row in (early, late))
    return (
        'Memory grows until the records of the last frames are full. With two classifiers: '
        f'{before["node_mb"]:.0f} MB before a page is opened, {early["node_mb"]:.0f} MB after '
        f'{early_min:.0f} min, {late["node_mb"]:.0f} MB after {late_min:.0f} min. '
        f'{source(document, "monitor_memory")}'
    )


BLOCKS: dict[str, Callable[[], str]] = {
    make.__name__: make
    for make in (
        machine, demo, demo_sentence, imagenet, node_losses, calibration, fine_tuning,
        latency_models, search, contention, coordination, targets, traces, ablations, gpu,
        performance_targets, precision, scheduling, parameters, monitor_parameters, monitor,
        monitor_memory,
    )
}  # fmt: skip


if __name__ == '__main__':
    sys.exit(main())
