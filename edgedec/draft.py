"""The draft tree: made empty, checked, cut to size, laid out as rows, and read by the walk.

Knows nothing about who proposed it, what it costs, or which tokens are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedec import _tree
from edgedec.contracts import TRUNK, Began, Capabilities, Context, Draft, Host, Rows
from edgedec.errors import UsageError

if TYPE_CHECKING:
    from edgedec.contracts import Ints


_NONE = np.zeros(0, np.int32)
_EMPTY = Draft(_NONE, _NONE, np.zeros(0, np.float32), _NONE)


def empty() -> Draft:
    """A draft of no nodes: the step checks nothing and gives one token."""
    return _EMPTY


class Sheet:
    """Arrays with room for a tree, to be written to anew in every turn."""

    def __init__(self, room: int) -> None:
        self.tokens, self.parents = np.empty(room, np.int32), np.empty(room, np.int32)
        self.score, self.rank = np.empty(room, np.float32), np.empty(room, np.int32)
        self.arrays = self.tokens, self.parents, self.score, self.rank
        self._made: dict[int, Draft] = {}

    def draft(
        self, count: int, riders: Sequence[Sequence[int]] | None = None, lanes: int = 1
    ) -> Draft:
        """The first `count` nodes: views, valid until the next turn."""
        found = self._made.get(count)
        if found is None:
            tokens, parents, score, rank = self.arrays
            found = Draft(tokens[:count], parents[:count], score[:count], rank[:count])
            self._made[count] = found
        return found if riders is None else replace(found, riders=riders, lanes=lanes)

    def written(
        self,
        tokens: Sequence[int],
        parents: Sequence[int],
        score: Sequence[float],
        rank: Sequence[int],
    ) -> Draft:
        """The tree of these lists."""
        count = len(tokens)
        self.tokens[:count], self.parents[:count] = tokens, parents
        self.score[:count], self.rank[:count] = score, rank
        return self.draft(count)


def grown(table: _tree.Successors, context: Context, nodes: int, sheet: Sheet) -> Draft:
    """The likeliest tree of at most `nodes` nodes that a table of successors holds."""
    temperature, seed, index = context.temperature, context.seed, context.index
    return sheet.draft(
        table.grow(context.tokens, nodes, nodes, temperature, seed, index, *sheet.arrays)
    )


def check(draft: Draft, vocab: int) -> Draft:
    """The draft itself, if it is a tree of token ids below `vocab`, parents first.

    Raises:
        UsageError: it is not; the message names the first node that is wrong.
    """
    count = len(draft.tokens)
    if draft.riders is not None and len(draft.riders) != count + 1:
        raise UsageError(f"a draft of {count} tokens names riders for {len(draft.riders)} rows")
    if draft.riders is not None and not 1 <= draft.lanes <= _tree.MAX_NODES:
        raise UsageError(f"a draft has riders in {draft.lanes} lanes; there is at least one")
    for field in ("parents", "score", "rank"):
        if len(getattr(draft, field)) != count:
            raise UsageError(
                f"a draft of {count} tokens has {len(getattr(draft, field))} entries in {field!r}"
            )
    for node, (token, parent) in enumerate(
        zip(draft.tokens.tolist(), draft.parents.tolist(), strict=True)
    ):
        if not 0 <= token < vocab:
            raise UsageError(f"draft node {node} is token {token}; the vocabulary has {vocab}")
        if not TRUNK <= parent < node:
            raise UsageError(
                f"draft node {node} has the parent {parent}; a parent is {TRUNK} or a node before"
            )
    return draft


def cut(draft: Draft, nodes: int, depth: int) -> Draft:
    """The first `nodes` of those at most `depth` below the root (whose children have depth 1)."""
    kept = [node for node, d in enumerate(_depths(draft.parents)) if d <= depth][: max(nodes, 0)]
    return draft if len(kept) == len(draft.tokens) else select(draft, kept)


def select(draft: Draft, nodes: Sequence[int]) -> Draft:
    """The tree of these nodes, in this order; parents are among them and stand first."""
    kept = list(nodes)
    place = {TRUNK: TRUNK} | {node: index for index, node in enumerate(kept)}
    lines = [0, *(node + 1 for node in kept)]
    return replace(
        draft,
        tokens=draft.tokens[kept],
        parents=np.array([place[int(draft.parents[node])] for node in kept], np.int32),
        score=draft.score[kept],
        rank=draft.rank[kept],
        riders=None if draft.riders is None else [draft.riders[line] for line in lines],
        law=None if draft.law is None else draft.law[lines],
    )


class Lines:
    """Arrays with room for the rows of most steps, to be written to anew in every turn."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._tokens, self._parents = np.empty(room, np.int32), np.empty(room, np.int32)
        self._made: dict[int, Rows] = {}

    def rows(
        self, chain: list[int], draft: Draft, widths: Sequence[int] | None, first: int
    ) -> Rows:
        """See `rows`: mostly views, valid until the next turn."""
        if widths or draft.riders is not None or len(chain) + len(draft.tokens) > self._room:
            return rows(chain, draft, widths, first)
        count = _tree.lay(chain, draft.tokens, draft.parents, first, self._tokens, self._parents)
        found = self._made.get(count)
        if found is None:
            found = self._made[count] = Rows(self._tokens[:count], self._parents[:count])
        return found


