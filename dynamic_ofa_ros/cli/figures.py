"""`dynamic-ofa figures`: the paper's figures on the runtime, from its published levels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Draw the paper's figures 1, 6, 7 and 8 from its published levels, in simulated time: what
contention and the clock rate do to a fixed network, changing limits, a training job that arrives,
two models on one GPU. Beside the paper's policy (reactive) each shows ours (predictive). Where
published numbers contradict each other or are missing, the caption says what was used.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'figures',
        help="draw the paper's figures on the runtime, from its published levels",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--output', metavar='DIR', type=Path, default=Path('figures'),
        help='folder of the pictures; default: figures',
    )  # fmt: skip
    parser.add_argument('--json', action='store_true', help='print JSON: pictures and measures')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Play, draw and report."""
    from dynamic_ofa_ros.plotting.style import save_figure
    from dynamic_ofa_ros.progress import progress
    from dynamic_ofa_ros.simulation.figures import FIGURES, draw_figures
    from dynamic_ofa_ros.simulation.metrics import measure

    found: list[dict[str, Any]] = []
    with progress('figures', len(FIGURES)) as report:
        report.update(0)
        for drawn in draw_figures():
            path = save_figure(drawn.figure, args.output / drawn.published.file_name)
            runs = [
                {'policy': policy, 'model': record.name, **measure(record).summary()}
                for policy, records in drawn.records.items()
                for record in records
            ]
            found.append({'figure': drawn.published.number, 'file': str(path), 'runs': runs})
            report.update(len(found))
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for entry in found:
        print(f'figure {entry["figure"]}: {entry["file"]}')
        for shown in entry['runs']:
            print(
                f'  {shown["policy"]:<10} {shown["model"]:<10} '
                f'{100 * shown["violation_ratio"]:6.2f} % late, mean top-1 '
                f'{100 * shown["mean_accuracy"]:.2f} %, {shown["switches"]} switches'
            )
    return 0
