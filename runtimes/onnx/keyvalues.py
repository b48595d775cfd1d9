"""Keys and values of all rows of one session, by slot. It knows no tree: who names slots decides.

One array [layers, 2, G, capacity, d] per block of equal layers, into which a step writes its new
rows itself (`inplace`). It grows in place: two copies are never in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .segments import Block

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.rowsets import Indices


class KeyValues:
    """The buffers, all of the same capacity (rows). `arrays` are views, invalid after `grow`."""

    def __init__(self, blocks: Sequence[Block], capacity: int) -> None:
        self.capacity = capacity
        # Zeros: a slot that nobody sees must still hold finite numbers.
        self._memory = {
            block: np.zeros(math.prod(_shape(block, capacity)), np.float32) for block in blocks
        }
        self.arrays = self._views()

    def _views(self) -> dict[Block, Floats]:
        return {
            block: flat.reshape(_shape(block, self.capacity))
            for block, flat in self._memory.items()
        }

    def grow(self, capacity: int) -> None:
        """Make room for more rows; what is there stays in its slot. No view may be in use."""
        before, self.capacity = self.capacity, capacity
        self.arrays = {}
        for block, flat in self._memory.items():
            shape = _shape(block, capacity)
            flat.resize(math.prod(shape), refcheck=False)
            spread(flat, (math.prod(shape[:3]), before, block.dim), capacity)
        self.arrays = self._views()

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Move rows to other slots; what lay there is gone."""
        for array in self.arrays.values():
            array[:, :, :, target] = array[:, :, :, source]

    def gathered(self, slots: Indices) -> dict[str, Floats]:
        """The rows in these slots, by block name: [layers, 2, G, len(slots), d]."""
        return {name(block): array[:, :, :, slots] for block, array in self.arrays.items()}

    def fill(self, rows: Mapping[str, Floats]) -> None:
        """The reverse of `gathered`, into the slots 0, 1, 2, ..."""
        for block, array in self.arrays.items():
            made = rows[name(block)]
            array[:, :, :, : made.shape[3]] = made


def new(block: Block, rows: int) -> Floats:
    """An array for so many rows of all layers of a block."""
    return np.zeros(_shape(block, rows), np.float32)


def spread(flat: Floats, shape: tuple[int, int, int], capacity: int) -> None:
    """Rows [count, rows, d] at the beginning of `flat`, moved apart to [count, capacity, d]."""
    count, rows, dim = shape
    old = flat[: count * rows * dim].reshape(shape)
    apart = flat[: count * capacity * dim].reshape(count, capacity, dim)
    # From the end, so that nothing is overwritten before it has moved.
    for index in range(count - 1, 0, -1):
        apart[index, :rows] = old[index]


def _shape(block: Block, rows: int) -> tuple[int, int, int, int, int]:
    return (block.last - block.first, 2, block.heads, rows, block.dim)


def name(block: Block, kind: str = "layers") -> str:
    """The name of a block in a saved state."""
    return f"{kind}.{block.first}.{block.last}"


def shapes(blocks: Sequence[Block], rows: int, kind: str = "layers") -> dict[str, tuple[int, ...]]:
    """What a saved state holds of so many rows."""
    return {name(block, kind): _shape(block, rows) for block in blocks}
