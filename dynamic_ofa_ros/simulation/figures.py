"""The paper's figures, reproduced from its published levels in simulated time.

Each figure is a shipped scenario played under two policies. What the paper does not publish (how
much a training job or a second model takes of the GPU, how much latency varies) is assumed, and
the captions say so.
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
    'Latencies as in figure 3 of the paper, 41.2-61.7 ms (its figure 4a says 48.8-79.6 ms for the '
    'same levels: not used)'
)
NOISE = 'simulated, with noise of 2 % (assumed)'
TITLES = {
    'reactive': 'reactive (as published)',
    'predictive': 'predictive (ours)',
    'fixed': 'one fixed network (level 6)',
}


@dataclass(frozen=True)
class PublishedFigure:
    """A figure of the paper: which scenario shows it, and under which policies."""

    number: int
    scenario: str
    policies: tuple[str, str]
    caption: str

    @property
    def file_name(self) -> str:
        """Return the name of its picture."""
        return f'figure_{self.number}_{self.scenario}.png'


FIGURES = (
    PublishedFigure(
        1,
        'fixed_network',
        ('fixed', 'predictive'),
        'As figure 1: what contention and the clock rate do to a network that cannot adapt. '
        'The second model asks for 60 % of the GPU for 45 of every 67 ms, the training job for '
        '75 % nearly always (assumed).',
    ),
    PublishedFigure(
        6,
        'limits',
        ('reactive', 'predictive'),
        'As figure 6: the limit changes from 65 to 40 to 55 ms. By the latencies used no level '
        'takes 40 ms or less: in the second phase the fastest level runs, the limit is exceeded '
        'as little as possible, and the manager says that it is infeasible.',
    ),
    PublishedFigure(
        7,
        'training_job',
        ('reactive', 'predictive'),
        'As figure 7: a training job arrives at 2.5 s, here it also leaves at 8.5 s. It asks for '
        '75 % of the GPU (assumed), levels ask in proportion to their MACs per ms, the highest '
        'for 80 %.',
    ),
    PublishedFigure(
        8,
        'two_models',
        ('reactive', 'predictive'),
        'As figure 8: two models on one GPU, limits 65 and 55 ms. Levels ask for the GPU in '
        'proportion to their MACs per ms, the highest for 80 % (assumed). Each manager decides '
        'alone: it sees the other model only as contention.',
    ),
)


@dataclass(frozen=True)
class DrawnFigure:
    """A figure and the runs it shows, by policy."""

    published: PublishedFigure
    figure: Figure
    records: dict[str, tuple[Record, ...]]


def draw_figures() -> Iterator[DrawnFigure]:
    """Play and draw the figures, one after the other."""
    for published in FIGURES:
        yield draw_figure(published)


def draw_figure(published: PublishedFigure) -> DrawnFigure:
    """Play and draw one figure."""
    scenario = load_scenario(published.scenario)
    records = {policy: scenario.with_policy(policy).play() for policy in published.policies}
    caption = f'{published.caption} {FIGURE_3_LATENCIES}; {NOISE}.'
    columns = [columns_of(scenario, records[policy], TITLES[policy]) for policy in records]
    return DrawnFigure(published, draw_columns(columns, caption), records)


def columns_of(scenario: Scenario, records: tuple[Record, ...], title: str) -> Column:
    """Return a drawn column of a scenario that was played."""
    return Column(title, records, scenario.phases, tuple(scenario.busy_spans()))
