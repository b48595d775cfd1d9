"""What exactness is measured against: one thread, one row at a time, nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgedec.contracts import Layers, Rows, Session, StepResult
from edgedec.runtimes.native.engine import Native

Floats = NDArray[np.float32]


def rows(tokens: Sequence[int], parents: Sequence[int] | None = None) -> Rows:
    chosen = range(-1, len(tokens) - 1) if parents is None else parents
    return Rows(np.array(tokens, np.int32), np.array(chosen, np.int32))


def same(found: Floats, expected: Floats) -> None:
    """The same bits, which is more than equal numbers."""
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def prefill(session: Session, path: Sequence[int], parts: Sequence[int] = ()) -> StepResult:
    """A whole path into the trunk, in one step or cut at `parts`."""
    edges = [0, *parts, len(path)]
    for start, end in pairwise(edges):
        result = session.step(rows(path[start:end]))
        session.keep([end - start - 1])
    return result


@dataclass
class Plain:
    """The logits of paths, by single steps of a fresh session; remembered."""

    engine: Native
    layers: Layers | None = None
    known: dict[tuple[int, ...], Floats] = field(default_factory=dict)
    session: Session | None = None

    def logits(self, path: Sequence[int]) -> Floats:
        """After the last token of a path [V]."""
        wanted = tuple(path)
        if wanted not in self.known:
            self._walk(wanted)
        return self.known[wanted]

    def _walk(self, path: tuple[int, ...]) -> None:
        if self.session is None:
            self.session = self.engine.session()
        here = self.session.tokens
        common = 0
        while common < min(len(here), len(path) - 1) and here[common] == path[common]:
            common += 1
        self.session.truncate(common)
        for end in range(common + 1, len(path) + 1):
            result = self.session.step(rows([path[end - 1]]), self.layers)
            self.known[path[:end]] = result.logits(0).copy()
            self.session.keep([0])
