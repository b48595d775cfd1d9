"""Who sees whom, as numbers that a graph adds to its scores: 0 for seen, a very negative one else.

Columns are first the slots of the past, then the rows of the step. It knows no model but the
windows of its layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgedec.rowtree import Call, RowTree

if TYPE_CHECKING:
    from edgedec.contracts import Floats

SEEN = np.float32(0)
HIDDEN = np.float32(-3e38)


class Masks:
    """Follows one tree; the trunk's columns are remembered from step to step."""

    def __init__(self, capacity: int) -> None:
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
        """Write the masks [n, capacity + n] of the windows for one call."""
        self._follow(tree)
        self._positions[call.slots] = call.positions
        own = SEEN if len(call.slots) == 1 else np.where(call.own, SEEN, HIDDEN)
        past = np.where(call.past, SEEN, HIDDEN) if len(call.past_slots) else None
        capacity = len(self._trunk)
        for window, mask in masks.items():
            mask[:, :capacity] = self._trunk
            if past is not None:
                mask[:, call.past_slots] = past
            mask[:, capacity:] = own
            if window is not None and call.positions.max() >= window:
                self._hide_far(mask, call, window)

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

    def _hide_far(self, mask: Floats, call: Call, window: int) -> None:
        here = call.positions[:, None]
        mask[:, : len(self._trunk)][here - self._positions >= window] = HIDDEN
        mask[:, len(self._trunk) :][here - call.positions >= window] = HIDDEN
