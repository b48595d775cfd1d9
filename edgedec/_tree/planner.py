"""Proposals become one tree, its nodes get calibrated probabilities, and what pays is chosen.

The objective is that of docs/design.md 2.4: with `rate` tokens per second of late, the prefix of
the nodes in order of their worth that maximises value - rate * T(rows) over all prefixes. The twin
of `csrc/planner.c`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .sizes import MAX_ITEMS, MAX_NODES, MAX_SOURCES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Draft, Floats, Ints

DEPTHS, RANKS = 6, 4
EDGES = np.array([0.04, 0.1, 0.2, 0.35, 0.55, 0.75, 0.9, 0.96], np.float32)
PRIOR, LATEST = np.float32(6), np.float32(200)
"""Each estimate is the prior of a finer one and counts as PRIOR checks: for a set of drafters, for
one score of theirs, for one kind of node. Beyond LATEST the older half is forgotten."""
LOWEST, HIGHEST = np.float32(0.005), np.float32(0.985)
LATE, AT_FIRST = np.float32(0.93), np.float32(4)
LEAST, MOST = np.float32(0.3), np.float32(1.3)
"""One text is not like another: how right guesses were in the last 1 / (1 - LATE) turns, beside
what their counts said, is what these are corrected by; at first it counts as right as so many."""
MEMORY = 0.97
"""The rate is that of the last 1 / (1 - MEMORY) turns, about."""
_NOTHING, _CERTAIN = np.float32(0), np.float32(1)


@dataclass(slots=True)
class _Node:
    token: int
    parent: int
    depth: int
    rank: int = 1 << 20
    mask: int = 0
    score: np.float32 = _NOTHING
    claims: np.float32 = _NOTHING
    riding: np.float32 = _NOTHING
    counted: np.float32 = _CERTAIN
    p: np.float32 = _CERTAIN
    path: np.float32 = _CERTAIN
    left: np.float32 = _CERTAIN
    children: list[int] = field(default_factory=list)
    place: int = -1
    source: int = -1
    origin: int = 0
    riders: int = 0
    riders_kept: int = 0

    @property
    def share(self) -> float:
        """What those with riders said for it, of all that was said."""
        return float(self.riding / self.claims) if self.claims > 0 else 0.0

    def cell(self) -> tuple[int, int, int, int]:
        """Where its kind is counted: who proposed it, depth, rank, and what they thought of it."""
        # 1, 2, 3-4, 5-8, 9-16, deeper
        depth = min((self.depth - 1).bit_length(), DEPTHS - 1)
        bucket = int(np.searchsorted(EDGES, self.score, side="right"))
        return self.mask, depth, min(self.rank, RANKS - 1), bucket


class Planner:
    """Merges the drafts of `sources` drafters; `seconds` is what a plain step takes."""

    def __init__(self, sources: int, seconds: float) -> None:
        if not 0 <= sources <= MAX_SOURCES or not seconds > 0:
            raise ValueError(f"a planner takes 0 to {MAX_SOURCES} sources and a time above 0")
        self._sources = sources
        self._tokens, self._seconds = 1.0, seconds
        shape = (1 << sources, DEPTHS, RANKS, len(EDGES) + 1)
        self._cells = np.zeros((2, *shape), np.float32)
        self._same_score = np.zeros((2, 1 << sources, len(EDGES) + 1), np.float32)
        self._whole = np.zeros((2, 1 << sources), np.float32)
        # Of late: what was said and what was right, of first nodes and of those below them.
        self._late = np.zeros((2, 2), np.float32)
        self.value = 0.0
        """What the chosen nodes and riders are worth, in tokens."""
        self._nodes = [_Node(-1, -1, 0)]
        self._order: list[int] = []

    @property
    def rate(self) -> float:
        """Tokens per second of late."""
        return self._tokens / self._seconds

    def forget(self) -> None:
        """Let go of drafts that were given of late: those of drafters that are gone."""

    def pace(self, tokens: float, seconds: float) -> None:
        """A turn gave so many tokens in so much time."""
        self._tokens = MEMORY * self._tokens + (1 - MEMORY) * tokens
        self._seconds = MEMORY * self._seconds + (1 - MEMORY) * seconds

    def plan(  # noqa: PLR0913, PLR0917 - the C twin takes what it writes to
        self,
        drafts: list[Draft | None],
        pending: int,
        budget: int,
        depth: int,
        vocab: int,
        times: NDArray[np.float64],
        ends: Ints,
        tokens: Ints,
        parents: Ints,
        score: Floats,
        rank: Ints,
    ) -> tuple[int, int]:
        """Merge and order; returns how many nodes pay and how many were written.

        `pending` rows are stepped in any case; `budget` bounds nodes and riders, `depth` levels.
        `times[n]` is T of n rows. A node that is one of `ends`, or hangs below one, is left out,
        since nothing comes of it. The nodes are written in order of their path probability into
        the arrays, `score` being the calibrated probability given the parent.

        Raises:
            ValueError: a draft is no tree of tokens below `vocab`; nothing has changed then.
        """
        if len(drafts) != self._sources or len(times) < 2 or pending < 1:
            raise ValueError(f"{len(drafts)} drafts for a planner of {self._sources} sources")
        self._merge(drafts, depth, vocab, frozenset(ends.tolist()))
        self._calibrate()
        budget = min(budget, *map(len, (tokens, parents, score, rank)))
        kept = self._choose(drafts, pending, budget, times)
        for place, index in enumerate(self._order):
            node = self._nodes[index]
            tokens[place], score[place], rank[place] = node.token, node.p, node.rank
            parents[place] = self._nodes[node.parent].place if node.parent else -1
        return kept, len(self._order)

    def riders(self, chosen: int) -> list[tuple[int, int, int, float]]:
        """(source, entry of its `riders`, how many are kept, share) of the root and chosen nodes.

        The share is that of sources with riders in what was said for the node.
        """
        below = (self._nodes[i] for i in self._order[: max(0, chosen)])
        nodes = [self._nodes[0], *below]
        return [(n.source, n.origin, n.riders_kept, n.share) for n in nodes]

    def learn(
        self, emitted: Sequence[int], chosen: int, credits: Floats, free: int = (1 << 32) - 1
    ) -> None:
        """Count every proposal whose outcome is now known, whether it was checked or not.

        `credits` [2 * sources] gets, for each source, the accepted nodes among the first `chosen`,
        then how many of these there are. Those who proposed a node share it: those in the set
        `free`, which cost hardly anything, or if there are none the others.
        """
        credits[: 2 * self._sources] = 0
        for index in self._order[: max(0, chosen)]:
            self._share(self._nodes[index].mask, free, credits[self._sources :])
        at: int | None = 0
        self._late *= LATE
        for depth, token in enumerate(emitted):
            if at is None:
                break
            right, said = None, np.float32(0)
            for child in self._nodes[at].children:
                hit = self._nodes[child].token == token
                self._count(self._nodes[child], hit)
                said += self._nodes[child].counted
                right = child if hit else right
            self._late[:, int(depth > 0)] += (min(said, HIGHEST), np.float32(right is not None))
            if right is not None and 0 <= self._nodes[right].place < chosen:
                self._share(self._nodes[right].mask, free, credits)
            at = right

    def _share(self, mask: int, free: int, credits: Floats) -> None:
        mask = mask & free or mask
        for source in range(self._sources):
            if mask >> source & 1:
                credits[source] += np.float32(1) / np.float32(mask.bit_count())

    def _count(self, node: _Node, right: bool) -> None:
        """Trials (or what was said of them) and hits of all three estimates."""
        for table, weight in zip(self._tables(node), (node.score, 1, 1), strict=True):
            if table[0] >= LATEST:
                table[:] /= 2
            table[:] += np.array([weight, right], np.float32)

    def _tables(self, node: _Node) -> tuple[Floats, Floats, Floats]:
        """[trials, hits] of those who proposed it, of their score, of the kind of node: views."""
        cell = node.cell()
        return (
            self._whole[:, node.mask],
            self._same_score[:, node.mask, cell[-1]],
            self._cells[(slice(None), *cell)],
        )

    # --- merging ---------------------------------------------------------------------------------

    def _merge(
        self, drafts: Sequence[Draft | None], depth: int, vocab: int, ends: frozenset[int]
    ) -> None:
        for source, draft in enumerate(drafts):
            if draft is not None:
                self._check(source, draft, vocab)
        self._nodes = [_Node(-1, -1, 0)]
        for source, draft in enumerate(drafts):
            if draft is None:
                continue
            self._add_riders(0, source, draft, 0, depth)
            place: dict[int, int | None] = {-1: 0}
            for i, parent in enumerate(draft.parents.tolist()[:MAX_NODES]):
                token = int(draft.tokens[i])
                index = None if token in ends else self._child(place[parent], token, depth)
                place[i] = index
                if index is None:
                    continue
                node, score = self._nodes[index], draft.score[i]
                node.mask |= 1 << source
                claim = np.float32(min(score, 1)) if score > 0 else _NOTHING
                node.score, node.claims = max(node.score, claim), node.claims + claim
                node.riding += claim if draft.riders is not None else _NOTHING
                node.rank = min(node.rank, max(0, int(draft.rank[i])))
                self._add_riders(index, source, draft, i + 1, depth)
        for source, draft in enumerate(drafts):
            # Riders prepare what follows, whoever proposed what they hang below.
            for index, node in enumerate(self._nodes):
                if draft is not None and index and not node.mask >> source & 1:
                    self._add_riders(index, source, draft, 0, depth)

    @staticmethod
    def _check(source: int, draft: Draft, vocab: int) -> None:
        count = len(draft.tokens)
        for name in ("parents", "score", "rank"):
            found = len(getattr(draft, name))
            if found != count:
                raise ValueError(f"a draft of {count} tokens has {found} entries in {name!r}")
        if draft.riders is not None and len(draft.riders) != count + 1:
            raise ValueError("riders must name the root's and those of each node")
        if draft.riders is not None and not 1 <= draft.lanes <= MAX_ITEMS:
            raise ValueError(f"riders in {draft.lanes} lanes")
        below = np.arange(count) > draft.parents
        known = (draft.tokens >= 0) & (draft.tokens < vocab) & (draft.parents >= -1)
        if not (below & known).all():
            raise ValueError(f"draft {source} is no tree of tokens")

    def _child(self, parent: int | None, token: int, depth: int) -> int | None:
        if parent is None or self._nodes[parent].depth >= depth:
            return None
        for child in self._nodes[parent].children:
            if self._nodes[child].token == token:
                return child
        if len(self._nodes) > MAX_NODES:
            return None
        self._nodes.append(_Node(token, parent, self._nodes[parent].depth + 1))
        self._nodes[parent].children.append(len(self._nodes) - 1)
        return len(self._nodes) - 1

    def _add_riders(self, index: int, source: int, draft: Draft, entry: int, depth: int) -> None:
        """Those of one entry, unless there are more; none prepares what lies beyond the text."""
        node = self._nodes[index]
        if draft.riders is None:
            return
        count = min(len(draft.riders[entry]), len(draft.gains), draft.lanes * (depth - node.depth))
        if count > node.riders:
            node.riders, node.source, node.origin = count, source, entry

    # --- probabilities ---------------------------------------------------------------------------

    def _calibrate(self) -> None:
        said, was = self._late
        late = np.clip((was + AT_FIRST) / (said + AT_FIRST), LEAST, MOST)
        for node in self._nodes[1:]:
            whole, score, cell = self._tables(node)
            prior = node.score * ((whole[1] + PRIOR) / (whole[0] + PRIOR))
            prior = min(max(prior, LOWEST), HIGHEST)
            for trials, hits in (score, cell):
                prior = (hits + PRIOR * prior) / (trials + PRIOR)
            node.counted = prior
            node.p = min(prior * late[int(node.depth > 1)], HIGHEST)
        for node in self._nodes:
            # Only one of several siblings can be right: together they may not pass HIGHEST.
            below = [self._nodes[child] for child in node.children]
            total = np.float32(0)
            for child in below:
                total += child.p
            for child in below:
                if total > HIGHEST:
                    child.p *= HIGHEST / total
                child.path = node.path * child.p
            node.left = node.path * (1 - min(total, HIGHEST))

    # --- what pays -------------------------------------------------------------------------------

    def _choose(
        self,
        drafts: Sequence[Draft | None],
        pending: int,
        budget: int,
        times: NDArray[np.float64],
    ) -> int:
        room = max(0, min(budget, MAX_ITEMS, len(times) - 1 - pending))
        items = self._items(drafts)[:room]
        values = np.concatenate([[0.0], np.cumsum([value for _, value, _, _ in items])])
        rows = np.minimum(pending + np.arange(len(items) + 1), len(times) - 1)
        taken = int((values - self.rate * times[rows]).argmax())
        self.value = float(values[taken])
        self._order = []
        kept = 0
        for node in self._nodes:
            node.place, node.riders_kept = -1, 0
        for k, (_, _, index, rider) in enumerate(items):
            node = self._nodes[index]
            if rider:
                node.riders_kept = rider if k < taken else node.riders_kept
                continue
            node.place = len(self._order)
            self._order.append(index)
            kept += k < taken
        return kept

    def _items(self, drafts: Sequence[Draft | None]) -> list[tuple[float, float, int, int]]:
        """(key, value, node, rider or 0), the worthiest first, never before what it hangs below."""
        found: list[tuple[float, float, int, int]] = []
        for index, node in enumerate(self._nodes):
            key = float(node.path)
            if index:
                found.append((key, key, index, 0))
            draft = drafts[node.source] if node.source >= 0 else None
            for j, gain in enumerate(draft.gains[: node.riders] if draft else ()):
                value = float(node.left) * gain
                key = min(key, value)
                found.append((key, value, index, j + 1))
        return sorted(found, key=lambda item: -item[0])
