"""Which operators a network of a search space consists of, and what they are called.

An operator is a module of the static network: the stem, a block, a layer of the head. It is the
same operator wherever its configuration is the same: `s2.b1.k5.e4` is every later block of stage 2
with kernel 5 and expand ratio 4. Times of operators are added up by these names.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import LatencyTableError
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

ABSENT = -1

# What surrounds the elastic blocks, in the order of the forward pass.
_BEFORE = ('stem', 'block0')
_AFTER = {
    'ofa_mobilenetv3': ('final_expand', 'avgpool', 'feature_mix', 'classifier'),
    'ofa_proxyless': ('feature_mix', 'avgpool', 'classifier'),
    'efficientnet_lite': ('feature_mix', 'avgpool', 'classifier'),
}
_RESNET50 = 'ofa_resnet50'
_LETTERS = {'ks': 'k', 'e': 'e', 'w': 'w'}


@dataclass(frozen=True)
class Slot:
    """A place in the deepest network of a space.

    prefix: the operator's name, less the choices; genes: (field, index) of every choice it depends
    on; block: the index of an elastic block, which shallower networks may lack; is_stem_middle:
    ResNet-50's layer that they may lack, too.
    """

    prefix: str
    genes: tuple[tuple[str, int], ...] = ()
    block: int | None = None
    is_stem_middle: bool = False


class OperatorLayout:
    """The operators of a search space: their `names`, and which of them genomes consist of."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.slots = _slots(space)
        self._encoding = GenomeEncoding(space)
        self._choices: dict[str, list[tuple[float, ...]]] = {}
        for genes in space.genes:
            self._choices.setdefault(genes.field, []).extend([genes.choices] * genes.count)
        rows: dict[str, int] = {}
        self._rows: list[npt.NDArray[np.int64]] = []
        for slot in self.slots:
            names = self._variants(slot)
            for name in names:
                rows.setdefault(name, len(rows))
            shape = [len(self._choices[field][index]) for field, index in slot.genes]
            self._rows.append(np.array([rows[name] for name in names]).reshape(shape))
        self.names = tuple(rows)

    def rows(self, genomes: Genomes) -> npt.NDArray[np.int64]:
        """Return (N, slots): for every place in a network the row in `names`, or ABSENT."""
        active = self._encoding.active(genomes)
        has_stem_middle = self._encoding.indices(genomes, 'd')[:, 0] > 0
        columns = []
        for slot, rows in zip(self.slots, self._rows, strict=True):
            genes = tuple(self._encoding.indices(genomes, f)[:, index] for f, index in slot.genes)
            chosen = np.broadcast_to(rows[genes], len(genomes))
            if slot.block is not None:
                chosen = np.where(active[:, slot.block], chosen, ABSENT)
            elif slot.is_stem_middle:
                chosen = np.where(has_stem_middle, chosen, ABSENT)
            columns.append(chosen)
        return np.stack(columns, axis=1)

    def names_in(self, architecture: SubnetArchitecture) -> list[str]:
        """Return the operators of one network, in the order of its forward pass."""
        rows = self.rows(self._encoding.encode([architecture]))[0]
        return [self.names[row] for row in rows if row != ABSENT]

    def covering(self) -> list[SubnetArchitecture]:
        """Return the deepest networks in which every operator occurs at least once.

        Kernel sizes and expand ratios are uniform; widths alternate between two choices, so that
        each meets each.
        """
        largest = self.space.largest()
        fields = [field for field in ('ks', 'e', 'w') if largest.values(field)]
        found = []
        for patterns in itertools.product(*(self._patterns(field) for field in fields)):
            lists: dict[str, Any] = {
                field: tuple(
                    pattern[i % 2] if pattern[i % 2] in choices else max(choices)
                    for i, choices in enumerate(self._choices[field])
                )
                for field, pattern in zip(fields, patterns, strict=True)
            }
            found.append(replace(largest, **lists))
        return found

    def _variants(self, slot: Slot) -> list[str]:
        """Return the names of a slot's operators, the last gene changing fastest."""
        letters = [_LETTERS[field] for field, _ in slot.genes]
        return [
            '.'.join((slot.prefix, *(f'{a}{v:g}' for a, v in zip(letters, values, strict=True))))
            for values in itertools.product(*(self._choices[field][i] for field, i in slot.genes))
        ]

    def _patterns(self, field: str) -> list[tuple[float, ...]]:
        """Return what a list alternates between."""
        choices = tuple(sorted({value for choices in self._choices[field] for value in choices}))
        if field == 'w':
            return list(itertools.product(choices, repeat=2))
        return [(choice, choice) for choice in choices]


def _slots(space: SearchSpace) -> tuple[Slot, ...]:
    if space.kind == _RESNET50:
        return _resnet50_slots(space)
    if space.kind not in _AFTER:
        raise LatencyTableError(
            f'the operators of a backbone of kind {space.kind!r} are not known; fit a latency '
            'predictor on whole networks instead: dynamic-ofa latency-model --whole-networks 100'
        )
    return (
        *map(Slot, _BEFORE),
        *(
            Slot(f's{stage}.b{min(place, 1)}', (('ks', block), ('e', block)), block)
            for block, (stage, place) in enumerate(space.block_places)
        ),
        *map(Slot, _AFTER[space.kind]),
    )


def _resnet50_slots(space: SearchSpace) -> tuple[Slot, ...]:
    """Widths: stem inside, stem out, then the stages; a stage's first block takes the last's."""
    blocks = []
    for block, (stage, place) in enumerate(space.block_places):
        width = stage + 2
        widths: Sequence[int] = (width,) if place else (width - 1, width)
        genes = (*(('w', index) for index in widths), ('e', block))
        blocks.append(Slot(f's{stage}.b{min(place, 1)}', genes, block))
    last = space.stages + 1
    return (
        Slot('stem0', (('w', 0),)),
        Slot('stem1', (('w', 0),), is_stem_middle=True),
        Slot('stem2', (('w', 0), ('w', 1))),
        Slot('maxpool', (('w', 1),)),
        *blocks,
        Slot('avgpool', (('w', last),)),
        Slot('classifier', (('w', last),)),
    )
