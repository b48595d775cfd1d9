"""The draft tree: made empty, checked, cut to size, laid out as rows, and read by the walk.

Knows nothing about who proposed it, what it costs, or which tokens are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.contracts import TRUNK, Capabilities, Draft, Rows
from edgedec.errors import UsageError

if TYPE_CHECKING:
    from edgedec.contracts import Ints


def empty() -> Draft:
    """A draft of no nodes: the step checks nothing and gives one token."""
    none = np.zeros(0, np.int32)
    return Draft(none, none, np.zeros(0, np.float32), none)


def check(draft: Draft, vocab: int) -> Draft:
    """The draft itself, if it is a tree of token ids below `vocab`, parents first.

    Raises:
        UsageError: it is not; the message names the first node that is wrong.
    """
    count = len(draft.tokens)
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
    depths = _depths(draft.parents)
    kept = [node for node, d in enumerate(depths) if d <= depth][: max(nodes, 0)]
    if len(kept) == len(depths):
        return draft
    place = {TRUNK: TRUNK} | {node: index for index, node in enumerate(kept)}
    return Draft(
        tokens=draft.tokens[kept],
        parents=np.array([place[int(draft.parents[node])] for node in kept], np.int32),
        score=draft.score[kept],
        rank=draft.rank[kept],
        riders=None if draft.riders is None else [draft.riders[node] for node in kept],
    )


def rows(chain: Sequence[int], draft: Draft, widths: Sequence[int] | None, first: int = 0) -> Rows:
    """The rows of a step: the chain below the trunk, the draft below the chain, padding.

    Node i of the draft is row `len(chain) + i`. `widths` are the numbers of rows a step may have
    (None: any); what pads hangs below the trunk and is never kept. `first` is the handle that the
    first row will get.
    """
    root, count = first + len(chain) - 1, len(chain) + len(draft.tokens)
    padding = min(width for width in widths if width >= count) - count if widths else 0
    nodes = np.where(draft.parents == TRUNK, root, draft.parents + root + 1)
    return Rows(
        tokens=np.array([*chain, *draft.tokens.tolist(), *[0] * padding], np.int32),
        parents=np.array(
            [TRUNK, *range(first, root), *nodes.tolist(), *[TRUNK] * padding], np.int32
        ),
    )


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


def _depths(parents: Ints) -> Sequence[int]:
    depths: list[int] = []
    for parent in parents.tolist():
        depths.append(1 if parent == TRUNK else depths[parent] + 1)
    return depths
