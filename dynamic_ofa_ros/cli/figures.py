"""`dynamic-ofa figures`: draw the paper's figures from its published levels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Draw the paper's figures 1, 6, 7 and 8 from its published levels, in simulated time: the effect of
contention and of the clock rate on a fixed network, changing limits, a training job that starts,
and two models on one GPU. Each figure shows the paper's policy (reactive) and ours (predictive).
--all adds figure 1 as bars A to H, figures 2 to 5 and table 1. These show the published points
and, if the folder of reference data ($DYNAMIC_OFA_REFERENCE) exists, the results of our search
with the authors' tables. If published numbers are missing or contradict each other, the caption
says which values were used.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'figures',
        help="draw the paper's figures from its published levels",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--output', metavar='DIR', default='figures',
        help='folder of the pictures; default: figures',
    )  # fmt: skip
    parser.add_argument('--all', action='store_true', help='also figures 2 to 5 and table 1')
    parser.add_argument('--json', action='store_true', help='print files and measures as JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate the figures, draw them and print the measures."""
    from dynamic_ofa_ros.plotting.style import save_figure
    from dynamic_ofa_ros.progress import progress
    from dynamic_ofa_ros.simulation.figures import FIGURES, draw_figures
    from dynamic_ofa_ros.simulation.metrics import measure

    folder = Path(args.output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    with progress('figures', len(FIGURES)) as report:
        report.update(0)
        for drawn in draw_figures():
            path = save_figure(drawn.figure, folder / drawn.published.file_name)
            runs = [
                {'policy': policy, 'model': record.name, **measure(record).summary()}
                for policy, records in drawn.records.items()
                for record in records
            ]
            found.append({'figure': drawn.published.number, 'file': str(path), 'runs': runs})
            report.update(len(found))
    if args.all:
        found += _published(folder)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for entry in found:
        print(f'{_name(entry["figure"])}: {entry["file"]}')
        for name, value in entry.get('computed', {}).items():
            print(f'  {name:<12} {value:.2f} (published: {entry["published"][name]:g})')
        for shown in entry.get('runs', ()):
            print(
                f'  {shown["policy"]:<10} {shown["model"]:<10} '
                f'{100 * shown["violation_ratio"]:6.2f} % late, mean top-1 '
                f'{100 * shown["mean_accuracy"]:.2f} %, {shown["switches"]} switches'
            )
    return 0


def _name(figure: int | str) -> str:
    return f'figure {figure}' if isinstance(figure, int) else figure


def _published(folder: Path) -> list[dict[str, Any]]:
    """Draw the figures of published points; return their files and the values computed."""
    from dynamic_ofa_ros.plotting import published_figures as figures
    from dynamic_ofa_ros.plotting.published_curves import OURS, headline, read_published_curves
    from dynamic_ofa_ros.plotting.style import save_figure
    from dynamic_ofa_ros.simulation.figures import draw_figure_1_bars

    published = read_published_curves()
    ours = {device: figures.search_as_published(device) for device in ('gpu', 'cpu')}
    cpu_ms = published.cpu_ms[OURS][-1][0]
    drawn: list[tuple[int | str, str, Any]] = [
        (1, 'figure_1_bars', draw_figure_1_bars(cpu_ms)),
        (2, 'figure_2_workflow', figures.draw_figure_2()),
        (3, 'figure_3_front', figures.draw_figure_3(published, ours['gpu'])),
        (4, 'figure_4_latency', figures.draw_figure_4(published, ours)),
        (5, 'figure_5_cost', figures.draw_figure_5(published, ours['gpu'])),
        ('table 1', 'table_1', figures.draw_table_1(published, figures.measured_switch_ms())),
    ]
    found: list[dict[str, Any]] = []
    for number, name, figure in drawn:
        path = save_figure(figure, folder / f'{name}.png')
        found.append({'figure': number, 'file': str(path)})
        if number == 4:
            found[-1] |= {
                'computed': {name: round(value, 3) for name, value in headline(published).items()},
                'published': dict(published.headline),
            }
    return found
