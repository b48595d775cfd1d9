"""The rows of a step, and its outcome where logits lie in a numpy array. It knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np

from edgedec.errors import UsageError

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints


class StepRows:
    """The rows of a step: their handles, which have a line of logits, and their hidden states.

    `chosen` are the rows with logits, in the order of their lines (None: row i has line i).
    """

    astray: Set[int] = frozenset()

    def __init__(
        self,
        handles: Sequence[int],
        chosen: tuple[int, ...] | None,
        hidden: Mapping[int, Floats],
    ) -> None:
        self._handles, self._chosen, self._hidden = handles, chosen, hidden

    @property
    def handles(self) -> Sequence[int]:
        """The handles of the rows of this step."""
        return self._handles

    def hidden(self, layer: int) -> Floats:
        """The hidden states of all rows at a layer that was wanted [n, D]."""
        if layer not in self._hidden:
            raise IndexError(f"no hidden states of layer {layer} were wanted")
        return self._hidden[layer]

    def line(self, i: int) -> int:
        """Which line of logits row i has.

        Raises:
            IndexError: none.
        """
        if self._chosen is not None:
            if i not in self._chosen:
                raise IndexError(f"no logits were wanted for row {i}")
            return self._chosen.index(i)
        if not 0 <= i < len(self._handles):
            raise IndexError(f"the step had {len(self._handles)} rows, there is no row {i}")
        return i

    def by_row(self, best: Ints) -> Ints:
        """A token of each line, as one of each row [n]; -1 where no logits were wanted."""
        if self._chosen is None:
            return best
        found = np.full(len(self._handles), -1, np.int32)
        if self._chosen:
            found[list(self._chosen)] = best
        return found


class Result(StepRows):
    """`logits` [m, V], line by line."""

    def __init__(
        self,
        handles: Sequence[int],
        logits: Floats,
        chosen: tuple[int, ...] | None,
        hidden: Mapping[int, Floats],
    ) -> None:
        super().__init__(handles, chosen, hidden)
        self._logits = logits

    def argmax(self) -> Ints:
        """The most likely token of each row [n]; -1 where no logits were wanted."""
        return self.by_row(self._logits.argmax(axis=1).astype(np.int32))

    def topk(self, k: int) -> tuple[Ints, Floats]:
        """The k largest logits of each row with logits, largest first: ids and values [m, k].

        Of equal logits the smaller id comes first; where a tie straddles the last place, any may.
        """
        vocab = self._logits.shape[1]
        if not 1 <= k <= vocab:
            raise UsageError(f"top-{k} of {vocab} tokens: k is 1 to {vocab}")
        if k == 1:
            ids = self._logits.argmax(axis=1)[:, None]
        else:
            ids = np.argpartition(self._logits, vocab - k, axis=1)[:, vocab - k :]
            values = np.take_along_axis(self._logits, ids, axis=1)
            ids = np.take_along_axis(ids, np.lexsort((ids, -values), axis=1), axis=1)
        return ids.astype(np.int32), np.take_along_axis(self._logits, ids, axis=1)

    def logits(self, i: int) -> Floats:
        """The logits of row i [V]."""
        line: Floats = self._logits[self.line(i)]
        return line


def chosen_rows(wanted: tuple[int, ...] | None, count: int) -> tuple[int, ...] | None:
    """The rows that get logits, checked against the number of rows; None for all of them.

    Raises:
        UsageError: a row outside the step, or named twice.
    """
    if wanted is None:
        return None
    if len(set(wanted)) != len(wanted) or not all(0 <= row < count for row in wanted):
        raise UsageError(f"logits are wanted of the rows {wanted} in a step of {count} rows")
    return wanted
