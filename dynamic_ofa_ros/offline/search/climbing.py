"""Local search: makes the best of one latency limit after another, structure by structure.

Many climbers work side by side, each at one limit within one structure (`structures.py`). A
climber estimates what every single change of where it stands would gain, evaluates a batch of the
most promising changes and combinations that keep the limit (`moves.py`), and moves to the best.
When several batches bring nothing it stops, and another takes its place: from the best of a
promising structure, or from a variation of it.

The estimates come from the accuracy predictor's gradient where there is one, else from evaluating
all single changes. Latency comes from a table, so what breaks the limit is never evaluated.
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

# How many climb at once: so many share each call of the predictors.
CLIMBERS = 30
# Where all climbers together find fewer new genomes a round, for so many rounds, the space is
# nearly exhausted.
IDLE, IDLE_ROUNDS = 5, 5
# What a climber evaluates at once.
BATCH = 10
# After so many batches that bring nothing a climber stops; where it is this much less accurate
# than the best at its limit, after the first.
PATIENCE = 3
HOPELESS = 0.0015
# A structure already climbed in counts as this much less accurate at the next choice, a visit.
VISIT_PENALTY = 0.0003
# What a first climb in a structure is expected to gain over what is known of it.
FIRST_CLIMB_GAIN = 0.003
# Shares of the evaluations at which a stage ends. Every stage starts with new proposals from the
# additive model, which knows more then, and forgets the visits.
STAGES = (0.3, 1.0)
# Structures that the additive model proposes at each limit, and what it is fitted on.
PROPOSED = 30
FITTED = 1500
# Where to start in a structure climbed in before: shares of a kick (the best with a few genes
# redrawn) and of a cross (with another optimum of the structure); else far from the best.
KICKS, CROSSES = 0.1, 0.3
KICKED_GENES = (2, 4)
MATES = 8
FAR_MUTATION = (0.2, 1.0)
# Share of climbs that go by a detour: first up within a limit that is relaxed by so much, then
# down to the true one. It leads past what only just keeps the limit.
DETOURS, RELAXED = 0.3, (0.0, 0.01)


@dataclass
class _Standing:
    """What is known at one limit: of every structure the best genome, and how often it was used.

    structures: structure id to (accuracy, place in the archive); promises: to the accuracy that a
    climb there may end with; accuracy: the best of all.
    """

    limit_ms: float
    structures: dict[int, tuple[float, int]] = field(default_factory=dict)
    visits: dict[int, int] = field(default_factory=dict)
    promises: dict[int, float] = field(default_factory=dict)
    accuracy: float = -math.inf

    def update(self, ids: Genomes, latency_ms: FloatArray, top1: FloatArray, offset: int) -> None:
        """Take in evaluations, which start at `offset` of the archive."""
        allowed = np.flatnonzero((latency_ms <= self.limit_ms) & (top1 >= 0))
        allowed = allowed[np.argsort(-top1[allowed], kind='stable')]
        structures, firsts = np.unique(ids[allowed], return_index=True)
        for structure, first in zip(structures.tolist(), allowed[firsts].tolist(), strict=True):
            if top1[first] > self.structures.get(structure, (-math.inf, 0))[0]:
                self.structures[structure] = float(top1[first]), offset + first
                self._promise(structure)
                self.accuracy = max(self.accuracy, float(top1[first]))

    def next_structure(self) -> int:
        """Return the structure that promises most, less a penalty for visits; count one."""
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
    """One climb; `moves` are those from where it stands, None where it has just arrived.

    tried, gains: what was evaluated around there, and what it gained.
    """

    standing: _Standing
    genome: Genomes
    limit_ms: float
    value: float = math.nan
    latency_ms: float = math.nan
    moves: Moves | None = None
    tried: list[Genomes] = field(default_factory=list)
    gains: list[FloatArray] = field(default_factory=list)
    failures: int = 0

    @property
    def merit(self) -> float:
        """Return the accuracy; what misses the limit is below everything that keeps it."""
        return self.value if self.latency_ms <= self.limit_ms else -math.inf

    def learn(self, genomes: Genomes, latency_ms: FloatArray, top1: FloatArray) -> None:
        """Move to the best of what was evaluated, if it is better; else learn from it."""
        if not len(genomes):
            self.failures = PATIENCE
            return
        best = int(top1.argmax())
        if top1[best] > self.merit:
            self.genome, self.moves, self.failures = genomes[best], None, 0
            self.value, self.latency_ms = float(top1[best]), float(latency_ms[best])
            self.tried, self.gains = [], []
            return
        self.failures += 1
        self.tried.append(genomes)
        self.gains.append(top1 - self.value)

    def proposals(self, batch: int) -> Genomes:
        """Return the most promising genomes around."""
        assert self.moves is not None
        moves = self.moves
        if self.tried:
            moves = moves.corrected(np.concatenate(self.tried), np.concatenate(self.gains))
        return moves.propose(self.limit_ms - self.latency_ms, batch)

    @property
    def is_done(self) -> bool:
        is_hopeless = self.merit < self.standing.accuracy - HOPELESS
        return self.failures >= (1 if is_hopeless else PATIENCE)


def climb(
    objectives: Objectives, limits_ms: Sequence[float], evaluations: int, rng: np.random.Generator
) -> None:
    """Improve the best at each limit until the evaluations are used up."""
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
        self._optima: dict[int, dict[bytes, tuple[float, Genomes]]] = {}
        self._seen = self._started = 0

    def propose_structures(self) -> None:
        """Evaluate what an additive model of all that is known makes the best of each limit."""
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
        """Let climbers climb, and others start in their place."""
        climbers: list[_Climber] = []
        idle_rounds = 0
        while idle_rounds < IDLE_ROUNDS:
            known = self._update()
            climbers.extend(self._start() for _ in range(self._room(climbers)))
            climbers = self._step(climbers)
            if not climbers:
                return
            done = [climber for climber in climbers if climber.is_done]
            climbers = [climber for climber in climbers if not climber.is_done]
            for climber in done:
                if climber.limit_ms <= climber.standing.limit_ms:
                    self._remember(climber)
                else:
                    climbers.append(
                        _Climber(climber.standing, climber.genome, climber.standing.limit_ms)
                    )
            is_idle = len(self.objectives.archive()[0]) < known + IDLE
            idle_rounds = idle_rounds + 1 if is_idle else 0

    def _update(self) -> int:
        """Take in what was evaluated since; return how much is known."""
        genomes, latency_ms, top1 = self.objectives.archive()
        ids = self.structures.ids(genomes[self._seen :])
        for standing in self.standings:
            standing.update(ids, latency_ms[self._seen :], top1[self._seen :], self._seen)
        self._seen = len(genomes)
        return self._seen

    def _room(self, climbers: Sequence[_Climber]) -> int:
        is_possible = any(standing.structures for standing in self.standings)
        return max(CLIMBERS - len(climbers), 0) if is_possible else 0

    def _remember(self, climber: _Climber) -> None:
        if climber.merit > 0:
            structure = int(self.structures.ids(climber.genome[None])[0])
            optima = self._optima.setdefault(structure, {})
            optima[climber.genome.tobytes()] = climber.value, climber.genome

    def _start(self) -> _Climber:
        """Start at the next limit: from the best of a structure, or from a variation of it."""
        possible = [standing for standing in self.standings if standing.structures]
        standing = possible[self._started % len(possible)]
        self._started += 1
        structure = standing.next_structure()
        genomes, _, _ = self.objectives.archive()
        genome = genomes[standing.structures[structure][1]].copy()
        limit_ms = standing.limit_ms
        if standing.visits[structure] > 1:
            genome = self._vary(standing, structure, genome)
            if self.rng.random() < DETOURS:
                limit_ms *= 1.0 + self.rng.uniform(*RELAXED)
        return _Climber(standing, genome, limit_ms)

    def _vary(self, standing: _Standing, structure: int, genome: Genomes) -> Genomes:
        choices = self.objectives.encoding.choices
        used = np.flatnonzero(self.structures.free_in_use(genome))
        optima = sorted(self._optima.get(structure, {}).values(), key=lambda found: -found[0])
        kind = self.rng.random()
        if kind < KICKS:
            redrawn = self._some(used, *KICKED_GENES)
        elif kind < KICKS + CROSSES and len(optima) > 1:
            genome = self._cross(genome, optima[self.rng.integers(min(MATES, len(optima)))][1])
            redrawn = self._some(used, 0, 2)
        else:
            if self.rng.random() < 0.5:
                genomes, _, _ = self.objectives.archive()
                best = sorted(standing.structures.values(), reverse=True)[:MATES]
                genome = self._cross(genome, genomes[best[self.rng.integers(len(best))][1]])
            redrawn = used[self.rng.random(len(used)) < self.rng.uniform(*FAR_MUTATION)]
        genome[redrawn] = self.rng.integers(0, choices[redrawn])
        canonical: Genomes = self.objectives.encoding.canonical(genome[None])[0]
        return canonical

    def _some(self, genes: Genomes, least: int, most: int) -> Genomes:
        count = int(self.rng.integers(least, most, endpoint=True))
        some: Genomes = self.rng.choice(genes, min(count, len(genes)), replace=False)
        return some

    def _cross(self, genome: Genomes, mate: Genomes) -> Genomes:
        from_mate = self.structures.free & (self.rng.random(len(genome)) < 0.5)
        return np.where(from_mate, mate, genome)

    def _step(self, climbers: Sequence[_Climber]) -> list[_Climber]:
        """Let every climber evaluate a batch; return them, none where evaluations are used up."""
        climbers = self._arrive(climbers)
        if not climbers:
            return []
        groups = [climber.proposals(BATCH) for climber in climbers]
        genomes = np.concatenate(groups)
        limits_ms = np.repeat([c.limit_ms for c in climbers], [len(g) for g in groups])
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
        """Evaluate where climbers have just arrived, and estimate the moves from there.

        Return those for which the evaluations sufficed.
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
