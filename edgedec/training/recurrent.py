"""Train a recurrent head (2403.09919): one cell follows the tokens since the hidden state."""

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

TURN = 32
"""Its place among all that is trained: what is cheap comes first."""


@dataclass(frozen=True)
class Options(HeadOptions):
    """Those of any head. One set of weights serves every depth, which may be larger; `blocks`
    residual layers follow the mix."""

    depth: int = 5
    blocks: int = 2


class Recurrent(HeadTrainee):
    """The cell [D, 2 * D], the mix [D, 2 * D], which begins as the hidden state alone, and the
    blocks [D, D], which begin as nothing."""

    strategy = "recurrent"

    def __init__(self, frozen: Frozen, options: Options, texts: Texts) -> None:
        super().__init__(frozen, options, texts)
        dim = frozen.dim
        self._count = options.blocks
        self.cell = nn.Parameter(torch.randn(dim, 2 * dim) * dim**-0.5)
        self.mix = nn.Parameter(torch.eye(dim, 2 * dim))
        self.blocks = nn.ParameterList(torch.zeros(dim, dim) for _ in range(options.blocks))

    def ahead(self, state: Tensor, tokens: list[Tensor]) -> Iterable[Tensor]:
        """s = silu(W [e, s]), then the mix of h and s, then the blocks."""
        carried = torch.zeros_like(state)
        for token in tokens:
            entering = torch.cat([token, carried], -1)
            carried = F.silu(F.linear(entering, self.cell))
            x = F.linear(torch.cat([state, carried], -1), self.mix)
            for block in self.blocks:
                x = x + F.silu(F.linear(x, block))
            yield x

    def stored(self) -> dict[str, Tensor]:
        """The cell, the mix and the blocks."""
        blocks = {f"block.{index}": block for index, block in enumerate(self.blocks)}
        cell = scaled(self.cell, slice(self._frozen.dim), self.scale)
        return {"state": cell, "mix": self.mix, **blocks}

    def about(self) -> dict[str, object]:
        """With the number of its blocks."""
        return {**super().about(), "blocks": self._count}


def build(frozen: Frozen, options: Options, texts: Texts) -> Recurrent:
    """A head that has not learned anything yet."""
    return Recurrent(frozen, options, texts)
