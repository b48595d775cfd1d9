"""Train Medusa's heads (2401.10774): independent layers on the last hidden state and the root."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedec.training.heads import HeadOptions, HeadTrainee, scaled

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen
    from edgedec.training.texts import Texts

TURN = 30
"""Its place among all that is trained: what is cheap comes first."""


@dataclass(frozen=True)
class Options(HeadOptions):
    """Those of any head; `depth` is the number of heads."""


class Medusa(HeadTrainee):
    """All heads as one matrix [K * D, 2 * D]; zeros, so that each begins as the model's own."""

    strategy = "medusa"

    def __init__(self, frozen: Frozen, options: Options, texts: Texts) -> None:
        super().__init__(frozen, options, texts)
        self.heads = nn.Parameter(torch.zeros(options.depth * frozen.dim, 2 * frozen.dim))

    def ahead(self, state: Tensor, tokens: list[Tensor]) -> Iterable[Tensor]:
        """h + silu(W_k [h, e]) for each head k; e is the root's embedding."""
        seen = torch.cat([state, tokens[0]], -1)
        for head in self.heads.chunk(self._options.depth):
            yield state + F.silu(F.linear(seen, head))

    def stored(self) -> dict[str, Tensor]:
        """The one matrix."""
        columns = slice(self._frozen.dim, None)
        return {"heads": scaled(self.heads, columns, self.scale)}


def build(frozen: Frozen, options: Options, texts: Texts) -> Medusa:
    """Heads that have not learned anything yet."""
    return Medusa(frozen, options, texts)
