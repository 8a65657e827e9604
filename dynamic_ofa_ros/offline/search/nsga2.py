"""NSGA-II over genomes (Deb et al. 2002), with pymoo."""

from __future__ import annotations

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DefaultDuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.optimize import minimize

from dynamic_ofa_ros.offline.search.objectives import FloatArray, Objectives
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes


def run_nsga2(objectives: Objectives, first: Genomes, evaluations: int, seed: int) -> None:
    """Evolve the population `first` with `evaluations`, which `objectives` stores."""
    minimize(
        _Subnets(objectives),
        NSGA2(
            pop_size=len(first),
            sampling=first,
            crossover=_Uniform(),
            mutation=_RedrawOneGene(objectives.encoding),
            repair=_Canonical(objectives.encoding),
            eliminate_duplicates=DefaultDuplicateElimination(),
        ),
        ('n_eval', evaluations - len(first)),  # pymoo stops after the generation that reaches it
        seed=seed,
        verbose=False,
    )


class _Subnets(Problem):  # type: ignore[misc]
    def __init__(self, objectives: Objectives) -> None:
        choices = objectives.encoding.choices
        super().__init__(n_var=len(choices), n_obj=2, xl=0, xu=choices - 1, vtype=int)
        self._objectives = objectives

    def _evaluate(self, x: Genomes, out: dict[str, FloatArray], *_: object, **__: object) -> None:
        latency_ms, top1 = self._objectives.evaluate(x)
        out['F'] = np.column_stack([latency_ms, -top1])


class _RedrawOneGene(Mutation):  # type: ignore[misc]
    """Redraw each gene with a probability that changes one gene on average."""

    def __init__(self, encoding: GenomeEncoding) -> None:
        super().__init__()
        self._choices = encoding.choices

    def _do(
        self,
        _: object,
        x: Genomes,
        *args: object,
        random_state: np.random.Generator,
        **kwargs: object,
    ) -> Genomes:
        redrawn = random_state.random(x.shape) < 1.0 / len(self._choices)
        return np.where(redrawn, random_state.integers(0, self._choices, x.shape), x)


class _Uniform(Crossover):  # type: ignore[misc]
    """Exchange each gene between two parents with equal probability."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def _do(
        self,
        _: object,
        x: Genomes,
        *args: object,
        random_state: np.random.Generator,
        **kwargs: object,
    ) -> Genomes:
        swapped = random_state.random(x.shape[1:]) < 0.5
        return np.stack([np.where(swapped, x[1], x[0]), np.where(swapped, x[0], x[1])])


class _Canonical(Repair):  # type: ignore[misc]
    def __init__(self, encoding: GenomeEncoding) -> None:
        super().__init__()
        self._encoding = encoding

    def _do(self, _: object, x: Genomes, **__: object) -> Genomes:
        return self._encoding.canonical(x.astype(np.int64))