def rows(chain: Sequence[int], draft: Draft, widths: Sequence[int] | None, first: int = 0) -> Rows:
    """The rows of a step: the chain below the trunk, the draft below it, its riders, padding.

    Node i of the draft is row `len(chain) + i`; riders follow the nodes, in the order of their
    lists. `widths` are the numbers of rows a step may have (None: any); what pads hangs below the
    trunk and is never kept. `first` is the handle that the first row will get.
    """
    root = first + len(chain) - 1
    tokens = [*chain, *draft.tokens.tolist()]
    parents = [TRUNK, *range(first, root)]
    lanes = draft.lanes
    parents += [root + 1 + parent for parent in draft.parents.tolist()]
    for node, riders in enumerate(draft.riders or (), start=root):
        for count, rider in enumerate(riders):
            parents.append(first + len(tokens) - lanes if count >= lanes else node)
            tokens.append(rider)
    return padded(tokens, parents, widths)


def scratch(tokens: Sequence[int], host: Host) -> Rows:
    """The rows of a chain below the trunk, beside all scratch rows that there are."""
    return rows(tokens, empty(), host.capabilities.row_widths, host.rows)


def begun(tree: Draft, before: Draft) -> Began | None:
    """Which nodes of a tree have early rows, of which a draft it was made of tells."""
    began = before.began
    if began is None:
        return None
    known = children(before)
    there: list[int | None] = []
    for parent, token in zip(tree.parents.tolist(), tree.tokens.tolist(), strict=True):
        above = TRUNK if parent == TRUNK else there[parent]
        there.append(None if above is None else known.get((above, token)))
    handles = [-1 if node is None else began.handles[node + 1] for node in there]
    return Began(began.layer, [began.handles[0], *handles])


def resumed(last: int, draft: Draft, began: Began, first: int) -> tuple[Rows, list[int]]:
    """The rows of a step that have not begun yet, and the handles of all of them, in order.

    `last` is the last token, `first` the handle that the first new row will get. Riders follow the
    nodes, as in `rows`.
    """
    handles = list(began.handles)
    tokens: list[int] = []
    parents: list[int] = []

    def run(token: int, parent: int) -> int:
        tokens.append(token)
        parents.append(parent)
        return first + len(tokens) - 1

    if handles[0] < 0:
        handles[0] = run(last, TRUNK)
    nodes = zip(draft.tokens.tolist(), draft.parents.tolist(), strict=True)
    for node, (token, parent) in enumerate(nodes, start=1):
        if handles[node] < 0:
            handles[node] = run(token, handles[parent + 1])
    for node, riders in enumerate(draft.riders or ()):
        for count, rider in enumerate(riders):
            above = handles[-draft.lanes] if count >= draft.lanes else handles[node]
            handles.append(run(rider, above))
    return Rows(np.array(tokens, np.int32), np.array(parents, np.int32)), handles


def padded(tokens: Sequence[int], parents: Sequence[int], widths: Sequence[int] | None) -> Rows:
    """Rows, with as many more as it takes to one of `widths` (None: none); they hang below the
    trunk."""
    if widths:
        more = min(width for width in widths if width >= len(tokens)) - len(tokens)
        tokens, parents = [*tokens, *[0] * more], [*parents, *[TRUNK] * more]
    return Rows(np.array(tokens, np.int32), np.array(parents, np.int32))


def riders(draft: Draft) -> int:
    """How many riders a draft has."""
    return sum(map(len, draft.riders)) if draft.riders else 0


def width(capabilities: Capabilities, most: int) -> int:
    """How many rows a step may be given: at most `most`, or the widest that a static graph has."""
    if capabilities.row_widths:
        return max(capabilities.row_widths)
    return min(most, capabilities.max_rows)


def children(draft: Draft) -> dict[tuple[int, int], int]:
    """(parent, token) -> node; of two siblings with one token the first is meant."""
    found: dict[tuple[int, int], int] = {}
    for node, key in enumerate(zip(draft.parents.tolist(), draft.tokens.tolist(), strict=True)):
        found.setdefault(key, node)
    return found


def below(draft: Draft, path: Sequence[int]) -> bool:
    """Whether a node hangs below the last node of an accepted path (empty: below the root)."""
    return (path[-1] if path else TRUNK) in draft.parents.tolist()


def _depths(parents: Ints) -> Sequence[int]:
    depths: list[int] = []
    for parent in parents.tolist():
        depths.append(1 if parent == TRUNK else depths[parent] + 1)
    return depths


def check_file(strategy: object, name: str) -> None:
    """Refuse what is no path (None: there is none).

    Raises:
        UsageError: naming the option.
    """
    value = getattr(strategy, name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}; it must be the path of a file, as text")


def check_power(strategy: object, name: str) -> None:
    """Refuse what is no power of two.

    Raises:
        UsageError: naming the option.
    """
    value = getattr(strategy, name)
    if value & (value - 1):
        raise UsageError(f"{name} is {value}; it must be a power of two")


def check_options(strategy: object, **bounds: tuple[Any, Any]) -> None:
    """Refuse options of a strategy outside of their bounds, both inclusive; whole numbers where
    the bounds are.

    Raises:
        UsageError: naming the option.
    """
    # Bounds are Any, since compiled code would make floats of whole ones.
    for name, (low, high) in bounds.items():
        value = getattr(strategy, name)
        whole = isinstance(low, int)
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            what = "a whole number" if whole else "a number"
            raise UsageError(f"{name} is {value!r}; it must be {what} from {low} to {high}")
