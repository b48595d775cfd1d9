"""Two rules that accept drafted tokens by their probabilities instead of by the draw itself.

They know nothing about trees: one node, its children in the order in which they were drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedec.gumbel import uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Floats, Ints

EPSILON, DELTA = 0.09, 0.3
"""Medusa's values (2401.10774)."""
_STREAM = 1 << 40
"""Keeps the noise of rejections apart from that of draws."""


def typical(logits: Floats, guesses: Ints) -> int | None:
    """The likeliest guess with p > min(epsilon, delta * exp(-entropy)), or None (2401.10774).

    `logits` [V] are processed. Lossy: the text need not be one that the model would draw.
    """
    p = softmax(logits)
    inside = p > 0
    entropy = -float((p[inside] * np.log(p[inside])).sum())
    limit = min(EPSILON, DELTA * float(np.exp(-entropy)))
    taken = [token for token in guesses.tolist() if p[token] > limit]
    return max(taken, key=lambda token: (p[token], -token), default=None)


def recursive(logits: Floats, law: Floats, guesses: Ints, noise: tuple[int, int]) -> int:
    """A token distributed as softmax(logits) [V], a guess where possible (2402.14160, RRS).

    `guesses` were drawn from `law` [V] in this order, without replacement. `noise` is (seed,
    output index).
    """
    p, q = softmax(logits), np.asarray(law, np.float64).copy()
    draws = uniform(noise[0], _STREAM + noise[1], np.arange(len(guesses) + 1))
    for token, draw in zip(guesses.tolist(), draws[:-1], strict=True):
        if q[token] > 0 and draw < p[token] / q[token]:
            return int(token)
        p = _normal(np.maximum(p - q, 0), p)
        q[token] = 0
        q = _normal(q, q)
    return int(np.searchsorted(np.cumsum(p), draws[-1] * p.sum(), side="right").clip(0, p.size - 1))


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities [V] of processed logits."""
    weights = np.exp((logits - logits.max()).astype(np.float64))
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def _normal(p: NDArray[np.float64], instead: NDArray[np.float64]) -> NDArray[np.float64]:
    """p with sum 1; where nothing is left of it, `instead`."""
    total = p.sum()
    return p / total if total > 0 else instead
