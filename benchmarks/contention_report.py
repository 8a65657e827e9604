"""Compute the results of `benchmarks.contention` from its segments: JSON and tables."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import adapting
from benchmarks.adapting import QUANTILE, Timeline, draws, figures, interval, quantile_ms
from benchmarks.common import RESULTS, checksum, print_table, write_results
from benchmarks.contention_site import LOADS
from benchmarks.journal import Journal
from dynamic_ofa_ros.adaptation import TimedFrame, switch_count

ROOT = RESULTS.parent.parent

OURS = 'predictive'
LATE_ALLOWED = 1.0 - QUANTILE
LATE_BESIDE_LOWEST = 0.02
"""Additional share of late frames over the lowest level that is allowed if no level is on time."""

LOWEST = 'fixed 1'


def write_report(journal: Journal, output: Path) -> dict[str, Any]:
    """Write and print the results of a journal and return them; keep those of other families."""
    entry = family_results(journal)
    path = output / 'contention.json'
    families = families_of(path)
    families[entry['family']] = entry
    families = dict(sorted(families.items()))
    sums = [bytes.fromhex(found['family_sha256']) for found in families.values()]
    write_results(
        'contention',
        {'families': families},
        configuration={
            'scope': 'node',
            'quantile': QUANTILE,
            'load_on': 'second and third quarter of a segment',
            'intervals': f'95 %, bootstrapped from blocks of {adapting.PIECE_MS / 1e3:g} s',
            'state': 'the node is configured again before every segment',
        },
        input_checksum=checksum([np.frombuffer(b''.join(sums), np.uint8)]),
        folder=output,
    )
    print_family(entry)
    return entry


def families_of(path: Path) -> dict[str, Any]:
    """Return the results of all families in a file; empty if it is missing or outdated."""
    if not path.exists():
        return {}
    results = json.loads(path.read_text(encoding='utf-8'))['results']
    return dict(results.get('families', {}))


def family_results(journal: Journal) -> dict[str, Any]:
    """Return the results of one family."""
    settings, nodes = journal.records[0], journal.find('node')
    skipped = {record['load']: record['why'] for record in journal.find('skipped')}
    now = datetime.datetime.now(datetime.timezone.utc)
    segments = journal.find('segment')
    others = [segment['others'] for segment in segments]
    return {
        **{name: value for name, value in settings.items() if name != 'kind'},
        'written_at': now.isoformat(timespec='seconds'),
        'images_per_second': round(_images_per_second(segments), 2),
        'cpu_used_by_others': round(float(np.mean(others)), 3) if others else None,
        'nodes': {
            node['device']: {
                **{key: node[key] for key in ('platform', 'rate_hz', 'machine', 'versions')},
                'levels': [
                    {**level, 'free_p95_ms': _p95_ms(node['free_ms'][str(level['level'])])}
                    for level in node['levels']
                ],
            }
            for node in nodes
        },
        'loads': {
            name: load_results(journal, name)
            for name in LOADS
            if journal.find('segment', load=name)
        },
        'skipped': skipped,
    }


def load_results(journal: Journal, name: str) -> dict[str, Any]:
    """Return the results for one load."""
    (limit,) = journal.find('limit', load=name)
    lines = timelines_of(journal, name)
    policies = {policy: row_of(found) for policy, found in lines.items()}
    feasible = feasible_levels(journal, name, policies)
    entry: dict[str, Any] = {
        'words': LOADS[name].words,
        'device': LOADS[name].device,
        'limit_ms': limit['limit_ms'],
        'why': limit['why'],
        'contended_p95_ms': {
            level: _p95_ms(samples) for level, samples in limit['contended_ms'].items()
        },
        **feasible,
        'policies': policies,
    }
    fixed = [policy for policy in policies if policy.startswith('fixed')]
    if fixed:
        best = max(fixed, key=lambda policy: policies[policy]['on_time_top1'])
        entry['best_fixed'] = best
        if OURS in policies:
            entry['aim'] = aim_of(entry, lines[OURS], lines[best])
    return entry


def row_of(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """Return the metrics of one policy for one load, with intervals."""
    with_truth = [
        Timeline(line.with_truth, line.onset_ms, line.relief_ms, line.end_ms)
        for line in timelines
        if line.rights
    ]
    values = (adapting.is_late, adapting.on_time_accuracy)
    late, on_time = (interval(draws(timelines, value)) for value in values)
    right = interval(draws(with_truth, adapting.on_time_accuracy)) if with_truth else None
    return {
        'segments': len(timelines),
        **figures(timelines),
        'late_interval': late,
        'on_time_top1_interval': on_time,
        'right_on_time': adapting.share_of_right(timelines),
        'right_on_time_interval': right,
    }


def feasible_levels(
    journal: Journal, name: str, policies: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[int]]:
    """Return the levels with at most 5 % late frames, without and under load.

    This is computed from the segments of a level if there are any, or else from its trials.
    """
    (limit,) = journal.find('limit', load=name)
    (node,) = journal.find('node', device=LOADS[name].device)
    found: dict[str, list[int]] = {}
    trials = (limit['contended_ms'], node['free_ms'])
    for key, enough in (('free', trials), ('under_load', trials[:1])):
        found[f'feasible_{key}'] = []
        for level in (level['level'] for level in node['levels']):
            row = policies.get(f'fixed {level}')
            if row is not None:
                is_feasible = row[f'late_{key}'] <= LATE_ALLOWED
            else:  # what is on time under load is on time without load, too
                quantiles_ms = [quantile_ms(_known(trial[str(level)])) for trial in enough]
                is_feasible = min(quantiles_ms) <= limit['limit_ms']
            if is_feasible:
                found[f'feasible_{key}'].append(level)
    return found


def aim_of(
    entry: Mapping[str, Any], ours: Sequence[Timeline], best: Sequence[Timeline]
) -> dict[str, Any]:
    """Return whether our policy beats the best fixed level with few enough late frames."""
    policies = entry['policies']
    row, best_row = policies[OURS], policies[entry['best_fixed']]
    value = adapting.on_time_accuracy
    feasible = {*entry['feasible_free'], *entry['feasible_under_load']}
    allowed: float | None = None
    if entry['feasible_under_load']:
        allowed = LATE_ALLOWED
    elif LOWEST in policies:
        allowed = policies[LOWEST]['late'] + LATE_BESIDE_LOWEST
    gain = row['on_time_top1'] - best_row['on_time_top1']
    return {
        'gain': round(gain, 4),
        'gain_interval': interval(draws(ours, value) - draws(best, value)),
        'is_contest': len(feasible) > 1,
        'is_gain_met': gain >= 0.0,
        'late': row['late'],
        'late_allowed': None if allowed is None else round(allowed, 4),
        'is_late_met': None if allowed is None else row['late'] <= allowed,
    }


def timelines_of(journal: Journal, name: str) -> dict[str, list[Timeline]]:
    """Return the runs for a load by policy, fixed levels first and our policy last."""
    (node,) = journal.find('node', device=LOADS[name].device)
    (limit,) = journal.find('limit', load=name)
    has_truth = journal.records[0]['is_truth_known']
    found: dict[str, list[Timeline]] = {}
    for segment in journal.find('segment', load=name):
        line = timeline_of(segment, node['levels'], limit['limit_ms'], has_truth=has_truth)
        found.setdefault(segment['policy'], []).append(line)
    return dict(sorted(found.items(), key=lambda item: order_of(item[0])))


def timeline_of(
    segment: Mapping[str, Any],
    levels: Sequence[Mapping[str, Any]],
    limit_ms: float,
    *,
    has_truth: bool,
) -> Timeline:
    """Return the timeline of a segment."""
    frames = tuple(
        TimedFrame(time_ms, math.inf, limit_ms)
        if latency_ms is None
        else TimedFrame(time_ms, latency_ms, limit_ms, level, levels[level - 1]['accuracy'])
        for time_ms, latency_ms, level, _ in segment['frames']
    )
    return Timeline(
        frames,
        segment['onset_ms'],
        segment['relief_ms'],
        segment['end_ms'],
        switch_count([frame.level for frame in adapting.answered(frames)]),
        tuple(bool(row[3]) for row in segment['frames']) if has_truth else (),
    )


HEADERS = (
    'load', 'limit, ms', 'policy', 'late, %', "on-time top-1, % (levels')",
    "on-time top-1, % (camera's truth)", 'mean top-1, %', 'reaction, ms', 'recovery, ms',
    'switches a minute', 'p50, p95, p99, ms',
)  # fmt: skip


def rows_of(entry: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of a family's table."""
    rows = []
    for load in entry['loads'].values():
        for policy, row in load['policies'].items():
            is_best = policy == load.get('best_fixed')
            rows.append(
                (
                    load['words'],
                    f'{load["limit_ms"]:.1f}',
                    f'**{policy}** (best)' if is_best else policy,
                    _with_interval(row['late'], row['late_interval']),
                    _with_interval(row['on_time_top1'], row['on_time_top1_interval']),
                    _with_interval(row['right_on_time'], row['right_on_time_interval']),
                    _percent(row['mean_top1']),
                    _ms(row['reaction_ms'], is_over=row['reaction_is_over']),
                    _ms(row['recovery_ms']),
                    f'{row["switches_per_minute"]:.1f}',
                    ', '.join(f'{row[key]:.1f}' for key in ('p50_ms', 'p95_ms', 'p99_ms')),
                )
            )
    return rows


