"""The rows of a session that stay: token, slot and position of each. It knows no living row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Places = Sequence[int] | Indices


class Trunk:
    """`tokens` are its ids, in order."""

    def __init__(
        self, tokens: Sequence[int] = (), slots: Places = (), positions: Places = ()
    ) -> None:
        self.tokens: list[int] = []
        self._places = np.zeros((2, 64), np.int64)
        self.grow(list(tokens), slots, positions)

    @property
    def slots(self) -> Indices:
        """Where its rows lie, in order (a view)."""
        return self._places[0, : len(self.tokens)]

    @property
    def positions(self) -> Indices:
        """The positions of its rows, in order (a view)."""
        return self._places[1, : len(self.tokens)]

    @property
    def slot(self) -> int:
        """Where the last row lies; -1 if there is none."""
        return int(self._places[0, len(self.tokens) - 1]) if self.tokens else -1

    @property
    def end(self) -> int:
        """The position of the last row; -1 if there is none."""
        return int(self._places[1, len(self.tokens) - 1]) if self.tokens else -1

    def grow(self, tokens: list[int], slots: Places, positions: Places) -> None:
        """Rows follow."""
        start, stop = len(self.tokens), len(self.tokens) + len(tokens)
        if stop > self._places.shape[1]:
            wider = np.zeros((2, max(stop, 2 * self._places.shape[1])), np.int64)
            wider[:, :start] = self._places[:, :start]
            self._places = wider
        self._places[0, start:stop], self._places[1, start:stop] = slots, positions
        self.tokens += tokens
