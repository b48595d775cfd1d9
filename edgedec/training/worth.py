"""What drafting is worth before it runs: tokens by acceptance, time by the sizes of a model.

Searches compare by these, not by what a step took on the machine at hand: a part may go to another
one, and a search that is done again has to find the same. Whether drafting pays where it runs is
the planner's affair. It knows shares and sizes, no strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.costs import Costs
from edgedec.weights import shapes

if TYPE_CHECKING:
    from edgedec.architecture import Architecture

PAST = 128
"""Tokens before the turn that is judged."""
GROWTH = 0.05
"""What a further row adds to a step's time, as a share of the first: about what it is in native."""
_WIDEST = 64


def tokens(shares: Sequence[float]) -> list[float]:
    """Expected tokens of a turn that checks a chain of 0, 1, ... guesses.

    `shares[d]` is how often guess d + 1 is right where those before it are.
    """
    paths = np.cumprod([1.0, *shares])
    found: list[float] = np.cumsum(paths).tolist()
    return found


def by_size(architecture: Architecture) -> Costs:
    """Costs of a decoder, plain steps being one: layers and head by the weights that they read."""
    sizes = {name: float(np.prod(shape)) for name, shape in shapes(architecture).items()}
    layers = sum(size for name, size in sizes.items() if name.startswith("decoder.layers."))
    head = sizes["embed.weight" if architecture.head.tied else "head.weight"]
    line, top = (_growing(part / (layers + head)) for part in (layers, head))
    return Costs((1, _WIDEST), (0,), (line,), top, depth=architecture.layers)


def _growing(share: float) -> tuple[float, float]:
    """The times of one row and of the most."""
    return share, share * (1 + GROWTH * (_WIDEST - 1))


def speedup(
    shares: Sequence[float], drafting: float, checking: Sequence[float], plain: float
) -> tuple[float, int]:
    """The best rate over that of plain decoding, and how many guesses it checks.

    `drafting` are the seconds that all guesses take to make, `checking[n]` those of checking n of
    them, `plain` those of a token without drafting.
    """
    rates = [gain * plain / (drafting + checking[n]) for n, gain in enumerate(tokens(shares))]
    best = int(np.argmax(rates))
    return rates[best], best
