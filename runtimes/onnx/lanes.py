"""Where living rows lie, so that a row is computed alike whatever else is in the buffers.

Sums over the rows that a row sees (of its softmax, of its values) are made in 16 lanes, by slot,
or from the first slot to the last; slots of others add zeros. So its ancestors must lie in the
order of the path, each in the lane that it has in plain decoding. There row i of a text lies in
slot i. Here trunk row i does as well, and a living row that is to be row i of its text lies in the
first free one of the slots i, i + 16, i + 32, ... behind its parent, not beyond the span of slots
that is summed up before the next. Buffers do not grow for that, as each slot costs time in every
step: where there are too many siblings, some lie anywhere behind their parent. They and what
follows them are astray.

It knows handles and slots, no keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from edgedec.contracts import TRUNK
from edgedec.rowsets import is_chain
from edgedec.rowtree import Call, RowTree

LANES = 16
"""Of the widest vectors that ONNX Runtime adds up in; narrower ones divide it."""
SPAN = 128
"""Its products go through so many values at once, or a multiple, and then add what they got."""


class Lanes:
    """The slots of the living rows of a compact tree, by handle."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """No row lives."""
        self._slots: list[int] = []
        self._rows: list[int] = []
        self._astray: list[bool] = []
        self._chain = True

    def place(self, call: Call, parents: Sequence[int], trunk: int, capacity: int) -> None:
        """Give the new rows of a call their slots, behind so many rows of the trunk."""
        first = call.handles[0]
        del self._slots[first:], self._rows[first:], self._astray[first:]
        self._chain &= is_chain(parents, first)
        if self._chain:
            self._slots += call.slots.tolist()
            self._rows += range(trunk + first, trunk + first + len(parents))
            self._astray += [False] * len(parents)
            return
        taken = set(self._slots)
        for parent in parents:
            above, row, astray = trunk - 1, trunk, False
            if parent != TRUNK:
                above, row = self._slots[parent], self._rows[parent] + 1
                astray = self._astray[parent]
            slot = _free(above, row, taken, capacity)
            taken.add(slot)
            self._slots.append(slot)
            self._rows.append(row)
            apart = (slot - row) % LANES != 0 or slot // SPAN != row // SPAN
            self._astray.append(astray or apart)
        self.find(call)

    def find(self, call: Call) -> None:
        """Put the slots of living rows into a call that resumes some of them."""
        slots = np.array(self._slots, np.int64)
        call.slots, call.past_slots = slots[call.handles], slots[: len(call.past_slots)]

    def astray(self, call: Call) -> Set[int]:
        """The rows of a call that do not lie in the lanes of their paths."""
        if self._chain:
            return frozenset()
        return {index for index, handle in enumerate(call.handles) if self._astray[handle]}

    def keep(self, tree: RowTree, trunk: int) -> tuple[list[int], list[int]]:
        """The tree kept some rows, and had a trunk of so many before: which rows move, from where
        and to where. Those that became trunk go to its end; the others stay where they are."""
        if self._chain and not tree.living:
            self.clear()
            return [], []
        grown, came = len(tree.tokens), dict(zip(*reversed(tree.moves), strict=True))
        kept = [came.get(row, row) - trunk for row in range(trunk, grown + tree.living)]
        slots = [self._slots[handle] for handle in kept]
        moves = [
            (slot, row)
            for slot, row in zip(slots, range(trunk, grown), strict=False)
            if slot != row
        ]
        self._rows = [self._rows[handle] for handle in kept[grown - trunk :]]
        self._astray = [self._astray[handle] for handle in kept[grown - trunk :]]
        self._slots, self._chain = slots[grown - trunk :], not tree.living
        return [slot for slot, _ in moves], [row for _, row in moves]


def _free(above: int, row: int, taken: set[int], capacity: int) -> int:
    """A slot behind `above` for row number `row` of a text, in its lane if there is one."""
    start = row + (above + 1 - row + LANES - 1) // LANES * LANES
    end = min(capacity, (row // SPAN + 1) * SPAN)
    for slot in range(start, max(end, start + 1), LANES):
        if slot not in taken:
            return slot
    slot = above + 1
    while slot in taken:
        slot += 1
    return slot
