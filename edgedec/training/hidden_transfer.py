"""A map into mid-network that foresees: the trainer of `hidden_transfer` (2404.12022).

At layer t of the frozen model, states for the token after a point and for the places behind it are
made of the point's state and that token's embedding; they run through the layers from t on, which
are to make of them what they make of the real rows. The map begins as nothing: the state of the
point itself enters.

Shapes: b texts, T rows, P points, k pseudo states, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgedec.errors import UsageError
from edgedec.export.to_part import PartSource
from edgedec.training import ahead
from edgedec.training.ahead import behind, sight
from edgedec.training.heads import array
from edgedec.training.teacher import level

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen, Trunk
    from edgedec.training.texts import Texts

TURN = 12
"""Its place where everything is trained."""
LATE = 0.7
"""Where in the model pseudo states enter if nothing else is said: late enough that a pass through
the rest costs little, early enough that the rest can make something of them."""


@dataclass(frozen=True)
class Options(ahead.Options):
    """`states` pseudo states enter at layer `layer` (0: seven tenths of the way up)."""

    rate: float = 2e-3
    steps: int = 2000
    warmup: int = 50
    decay: float = 0.01
    points: int = 16
    states: int = 3
    layer: int = 0


def build(frozen: Frozen, options: Options, texts: Texts) -> HiddenTransfer:
    """A map that adds nothing yet.

    Raises:
        UsageError: a layer that is not inside of the model.
    """
    layer = options.layer or min(max(1, round(LATE * frozen.layers)), frozen.layers - 1)
    if not 0 < layer < frozen.layers:
        raise UsageError(
            f"layer is {layer}; pseudo states enter between the first and the last of "
            f"{frozen.layers} layers"
        )
    return HiddenTransfer(frozen, options, layer)


class HiddenTransfer(ahead.Ahead):
    """The map [k * D, 2 D] and what it adds in any case [k * D]."""

    def __init__(self, frozen: Frozen, options: Options, layer: int) -> None:
        super().__init__(frozen, options, options.states)
        self._layer = layer
        size = self._k * frozen.dim
        self.map = nn.Parameter(torch.zeros(size, 2 * frozen.dim))
        self.bias = nn.Parameter(torch.zeros(size))

    def part(self, bundle: str) -> PartSource:
        """The map, and where it enters."""
        vectors, matrices = {"transfer.bias": array(self.bias)}, {"transfer": array(self.map)}
        about = {"layer": self._layer, "depth": self._k}
        return PartSource("hidden_transfer", bundle, about, vectors=vectors, matrices=matrices)

    def guessed(self, trunk: Trunk, place: Tensor) -> Tensor:
        """The logits [b, P, k, V] of the pseudo states behind points [b, P]."""
        positions, seen = behind(place, self._k), sight(place, trunk.tokens.shape[1], self._k)
        x = self.pseudo(trunk, place).flatten(1, 2)
        layers = range(self._layer, self._frozen.layers)
        last = self._frozen.rows(trunk, x, positions, seen, layers)[-1]
        return self._frozen.head(last).view(*place.shape, self._k, -1)

    def pseudo(self, trunk: Trunk, place: Tensor) -> Tensor:
        """The states [b, P, k, D] that enter at the layer, behind points [b, P]."""
        texts, most = torch.arange(len(place))[:, None], trunk.tokens.shape[1] - 1
        state = trunk.states[self._layer][texts, place]
        size = state.square().mean(-1, keepdim=True).sqrt()
        root = self._frozen.embed(trunk.tokens[texts, behind(place, 1).clamp_max(most)])
        seen = torch.cat((level(state), level(root)), -1)
        moved = nn.functional.linear(seen, self.map, self.bias).view(*place.shape, self._k, -1)
        found: Tensor = size[..., None] * (level(state)[:, :, None] + moved)
        return found
