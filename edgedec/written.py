"""What a model wrote, context by context: what it found likely behind the last few tokens.

A context of more tokens says more, and comes less often. So those are kept that say most: how much
better their guesses are than those of the context that is a token shorter, each time they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedec import _tree
from edgedec._tree.keys import context_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Floats, Ints

    Keys = NDArray[np.uint64]

RARE = np.float32(0.002)
"""The share of what a shorter context does not name."""
ONCE = 0.5
"""What a context counts for that came a single time: it may never come again."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """Their `keys` [n], rising; `ids` and `shares` [n, 8] of what the model found likely behind
    each, the likeliest first (-1 and 0: nothing). None is longer than `longest` tokens."""

    keys: Keys
    ids: Ints
    shares: Floats
    longest: int


@dataclass(frozen=True, slots=True)
class _Order:
    """All contexts of one length, how often each came, and the number of the shorter one in its
    order."""

    keys: Keys
    ids: Ints
    shares: Floats
    counts: NDArray[np.int64]
    shorter: NDArray[np.intp] | None


class Written:
    """Texts with what was likely in them, for contexts of some `lengths`."""

    def __init__(self, lengths: range) -> None:
        self._lengths = lengths
        self._keys: dict[int, list[Keys]] = {length: [] for length in lengths}
        self._ids: list[Ints] = []
        self._shares: list[Floats] = []

    def add(self, tokens: Sequence[int], ids: Ints, values: Floats) -> None:
        """A text whose last m tokens the model wrote: the likeliest tokens [m, k] in place of each
        and their logits."""
        if not len(ids):
            return
        text = np.array(tokens[:-1], np.int32)
        for length, known in self._keys.items():
            found = context_keys(text, length)[-len(ids) :]
            # 0 where there are not so many tokens before.
            known.append(np.concatenate([np.zeros(len(ids) - len(found), np.uint64), found]))
        shares = np.exp(values - values[:, :1])
        shares /= shares.sum(axis=1, keepdims=True)
        self._ids.append(ids[:, : _tree.WIDTH])
        self._shares.append(shares[:, : _tree.WIDTH])

    def contexts(self, lengths: range, most: int | None = None) -> Contexts:
        """The `most` contexts (None: all) of some lengths that say most."""
        ids, shares = np.concatenate(self._ids), np.concatenate(self._shares)
        orders: list[_Order] = []
        gains: list[Floats] = []
        shorter: tuple[Keys, _Order] | None = None
        for length in lengths:
            keys = np.concatenate(self._keys[length])
            orders.append(_gathered(keys, ids, shares, shorter))
            gains.append(_gain(orders[-1], shorter[1] if shorter else None))
            shorter = keys, orders[-1]
        best = np.argsort(-np.concatenate(gains), kind="stable")[:most]
        known = np.concatenate([each.keys for each in orders])
        best = best[np.argsort(known[best])]
        return Contexts(
            known[best],
            np.concatenate([each.ids for each in orders])[best],
            np.concatenate([each.shares for each in orders])[best],
            lengths[-1],
        )


def _gathered(keys: Keys, ids: Ints, shares: Floats, shorter: tuple[Keys, _Order] | None) -> _Order:
    """The mean of what was likely behind each context."""
    rows = np.flatnonzero(keys)
    known, first, which, counts = np.unique(
        keys[rows], return_index=True, return_inverse=True, return_counts=True
    )
    # All successors of a context together: those of one token are added up.
    pairs = (which[:, None].astype(np.int64) << 32 | ids[rows].astype(np.int64)).ravel()
    pair, place = np.unique(pairs, return_inverse=True)
    sums = np.bincount(place, shares[rows].ravel()).astype(np.float32)
    context = pair >> 32
    order = np.lexsort((-sums, context))
    context, pair, sums = context[order], pair[order], sums[order]
    rank = np.arange(len(context)) - np.searchsorted(context, np.arange(len(known)))[context]
    best = rank < _tree.WIDTH
    found = np.full((len(known), _tree.WIDTH), -1, np.int32)
    means = np.zeros((len(known), _tree.WIDTH), np.float32)
    found[context[best], rank[best]] = pair[best] & 0xFFFFFFFF
    means[context[best], rank[best]] = sums[best] / counts[context[best]]
    above = None
    if shorter is not None:
        above = np.searchsorted(shorter[1].keys, shorter[0][rows[first]])
    return _Order(known, found, means, counts, above)


def _gain(order: _Order, shorter: _Order | None) -> Floats:
    """What knowing each context is worth: nats of surprise that it saves, all times together."""
    before = np.full(order.shares.shape, RARE, np.float32)
    if shorter is not None and order.shorter is not None:
        ids, shares = shorter.ids[order.shorter], shorter.shares[order.shorter]
        for place in range(_tree.WIDTH):
            same = (order.ids == ids[:, place : place + 1]) & (order.ids >= 0)
            before = np.where(same, np.maximum(before, shares[:, place : place + 1]), before)
    ratio = np.where(order.shares > 0, order.shares, 1) / before
    nats = np.where(order.shares > 0, order.shares * np.log(ratio), 0).sum(axis=1)
    gain: Floats = (nats * np.where(order.counts > 1, order.counts, ONCE)).astype(np.float32)
    return gain
