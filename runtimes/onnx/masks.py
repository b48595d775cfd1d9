"""Who sees whom, as numbers that a graph adds to its scores: 0 for seen, a very negative one else.

And how far apart they are, as T5's buckets. Columns are slots, those of the step's own rows among
them. It knows no model but the windows and the bias table of its layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgedec.architecture import BiasTable
from edgedec.distance import buckets
from edgedec.rowtree import Call, RowTree

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.rowsets import Indices

SEEN = np.float32(0)
HIDDEN = np.float32(-3e38)


def reach(table: BiasTable) -> int:
    """A distance from which on all share a bucket, each direction its own."""
    return max(table.buckets, 2 * table.max_distance)


class Masks:
    """Follows one tree; the trunk's columns are remembered from step to step."""

    def __init__(self, capacity: int, table: BiasTable | None = None) -> None:
        self._lookup = np.zeros(1, np.int64)
        if table is not None:
            far = reach(table)
            self._lookup = buckets(table, np.arange(far, -far - 1, -1)).astype(np.int64)
        self._trunk = np.full(capacity, HIDDEN)
        self._positions = np.zeros(capacity, np.int64)
        self._known = 0
        self._cuts = -1

    def grow(self, capacity: int) -> None:
        """Make room for more slots."""
        more = capacity - len(self._trunk)
        self._trunk = np.pad(self._trunk, (0, more), constant_values=HIDDEN)
        self._positions = np.pad(self._positions, (0, more))

    def fill(self, masks: Mapping[int | None, Floats], call: Call, tree: RowTree) -> None:
        """Write the masks [n, capacity] of the windows for one call."""
        self._follow(tree)
        self._positions[call.slots] = call.positions
        own = SEEN if len(call.slots) == 1 else np.where(call.own, SEEN, HIDDEN)
        past = np.where(call.past, SEEN, HIDDEN) if len(call.past_slots) else None
        for window, mask in masks.items():
            mask[:] = self._trunk
            if past is not None:
                mask[:, call.past_slots] = past
            mask[:, call.slots] = own
            if window is not None and call.positions.max() >= window:
                mask[call.positions[:, None] - self._positions >= window] = HIDDEN

    def fill_buckets(self, places: Indices, call: Call) -> None:
        """Write the buckets [n, capacity] of the call whose masks were filled last."""
        far = len(self._lookup) // 2
        apart = np.clip(call.positions[:, None] - self._positions, -far, far)
        places[:] = self._lookup[apart + far]

    def _follow(self, tree: RowTree) -> None:
        """Mark what became trunk since the last step; after a cut, anew."""
        if tree.cuts != self._cuts:
            self._trunk[:] = HIDDEN
            self._known, self._cuts = 0, tree.cuts
        slots = tree.trunk_slots[self._known :]
        if len(slots):
            self._trunk[slots] = SEEN
            self._positions[slots] = tree.trunk_positions[self._known :]
            self._known += len(slots)
