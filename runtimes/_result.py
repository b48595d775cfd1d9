"""The outcome of a step whose logits lie in a numpy array. It knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.errors import UsageError

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints


class Result:
    """`logits` [m, V] belong to the rows `chosen` of the step (None: row i has line i)."""

    def __init__(
        self,
        handles: Sequence[int],
        logits: Floats,
        chosen: tuple[int, ...] | None,
        hidden: Mapping[int, Floats],
    ) -> None:
        self._handles, self._logits, self._chosen = handles, logits, chosen
        self._hidden = hidden

    @property
    def handles(self) -> Sequence[int]:
        """The handles of the rows of this step."""
        return self._handles

    def argmax(self) -> Ints:
        """The most likely token of each row [n]; -1 where no logits were wanted."""
        if self._chosen is None:
            best: Ints = self._logits.argmax(axis=1).astype(np.int32)
            return best
        best = np.full(len(self._handles), -1, np.int32)
        if self._chosen:
            best[list(self._chosen)] = self._logits.argmax(axis=1)
        return best

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
        if self._chosen is not None:
            if i not in self._chosen:
                raise IndexError(f"no logits were wanted for row {i}")
            i = self._chosen.index(i)
        elif not 0 <= i < len(self._handles):
            raise IndexError(f"the step had {len(self._handles)} rows, there is no row {i}")
        line: Floats = self._logits[i]
        return line

    def hidden(self, layer: int) -> Floats:
        """The hidden states of all rows at a layer that was wanted [n, D]."""
        if layer not in self._hidden:
            raise IndexError(f"no hidden states of layer {layer} were wanted")
        return self._hidden[layer]


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
