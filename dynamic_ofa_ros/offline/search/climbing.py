"""Local search: improves the best network at every latency limit.

Many climbers work in parallel, each at one limit within one structure (`structures.py`). A climber
estimates the gain of every single change of its genome, evaluates a batch of the most promising
changes and combinations within the limit (`moves.py`), and moves to the best result. If a batch
brings no improvement, the climber is replaced by one that starts from the best genome of a
promising structure, or from a variation of it.

The estimates come from the gradient of the accuracy predictor; without it, all single changes are
evaluated. Latency comes from a table, so genomes beyond the limit are never evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dynamic_ofa_ros.offline.search.moves import Moves
from dynamic_ofa_ros.offline.search.objectives import FloatArray, Objectives
from dynamic_ofa_ros.offline.search.structures import Structures
from dynamic_ofa_ros.space.genome import Genomes

# Number of parallel climbers, which share the calls of the predictors.
CLIMBERS = 30
# The search ends if all climbers together find fewer new genomes per round in so many rounds,
# because the space is almost exhausted.
IDLE, IDLE_ROUNDS = 5, 5
# Genomes that a climber evaluates at a time; it stops if none of them is better.
BATCH = 10
# Decrease of a structure's accuracy per visit when the next structure is chosen.
VISIT_PENALTY = 0.0003
# Expected gain of the first climb in a structure.
FIRST_CLIMB_GAIN = 0.004
# Fractions of the evaluations at which a stage ends. Each stage starts with new proposals of the
# additive model, which is more accurate then, and resets the numbers of visits.
STAGES = (0.3, 1.0)
# Structures that the additive model proposes per limit, and genomes that it is fitted to.
PROPOSED = 30
FITTED = 1500
# In a structure that was visited before, a climber starts from the best genome with this fraction
# of genes redrawn.
REDRAWN = (0.2, 1.0)


@dataclass
class _Standing:
    """The best genome of every structure at one limit, and the number of visits.

    structures: structure id to (accuracy, position in the archive); promises: structure id to the
    expected accuracy at the end of a climb.
    """

    limit_ms: float
    structures: dict[int, tuple[float, int]] = field(default_factory=dict)
    visits: dict[int, int] = field(default_factory=dict)
    promises: dict[int, float] = field(default_factory=dict)

    def update(self, ids: Genomes, latency_ms: FloatArray, top1: FloatArray, offset: int) -> None:
        """Add evaluations, which start at `offset` of the archive."""
        allowed = np.flatnonzero((latency_ms <= self.limit_ms) & (top1 >= 0))
        allowed = allowed[np.argsort(-top1[allowed], kind='stable')]
        structures, firsts = np.unique(ids[allowed], return_index=True)
        for structure, first in zip(structures.tolist(), allowed[firsts].tolist(), strict=True):
            if top1[first] > self.structures.get(structure, (-math.inf, 0))[0]:
                self.structures[structure] = float(top1[first]), offset + first
                self._promise(structure)

    def next_structure(self) -> int:
        """Return the most promising structure, less a penalty per visit; count the visit."""
        structure = max(self.promises, key=self.promises.__getitem__)
        self.visits[structure] = self.visits.get(structure, 0) + 1
        self._promise(structure)
        return structure

    def _promise(self, structure: int) -> None:
        visits = self.visits.get(structure, 0)
        expected = -VISIT_PENALTY * visits if visits else FIRST_CLIMB_GAIN
        self.promises[structure] = self.structures[structure][0] + expected


@dataclass
class _Climber:
    """One climb; `moves` are those from its genome, None after it has moved."""

    standing: _Standing
    genome: Genomes
    value: float = math.nan
    latency_ms: float = math.nan
    moves: Moves | None = None
    is_done: bool = False

    @property
    def merit(self) -> float:
        """Return the accuracies; genomes beyond the limit are below all others."""
        return self.value if self.latency_ms <= self.standing.limit_ms else -math.inf

    def learn(self, genomes: Genomes, latency_ms: FloatArray, top1: FloatArray) -> None:
        """Move to the best evaluated genome if it is better; otherwise stop."""
        if not len(genomes):
            self.is_done = True
            return
        best = int(top1.argmax())
        if top1[best] > self.merit:
            self.genome, self.moves = genomes[best], None
            self.value, self.latency_ms = float(top1[best]), float(latency_ms[best])
        else:
            self.is_done = True

    def proposals(self, batch: int) -> Genomes:
        """Return the most promising genomes in the neighbourhood."""
        assert self.moves is not None
        return self.moves.propose(self.standing.limit_ms - self.latency_ms, batch)


def climb(
    objectives: Objectives, limits_ms: Sequence[float], evaluations: int, rng: np.random.Generator
) -> None:
    """Improve the best genome at each limit until the evaluations are used up."""
    structures = Structures(objectives.encoding, rng)
    for share in STAGES:
        search = _LocalSearch(objectives, structures, limits_ms, round(share * evaluations), rng)
        search.propose_structures()
        search.run()


class _LocalSearch:
    def __init__(
        self,
        objectives: Objectives,
        structures: Structures,
        limits_ms: Sequence[float],
        evaluations: int,
        rng: np.random.Generator,
    ) -> None:
        self.objectives, self.structures, self.rng = objectives, structures, rng
        self.standings = [_Standing(limit_ms) for limit_ms in limits_ms]
        self._evaluations = evaluations
        self._seen = self._started = 0

    def propose_structures(self) -> None:
        """Evaluate the best genomes of an additive model at each limit."""
        genomes, latency_ms, top1 = self.objectives.archive()
        proposed = []
        for standing in self.standings:
            distance = np.abs(latency_ms - standing.limit_ms) - 1e6 * (top1 >= 0)
            near = np.argsort(distance, kind='stable')[:FITTED]
            known = genomes[near], latency_ms[near], top1[near]
            proposed.append(
                self.structures.promising(
                    *known, standing.limit_ms, PROPOSED, self.objectives.latency
                )
            )
        self.objectives.lookup(np.concatenate(proposed), self._evaluations)

    def run(self) -> None:
        """Run the climbers, and replace those that stop."""
        climbers: list[_Climber] = []
        idle_rounds = 0
        while idle_rounds < IDLE_ROUNDS:
            known = self._update()
            climbers.extend(self._start() for _ in range(self._room(climbers)))
            climbers = self._step(climbers)
            if not climbers:
                return
            climbers = [climber for climber in climbers if not climber.is_done]
            is_idle = len(self.objectives.archive()[0]) < known + IDLE
            idle_rounds = idle_rounds + 1 if is_idle else 0

    def _update(self) -> int:
        """Add new evaluations; return the number of all evaluations."""
        genomes, latency_ms, top1 = self.objectives.archive()
        ids = self.structures.ids(genomes[self._seen :])
        for standing in self.standings:
            standing.update(ids, latency_ms[self._seen :], top1[self._seen :], self._seen)
        self._seen = len(genomes)
        return self._seen

    def _room(self, climbers: Sequence[_Climber]) -> int:
        is_possible = any(standing.structures for standing in self.standings)
        return max(CLIMBERS - len(climbers), 0) if is_possible else 0

    def _start(self) -> _Climber:
        """Start at the next limit, from the best genome of a structure or a variation of it."""
        possible = [standing for standing in self.standings if standing.structures]
        standing = possible[self._started % len(possible)]
        self._started += 1
        structure = standing.next_structure()
        genomes, _, _ = self.objectives.archive()
        genome = genomes[standing.structures[structure][1]].copy()
        if standing.visits[structure] > 1:
            used = np.flatnonzero(self.structures.free_in_use(genome))
            redrawn = used[self.rng.random(len(used)) < self.rng.uniform(*REDRAWN)]
            genome[redrawn] = self.rng.integers(0, self.objectives.encoding.choices[redrawn])
        return _Climber(standing, genome)

    def _step(self, climbers: Sequence[_Climber]) -> list[_Climber]:
        """Let every climber evaluate a batch; return none if no evaluations are left."""
        climbers = self._arrive(climbers)
        if not climbers:
            return []
        groups = [climber.proposals(BATCH) for climber in climbers]
        genomes = np.concatenate(groups)
        limits_ms = np.repeat([c.standing.limit_ms for c in climbers], [len(g) for g in groups])
        owners = np.repeat(np.arange(len(climbers)), [len(g) for g in groups])
        genomes_ms = self.objectives.latency(genomes)
        chosen = np.flatnonzero(genomes_ms <= limits_ms)
        chosen = chosen[self.objectives.unseen_at(genomes[chosen])]
        rank = np.arange(len(chosen)) - np.searchsorted(owners[chosen], owners[chosen])
        left = max(0, self._evaluations - self.objectives.evaluations)
        chosen = chosen[rank < BATCH][:left]
        latency_ms, top1 = self.objectives.evaluate(genomes[chosen], genomes_ms[chosen])
        for index, climber in enumerate(climbers):
            own = slice(*np.searchsorted(owners[chosen], [index, index + 1]))
            climber.learn(genomes[chosen[own]], latency_ms[own], top1[own])
        return list(climbers)

    def _arrive(self, climbers: Sequence[_Climber]) -> list[_Climber]:
        """Evaluate the new genomes of climbers and estimate the moves from there.

        Return the climbers for which the evaluations were sufficient.
        """
        arrived = [climber for climber in climbers if climber.moves is None]
        if arrived:
            genomes = np.stack([climber.genome for climber in arrived])
            latency_ms, top1 = self.objectives.lookup(genomes, self._evaluations)
            around = [self.structures.moves(genome) for genome in genomes]
            ends = np.cumsum([len(genes) for genes, _, _ in around])[:-1]
            changed = [genomes for _, _, genomes in around]
            changed_ms = np.split(self.objectives.latency(np.concatenate(changed)), ends)
            gains = self.objectives.gains(genomes, top1, changed, self._evaluations)
            for climber, accuracy, own_ms in zip(arrived, top1, latency_ms, strict=True):
                climber.value, climber.latency_ms = float(accuracy), float(own_ms)
            for climber, (genes, choices, _), moved_ms, gain in zip(
                arrived, around, changed_ms, gains, strict=False
            ):
                cost_ms = moved_ms - climber.latency_ms
                climber.moves = Moves(climber.genome, genes, choices, cost_ms, gain)
        return [climber for climber in climbers if climber.moves is not None]
