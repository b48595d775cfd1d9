"""What exactness is measured against: one thread, one row at a time, nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count as count_up
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.contracts import Layers, Rows, Session, StepResult
from edgedec.runtimes.native.engine import Native

Floats = NDArray[np.float32]

SOURCE = 40
"""Rows of the source that models with an encoder read, if nothing else is said."""


def rows(tokens: Sequence[int], parents: Sequence[int] | None = None) -> Rows:
    chosen = range(-1, len(tokens) - 1) if parents is None else parents
    return Rows(np.array(tokens, np.int32), np.array(chosen, np.int32))


def same(found: Floats, expected: Floats) -> None:
    """The same bits, which is more than equal numbers."""
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def source(engine: Native, count: int = SOURCE, seed: int = 0) -> Any:
    """Ids or features from which the engine's encoder makes `count` rows, or nearly as many."""
    spec, draw = engine.architecture, np.random.default_rng(seed)
    if spec.frontend is None:
        return draw.integers(0, (spec.source_embed or spec.embed).vocab, count).astype(np.int32)
    frames = spec.frontend.length or next(n for n in count_up(1) if spec.frontend.rows(n) == count)
    return draw.standard_normal((frames, spec.frontend.features)).astype(np.float32)


def fresh(engine: Native) -> Session:
    """A session that has read the same source as all others, if the model reads any."""
    session = engine.session()
    if engine.capabilities.encoder:
        session.encode(source(engine))
    return session


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
            self.session = fresh(self.engine)
        here = self.session.tokens
        common = 0
        while common < min(len(here), len(path) - 1) and here[common] == path[common]:
            common += 1
        self.session.truncate(common)
        for end in range(common + 1, len(path) + 1):
            result = self.session.step(rows([path[end - 1]]), self.layers)
            self.known[path[:end]] = result.logits(0).copy()
            self.session.keep([0])
