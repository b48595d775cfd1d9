"""The rows of a session that stay: token, slot and position of each. It knows no living row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Places = Sequence[int] | Indices


class Trunk:
    """`tokens` are its ids, in order; `slot` and `end` are where the last row lies and its position
    (-1: there is none).

    Rows that went on from the one before, slot by slot and position by position, are put into the
    table when somebody reads it.
    """

    def __init__(
        self, tokens: Sequence[int] = (), slots: Places = (), positions: Places = ()
    ) -> None:
        self.tokens: list[int] = []
        self.slot = self.end = -1
        self._places, self._written = np.zeros((2, 64), np.int64), 0
        self.grow(list(tokens), slots, positions)

    @property
    def slots(self) -> Indices:
        """Where its rows lie, in order (a view)."""
        return self._table()[0, : len(self.tokens)]

    @property
    def positions(self) -> Indices:
        """The positions of its rows, in order (a view)."""
        return self._table()[1, : len(self.tokens)]

    def go_on(self, tokens: list[int]) -> None:
        """Rows follow in the slots and at the positions behind the last one's."""
        self.tokens += tokens
        self.slot += len(tokens)
        self.end += len(tokens)

    def grow(self, tokens: list[int], slots: Places, positions: Places) -> None:
        """Rows follow."""
        if not tokens:
            return
        places = self._table(len(tokens))
        start = len(self.tokens)
        self.tokens += tokens
        self._written = len(self.tokens)
        places[0, start : self._written], places[1, start : self._written] = slots, positions
        self._look()

    def cut(self, length: int) -> None:
        """Only the first `length` rows stay."""
        self._table()
        del self.tokens[length:]
        self._written = length
        self._look()

    def _look(self) -> None:
        last = self._written - 1
        self.slot, self.end = self._places[:, last].tolist() if self._written else (-1, -1)

    def _table(self, more: int = 0) -> Indices:
        """Slots and positions of all rows, with room for some more."""
        start, stop, width = self._written, len(self.tokens), self._places.shape[1]
        if stop + more > width:
            wider = np.zeros((2, max(stop + more, 2 * width)), np.int64)
            wider[:, :start] = self._places[:, :start]
            self._places = wider
        if start < stop:
            back = np.arange(start - stop + 1, 1)
            self._places[0, start:stop] = self.slot + back
            self._places[1, start:stop] = self.end + back
            self._written = stop
        return self._places
