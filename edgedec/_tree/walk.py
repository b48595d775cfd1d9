"""The accepted path of greedy decoding, and the Gumbel draw. The twin of `noise.c`, `binding.c`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedec.gumbel import gumbel

from .sizes import MAX_NODES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int32]


def follow(
    tokens: Ints, parents: Ints, best: Ints, root: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The nodes of a tree [n] that greedy decoding accepts, from the root down, and what it says at
    the root and at each of them.

    `best` [root + 1 + n or more] is the argmax of each row of the step; row `root` is the root's,
    row `root` + 1 + i that of node i. Of two siblings with one token the first is meant.
    """
    fits = len(parents) == len(tokens) <= MAX_NODES
    if not fits or root < 0 or len(best) <= root + len(tokens):
        raise ValueError("follow: tokens, parents and best do not fit together")
    path: list[int] = []
    said = [int(best[root])]
    node = -1
    # Parents stand before their children, so one look at each node is enough.
    for i, (token, parent) in enumerate(zip(tokens.tolist(), parents.tolist(), strict=True)):
        if parent == node and token == said[-1]:
            node = i
            path.append(i)
            said.append(int(best[root + 1 + node]))
    return tuple(path), tuple(said)


def lay(
    chain: list[int], tokens: Ints, parents: Ints, first: int, row_tokens: Ints, row_parents: Ints
) -> int:
    """Write the rows of a chain below the trunk with a tree [n] below its end: token and parent of
    each, the first one's handle being `first`. Returns how many there are.

    Raises:
        ValueError: the arrays do not fit together.
    """
    links, count = len(chain), len(chain) + len(tokens)
    fits = len(parents) == len(tokens) <= MAX_NODES
    if not fits or not links or first < 0 or count > min(len(row_tokens), len(row_parents)):
        raise ValueError("lay: chain, tree and rows do not fit together")
    row_tokens[:links], row_tokens[links:count] = chain, tokens
    row_parents[0], row_parents[1:links] = -1, np.arange(first, first + links - 1)
    row_parents[links:count] = parents + np.int32(first + links)
    return count


def draw(logits: Floats, temperature: float, seed: int, index: int) -> int:
    """argmax of logits [V] / temperature + noise; -1 where the logits hold no number to choose by.

    The noise is that of `edgedec.gumbel`, the division that of `processors.Temperature`.
    """
    peak = logits.max(initial=-np.inf)
    if not np.isfinite(peak):
        return -1
    scaled = logits
    if temperature != 1:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (logits - peak) / np.float32(max(1e-30, temperature))
    ids = np.flatnonzero(np.isfinite(scaled))
    noise = gumbel(seed, index, ids)
    noise += scaled[ids]
    return int(ids[noise.argmax()])
