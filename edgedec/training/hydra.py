"""Train Hydra's heads (2402.05109): each reads the hidden state and all tokens since."""

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

TURN = 31
"""Its place among all that is trained: what is cheap comes first."""


@dataclass(frozen=True)
class Options(HeadOptions):
    """Those of any head; `depth` is the number of heads."""


class Hydra(HeadTrainee):
    """Head i is a matrix [D, (1 + i) * D]; zeros, so that each begins as the model's own."""

    strategy = "hydra"

    def __init__(self, frozen: Frozen, options: Options, texts: Texts) -> None:
        super().__init__(frozen, options, texts)
        dim = frozen.dim
        self.levels = nn.ParameterList(
            torch.zeros(dim, (2 + level) * dim) for level in range(options.depth)
        )

    def ahead(self, state: Tensor, tokens: list[Tensor]) -> Iterable[Tensor]:
        """h + silu(W_i [h, e_1 .. e_i])."""
        seen = state
        for matrix, token in zip(self.levels, tokens, strict=True):
            seen = torch.cat([seen, token], -1)
            yield state + F.silu(F.linear(seen, matrix))

    def stored(self) -> dict[str, Tensor]:
        """One matrix for each level of the tree."""
        columns = slice(self._frozen.dim, None)
        return {
            f"level.{depth}": scaled(matrix, columns, self.scale)
            for depth, matrix in enumerate(self.levels)
        }


def build(frozen: Frozen, options: Options, texts: Texts) -> Hydra:
    """Heads that have not learned anything yet."""
    return Hydra(frozen, options, texts)
