"""The operators of the networks in a search space, and their names.

An operator is a module of a static network: the stem, a block, or a layer of the head. Modules of
equal configuration are the same operator: `s2.b1.k5.e4` is every block of stage 2 except the
first, with kernel size 5 and expand ratio 4.
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

# The operators before and after the elastic blocks, in the order of the forward pass.
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
    """A position in the deepest network of a space.

    prefix: the operator's name without choices; genes: (field, index) of every choice that it
    depends on; block: the index of an elastic block, which shallower networks may lack;
    is_stem_middle: the stem's middle layer in ResNet-50, which networks may lack.
    """

    prefix: str
    genes: tuple[tuple[str, int], ...] = ()
    block: int | None = None
    is_stem_middle: bool = False


class OperatorLayout:
    """The names of all operators of a search space, and the operators of each genome."""

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
        """Return (N, slots) indices into `names` of the operators of networks, or ABSENT."""
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
        """Return the deepest networks that together contain every operator.

        Kernel sizes and expand ratios are uniform. Widths alternate between two choices, so that
        all pairs of widths occur.
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
        """Return the names of a slot's operators; the last gene changes fastest."""
        letters = [_LETTERS[field] for field, _ in slot.genes]
        return [
            '.'.join((slot.prefix, *(f'{a}{v:g}' for a, v in zip(letters, values, strict=True))))
            for values in itertools.product(*(self._choices[field][i] for field, i in slot.genes))
        ]

    def _patterns(self, field: str) -> list[tuple[float, ...]]:
        """Return the pairs of choices between which a list alternates."""
        choices = tuple(sorted({value for choices in self._choices[field] for value in choices}))
        if field == 'w':
            return list(itertools.product(choices, repeat=2))
        return [(choice, choice) for choice in choices]


def _slots(space: SearchSpace) -> tuple[Slot, ...]:
    if space.kind == _RESNET50:
        return _resnet50_slots(space)
    if space.kind not in _AFTER:
        raise LatencyTableError(
            f'no operator table for a backbone of kind {space.kind!r}: fit a latency predictor '
            'to whole networks, with dynamic-ofa profile --whole-networks 100'
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
    """Return the slots; a stage's first block also depends on the width of the stage before."""
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