AIM_HEADERS = (
    'load', 'limit, ms', 'levels on time free', 'levels on time under load',
    'predictive less best fixed, points', 'reached', 'predictive late, %', 'allowed, %', 'kept',
)  # fmt: skip


def aim_rows_of(entry: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of the table of targets."""
    rows = []
    for load in entry['loads'].values():
        aim = load.get('aim')
        if aim is None:
            continue
        low, high = aim['gain_interval']
        gain = f'{100 * aim["gain"]:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})'
        reached = _yes(aim['is_gain_met']) if aim['is_contest'] else 'no contest'
        rows.append(
            (
                load['words'],
                f'{load["limit_ms"]:.1f}',
                _levels(load['feasible_free']),
                _levels(load['feasible_under_load']),
                f'{gain} ({load["best_fixed"]})',
                reached,
                _percent(aim['late']),
                _percent(aim['late_allowed']),
                _yes(aim['is_late_met']),
            )
        )
    return rows


def sentence_of(entry: Mapping[str, Any]) -> str:
    """Return where and how a family was measured, as a sentence."""
    places = '; '.join(
        f'{node["platform"]}, {node["machine"]["cores"]} cores' for node in entry['nodes'].values()
    )
    counts = {row['segments'] for load in entry['loads'].values()
              for row in load['policies'].values()}  # fmt: skip
    segments = ' to '.join(str(count) for count in sorted({min(counts), max(counts)}))
    return (
        f'Family {entry["family"]}, {entry["images"]}, {places}; {segments} x '
        f'{entry["segment_s"]:g} s per row, {entry["images_per_second"]:.1f} images per second; '
        f'other programs used {100 * entry["cpu_used_by_others"]:.0f} % of the machine.'
    )


def print_family(entry: Mapping[str, Any]) -> None:
    """Print the tables of a family."""
    if not entry['loads']:
        return
    print_table(sentence_of(entry), HEADERS, rows_of(entry))
    print_table('Aims', AIM_HEADERS, aim_rows_of(entry))


def order_of(policy: str) -> tuple[int, int, str]:
    """Return the sort key of a policy in a table."""
    name, _, level = policy.partition(' ')
    return (0 if level else 2 if name == OURS else 1, int(level or 0), name)


def _images_per_second(segments: Sequence[Mapping[str, Any]]) -> float:
    """Return the actual rate of images, which is too low if the camera's processor is busy."""
    seconds = sum(segment['end_ms'] for segment in segments) / 1e3
    return sum(len(segment['frames']) for segment in segments) / seconds if seconds else 0.0


def _with_interval(share: float | None, bounds: Sequence[float] | None) -> str:
    if share is None or bounds is None:
        return '-'
    return f'{100 * share:.1f} ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})'


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100 * share:.1f}'


def _ms(value: float | None, *, is_over: bool = True) -> str:
    return '-' if value is None else f'{"" if is_over else "> "}{value:.0f}'


def _levels(levels: Sequence[int]) -> str:
    return ', '.join(map(str, levels)) or 'none'


def _yes(is_so: bool | None) -> str:
    return '-' if is_so is None else 'yes' if is_so else 'no'


def _p95_ms(samples_ms: Sequence[float | None]) -> float | None:
    p95_ms = quantile_ms(_known(samples_ms))
    return round(p95_ms, 2) if math.isfinite(p95_ms) else None


def _known(samples_ms: Sequence[float | None]) -> list[float]:
    return [math.inf if latency_ms is None else latency_ms for latency_ms in samples_ms]
