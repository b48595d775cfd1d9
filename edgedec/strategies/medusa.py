"""Independent heads, each guessing one token further ahead: Medusa (2401.10774).

Head k is one layer on the last hidden state, h + silu(W_k h), in front of a head that all of them
share. Medusa's heads do not know the token that was just drawn; here they read its embedding as
well, as Hydra's (2402.05109) do, since it costs nothing to look at. A proposal is one product for
all heads and one for all their logits; its tree is the likeliest of those whose levels do not
depend on one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedec import draft, guess, heads
from edgedec.contracts import Context, Draft, Host

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.parts import Part

NAME = "medusa"


@dataclass(frozen=True, slots=True)
class Medusa(heads.HeadStrategy):
    """Proposes trees of at most `nodes` nodes, from the first `depth` of the part's heads (0: all
    of them)."""

    name: ClassVar[str] = NAME

    nodes: int = 16
    depth: int = 0

    def __post_init__(self) -> None:
        draft.check_options(self, nodes=(1, 63), depth=(0, heads.DEEPEST))

    def drafter(self, host: Host, part: Part) -> heads.Heads:
        """All heads at once."""
        return Foreseer(part, host.architecture.layers, self.levels(host), self.nodes)


class Foreseer(heads.Heads):
    """Guesses with all heads at once."""

    def __init__(self, part: Part, layer: int, depth: int, nodes: int) -> None:
        super().__init__(part, layer)
        self._depths = range(depth)
        self._sheet = draft.Sheet(nodes)

    def rehearse(self, state: Floats) -> None:
        """All heads once."""
        found = len(self._changed(state, state))
        if found < len(self._depths):
            raise ValueError(f"{found} heads, it speaks of {len(self._depths)}")
        self._part.likely(state, 1)

    def _guess(self, context: Context, state: Floats, budget: int) -> Draft:
        root = np.array(context.tokens[-1:], np.int32)
        changed = self._changed(state, self._part.embed(root))
        ids, logits = self._likely(state + changed[: len(self._depths)], context)
        return guess.product(guess.guesses(ids, logits, context, self._depths), budget, self._sheet)

    def _changed(self, state: Floats, root: Floats) -> Floats:
        """What each head adds to the state [heads, D]."""
        seen = np.concatenate([state, root], axis=1)
        return heads.silu(self._part.linear("heads", seen)).reshape(-1, state.shape[1])
