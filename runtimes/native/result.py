"""The outcome of a step whose logits lie in the C engine; what is not asked for stays there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.errors import UsageError
from edgedec.runtimes._result import StepRows

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints

    from ._engine import Session


class NativeResult(StepRows):
    """`latest` says whether no step came since. `bests` are arrays for the likeliest tokens, by the
    number of rows, which one step after another writes to."""

    def __init__(
        self,
        engine: Session,
        handles: Sequence[int],
        chosen: tuple[int, ...] | None,
        vocab: int,
        hidden: Mapping[int, Floats],
        bests: dict[int, Ints],
    ) -> None:
        super().__init__(handles, chosen, hidden)
        self._engine, self._vocab, self._bests = engine, vocab, bests
        self.latest = True
        self._best: Ints | None = None

    def argmax(self) -> Ints:
        """The most likely token of each row [n]; -1 where no logits were wanted."""
        if self._best is None:
            count = self._lines()
            if count not in self._bests:
                self._bests[count] = np.empty(count, np.int32)
            self._best = self._bests[count]
            self._engine.argmax(self._best)
        return self.by_row(self._best)

    def topk(self, k: int) -> tuple[Ints, Floats]:
        """The k largest logits of each row with logits, largest first: ids and values [m, k]."""
        if not 1 <= k <= self._vocab:
            raise UsageError(f"top-{k} of {self._vocab} tokens: k is 1 to {self._vocab}")
        shape = (self._lines(), k)
        ids, values = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self._engine.topk(k, ids, values)
        self._best = np.ascontiguousarray(ids[:, 0])
        return ids, values

    def logits(self, i: int) -> Floats:
        """The logits of row i [V]."""
        self._lines()
        line = np.empty(self._vocab, np.float32)
        self._engine.logits(self.line(i), line)
        return line

    def _lines(self) -> int:
        if not self.latest:
            raise UsageError("another step came since: ask a result before the next step")
        return len(self._handles) if self._chosen is None else len(self._chosen)
