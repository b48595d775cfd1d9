"""Heads that depend on one another: Hydra (2402.05109).

Head i reads the last hidden state and the embeddings of all tokens since, h + silu(W_i [h, e_1 ..
e_i]), in front of an output matrix that all heads share; so each guess knows the guesses before it.
A level of the tree is one product for all of its nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedec import heads
from edgedec.contracts import Host

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.parts import Part

NAME = "hydra"


@dataclass(frozen=True, slots=True)
class Hydra(heads.Growing):
    """One head for each level of its trees."""

    name: ClassVar[str] = NAME

    def drafter(self, host: Host, part: Part) -> heads.Heads:
        """A head for each level."""
        return Sequel(part, host.architecture.layers, self.limits(host))


class Sequel(heads.GrowingHeads):
    """Hands down the hidden state and the embeddings since [n, (1 + depth) * D]."""

    def _follow(self, above: Floats, tokens: Floats, depth: int) -> tuple[Floats, Floats]:
        seen = np.concatenate([above, tokens], axis=1)
        state = seen[:, : tokens.shape[1]]
        return state + heads.silu(self._part.linear(f"level.{depth}", seen)), seen
