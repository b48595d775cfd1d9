"""A recurrent head: Recurrent Drafter (2403.09919).

A small state follows the tokens since the last hidden state h, s = silu(W [e, s]) beginning with
zeros; h and s are mixed, pass residual layers x + silu(W x) and the output matrix. One set of
weights serves every level, so it takes less memory than heads of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedec import heads, parts
from edgedec.contracts import Host

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.growth import Limits
    from edgedec.parts import Part

NAME = "recurrent"
MOST = 32
"""Residual layers that a part may have."""


@dataclass(frozen=True, slots=True)
class Recurrent(heads.Growing):
    """One recurrent cell for all levels of its trees."""

    name: ClassVar[str] = NAME

    def drafter(self, host: Host, part: Part) -> heads.Heads:
        """The cell and the residual layers behind it."""
        blocks = parts.number(host, NAME, "blocks", 0, MOST)
        return Refrain(part, host.architecture.layers, self.limits(host), blocks)


class Refrain(heads.GrowingHeads):
    """Hands down the hidden state and the recurrent state [n, 2 * D]."""

    def __init__(self, part: Part, layer: int, limits: Limits, blocks: int) -> None:
        super().__init__(part, layer, limits)
        self._blocks = [f"block.{i}" for i in range(blocks)]

    def _follow(self, above: Floats, tokens: Floats, depth: int) -> tuple[Floats, Floats]:
        dim = tokens.shape[1]
        state, before = above[:, :dim], above[:, dim:] if depth else np.zeros_like(tokens)
        after = heads.silu(self._part.linear("state", np.concatenate([tokens, before], axis=1)))
        handed = np.concatenate([state, after], axis=1)
        x = self._part.linear("mix", handed)
        for name in self._blocks:
            x = x + heads.silu(self._part.linear(name, x))
        return x, handed
