"""The number by which tables know a context: of its length and its tokens, the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Ints

SEEN = 8
"""Added to the order: a context's key for what was seen behind it, instead of what is likely."""
_WORD, _GOLDEN, _HALF = (1 << 64) - 1, 0x9E3779B97F4A7C15, 32


def context_key(newest: Sequence[int], order: int, kind: int = 0) -> int:
    """That of the last `order` tokens of `newest`, 0 or `SEEN` being its `kind`."""
    key = (order + kind) * _GOLDEN & _WORD
    for token in newest[: -order - 1 : -1]:
        key = ((key ^ ((token & 0xFFFFFFFF) + 1)) * _GOLDEN) & _WORD
        key ^= key >> _HALF
    return key | 1


def context_keys(tokens: Ints, order: int) -> NDArray[np.uint64]:
    """Those of the `order` tokens that end with each of `tokens` [n], from number `order` - 1 on:
    [n - order + 1]."""
    words = tokens.astype(np.uint32).astype(np.uint64) + np.uint64(1)
    count = max(0, len(tokens) - order + 1)
    keys = np.full(count, order * _GOLDEN & _WORD, np.uint64)
    for back in range(order):
        end = len(tokens) - back
        keys = (keys ^ words[end - count : end]) * np.uint64(_GOLDEN)
        keys ^= keys >> np.uint64(_HALF)
    return keys | np.uint64(1)
