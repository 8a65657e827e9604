"""Reproduce the paper's figures with its published levels in simulated time.

Each figure is a shipped scenario with two policies. Values that the paper does not publish are
assumed, as the captions say: the GPU demand of a training job or a second model, and the variance
of latencies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynamic_ofa_ros.simulation.drawing import Column, draw_columns
from dynamic_ofa_ros.simulation.record import Record
from dynamic_ofa_ros.simulation.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_3_LATENCIES = (
    'Latencies are those of figure 3 of the paper, 41.2-61.7 ms (figure 4a has 48.8-79.6 ms for '
    'the same levels, which are not used)'
)
NOISE = 'simulated, with noise of 2 % (assumed)'
TITLES = {
    'reactive': 'reactive (as published)',
    'predictive': 'predictive (ours)',
    'fixed': 'one fixed network (level 6)',
}


@dataclass(frozen=True)
class PublishedFigure:
    """A figure of the paper, and the scenario and policies that reproduce it."""

    number: int
    scenario: str
    policies: tuple[str, str]
    caption: str

    @property
    def file_name(self) -> str:
        """Return the file name of the plot."""
        return f'figure_{self.number}_{self.scenario}.png'


FIGURES = (
    PublishedFigure(
        1,
        'fixed_network',
        ('fixed', 'predictive'),
        'As figure 1: effect of contention and clock rate on a network that cannot adapt. '
        'The second model uses 60 % of the GPU for 45 of every 67 ms, the training job uses '
        '75 % nearly always (assumed).',
    ),
    PublishedFigure(
        6,
        'limits',
        ('reactive', 'predictive'),
        'As figure 6: the limit changes from 65 to 40 to 55 ms. With the latencies used, no level '
        'takes 40 ms or less. So the fastest level runs in the second phase, the limit is '
        'exceeded as little as possible, and the manager reports that it is infeasible.',
    ),
    PublishedFigure(
        7,
        'training_job',
        ('reactive', 'predictive'),
        'As figure 7: a training job starts at 2.5 s; here it also ends at 8.5 s. It uses '
        '75 % of the GPU (assumed). The demand of a level is proportional to its MACs per ms; the '
        'maximum is 80 %.',
    ),
    PublishedFigure(
        8,
        'two_models',
        ('reactive', 'predictive'),
        'As figure 8: two models on one GPU, limits 65 and 55 ms. The GPU demand of a level is '
        'proportional to its MACs per ms; the maximum is 80 % (assumed). The managers are not '
        'coordinated: each one observes the other model as contention.',
    ),
)


@dataclass(frozen=True)
class DrawnFigure:
    """A plotted figure and its runs, by policy."""

    published: PublishedFigure
    figure: Figure
    records: dict[str, tuple[Record, ...]]


def draw_figures() -> Iterator[DrawnFigure]:
    """Simulate and plot all figures."""
    for published in FIGURES:
        yield draw_figure(published)


def draw_figure(published: PublishedFigure) -> DrawnFigure:
    """Simulate and plot one figure."""
    scenario = load_scenario(published.scenario)
    records = {policy: scenario.with_policy(policy).play() for policy in published.policies}
    caption = f'{published.caption} {FIGURE_3_LATENCIES}; {NOISE}.'
    columns = [columns_of(scenario, records[policy], TITLES[policy]) for policy in records]
    return DrawnFigure(published, draw_columns(columns, caption), records)


def columns_of(scenario: Scenario, records: tuple[Record, ...], title: str) -> Column:
    """Return the column of a simulated scenario."""
    return Column(title, records, scenario.phases, tuple(scenario.busy_spans()))
