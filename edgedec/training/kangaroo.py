"""Train Kangaroo's adapter (2404.18911): one attention layer behind an early exit, and a head.

The paper's adapter has no mlp. Ours has a small one, since a layer of an architecture does: its
width is half the model's, and it begins at nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedec.training import exit_layers
from edgedec.training.exit_layers import ExitOptions, ExitTrainee
from edgedec.training.own_model import copied

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen
    from edgedec.training.layers import Own
    from edgedec.training.texts import Texts

TURN = 50
"""Its place among all that is trained: what is cheap comes first."""


@dataclass(frozen=True)
class Options(ExitOptions):
    """`mlp`: the width of the adapter's mlp, as a share of the model's."""

    mlp: float = 0.5


def build(frozen: Frozen, options: Options, texts: Texts) -> ExitTrainee:
    """Begin with the attention of the layer that rows would go on with."""

    def layers(frozen: Frozen, index: int) -> Own:
        return copied(frozen, index, max(16, int(frozen.dim * options.mlp) // 16 * 16))

    return exit_layers.build("kangaroo", frozen, options, texts, layers)
