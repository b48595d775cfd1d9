"""From a drafter's own logits to guesses, and from guesses to the likeliest tree.

When sampling, guesses are ranked with the very noise that the model's own draw will use, so that a
drafter which agrees with the model draws the same token. It knows no drafter and no model.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.contracts import TRUNK
from edgedec.gumbel import gumbel_rows

if TYPE_CHECKING:
    from edgedec.contracts import Context, Draft, Floats, Ints
    from edgedec.draft import Sheet

Level = tuple["Ints", "Floats"]
"""Tokens [k], the likeliest first, and their probabilities [k]."""


def guesses(ids: Ints, logits: Floats, context: Context, depths: Sequence[int]) -> list[Level]:
    """Each row's tokens, the likeliest first, with their probabilities.

    `ids` and `logits` [n, k] have the largest first; row i guesses the token `depths[i]` places
    behind the next one, whose output index is `context.index`. Probabilities are shares of the k
    alone.
    """
    ids, logits = ids[: len(depths)], logits[: len(depths)]
    if context.temperature > 0:
        noise = gumbel_rows(context.seed, [context.index + depth for depth in depths], ids)
        scores: Floats = (logits / context.temperature + noise).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        lines = np.arange(len(ids))[:, None]
        ids, logits = ids[lines, order], scores[lines, order]
    shares = np.exp(logits - logits[:, :1], dtype=np.float32)
    shares /= shares.sum(1, keepdims=True)
    return list(zip(ids, shares, strict=True))


def product(levels: Sequence[Level], nodes: int, sheet: Sheet) -> Draft:
    """The likeliest tree of at most `nodes` nodes, where levels do not depend on one another.

    A path is as likely as the product of its tokens (Medusa, 2401.10774, takes the best leaves of
    the same tree). The arrays are the sheet's: valid until it is written to again.
    """
    tokens = [ids.tolist() for ids, _ in levels]
    shares = [share.tolist() for _, share in levels]
    most, count = min(nodes, len(sheet.tokens)), 0
    # A node's next sibling and its first child are the only ones that may follow it.
    heap = [(-shares[0][0], 0, TRUNK, 0, 1.0)] if levels and tokens[0] else []
    while heap and count < most:
        _, level, parent, rank, above = heapq.heappop(heap)
        share = shares[level][rank]
        sheet.tokens[count], sheet.parents[count] = tokens[level][rank], parent
        sheet.score[count], sheet.rank[count] = share, rank
        if rank + 1 < len(tokens[level]):
            sibling = above * shares[level][rank + 1]
            heapq.heappush(heap, (-sibling, level, parent, rank + 1, above))
        if level + 1 < len(levels) and tokens[level + 1]:
            path = above * share
            heapq.heappush(heap, (-path * shares[level + 1][0], level + 1, count, 0, path))
        count += 1
    return sheet.draft(count)
