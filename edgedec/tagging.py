"""From tags of a source's tokens to a guess at what a model makes of it.

Text editing by tags, as GECToR (2005.12592) and LaserTagger (1909.01187) do it: each token is kept,
dropped or replaced, and up to some tokens are put in behind it. Knows tokens and probabilities, no
model and no draft.

Shapes: s tokens of a source, r of them replaced, i put in, most = how many can be in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints

KEEP, DROP, REPLACE = range(3)
KINDS = 3


@dataclass(frozen=True, slots=True)
class Tags:
    """The likeliest tag of each token: its kind [s] and how many tokens come behind it [s], each
    with its probability, that of the count being given the kind."""

    kinds: Ints
    counts: Ints
    sure_of_kind: Floats
    sure_of_count: Floats

    @property
    def replaced(self) -> Ints:
        """The places of the tokens that others replace, rising [r]."""
        found: Ints = np.flatnonzero(self.kinds == REPLACE).astype(np.int32)
        return found

    @property
    def inserted(self) -> tuple[Ints, Ints]:
        """For each token that is put in, rising, its place [i], and how many come before it there
        [i]."""
        places = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
        first = np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        return places, (np.arange(len(places)) - first).astype(np.int32)


def read(logits: Floats) -> Tags:
    """The tags of logits [s, KINDS * (most + 1)], which count tokens before they tell kinds."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    best, rows = shares.argmax(1), np.arange(len(shares))
    kinds = best % KINDS
    sure = shares.reshape(len(shares), -1, KINDS).sum(1)[rows, kinds]
    counts = (best // KINDS).astype(np.int32)
    return Tags(kinds.astype(np.int32), counts, sure, shares[rows, best] / sure)


def rewritten(
    source: Sequence[int],
    tags: Tags,
    replaced: Sequence[tuple[int, float]],
    inserted: Sequence[tuple[int, float]],
) -> tuple[list[int], list[float]]:
    """The guess at what is written, and how likely each of its tokens is where those before it are
    right. `replaced` [r] and `inserted` [i] are tokens with their probabilities."""
    tokens: list[int] = []
    scores: list[float] = []
    others, more = iter(replaced), iter(inserted)
    sure = 1.0
    lines = zip(
        source,
        tags.kinds.tolist(),
        tags.counts.tolist(),
        tags.sure_of_kind.tolist(),
        tags.sure_of_count.tolist(),
        strict=True,
    )
    for own, kind, count, right, counted in lines:
        # What was dropped, or not put in, is only seen in the token that comes next.
        sure *= right
        if kind != DROP:
            token, share = (own, 1.0) if kind == KEEP else next(others)
            tokens.append(token)
            scores.append(sure * share)
            sure = 1.0
        sure *= counted
        for _ in range(count):
            token, share = next(more)
            tokens.append(token)
            scores.append(sure * share)
            sure = 1.0
    return tokens, scores
