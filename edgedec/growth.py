"""Trees that grow level by level, the likeliest nodes first, as EAGLE-2 (2406.16858) grows them.

It knows what a node's children are worth, not who found them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgedec import guess
from edgedec.contracts import TRUNK, Draft

if TYPE_CHECKING:
    from edgedec.contracts import Context, Floats, Ints

Found = tuple[Sequence[int], Sequence[float]]
"""The likeliest tokens after a node, and their shares, best first."""
Expand = Callable[[list[int], int], Iterable[Found]]
"""What follows each of some nodes of one level, given how many levels are above its children."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a tree grows: at most `depth` levels; on a level the `width` likeliest nodes go on,
    each with up to `branches` children, if their path is at least `confidence` likely."""

    depth: int
    width: int
    branches: int
    confidence: float


@dataclass(slots=True)
class Tree:
    """What is proposed, in the order in which it grew: parents stand before children."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    paths: list[float] = field(default_factory=list)

    def add(self, token: int, parent: int, score: float, rank: int) -> int:
        """One node more: its number."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.scores.append(score)
        self.ranks.append(rank)
        self.paths.append(score * (self.paths[parent] if parent != TRUNK else 1.0))
        return len(self.tokens) - 1

    def draft(self) -> Draft:
        """The tree as it is proposed."""
        return Draft(
            np.array(self.tokens, np.int32),
            np.array(self.parents, np.int32),
            np.array(self.scores, np.float32),
            np.array(self.ranks, np.int32),
        )


def following(likely: tuple[Ints, Floats], context: Context, depth: int) -> list[Found]:
    """What follows each of some nodes with `depth` levels above their children, by the likeliest
    tokens after them and their logits [n, k], the largest first."""
    levels = guess.guesses(*likely, context, [depth] * len(likely[0]))
    return [(tokens.tolist(), shares.tolist()) for tokens, shares in levels]


def grow(tree: Tree, limits: Limits, budget: int, expand: Expand, most: int | None = None) -> None:
    """Let an empty tree grow to at most `budget` nodes, until nothing is likely enough.

    `expand` is first asked for what follows the root ([TRUNK]), then about at most `most` nodes at
    once (None: any number). What it raises leaves the tree as far as it has grown.
    """
    nodes, branches = [TRUNK], min(limits.branches, budget)
    for depth in range(limits.depth):
        level: list[int] = []
        for node, (tokens, shares) in zip(nodes, expand(nodes, depth), strict=False):
            likely = zip(tokens[:branches], shares[:branches], strict=True)
            level += [tree.add(token, node, share, r) for r, (token, share) in enumerate(likely)]
        room = (budget - len(tree.tokens)) // branches
        room = min(room, limits.width, room if most is None else most)
        best = sorted(level, key=lambda node: -tree.paths[node])[: max(room, 0)]
        nodes = [node for node in best if tree.paths[node] >= limits.confidence]
        if not nodes:
            return
