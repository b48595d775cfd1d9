"""The outcome of a step whose logits lie in the C engine; what is not asked for stays there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.errors import UsageError

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints

    from ._engine import Session


class NativeResult:
    """`chosen` are the rows with logits (None: all), `latest` says whether no step came since."""

    def __init__(
        self,
        engine: Session,
        handles: Sequence[int],
        chosen: tuple[int, ...] | None,
        vocab: int,
        hidden: Mapping[int, Floats],
    ) -> None:
        self._engine, self._handles, self._chosen = engine, handles, chosen
        self._vocab, self._hidden = vocab, hidden
        self.latest = True

    @property
    def handles(self) -> Sequence[int]:
        """The handles of the rows of this step."""
        return self._handles

    def argmax(self) -> Ints:
        """The most likely token of each row [n]; -1 where no logits were wanted."""
        found = np.empty(self._lines(), np.int32)
        self._engine.argmax(found)
        if self._chosen is None:
            return found
        best = np.full(len(self._handles), -1, np.int32)
        if self._chosen:
            best[list(self._chosen)] = found
        return best

    def topk(self, k: int) -> tuple[Ints, Floats]:
        """The k largest logits of each row with logits, largest first: ids and values [m, k]."""
        if not 1 <= k <= self._vocab:
            raise UsageError(f"top-{k} of {self._vocab} tokens: k is 1 to {self._vocab}")
        shape = (self._lines(), k)
        ids, values = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self._engine.topk(k, ids, values)
        return ids, values

    def logits(self, i: int) -> Floats:
        """The logits of row i [V]."""
        lines = self._lines()
        if self._chosen is not None:
            if i not in self._chosen:
                raise IndexError(f"no logits were wanted for row {i}")
            i = self._chosen.index(i)
        elif not 0 <= i < lines:
            raise IndexError(f"the step had {lines} rows, there is no row {i}")
        line = np.empty(self._vocab, np.float32)
        self._engine.logits(i, line)
        return line

    def hidden(self, layer: int) -> Floats:
        """The hidden states of all rows at a layer that was wanted [n, D]."""
        if layer not in self._hidden:
            raise IndexError(f"no hidden states of layer {layer} were wanted")
        return self._hidden[layer]

    def _lines(self) -> int:
        if not self.latest:
            raise UsageError("another step came since: ask a result before the next step")
        return len(self._handles) if self._chosen is None else len(self._chosen)
